"""ns-train, ns-eval and mobiler2l-export as the fleet's tests see them: what they leave behind, in no time.

    python fake_commands.py train|evaluate|export ...

Settings of the fake training: ``steps``, ``pause`` (seconds a step), ``save-every``, ``fail`` (so many attempts end
with an error after half of the steps).
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from pathlib import Path


def options(words: list[str]) -> dict[str, str]:
    return {name[2:]: value for name, value in zip(words, words[1:], strict=False) if name.startswith("--")}


def train(words: list[str]) -> None:
    method, given = words[0], options(words)
    output = Path(given["output-dir"])
    run = output / given["experiment-name"] / method / given["timestamp"]
    # Nobody trains beside another: the kernel would give this lock to one alone.
    writer = (output / "writer.lock").open("a")
    try:
        fcntl.flock(writer, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        (output / "two_writers").touch()
        raise
    (run / "nerfstudio_models").mkdir(parents=True, exist_ok=True)
    (run / "arguments.json").write_text(json.dumps(words))
    (run / "config.yml").write_text("fake")
    first, earlier = 0, []
    if "load-dir" in given:
        newest = sorted(Path(given["load-dir"]).glob("step-*.ckpt"))[-1]
        first = int(newest.stem.removeprefix("step-")) + 1
        lines = (Path(given["load-dir"]).parent / "progress.jsonl").read_text().splitlines()
        earlier = [line for line in lines if line.endswith("}") and json.loads(line)["step"] < first]
    steps, every = int(given.get("steps", 10)), int(given.get("save-every", 2))
    with (run / "progress.jsonl").open("w") as log:
        log.writelines(f"{line}\n" for line in earlier)
        for step in range(first, steps):
            if int(given.get("fail", 0)) >= int(given["timestamp"]) and step >= steps // 2:
                raise SystemExit("the GPU is on fire")
            time.sleep(float(given.get("pause", 0)))
            record = {"event": "train", "step": step, "phase": "distil", "seconds": float(step), "loss": 0.1}
            record |= {"psnr": 20.0 + step, "steps_per_second": 1.0, "seconds_left": float(steps - step)}
            log.write(json.dumps(record) + "\n")
            log.flush()
            print(f"step {step}", flush=True)
            if (step + 1) % every == 0 or step + 1 == steps:
                save(run, step)
    if first >= steps:
        save(run, steps - 1)  # as ns-train does where nothing is left to train
        return
    with (output / "ends").open("a") as ends:
        ends.write(f"{os.getpid()} {first}\n")


def save(run: Path, step: int) -> None:
    partial = run / "nerfstudio_models" / f".{step}"
    partial.touch()
    partial.rename(partial.with_name(f"step-{step:09d}.ckpt"))
    for old in sorted(partial.parent.glob("step-*.ckpt"))[:-1]:
        old.unlink()


def evaluate(words: list[str]) -> None:
    given = options(words)
    assert Path(given["load-config"]).is_file()
    results = {"psnr": 30.0, "ssim": 0.9, "psnr_to_teacher": 31.0}
    Path(given["output-path"]).write_text(json.dumps({"results": results}))


def export(words: list[str]) -> None:
    given = options(words)
    folder = Path(given["output-dir"])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "manifest.json"
    files = json.loads(path.read_text())["files"] if path.is_file() else []
    files.append(
        {"format": words[0], "precision": given.get("precision", "fp16"), "path": f"student.{words[0]}",
         "bytes": 2_000_000, "ms": 12.5, "psnr_student": 70.0, "psnr_photos": 29.9}
    )  # fmt: skip
    path.write_text(json.dumps({"files": files}))


if __name__ == "__main__":
    {"train": train, "evaluate": evaluate, "export": export}[sys.argv[1]](sys.argv[2:])
