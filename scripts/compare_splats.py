"""Packages of a student beside Gaussian splats of the same capture: sizes, PSNR and SSIM on its test views, times.

    python scripts/compare_splats.py --load-config RUN/config.yml --packages package --splats scene.ply --json FILE
    python scripts/compare_splats.py        # write docs/comparison.md from all of docs/results/comparison_*.json

The splats are measured as they are, and packed and unpacked again by PlayCanvas's splat-transform (npm install
@playcanvas/splat-transform) as SOG, SPZ and compressed PLY; without that program they are "not measured". Frames of
splats are timed by what renders them here: gsplat with CUDA, a slow reference without, which is no viewer.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from nerfstudio.utils.rich_utils import CONSOLE
from results_file import write_json
from rich.progress import track

DOCS = Path(__file__).resolve().parent.parent / "docs"
TOOL = "splat-transform"
PACKED = {"SOG": ".sog", "SPZ": ".spz", "compressed PLY": ".compressed.ply"}
MISSING = "not measured"
Row = dict[str, Any]
"""what, mb, psnr, ssim, ms, by (what timed it) and minutes (of training); None: not measured."""


def row(what: str, **known: Any) -> Row:
    """A line of the table."""
    return {"what": what, **dict.fromkeys(("mb", "psnr", "ssim", "ms", "by", "minutes")), **known}


def measure_splats(path: Path, frame: str, views: Any, indices: Sequence[int], data: Path, device: str) -> Row:
    """PSNR, SSIM and milliseconds of a file of splats on views of a capture.

    Args:
        path: anything that ``read_splats`` reads.
        frame: its coordinates, as ``--pipeline.teacher-splats-frame``.
        views: a dataset of photos, of which ``indices`` are measured.
        data: the capture.
    """
    from mobiler2l_ns.capture.background import Background
    from mobiler2l_ns.metrics import psnr, ssim
    from mobiler2l_ns.teacher.render import render_like_photo
    from mobiler2l_ns.teacher.splats import load_splats

    background = Background()
    teacher: Any = load_splats(path, frame, views, data, device).model  # type: ignore[arg-type]
    decibels, similarities, times = [], [], []
    with torch.no_grad():
        for index in track(indices, f"Measuring {path.name}", console=CONSOLE, transient=True):
            camera = views.cameras[index : index + 1].to(device)
            began = time.perf_counter()
            shown = render_like_photo(teacher, camera, background.rgb)["rgb"].cpu()
            times.append(1000 * (time.perf_counter() - began))
            photo = background.shown(views.get_data(index)["image"])
            decibels.append(float(psnr(shown, photo)))
            similarities.append(ssim(shown, photo))
    return row(
        path.name,
        mb=path.stat().st_size / 1e6,
        psnr=statistics.fmean(decibels),
        ssim=statistics.fmean(similarities),
        ms=statistics.median(times[1:] or times),
        by="gsplat" if torch.device(device).type == "cuda" else "the reference renderer",
    )


def packed(ply: Path, tool: str | None, folder: Path) -> dict[str, tuple[float, Path] | None]:
    """A file of splats in each packed form: MB, and a .ply of what is left of it; None where the tool is missing or
    fails."""
    found: dict[str, tuple[float, Path] | None] = dict.fromkeys(PACKED)
    if tool is None:
        return found
    for name, suffix in PACKED.items():
        small, back = folder / f"packed{suffix}", folder / f"back{suffix}.unpacked.ply"
        for given, written in ((ply, small), (small, back)):
            command = [tool, "--overwrite", "--quiet", "--gpu", "cpu", str(given), str(written)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode or not written.exists():
                reason = (done.stderr or done.stdout).strip().splitlines() or ["no reason is given"]
                CONSOLE.print(f"{name}: {tool} failed: {reason[-1]}", style="yellow", markup=False)
                break
        else:
            found[name] = small.stat().st_size / 1e6, back
    return found


def splat_rows(ply: Path, tool: str | None, minutes: float | None, measured_by: Any) -> list[Row]:
    """Lines of the splats as they are and packed; ``measured_by`` is ``measure_splats`` of a path."""
    rows = [{**measured_by(ply), "what": "splats, .ply", "minutes": minutes}]
    with tempfile.TemporaryDirectory() as folder:
        for name, small in packed(ply, tool, Path(folder)).items():
            if small is None:
                rows.append(row(f"splats, {name}", minutes=minutes))
            else:
                rows.append({**measured_by(small[1]), "what": f"splats, {name}", "mb": small[0], "minutes": minutes})
    return rows


def student_rows(packages: Path, student: dict[str, float], minutes: float | None) -> list[Row]:
    """Lines of the packages of a folder. Their pictures are the student's, as their proof says; PSNR and SSIM are the
    student's on the test views."""
    manifest = json.loads((packages / "manifest.json").read_text(encoding="utf8"))
    return [
        row(
            f"student, {file['format']} {file['precision']} ({file['contract']}; {file['psnr_student']:.0f} dB to it)",
            mb=file["bytes"] / 1e6,
            psnr=student["psnr"],
            ssim=student["ssim"],
            ms=file["ms"],
            by=file["run_by"],
            minutes=minutes,
        )
        for file in manifest["files"]
    ]


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure a run's student and splats of its capture on the same test views."""
    from mobiler2l_ns import devices
    from mobiler2l_ns.progress.records import FILE, read_log
    from mobiler2l_ns.report.history import History
    from mobiler2l_ns.report.measure import measure, spread, test_views
    from mobiler2l_ns.run.opening import open_distilled, pipeline_of

    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline = pipeline_of(open_distilled(arguments.load_config), device)
    student = measure(pipeline, arguments.views).means()
    log = arguments.load_config.parent / FILE
    minutes = History.of(read_log(log)).seconds / 60 if log.exists() else None
    dataset, split = test_views(pipeline.datamanager)
    chosen = [dataset.visible[i] for i in spread(len(dataset.visible), arguments.views)]
    data: Any = pipeline.datamanager.config.data

    def measured_by(path: Path) -> Row:
        return measure_splats(path, arguments.splats_frame, dataset, chosen, data, device)

    rows = student_rows(arguments.packages, student, minutes)
    rows += splat_rows(arguments.splats, arguments.tool, arguments.splats_minutes, measured_by)
    return {
        "title": arguments.title or arguments.load_config.resolve().parents[2].name,
        "device": devices.device_name(device),
        "views": len(chosen),
        "split": split,
        "note": arguments.note,
        "rows": rows,
    }


def table(rows: Sequence[Row]) -> str:
    """The lines in Markdown."""

    def number(value: float | None, digits: int) -> str:
        return MISSING if value is None else f"{value:.{digits}f}"

    lines = ["| what | MB | PSNR | SSIM | ms | by | training minutes |", "|---|---|---|---|---|---|---|"]
    for line in rows:
        cells = [number(line[name], digits) for name, digits in (("mb", 2), ("psnr", 2), ("ssim", 3), ("ms", 1))]
        by = line["by"] if line["ms"] is not None else ""
        lines.append(" | ".join(["| " + line["what"], *cells, by or "", number(line["minutes"], 1)]) + " |")
    return "\n".join(lines)


def page(results: Sequence[dict[str, Any]]) -> str:
    """docs/comparison.md: what was measured, and what is known without measuring."""
    measured = [
        f"### {result['title']}\n\n{result.get('note') or ''}\n\nMeans over {result['views']} views of the split "
        f"{result['split']}, on {result['device']}.\n\n{table(result['rows'])}\n"
        for result in results
    ] or ["Nothing has been measured on a trained splat yet: on a CPU none can be trained in reasonable time.\n"]
    template = (DOCS / "comparison.template.md").read_text(encoding="utf8")
    return template.replace("<!-- measured -->\n", "\n".join(measured))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--load-config", type=Path, help="config.yml of a mobiler2l run; without one the page is written"
    )
    parser.add_argument("--packages", type=Path, help="what mobiler2l-export wrote of it")
    parser.add_argument("--splats", type=Path, help=".ply of the same capture")
    parser.add_argument("--splats-frame", default="capture", choices=("capture", "transforms", "world"))
    parser.add_argument("--splats-minutes", type=float, help="that the splats were trained for, if known")
    parser.add_argument("--views", type=int, default=16, help="most test views to measure")
    parser.add_argument("--tool", default=shutil.which(TOOL), help=f"{TOOL}'s program, if it is not on the PATH")
    parser.add_argument("--title", help="of the capture; the experiment's name if not given")
    parser.add_argument("--note", help="what is to be known of student and splats, for the page")
    parser.add_argument("--json", type=Path, help="file for the result, such as docs/results/comparison_lego.json")
    arguments = parser.parse_args()
    if arguments.load_config is None:
        found = sorted((DOCS / "results").glob("comparison_*.json"))
        text = page([json.loads(path.read_text(encoding="utf8")) for path in found])
        (DOCS / "comparison.md").write_text(text, encoding="utf8")
        return
    if arguments.packages is None or arguments.splats is None:
        parser.error("--load-config wants --packages and --splats")
    for path in (arguments.packages / "manifest.json", arguments.splats):
        if not path.is_file():
            parser.error(f"there is no {path}")
    result = compare(arguments)
    write_json(arguments.json, result)
    print(table(result["rows"]))


if __name__ == "__main__":
    main()
