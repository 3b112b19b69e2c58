"""Kill tiny runs with -9 at random moments, resume them, and compare them with a run that nothing interrupted.

    python scripts/kill_and_resume.py --kills 20 --json FILE

A run is killed in each of its phases, while a checkpoint is being written, while the pool is filled and while a package
moves in, and goes on from what is there. After every kill all files under their final names must be whole. Checkpoints
are written as by a slow disk, so that a kill meets them half-written. Linux only: the runs are forks of one process.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

STEPS = {"teacher": 60, "distil": 60, "fine-tune": 30}
SAVE_EVERY = 10
POOL_VIEWS = 12
SLOW_DISK = 0.15
"""Seconds that a checkpoint takes to be written."""
CHAINS = (
    ("teacher", "pool", "checkpoint", "fine-tune", "package"),
    ("checkpoint", "pool", "distil", "fine-tune", "package"),
)
"""When one run is killed, in this order, by turns with the next run."""


@dataclass
class Kill:
    """One kill, and what was there afterwards."""

    run: int
    moment: str
    step: int
    """The last step that had begun; -1 before the first."""
    resumed_at: int
    """The first step that is trained after it; 0 where no checkpoint had been written yet."""
    lost: int
    """Steps that are trained again."""
    hidden: int
    """Unfinished files under names that nothing reads."""
    broken: list[str]
    """Files under their final names that are not whole: must be empty."""


def small_config(capture: Path, output: Path, name: str, seed: int, load_dir: Path | None = None) -> Any:
    """A run of seconds, that saves often."""
    from copy import deepcopy
    from dataclasses import replace

    from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig

    from mobiler2l_ns.plugin import methods

    config: Any = deepcopy(methods.mobiler2l_tiny.config)
    pipeline = config.pipeline
    pipeline.model = replace(pipeline.model, width=24, num_blocks=2, sr_channels=(16, 8, 8))
    coarse = {**pipeline.teacher.proposal_net_args_list[0], "num_levels": 2}
    pipeline.teacher = replace(pipeline.teacher, num_levels=3, max_res=64, log2_hashmap_size=12,
                               num_proposal_samples_per_ray=(24,), num_nerf_samples_per_ray=12,
                               proposal_net_args_list=[coarse])  # fmt: skip
    pipeline.datamanager = replace(pipeline.datamanager, dataparser=BlenderDataParserConfig(data=capture),
                                   train_num_rays_per_batch=512, pool_views=POOL_VIEWS, refresh_rate=0.0)  # fmt: skip
    pipeline.teacher_steps, pipeline.distill_steps, pipeline.finetune_steps = STEPS.values()
    config.data, config.output_dir, config.experiment_name, config.timestamp = capture, output, "kills", name
    config.vis, config.report_views, config.machine.device_type = "tensorboard", 0, "cpu"
    config.steps_per_save, config.steps_per_eval_batch, config.steps_per_eval_image = SAVE_EVERY, 1000, 1000
    config.load_dir, config.machine.seed = load_dir, seed
    config.__post_init__()
    return config


# In the process that is killed


def announce(tell: Callable[[str], None]) -> None:
    """Have everything that a kill may meet told before it happens, and checkpoints written slowly."""
    import torch

    from mobiler2l_ns.export import package
    from mobiler2l_ns.pool.datamanager import MobileR2LDataManager
    from mobiler2l_ns.run.trainer import MobileR2LTrainer

    train, view, save, move = (
        MobileR2LTrainer.train_iteration, MobileR2LDataManager.render_view, torch.save, package._move_in
    )  # fmt: skip

    def told_train(self: Any, step: int) -> Any:
        tell(f"step {step}")
        return train(self, step)

    def told_view(self: Any, pose: Any) -> None:
        tell("pool")
        view(self, pose)

    def slow_save(value: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        if not isinstance(path, Path):
            return save(value, path, *args, **kwargs)
        buffer = io.BytesIO()
        save(value, buffer, *args, **kwargs)
        tell("checkpoint")
        parts = [buffer.getvalue()[begin : begin + (1 << 16)] for begin in range(0, buffer.tell(), 1 << 16)]
        with open(path, "wb", buffering=0) as file:
            for part in parts:
                file.write(part)
                time.sleep(SLOW_DISK / len(parts))

    def told_move(work: Path, names: Any, folder: Path) -> None:
        tell("package")
        move(work, names, folder)

    def slowly(act: Any) -> Any:
        def later(self: Path, target: Path) -> Any:
            time.sleep(0.001)
            return act(self, target)

        return later

    Path.rename, Path.replace = slowly(Path.rename), slowly(Path.replace)  # type: ignore[method-assign]

    MobileR2LTrainer.train_iteration, MobileR2LDataManager.render_view = told_train, told_view  # type: ignore
    torch.save, package._move_in = slow_save, told_move  # type: ignore[assignment]


def _renew_torchs_threads() -> None:
    """torch replaces its pool of threads at the first use after a fork; two threads at once would find it missing."""
    import torch

    torch.set_num_threads(torch.get_num_threads())


def forked(work: Callable[[], None], log: Path) -> tuple[int, Iterator[str]]:
    """Work in a process of its own; its number, and what it tells as it goes."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            with log.open("a") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)

            def tell(event: str) -> None:
                os.write(writing, f"{event}\n".encode())

            announce(tell)
            _renew_torchs_threads()
            work()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    return child, iter(os.fdopen(reading))


def train(config: Any) -> None:
    from nerfstudio.scripts.train import main

    main(config)


def export(config_path: Path, output: Path) -> None:
    from mobiler2l_ns.plugin.export_commands import NS_EXPORT_COMMANDS

    NS_EXPORT_COMMANDS["mobiler2l-onnx"][0](load_config=config_path, output_dir=output).main()


# In the process that kills


class Moment:
    """A random moment of a kind; ``is_now`` is asked of each event."""

    def __init__(self, kind: str, begin: int, dice: random.Random) -> None:
        self.kind, self.delay = kind, dice.uniform(0.0, 0.03)
        first = {"teacher": 0, "distil": STEPS["teacher"], "fine-tune": STEPS["teacher"] + STEPS["distil"]}
        if kind in first:
            self.event = "step"
            self.at = dice.randrange(max(begin, first[kind]), first[kind] + STEPS[kind])
        else:
            self.event, self.at = kind, dice.randint(1, {"pool": POOL_VIEWS, "checkpoint": 2}.get(kind, 1))
            self.delay = dice.uniform(0.0, {"checkpoint": SLOW_DISK, "package": 0.008}.get(kind, 0.03))
        self._seen = 0

    def is_now(self, event: str) -> bool:
        name, _, number = event.partition(" ")
        self._seen += name == self.event
        return name == self.event and (int(number) if number else self._seen) >= self.at


def run_until(moment: Moment | None, work: Callable[[], None], log: Path) -> tuple[bool, int]:
    """Let a process work until a moment, if any, and kill it then; whether it was killed, and its last step."""
    child, events = forked(work, log)
    step, killed = -1, False
    for line in events:
        event = line.strip()
        if event.startswith("step "):
            step = int(event.split()[1])
        if moment is not None and not killed and moment.is_now(event):
            time.sleep(moment.delay)
            os.kill(child, signal.SIGKILL)
            killed = True
    _, status = os.waitpid(child, 0)
    if not killed and status != 0:
        raise SystemExit(f"A run ended by itself:\n{log.read_text()[-3000:]}")
    return killed and os.WIFSIGNALED(status), step


def newest(runs: Path) -> tuple[Path | None, int]:
    """The folder with the newest checkpoint, and the step that is trained next."""
    found = [(int(path.stem.split("-")[1]), path) for path in runs.glob("*/nerfstudio_models/*.ckpt")]
    return (max(found)[1].parent, max(found)[0] + 1) if found else (None, 0)


def broken_files(folder: Path, packages: Path) -> list[str]:
    """Files under their final names that are not whole."""
    from mobiler2l_ns.errors import UserError
    from mobiler2l_ns.export import manifest
    from mobiler2l_ns.saved_run import SavedRun, read_checkpoint

    found = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or any(part.startswith(".") for part in path.parts) or path.suffix == ".part":
            continue
        try:
            if path.suffix == ".ckpt":
                read_checkpoint(path)
            elif path.name == "config.yml":
                SavedRun.open(path)
            elif path.name == "progress.jsonl":
                # A line is added at a time, and readers leave out one that is not whole.
                [json.loads(line) for line in path.read_text().splitlines()[:-1]]
            elif path.suffix == ".json":
                json.loads(path.read_text())
        except (UserError, ValueError) as error:
            found.append(f"{path.relative_to(folder)}: {error}")
    if (packages / "manifest.json").exists():
        for entry in json.loads((packages / "manifest.json").read_text())["files"]:
            path = packages / entry["path"]
            if not path.exists() or manifest.digests(path)[1] != entry["sha256"]:
                found.append(f"{path.name} is not what the manifest lists")
    return found


def hidden_files(folder: Path) -> int:
    names = [path.relative_to(folder).parts for path in folder.rglob("*") if path.is_file()]
    return sum(parts[-1].endswith(".part") or any(part.startswith(".unfinished") for part in parts) for parts in names)


def curve(config_path: Path) -> dict[str, Any]:
    """What a finished run's log says: every point once, and dB over the last ten points of each phase."""
    from mobiler2l_ns.progress.records import read_log

    records = [record for record in read_log(config_path.parent / "progress.jsonl") if record["event"] == "train"]
    steps = [record["step"] for record in records]
    ends = {}
    for phase in STEPS:
        last = [record["psnr"] for record in records if record["phase"] == phase][-10:]
        ends[phase] = round(sum(last) / len(last), 2)
    _, total = newest(config_path.parent.parent)
    return {"steps": total, "points": len(steps), "in_order": steps == sorted(set(steps)), "psnr": ends}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--steps", type=int, nargs=3, default=list(STEPS.values()), help="of each phase")
    parser.add_argument("--whole", type=int, default=2, help="runs without a kill, each of a seed of its own")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = parser.parse_args()
    STEPS.update(zip(STEPS, arguments.steps, strict=True))
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    import torch
    from make_demo_scene import write_scene
    from results_file import write_json

    import mobiler2l_ns.plugin.methods  # noqa: F401  imported once for all runs

    torch.set_num_threads(1)
    dice, kills, runs = random.Random(arguments.seed), [], []
    with tempfile.TemporaryDirectory() as base:
        capture, root = Path(base) / "capture", Path(base)
        write_scene(capture, size=48, train=16, val=2, test=2, supersample=1)

        def folder_of(name: str) -> Path:
            return root / name / "kills" / "mobiler2l-tiny"

        def work_on(name: str, part: int, seed: int) -> Callable[[], None]:
            load_dir, _ = newest(folder_of(name))
            return lambda: train(small_config(capture, root / name, f"part_{part}", seed, load_dir))

        for index in range(arguments.whole):
            run_until(None, work_on(f"whole_{index}", 0, index), root / f"whole_{index}.log")
            runs.append({"run": f"without a kill, {index}", **curve(folder_of(f"whole_{index}") / "part_0/config.yml")})
            print(runs[-1], flush=True)
        number = 0
        while len(kills) < arguments.kills:
            name, chain = f"killed_{number}", CHAINS[number % len(CHAINS)]
            folder, packages, log = folder_of(name), root / name / "packages", root / f"{name}.log"
            part = 0
            for kind in chain[: arguments.kills - len(kills)]:
                if kind == "package":
                    continue
                _, begin = newest(folder)
                killed, step = run_until(Moment(kind, begin, dice), work_on(name, part, number), log)
                if killed:
                    _, again = newest(folder)
                    lost = max(0, step + 1 - again)
                    kills.append(
                        Kill(number, kind, step, again, lost, hidden_files(folder), broken_files(folder, packages))
                    )
                    print(kills[-1], flush=True)
                part += 1
            run_until(None, work_on(name, part, number), log)
            finished = folder / f"part_{part}" / "config.yml"
            if len(kills) < arguments.kills and "package" in chain:
                run_until(None, lambda: export(finished, packages), log)  # noqa: B023  something to be replaced
                killed, _ = run_until(Moment("package", 0, dice), lambda: export(finished, packages), log)  # noqa: B023
                total = sum(STEPS.values())
                if killed:
                    found = broken_files(folder, packages)
                    kills.append(Kill(number, "package", total - 1, total, 0, hidden_files(packages), found))
                    print(kills[-1], flush=True)
                run_until(None, lambda: export(finished, packages), log)  # noqa: B023
                assert hidden_files(packages) == 0, "a later export leaves unfinished files of a killed one"
            assert hidden_files(finished.parent) == 0, "a finished run leaves unfinished files"
            runs.append({"run": f"killed, {number}", **curve(finished)})
            print(runs[-1], flush=True)
            number += 1
            write_json(
                arguments.json,
                {"steps": STEPS, "save_every": SAVE_EVERY, "kills": list(map(asdict, kills)), "runs": runs},
            )
    wrong = [kill for kill in kills if kill.broken or kill.lost > SAVE_EVERY + 1]
    ended = {(run["steps"], run["points"], run["in_order"]) for run in runs}
    print(f"{len(kills)} kills, at most {max(kill.lost for kill in kills)} steps trained again, "
          f"{sum(len(kill.broken) for kill in kills)} broken files; all runs end alike: {len(ended) == 1}")  # fmt: skip
    if wrong or len(ended) > 1:
        raise SystemExit(f"Wrong: {wrong or ended}")


if __name__ == "__main__":
    main()
