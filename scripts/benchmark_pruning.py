"""Train students pruned to several sizes for equal wall-clock, and measure what is left of cost and picture.

    python scripts/benchmark_pruning.py --json FILE

They learn the demo scene from its own renderer, see benchmark_distillation.py. All are exported, and onnxruntime runs
them by turns at ``--timed-size``, so that a busy machine slows all alike; the median counts. MB are the fp32 file's.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from benchmark_distillation import NETWORKS, Race, run
from results_file import write_json

COLUMNS = {"mb": 2, "gmac": 2, "ms": 1, "psnr": 2, "ssim": 3, "psnr_photos": 2}
TITLES = {"mb": "MB", "gmac": "GMAC", "psnr": "PSNR", "ssim": "SSIM", "psnr_photos": "PSNR photos"}


def time_by_turns(students: dict[str, Any], size: int, runs: int) -> dict[str, tuple[float, float]]:
    """Megabytes of each student's ONNX file and median milliseconds of its picture of ``size`` pixels square."""
    import onnxruntime

    from mobiler2l_ns.export.formats.onnx import convert as onnx
    from mobiler2l_ns.export.graph import PoseToImage
    from mobiler2l_ns.export.package import view_of

    sessions, megabytes, inputs = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, student in students.items():
            view, pitch = view_of(student, size, size)
            file = Path(folder) / f"{name}.onnx"
            onnx.convert(PoseToImage(student, view, pitch).eval(), file, "fp32", {})
            megabytes[name] = file.stat().st_size / 1e6
            sessions[name] = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
            pose, intrinsics = student.capture.start_pose[None], torch.tensor([view.intrinsics])
            inputs[name] = {"camera_to_world": pose.cpu().numpy(), "intrinsics": intrinsics.numpy()}
    times: dict[str, list[float]] = {name: [] for name in students}
    for turn in range(runs + 2):
        for name, session in sessions.items():
            began = time.perf_counter()
            session.run(["image"], inputs[name])
            if turn >= 2:  # the first ones warm up
                times[name].append(1000 * (time.perf_counter() - began))
    return {name: (megabytes[name], statistics.median(values)) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.3, 0.5], help="to prune, one student each")
    parser.add_argument("--recipe", default="default", help="as benchmark_distillation.py takes it")
    parser.add_argument("--network", choices=NETWORKS, default="own", help="own: the recipe's")
    parser.add_argument("--resolution", type=int, default=96, help="side of the pictures in training, in pixels")
    parser.add_argument("--minutes", type=float, default=4.0, help="of training, each student")
    parser.add_argument("--views", type=int, default=300, help="pseudo views, the same for all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timed-size", type=int, default=800, help="side of the timed picture, in pixels")
    parser.add_argument("--runs", type=int, default=9, help="timed frames of each student")
    parser.add_argument("--cache", type=Path, default=Path("outputs/race"), help="folder for scene and pseudo views")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = parser.parse_args()
    arguments.oracle, arguments.scene, arguments.photos, arguments.cpu_clock = True, "still-life", 100, False

    from rich.console import Console
    from rich.table import Table

    from mobiler2l_ns.student.cost import measure_cost

    race = Race(arguments)
    size = arguments.timed_size
    students, results = {}, {}
    for share in arguments.shares:
        name = f"{share:.0%}"
        recipe = f"{arguments.recipe}+model.prune=({share},)" if share else arguments.recipe
        measured, student = run(race, recipe, arguments.seed)
        students[name] = student.cpu().eval().requires_grad_(False)
        cost = measure_cost(student.network, size, size)
        left = [block.hidden for block, _ in student.network.residual_blocks()]
        results[name] = {**measured, "gmac": cost.gmac, "params": cost.params_folded, "hidden_channels": left}
    for name, (megabytes, milliseconds) in time_by_turns(students, size, arguments.runs).items():
        results[name].update(mb=megabytes, ms=milliseconds)

    what = f"demo scene, exact teacher, {arguments.resolution} px, {arguments.minutes:g} min each"
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    title = f"{what}, {device}; GMAC and onnxruntime ms at {size} x {size}"
    table = Table(title=title)
    table.add_column("pruned")
    for column in (*COLUMNS, "blocks", "steps"):
        table.add_column(TITLES.get(column, column), justify="right")
    for name, result in results.items():
        figures = (f"{result[column]:.{digits}f}" for column, digits in COLUMNS.items())
        left = result["hidden_channels"]
        table.add_row(name, *figures, f"{sum(width > 0 for width in left)} of {len(left)}", f"{result['steps']}")
    Console().print(table)
    settings = {name: value for name, value in vars(arguments).items() if name not in ("data", "cache", "json")}
    write_json(arguments.json, {"title": title, "settings": settings, "students": results})


if __name__ == "__main__":
    main()
