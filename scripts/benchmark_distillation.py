"""Race distillation recipes: equal wall-clock, the same device, the same teacher, the same pseudo views.

    python scripts/benchmark_distillation.py --oracle --resolution 200 --minutes 10 --recipes paper,default
    python scripts/benchmark_distillation.py --data ../lego --resolution 200 --minutes 10 --recipes paper,default

A recipe is a method's config, by its name without "mobiler2l-" (default: mobiler2l; lightfield: mobiler2l without its
volume), and may have fields of its pipeline replaced: ``default+model.jitter="ray"+datamanager.views_per_batch=8``. The
clock runs during training steps only. ``default@own`` is a recipe with a network of its own while the others share
``--network``. The learning rate follows each recipe's own schedule, with the run's end where the clock will be at zero.

Judged are fresh poses, test photos, and some of the pseudo views themselves (``psnr_learned``): a recipe that overfits
is better at these. With the weights of LPIPS in the cache folder (lpips_weights.py) that is measured at the end, too.
"""

from __future__ import annotations

import argparse
import ast
import math
import re
import statistics
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lpips_weights import ARCHIVE, load_lpips
from scoring import judge, judge_lpips, judge_pitches, score
from torch import Tensor

NETWORKS: dict[str, dict[str, Any]] = {
    "own": {},
    "paper": {},
    "small": {"width": 64, "num_blocks": 8},
}
"""Networks to give all recipes alike; ``own`` leaves each its own, the others replace the paper's fields."""
LIGHT_FIELD: dict[str, Any] = {"volume_rays": 0, "num_blocks": 18, "sr_channels": (48, 32, 12)}
"""mobiler2l without a volume, and the network that it takes then."""
SHAPE = ("num_points", "num_frequencies", "width", "num_blocks", "layer", "activation", "strides", "sr_channels")
MARKS = 10
PATHS = ("data", "teacher", "cache", "json", "png")  # of this machine only
TEST_POSES = 16


def recipe_config(name: str, network: str) -> Any:
    """A method's config with the fields of ``name+path=value+...`` and the network replaced.

    Raises:
        SystemExit: if there is no such method or field.
    """
    from mobiler2l_ns.plugin import methods
    from mobiler2l_ns.student.config import StudentConfig

    base, *changes = name.split("+")
    base, _, own = base.partition("@")
    network = own or network
    if network not in NETWORKS:
        raise SystemExit(f"{base} has no network {network}: give {', '.join(NETWORKS)}")
    method = getattr(methods, "mobiler2l" if base in ("default", "lightfield") else f"mobiler2l_{base}", None)
    if method is None:
        raise SystemExit(f"There is no recipe {base}: give paper, lightfield, default, tiny or fast")
    config = deepcopy(method.config)
    if base == "lightfield":
        config.pipeline.model = replace(config.pipeline.model, **LIGHT_FIELD)
    if network != "own":
        paper = StudentConfig(**NETWORKS[network])
        shape = {field: getattr(paper, field) for field in (*SHAPE, "sr_blocks")}
        config.pipeline.model = replace(config.pipeline.model, **shape)
    for change in changes:
        path, _, value = change.partition("=")
        *parents, field = path.split(".")
        part = config if parents[:1] == ["optimizers"] else config.pipeline
        for parent in parents:
            part = part.get(parent) if isinstance(part, dict) else getattr(part, parent, None)
        if not hasattr(part, field):
            raise SystemExit(f"{base} has no field {path}")
        try:
            setattr(part, field, ast.literal_eval(value))
        except (ValueError, SyntaxError):
            raise SystemExit(f"{change}: {value} is no Python value; quote strings") from None
    return config


class Race:
    """One capture, one teacher, one pool of pseudo views; recipes run on them one after the other."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.device = arguments.device
        self.cache = arguments.cache
        self.cache.mkdir(parents=True, exist_ok=True)
        self.teacher_run: Path | None = None
        self.teacher_score: tuple[float, float] | None = None  # PSNR and SSIM on the test photos
        self.lpips = load_lpips(self.cache) if (self.cache / ARCHIVE).exists() else None
        if arguments.oracle:
            folder = (
                self.cache / f"{'demo' if arguments.scene == 'still-life' else arguments.scene}_{arguments.resolution}"
            )
            asked = {"size": arguments.resolution, "train": arguments.photos, "val": 2, "test": 24}
            from make_demo_scene import write_scene

            write_scene(folder, **asked, scene=arguments.scene, device=arguments.device)
            arguments.data = folder
        else:
            self.teacher_run = arguments.teacher or self._train_teacher()

    def _dataparser(self) -> Any:
        from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
        from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

        data = self.arguments.data
        blender = (data / "transforms_train.json").exists()
        return BlenderDataParserConfig(data=data) if blender else NerfstudioDataParserConfig(data=data)

    def _train_teacher(self) -> Path:
        """The teacher phase of the method, in the cache folder; a finished one is taken again."""
        from nerfstudio.scripts.train import main

        name = f"{self.arguments.data.resolve().name}_{self.arguments.resolution}_{self.arguments.teacher_recipe}"
        config = self._prepared(recipe_config(self.arguments.teacher_recipe, "own"))
        config.output_dir, config.experiment_name, config.timestamp = self.cache, "teacher", name
        config.data = self.arguments.data
        config.pipeline = replace(config.pipeline, distill_steps=0, finetune_steps=0)
        config.max_num_iterations = config.pipeline.plan().total
        config.vis, config.machine.device_type = "tensorboard", self.device
        config.viewer.quit_on_train_completion = True
        written = config.get_base_dir() / "config.yml"
        last = f"step-{config.max_num_iterations - 1:09d}.ckpt"
        if not (written.parent / config.relative_model_dir / last).exists():
            began = time.perf_counter()
            main(config)
            print(f"Teacher trained in {time.perf_counter() - began:.0f} s")
        return written

    def recipe(self, name: str) -> Any:
        """The config of a recipe, with what all recipes share."""
        return self._prepared(recipe_config(name, self.arguments.network))

    def _prepared(self, config: Any) -> Any:
        """What all recipes share: the capture, its size, the pool."""
        config.pipeline.datamanager = replace(
            config.pipeline.datamanager,
            data=self.arguments.data,
            dataparser=self._dataparser(),
            max_image_size=self.arguments.resolution,
            pool_views=self.arguments.views,
            pool_budget_gib=64.0,
            refresh_rate=0.0,
            fill_share=0.0,
            cache_dir=self.cache,
        )
        return config

    def pipeline(self, config: Any) -> Any:
        """The pipeline of a recipe, its pool filled and its student's geometry measured."""
        from mobiler2l_ns.progress.phases import Phase
        from mobiler2l_ns.run.pipeline import MobileR2LPipeline

        oracle, scene = self.arguments.oracle, self.arguments.scene

        class WithTeacher(MobileR2LPipeline):
            def _build_teacher(self, device: str, grad_scaler: Any, trains: bool) -> None:
                if not oracle:
                    return super()._build_teacher(device, grad_scaler, trains)
                from exact_teacher import ExactTeacher

                self.model.add_teacher(ExactTeacher(scene), trained_here=False)

        config.pipeline._target = WithTeacher
        if self.teacher_run is not None:
            config.pipeline.teacher_load_config = self.teacher_run
            config.pipeline.adopt_teacher()
            config.pipeline.datamanager.max_image_size = self.arguments.resolution
        else:
            config.pipeline.teacher_steps = 0
        pipeline = config.pipeline.setup(device=self.device, test_mode="val").to(self.device)
        assert pipeline.plan.at(0) is Phase.DISTIL
        pipeline.begin_step(0)
        return pipeline

    def test_cameras(self, pipeline: Any) -> dict[str, list[tuple[Any, Tensor]]]:
        """Cameras and pictures to be judged on: fresh poses seen by the teacher, the capture's test photos, and some of
        the views that are learned from."""
        from mobiler2l_ns.teacher.render import fingerprint

        teacher = pipeline.model.find_teacher()
        poses = pipeline.datamanager.sampler.sample(TEST_POSES, torch.Generator().manual_seed(12345))
        student = pipeline.model.student
        cameras = [student.training_camera(pose) for pose in poses]
        outputs = pipeline.datamanager.dataparser.get_dataparser_outputs(split="test")
        dataset = pipeline.datamanager.sized(outputs)
        photos = [
            (
                dataset.cameras[i : i + 1],
                pipeline.model.config.background.shown(dataset.get_data(i)["image"]),
            )
            for i in range(0, len(dataset), math.ceil(len(dataset) / TEST_POSES))
        ]
        name = f"{self.arguments.data.resolve().name}_{self.arguments.resolution}_{fingerprint(teacher)[:8]}"
        file = self.cache / f"test_{name}_{TEST_POSES}.pt"
        if not file.exists():
            asked = [*cameras, *(camera for camera, _ in photos)]
            torch.save([pipeline.model.render_teacher(camera)["rgb"].cpu() for camera in asked], file)
        pictures = torch.load(file)
        pool = pipeline.datamanager.pool
        seen = range(min(TEST_POSES, len(pool)))
        view = student.view()
        pictures_seen = (pool.pictures[i][: view.height, : view.width].cpu() / 255.0 for i in seen)  # of whole cells
        learned = [(student.training_camera(pool.poses[i]), each) for i, each in zip(seen, pictures_seen, strict=True)]
        by_teacher = pictures[len(cameras) :]
        self.teacher_score = score([(a, b) for a, (_, b) in zip(by_teacher, photos, strict=True)])
        pictures = pictures[: len(cameras)]
        return {"poses": list(zip(cameras, pictures, strict=True)), "photos": photos, "learned": learned}


class Pace:
    """How a recipe's phases share the race's time: as they share the steps of its own runs.

    Attributes:
        distilling: seconds of distillation.
        finetuned: step and seconds at which fine-tuning began.
    """

    def __init__(self, seconds: float, pipeline: Any) -> None:
        steps = pipeline.distill_steps, pipeline.finetune_steps
        self.seconds, self.distilling = seconds, seconds * steps[0] / sum(steps)
        self.finetuned: tuple[int, float] | None = None

    def plan(self, step: int, elapsed: float) -> Any:
        """The phases in steps, if those to come take as long as those before."""
        from mobiler2l_ns.progress.phases import PhasePlan

        if self.finetuned is None:
            pace = step / elapsed if step > 20 else 1e9
            distil, finetune = round(pace * self.distilling), round(pace * (self.seconds - self.distilling))
            return PhasePlan(teacher=0, distil=max(step + 1, distil), finetune=finetune)
        distil, since = self.finetuned
        done = step - distil
        pace = done / (elapsed - since) if done > 20 else distil / since
        return PhasePlan(teacher=0, distil=distil, finetune=max(done + 1, round(pace * (self.seconds - since))))


def run(race: Race, name: str, seed: int) -> tuple[dict[str, Any], Any]:
    """Train one recipe for the race's time and judge it along the way; returns what was measured, and the student."""
    from nerfstudio.engine.optimizers import Optimizers

    from mobiler2l_ns.progress.phases import Phase
    from mobiler2l_ns.run.schedule import StudentScheduler

    torch.manual_seed(seed)
    arguments = race.arguments
    config = race.recipe(name)
    pipeline = race.pipeline(config)
    tested = race.test_cameras(pipeline)
    model, student = pipeline.model, pipeline.model.student
    group = dict(config.optimizers["student"])
    optimizers = Optimizers({"student": {**group, "scheduler": None}}, {"student": student.parameter_groups()})
    optimizer = pipeline.student_optimizer = optimizers.optimizers["student"]
    rates = [part["lr"] for part in optimizer.param_groups]
    schedule = StudentScheduler(replace(group["scheduler"], growth=pipeline.growth))

    seconds = arguments.minutes * 60.0
    clock = time.process_time if arguments.cpu_clock else time.perf_counter
    pace = Pace(seconds, config.pipeline)
    elapsed, step, images, curve, queued = 0.0, 0, 0, [], None
    model.train()
    while elapsed < seconds:
        if elapsed >= pace.distilling and pace.finetuned is None:
            pace.finetuned = step, elapsed
            pipeline.plan = pace.plan(step, elapsed)
            pipeline.begin_step(step)
        began = clock()
        schedule.config.plan = pace.plan(step, elapsed)
        for part, rate in zip(optimizer.param_groups, rates, strict=True):
            part["lr"] = rate * schedule.factor_of(part)(step)
        if pipeline.phase.name is Phase.DISTIL:
            pipeline.phase.set_progress(min(1.0, elapsed / pace.distilling))
        rays, batch = pipeline.phase.batch(step)
        outputs = model(rays)
        loss = sum(pipeline.phase.loss(outputs, batch)[0].values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()
        if race.device == "cuda":
            # One step may be under way while the next is queued, as in training.
            done, queued = queued, torch.cuda.Event()
            queued.record(torch.cuda.current_stream())
            if done is not None:
                done.synchronize()
        elapsed += clock() - began
        step, images = step + 1, images + len(batch["image"])
        if elapsed >= pace.distilling and pipeline.phase.name is Phase.DISTIL:
            pipeline.phase.set_progress(1.0)  # nothing, unless the last step was so long that a round was missed
        if elapsed >= seconds * (len(curve) + 1) / MARKS:
            at_poses, at_photos = judge(student, tested["poses"]), judge(student, tested["photos"])
            learned = judge(student, tested["learned"])
            curve.append(
                {
                    "seconds": round(elapsed, 1),
                    "steps": step,
                    "psnr": at_poses[0],
                    "ssim": at_poses[1],
                    "psnr_photos": at_photos[0],
                    "ssim_photos": at_photos[1],
                    "psnr_learned": learned[0],
                }
            )
            judged = f"{at_poses[0]:.2f} dB, {at_photos[0]:.2f} on photos, {learned[0]:.2f} on learned views"
            print(f"  {name} seed {seed}: {elapsed:6.0f} s, {step} steps, {judged}", flush=True)
    last = {key: value for key, value in curve[-1].items() if key != "steps"}
    if race.lpips is not None:
        last["lpips"] = judge_lpips(student, tested["poses"], race.lpips)
        last["lpips_photos"] = judge_lpips(student, tested["photos"], race.lpips)
    pitches = judge_pitches(student, tested["poses"])
    return {**last, "images_per_s": images / elapsed, "steps": step, "curve": curve, "pitches": pitches}, student


def merge(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds; the spread is the standard deviation of the final PSNR."""
    merged = {k: statistics.fmean(r[k] for r in runs) for k in runs[0] if k not in ("curve", "pitches")}
    spread = statistics.stdev(r["psnr"] for r in runs) if len(runs) > 1 else None
    return {**merged, "psnr_spread": spread, "seeds": len(runs), "curve": runs[0]["curve"], "runs": runs}


def plot(results: dict[str, Any], file: Path, title: str) -> None:
    """PSNR on test poses over seconds."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for colour, (name, result) in enumerate(results.items()):
        for index, one in enumerate(result["runs"]):
            xs, ys = [p["seconds"] for p in one["curve"]], [p["psnr"] for p in one["curve"]]
            axes.plot(xs, ys, marker="o", ms=3, label=name if index == 0 else None, color=f"C{colour}")
    axes.set(xlabel="seconds of training", ylabel="PSNR on test poses [dB]", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=130)
    plt.close(figure)


def write(results: dict[str, Any], title: str, race: Race) -> None:
    """The JSON file and the picture, as far as the race has come."""
    from results_file import write_json

    arguments = race.arguments
    settings = {name: value for name, value in vars(arguments).items() if name not in PATHS}
    assert race.teacher_score is not None
    teacher = dict(zip(("psnr_photos", "ssim_photos"), race.teacher_score, strict=True))
    write_json(arguments.json, {"title": title, "settings": settings, "teacher": teacher, "recipes": results})
    if arguments.png:
        plot(results, arguments.png, title)


def main(description: str | None = __doc__, kind: type[Race] = Race) -> None:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="a capture, in Blender or nerfstudio format")
    source.add_argument("--oracle", action="store_true", help="a demo scene, with its own renderer as the teacher")
    parser.add_argument("--scene", choices=("still-life", "thin"), default="still-life", help="the demo scene")
    parser.add_argument("--resolution", type=int, default=200, help="longest side of the pictures in pixels")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training, each recipe")
    parser.add_argument(
        "--cpu-clock",
        action="store_true",
        help="count what this process computes and not what the wall's clock says, on a machine with other work; "
        "give it one thread (OMP_NUM_THREADS=1), since threads count one by one",
    )
    parser.add_argument("--recipes", default="paper,default", help="comma-separated")
    parser.add_argument("--network", choices=NETWORKS, default="paper", help="the network of all recipes")
    parser.add_argument("--views", type=int, default=800, help="pseudo views, the same for all recipes")
    parser.add_argument("--photos", type=int, default=100, help="of the demo scene")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--teacher", type=Path, help="config.yml of an existing run, in place of training one")
    parser.add_argument("--teacher-recipe", default="tiny", help="method whose teacher phase trains the teacher")
    parser.add_argument("--cache", type=Path, default=Path("outputs/race"), help="folder for teacher and pseudo views")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("--png", type=Path, help="write the curves to this picture")
    arguments = parser.parse_args()

    from rich.console import Console
    from rich.table import Table

    demo = {"still-life": "demo scene", "thin": "thin demo scene"}[arguments.scene]
    what = f"{demo}, exact teacher" if arguments.oracle else arguments.data.resolve().name
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    title = f"{what}, {arguments.resolution} px, {arguments.network} network, {device}"
    race = kind(arguments)
    results: dict[str, Any] = {}
    for name in re.split(r",(?![^(]*\))", arguments.recipes):  # commas inside parentheses belong to a value
        results[name] = merge([run(race, name, seed)[0] for seed in arguments.seeds])
        write(results, title, race)
    table = Table(title=title)
    for column in (
        "recipe", "PSNR", "SSIM", "LPIPS", "PSNR photos", "SSIM photos", "LPIPS photos", "images/s", "steps", "seconds"
    ):  # fmt: skip
        table.add_column(column, justify="left" if column == "recipe" else "right")
    for name, result in results.items():
        spread = f" ± {result['psnr_spread']:.2f}" if result["psnr_spread"] is not None else ""
        table.add_row(
            name,
            f"{result['psnr']:.2f}{spread}",
            f"{result['ssim']:.3f}",
            f"{result['lpips']:.3f}" if "lpips" in result else "",
            f"{result['psnr_photos']:.2f}",
            f"{result['ssim_photos']:.3f}",
            f"{result['lpips_photos']:.3f}" if "lpips_photos" in result else "",
            f"{result['images_per_s']:.2f}",
            f"{result['steps']:.0f}",
            f"{result['seconds']:.0f}",
        )
        for pitch, at in result["runs"][0]["pitches"].items():
            print(
                f"{name} at pitch {pitch}: {at['psnr']:.2f} dB, its full picture averaged {at['psnr_averaged']:.2f} dB"
            )
    assert race.teacher_score is not None
    table.add_row("the teacher", "", "", "", f"{race.teacher_score[0]:.2f}", f"{race.teacher_score[1]:.3f}")
    Console().print(table)
    assert all(math.isfinite(result["psnr"]) for result in results.values())


if __name__ == "__main__":
    main()
