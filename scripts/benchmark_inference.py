"""Time the exported networks of methods side by side, in every format that is installed here and has a runtime.

    python scripts/benchmark_inference.py mobiler2l mobiler2l-fast [--formats onnx onnx-int8 litert ncnn] --json FILE

A format is named like a package: ``onnx`` is onnx at its default precision, ``onnx-int8`` at another. The weights are
random, which changes nothing in the time. A network is a method, or a method with other settings of its student:
``mobiler2l+volume_rays=0`` tells what the volume costs. All networks are loaded first and run by turns, so that a busy
machine slows all alike; the median counts. In each format, the network of mobiler2l-paper is the baseline of every
ratio. Core ML is timed on macOS only: what stands in for it elsewhere says nothing about time.
"""

from __future__ import annotations

import argparse
import ast
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

BASELINE = "mobiler2l-paper"
REFERENCE = "onnx"
"""The format that is always timed, and that a result's own figures are of."""
Inputs = dict[str, Any]
Frame = Callable[[Inputs], Any]


def student_of(name: str, size: int) -> Any:
    """An untrained student of ``method+setting=value+...`` that renders ``size`` pixels square."""
    from mobiler2l_ns.plugin import methods
    from mobiler2l_ns.student.renderer import Student

    method, *changes = name.split("+")
    specification = getattr(methods, method.replace("-", "_"), None)
    if specification is None:
        raise SystemExit(f"There is no method {method}")
    settings = (change.split("=") for change in changes)
    try:
        changed = {setting: ast.literal_eval(value) for setting, value in settings}
        config = replace(specification.config.pipeline.model, **changed)
    except (ValueError, SyntaxError, TypeError) as error:
        raise SystemExit(f"{name}: {error}") from None
    torch.manual_seed(0)
    student = Student(config)
    for parameter in student.parameters():  # blocks begin as zeros, which a file would store once
        torch.nn.init.normal_(parameter, std=0.02)
    student.capture.record(
        image_size=torch.tensor([size, size]),
        intrinsics=torch.tensor([1.39 * size, 1.39 * size, size / 2, size / 2]),
        scene_radius=torch.tensor(1.3),
    )
    return student.eval().requires_grad_(False)


def open_onnx(path: Path, threads: int) -> Frame:
    """One frame by onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(["image"], inputs)


def open_litert(path: Path, threads: int) -> Frame:
    """One frame by the LiteRT interpreter on the CPU."""
    from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-not-found]

    render = Interpreter(model_path=str(path), num_threads=threads or os.cpu_count()).get_signature_runner("main")
    return lambda inputs: render(**inputs)


def open_ncnn(path: Path, threads: int) -> Frame:
    """One frame by ncnn on the CPU, with the options it comes with."""
    ncnn: Any = import_module("ncnn")  # its classes are compiled: no types

    net = ncnn.Net()
    if threads:
        net.opt.num_threads = threads
    net.load_param(str(path / "model.param"))
    net.load_model(str(path / "model.bin"))

    def frame(inputs: Inputs) -> Any:
        extractor = net.create_extractor()
        for name, value in inputs.items():
            extractor.input(name, ncnn.Mat(value[0]).clone())
        return extractor.extract("image")

    return frame


def open_coreml(path: Path, threads: int) -> Frame:
    """One frame by Core ML, which chooses processors and threads itself."""
    from mobiler2l_ns.export.formats import all_formats

    return all_formats()["coreml"].open(path, "main")


OPEN = {"onnx": open_onnx, "litert": open_litert, "ncnn": open_ncnn}
if sys.platform == "darwin":
    OPEN["coreml"] = open_coreml


def formats_present() -> list[str]:
    """Every precision of every format that can be written and timed here."""
    from mobiler2l_ns.export.formats import all_formats

    forms = [all_formats()[name] for name in OPEN if all_formats()[name].missing() is None]
    return [
        form.name + f"-{precision}" * (precision != form.precision) for form in forms for precision in form.thresholds
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="+", help="such as mobiler2l or mobiler2l+volume_rays=0")
    parser.add_argument("--formats", nargs="+", help="such as onnx-int8 litert; all that are present if not given")
    parser.add_argument("--size", type=int, default=800, help="pixels of the square picture")
    parser.add_argument("--runs", type=int, default=9, help="timed frames of each network")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as the runtime likes")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = parser.parse_args()
    present = formats_present()
    absent = sorted(set(arguments.formats or ()) - set(present))
    if absent:
        raise SystemExit(f"{', '.join(absent)} cannot be timed here; these can: {', '.join(present)}")
    formats = list(dict.fromkeys([REFERENCE, *(arguments.formats or present)]))

    from results_file import write_json
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    from mobiler2l_ns.export.formats import all_formats
    from mobiler2l_ns.export.graph import graph_of
    from mobiler2l_ns.export.manifest import digests
    from mobiler2l_ns.student.cost import measure_cost

    console = Console()
    names = list(dict.fromkeys([BASELINE, *arguments.methods]))
    students = {name: student_of(name, arguments.size) for name in names}
    costs = {name: measure_cost(students[name].config, arguments.size, arguments.size) for name in names}
    pose = torch.eye(4)[None, :3].clone()
    pose[0, 2, 3] = 4.0
    inputs = {"camera_to_world": pose.numpy(), "intrinsics": students[BASELINE].capture.intrinsics[None].numpy()}

    frames: dict[tuple[str, str], Frame] = {}
    sizes: dict[tuple[str, str], float] = {}
    pairs = [(name, label) for label in formats for name in names]
    with tempfile.TemporaryDirectory() as folder:
        for name, label in track(pairs, "Converting", console=console, transient=True):
            form = all_formats()[label.partition("-")[0]]
            precision = label.partition("-")[2] or form.precision
            path = Path(folder) / f"{name}-{label}{form.suffix}"
            form.convert({"main": graph_of(students[name], "pose")}, path, precision, {})
            sizes[name, label] = digests(path)[0] / 1e6
            frames[name, label] = OPEN[form.name](path, arguments.threads)
        times: dict[tuple[str, str], list[float]] = {pair: [] for pair in pairs}
        for turn in track(range(arguments.runs + 2), "Timing", console=console, transient=True):
            for pair in pairs:
                began = time.perf_counter()
                frames[pair](inputs)
                if turn >= 2:  # the first ones warm up
                    times[pair].append(1000 * (time.perf_counter() - began))
    medians = {pair: statistics.median(values) for pair, values in times.items()}

    table = Table(title=f"CPU, {arguments.size} x {arguments.size} pixels")
    for column in ("network", "format", "ms", "to paper", "MB", "GMAC", "M parameters"):
        table.add_column(column, justify="left" if column in ("network", "format") else "right")
    results: dict[str, dict[str, Any]] = {}
    for name, label in pairs:
        ratio = medians[name, label] / medians[BASELINE, label]
        measured = {"ms": medians[name, label], "mb": sizes[name, label], "ratio_to_paper": ratio}
        if label == REFERENCE:
            results[name] = {**measured, "gmac": costs[name].gmac, "formats": {}}
        else:
            results[name]["formats"][label] = measured
        table.add_row(
            name,
            label,
            f"{medians[name, label]:.0f}",
            f"{ratio:.2f}",
            f"{sizes[name, label]:.2f}",
            f"{costs[name].gmac:.2f}",
            f"{costs[name].params_folded / 1e6:.2f}",
        )
    console.print(table)
    write_json(arguments.json, results)


if __name__ == "__main__":
    main()
