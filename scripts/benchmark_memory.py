"""Peak memory of a run: over the number of pseudo views, bounded by the pool's budget, and over the number of photos.

    python scripts/benchmark_memory.py --views 1000 10000 --budget-gib 1 --json FILE
    python scripts/benchmark_memory.py --photos 100 1000 --json FILE

Each number has a process of its own. Views are streamed through the pool with training steps in between. Photos, in a
folder that is deleted afterwards, go through all of ns-train: the look at their files, a few steps of a teacher, of
distillation and of fine-tuning with one picture each. In both a stand-in paints the pseudo views, so that the teacher's
time does not count.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any


def stream(views: int, size: int, budget_gib: float, device: str) -> dict[str, float]:
    """Fill a pool that wants ``views`` views, stream as many again through it, and train in between."""
    import torch

    from mobiler2l_ns.geometry.picture import PictureGeometry
    from mobiler2l_ns.plugin import methods
    from mobiler2l_ns.pool.pseudo_views import BYTES_PER_GIB, PseudoViewPool
    from mobiler2l_ns.student.renderer import Student

    tiny: Any = methods.mobiler2l_tiny.config.pipeline.model
    student = Student(replace(tiny, width=32, num_blocks=2)).to(device)
    optimizer = torch.optim.AdamW(student.parameters())
    view = PictureGeometry(size, size, 1.4 * size, 1.4 * size, size / 2, size / 2, student.config.stride)
    pool = PseudoViewPool(views, *view.covered, budget_gib, device)
    pose = torch.eye(4)[:3]
    picture = torch.rand(*view.covered, 3)
    for index in range(2 * views):
        pool.add(pose, picture)
        if index % 500 == 499:
            poses, pictures = pool.draw(2, device)
            loss = ((student(*view.rays(poses)).permute(0, 2, 3, 1) - pictures) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    gpu = torch.cuda.max_memory_allocated() / BYTES_PER_GIB if device == "cuda" else 0.0
    return {
        "views": views,
        "kept": len(pool),
        "pool_gib": pool.pictures.numel() / BYTES_PER_GIB,
        "ram_gib": peak,
        "gpu_gib": gpu,
    }


def write_photos(folder: Path, count: int, width: int, height: int) -> None:
    """A capture of photos with something in them, seen from an arc."""
    import numpy as np
    from PIL import Image

    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    coarse = random.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    frames = []
    for index in range(count):
        path = folder / "images" / f"{index:05d}.jpg"
        Image.fromarray(np.roll(picture, 7 * index, axis=1)).save(path, quality=80)
        angle = 0.5 * index / count
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = turn, 3 * turn[:, 2]
        frames.append({"file_path": f"images/{path.name}", "transform_matrix": pose.tolist()})
    camera = {"fl_x": width, "fl_y": width, "cx": width / 2, "cy": height / 2, "w": width, "h": height}
    (folder / "transforms.json").write_text(json.dumps({**camera, "frames": frames}))


class Peak:
    """Most resident memory of this process since it was asked last, in GiB."""

    def since(self) -> float:
        status = Path("/proc/self/status").read_text()
        peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
        Path("/proc/self/clear_refs").write_text("5")  # begins the peak again, on Linux
        return peak / 1024**2


def train(photos: int, width: int, height: int, device: str) -> dict[str, float]:
    """Train on photos, a few steps of each phase."""
    from copy import deepcopy
    from tempfile import TemporaryDirectory

    import torch
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    from mobiler2l_ns.plugin import methods

    libraries = Peak().since()
    with TemporaryDirectory() as folder:
        capture, peak = Path(folder) / "capture", Peak()
        write_photos(capture, photos, width, height)
        config: Any = deepcopy(methods.mobiler2l_tiny.config)
        config.data, config.output_dir, config.timestamp = capture, Path(folder), "run"
        config.vis, config.report_views, config.machine.device_type = "tensorboard", 0, device
        config.pipeline.teacher_steps, config.pipeline.distill_steps, config.pipeline.finetune_steps = 20, 4, 4
        manager = config.pipeline.datamanager
        manager.dataparser = NerfstudioDataParserConfig(data=capture)
        manager.pool_views, manager.pool_device = 16, "cpu"
        manager.max_image_size, manager.views_per_batch = None, 1
        config.__post_init__()
        trainer = config.setup()
        config.save_config()
        peak.since()
        trainer.setup()
        pipeline, peaks = trainer.pipeline, {"check": peak.since()}

        def paint(camera: Any) -> dict[str, torch.Tensor]:
            shape = int(camera.height), int(camera.width)
            return {"picture": torch.rand(*shape, 3), "depth": torch.full((*shape, 1), 4.0)}

        pipeline.datamanager._render = paint

        def noting(phase: Any, before: str) -> None:
            enter = phase.enter

            def noted(step: int) -> None:
                peaks[before] = peak.since()
                enter(step)

            phase.enter = noted

        _, distil, finetune = pipeline.phases.values()
        noting(distil, "teacher")
        noting(finetune, "distil")
        trainer.train()
        peaks["finetune"] = peak.since()
        pool = pipeline.datamanager.pool.pictures.nbytes / 1024**3
    own = photos * width * height * 3 / 1024**3
    return {
        "photos": photos,
        "photos_gib": own,
        "pool_gib": pool,
        "libraries_gib": libraries,
        **{f"{phase}_gib": value for phase, value in peaks.items()},
        "above_photos_gib": max(peaks.values()) - own,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--photos", type=int, nargs="+", help="measure photos in place of pseudo views")
    parser.add_argument("--photo-size", type=int, nargs=2, default=[1008, 756], metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--size", type=int, default=400, help="pixels of the square picture")
    parser.add_argument("--budget-gib", type=float, default=1.0)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None and arguments.photos:
        width, height = arguments.photo_size
        print(json.dumps(train(arguments.one, width, height, arguments.device)))
        return
    if arguments.one is not None:
        print(json.dumps(stream(arguments.one, arguments.size, arguments.budget_gib, arguments.device)))
        return

    from results_file import write_json
    from rich.console import Console
    from rich.table import Table

    numbers, title = arguments.photos or [0, *arguments.views], f"{arguments.size} x {arguments.size} pixels"
    settings = ["--size", str(arguments.size), "--budget-gib", str(arguments.budget_gib), "--device", arguments.device]
    if arguments.photos:
        width, height = arguments.photo_size
        title = f"{width} x {height} pixels"
        settings += ["--photos", "1", "--photo-size", str(width), str(height)]
    results = []
    for number in numbers:
        command = [sys.executable, "-W", "ignore", __file__, "--one", str(number), *settings]
        results.append(
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        )
    budget = "" if arguments.photos else f", budget {arguments.budget_gib} GiB"
    table = Table(title=f"{title}{budget}, {arguments.device}")
    for column in results[0]:
        table.add_column(column, justify="right")
    for result in results:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in result.values()))
    Console().print(table)
    write_json(arguments.json, results)


if __name__ == "__main__":
    main()
