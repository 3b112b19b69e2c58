"""Time the exported ONNX networks of methods side by side with onnxruntime on the CPU.

    python scripts/benchmark_inference.py mobiler2l mobiler2l-fast --json FILE

The weights are random, which changes nothing in the time. All networks are loaded first and run by turns, so that a
busy machine slows all alike; the median counts. The network of mobiler2l-paper is the baseline of every ratio.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

BASELINE = "mobiler2l-paper"


def student_of(method: str, size: int) -> Any:
    """An untrained student of a method that renders ``size`` pixels square."""
    from mobiler2l_ns import methods
    from mobiler2l_ns.student.student import Student

    specification = getattr(methods, method.replace("-", "_"), None)
    if specification is None:
        raise SystemExit(f"There is no method {method}")
    torch.manual_seed(0)
    student = Student(specification.config.pipeline.model)
    for parameter in student.parameters():  # blocks begin as zeros, which a file would store once
        torch.nn.init.normal_(parameter, std=0.02)
    student.capture.record(
        image_size=torch.tensor([size, size]),
        intrinsics=torch.tensor([1.39 * size, 1.39 * size, size / 2, size / 2]),
        scene_radius=torch.tensor(1.3),
    )
    return student.eval().requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="+", help="such as mobiler2l")
    parser.add_argument("--size", type=int, default=800, help="pixels of the square picture")
    parser.add_argument("--runs", type=int, default=9, help="timed frames of each network")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as onnxruntime likes")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = parser.parse_args()

    import onnxruntime
    from results_file import write_json
    from rich.console import Console
    from rich.table import Table

    from mobiler2l_ns.export import onnx
    from mobiler2l_ns.export.graph import PoseToImage
    from mobiler2l_ns.student.network import measure_cost

    names = list(dict.fromkeys([BASELINE, *arguments.methods]))
    pose = torch.eye(4)[None, :3].clone()
    pose[0, 2, 3] = 4.0
    sessions, sizes, costs = {}, {}, {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            student = student_of(name, arguments.size)
            file = Path(folder) / f"{name}.onnx"
            onnx.convert(PoseToImage(student).eval(), file, "fp32", {})
            sizes[name] = file.stat().st_size / 1e6
            costs[name] = measure_cost(student.config, arguments.size, arguments.size)
            sessions[name] = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
            inputs = {"camera_to_world": pose.numpy(), "intrinsics": student.capture.intrinsics[None].numpy()}
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(arguments.runs + 2):
        for name in names:
            began = time.perf_counter()
            sessions[name].run(["image"], inputs)
            if turn >= 2:  # the first ones warm up
                times[name].append(1000 * (time.perf_counter() - began))
    medians = {name: statistics.median(values) for name, values in times.items()}
    table = Table(title=f"onnxruntime {onnxruntime.__version__}, CPU, {arguments.size} x {arguments.size} pixels")
    for column in ("network", "ms", "to paper", "MB fp32", "GMAC", "M parameters"):
        table.add_column(column, justify="left" if column == "network" else "right")
    results = {}
    for name in names:
        ratio = medians[name] / medians[BASELINE]
        results[name] = {"ms": medians[name], "mb": sizes[name], "ratio_to_paper": ratio, "gmac": costs[name].gmac}
        parameters = costs[name].params_folded / 1e6
        table.add_row(
            name,
            f"{medians[name]:.0f}",
            f"{ratio:.2f}",
            f"{sizes[name]:.2f}",
            f"{costs[name].gmac:.2f}",
            f"{parameters:.2f}",
        )
    Console().print(table)
    write_json(arguments.json, results)


if __name__ == "__main__":
    main()
