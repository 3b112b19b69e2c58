"""Race grids of low-resolution rays: as wide as a student's pictures ask for, or as wide as a processor likes.

    python scripts/benchmark_grids.py --load-config RUN/config.yml --json FILE
    python scripts/benchmark_grids.py --oracle --widths 192 200 256 --minutes 3 --json FILE
    python scripts/benchmark_grids.py --methods mobiler2l mobiler2l-fast --widths 768 800 1024 --json FILE

The Neural Engine pads the last axis to multiples of 32: of pictures 800 pixels wide, whose grid has 100 columns, it
computes 128. So the same views are rendered on other grids too, with the camera's field of view, and resampled to the
photos' size (torch's antialiased bicubic), where PSNR and SSIM are measured. By default the grids are 0.96, 1 and 1.28
times as wide as the student's own, as 96, 100 and 128 columns are. The second form trains a student of the demo scene
at each width, for the same time, and renders each on all grids. The third looks at costs only, of methods' networks.

Costs are of the network alone, which begins at encoded rays: that is what stays on the Neural Engine. Milliseconds are
those of onnxruntime on one thread of this CPU, which pads nothing, in processor time: other work counts little.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from results_file import write_json
from torch import Tensor

PADS_TO = 32
"""Values of half precision in the 64 bytes that the Neural Engine aligns the last axis to."""
SHARES = (0.96, 1.0, 1.28)
THREADS = 1
PSEUDO_VIEWS = 100
"""That a student which is trained here learns from."""
View = tuple[Any, Tensor]
"""A camera (1,) and its photo (h, w, 3) in 0..1."""


def padded(count: int) -> int:
    """The next multiple of ``PADS_TO``."""
    return -(-count // PADS_TO) * PADS_TO


def default_widths(own: int, stride: int) -> list[int]:
    """``SHARES`` of a student's own width, in whole blocks where it is another."""
    return [own if share == 1.0 else round(share * own / stride) * stride for share in SHARES]


def render_at(student: Any, camera: Any, width: int) -> Tensor:
    """A camera's picture, rendered so many pixels wide and resampled to the camera's own size.

    Unlike ``Student.render``, which brings every camera to cells of a size that was trained, the cells are what this
    width makes them.

    Returns:
        RGB (h, w, 3) in 0..1.
    """
    from torch.nn import functional

    from mobiler2l_ns.capture.photos import resized
    from mobiler2l_ns.geometry.rays import camera_rays

    shown_height, shown_width = int(camera.height), int(camera.width)
    height = round(shown_height * width / shown_width)
    scaled = resized(camera, *(torch.full_like(camera.width, size) for size in (width, height)))
    pitch = student.capture.focals_and_centre()[0] / float(scaled.fx)
    with torch.no_grad():
        picture = student(*camera_rays(scaled, student.config.stride), pitch)[:, :3, :height, :width]
    if (height, width) != (shown_height, shown_width):
        picture = functional.interpolate(picture, (shown_height, shown_width), mode="bicubic", antialias=True)
    return picture[0].permute(1, 2, 0).clamp(0.0, 1.0)


def quality(student: Any, views: Sequence[View], widths: Sequence[int]) -> list[dict[str, Any]]:
    """PSNR and SSIM of a student at each width, on the photos."""
    from rich.progress import track
    from scoring import score

    rows = []
    for width in track(widths, "Rendering", transient=True):
        psnr, ssim = score([(render_at(student, camera, width), photo) for camera, photo in views])
        rows.append({"width": width, "psnr": psnr, "ssim": ssim})
    return rows


def costs(student: Any, widths: Sequence[int], runs: int) -> list[dict[str, Any]]:
    """What a student's network costs in pictures of each width: as it is, with the last axis of each layer padded, and
    in milliseconds of processor time here, the widths timed by turns."""
    from benchmark_inference import open_onnx
    from rich.progress import track

    from mobiler2l_ns.export.formats import all_formats
    from mobiler2l_ns.export.graph import graph_of

    onnx, own = all_formats()["onnx"], student.view()
    rows, frames = [], []
    with tempfile.TemporaryDirectory() as folder:
        for width in track(widths, "Converting", transient=True):
            pitch = own.width / width
            graph = graph_of(student, "encoding", own.at(pitch), pitch)
            path = Path(folder) / f"{width}.onnx"
            onnx.convert({"main": graph}, path, "fp32", {})
            layers = [layer for layer in onnx.layers(path, "main") if layer.macs]
            lasts = [(layer, layer.shape[-1]) for layer in layers]
            columns = graph.inputs[0].shape[-1]
            rows.append(
                {
                    "width": width,
                    "columns": columns,
                    "columns_padded": padded(columns),
                    "gmac": sum(layer.macs for layer in layers) / 1e9,
                    "gmac_padded": sum(layer.macs / last * padded(last) for layer, last in lasts) / 1e9,
                }
            )
            inputs = {given.name: torch.rand(given.shape).numpy() for given in graph.inputs}
            frames.append((open_onnx(path, THREADS), inputs, []))
        for turn in track(range(runs + 1), "Timing", transient=True):
            for frame, inputs, times in frames:
                began = time.process_time()
                frame(inputs)
                if turn:  # the first one warms up
                    times.append(1000 * (time.process_time() - began))
    return [{**row, "ms": statistics.median(times)} for row, (_, _, times) in zip(rows, frames, strict=True)]


def of_run(arguments: argparse.Namespace) -> tuple[str, list[View], dict[str, Any]]:
    """Title, test views and the student of a run."""
    from mobiler2l_ns.report.measure import spread, test_views
    from mobiler2l_ns.run.opening import open_distilled, pipeline_of

    pipeline = pipeline_of(open_distilled(arguments.load_config), "cpu")
    dataset, _ = test_views(pipeline.datamanager)
    chosen = [dataset.visible[i] for i in spread(len(dataset.visible), arguments.views)]
    background, student = pipeline.model.config.background, pipeline.model.student
    if student.config.alpha:
        raise SystemExit(f"{arguments.load_config}: its student learned alpha, and its pictures are no photos")
    views = [(dataset.cameras[i : i + 1], background.shown(dataset.get_data(i)["image"])) for i in chosen]
    arguments.widths = arguments.widths or default_widths(student.view().width, student.config.stride)
    title = arguments.load_config.resolve().parents[2].name
    return title, views, {f"student of {student.view().width} pixels": student}


def trained_here(arguments: argparse.Namespace) -> tuple[str, list[View], dict[str, Any]]:
    """Title, test views and students of the demo scene, one trained at each width, its views as large as the middle
    one."""
    from benchmark_distillation import Race, run

    views, students = [], {}
    arguments.widths = arguments.widths or default_widths(200, 8)
    shown = sorted(arguments.widths)[len(arguments.widths) // 2]
    settings = {
        "oracle": True,
        "scene": "still-life",
        "data": None,
        "teacher": None,
        "device": "cpu",
        "photos": 100,
        "network": "small",
    }
    settings |= {"minutes": arguments.minutes, "views": PSEUDO_VIEWS, "cpu_clock": True, "cache": arguments.cache}
    for width in [shown, *(width for width in arguments.widths if width != shown)]:
        race = Race(argparse.Namespace(**settings, resolution=width))
        measured, student = run(race, "default", 0)
        students[f"student of {width} pixels, {measured['steps']} steps"] = student
        if width == shown:
            views = race.test_cameras(race.pipeline(race.recipe("default")))["photos"]
    return f"demo scene, exact teacher, small network, {arguments.minutes:g} minutes of one core each", views, students


def print_rows(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """A table of what was measured."""
    from rich.console import Console
    from rich.table import Table

    digits = {"psnr": 2, "ssim": 4, "gmac": 2, "gmac_padded": 2, "ms": 0}
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(f"{value:.{digits.get(name, 0)}f}" for name, value in row.items()))
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--load-config", type=Path, help="config.yml of a mobiler2l run")
    source.add_argument("--oracle", action="store_true", help="train students of the demo scene, by its own renderer")
    source.add_argument("--methods", nargs="+", help="whose networks' costs are counted, such as mobiler2l")
    parser.add_argument("--widths", type=int, nargs="+", help="of the pictures that are rendered, in pixels")
    parser.add_argument("--views", type=int, default=16, help="most test views to measure")
    parser.add_argument("--minutes", type=float, default=3.0, help="of training, each student")
    parser.add_argument("--runs", type=int, default=5, help="timed frames of each width")
    parser.add_argument("--cache", type=Path, default=Path("outputs/race"), help="folder for pseudo views")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = parser.parse_args()

    from mobiler2l_ns.devices import device_name

    if arguments.methods:
        from benchmark_inference import student_of

        arguments.widths = arguments.widths or default_widths(800, 8)
        title, views = "networks", []
        students = {name: student_of(name, max(arguments.widths)) for name in arguments.methods}
    else:
        title, views, students = trained_here(arguments) if arguments.oracle else of_run(arguments)
    results: dict[str, Any] = {
        "title": title,
        "device": f"{device_name('cpu')}; onnxruntime on {THREADS} thread, processor time",
        "views": len(views),
        "shown_width": int(views[0][0].width) if views else None,
        "students": {},
    }
    for name, student in students.items():
        student.eval()
        rows = costs(student, arguments.widths, arguments.runs)
        if views:
            seen = quality(student, views, arguments.widths)
            rows = [{**a, **b} for a, b in zip(seen, rows, strict=True)]
        results["students"][name] = rows
        write_json(arguments.json, results)
        print_rows(f"{title}, {name}" + (f", shown {results['shown_width']} pixels wide" if views else ""), rows)


if __name__ == "__main__":
    main()
