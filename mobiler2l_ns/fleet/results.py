"""What came of a run, collected from what its commands have written: evaluation, packages, log, report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mobiler2l_ns.fleet.job import Job
from mobiler2l_ns.fleet.state import RunState
from mobiler2l_ns.progress import records
from mobiler2l_ns.report import NAME as REPORT

EVALUATION = "eval.json"
PACKAGES = "packages"
MANIFEST = "manifest.json"
FIGURES = ("psnr", "ssim", "lpips", "psnr_to_teacher", "teacher_psnr", "teacher_ssim")


def collect(folder: Path, job: Job, state: RunState) -> dict[str, Any]:
    """Figures of a run that is done.

    Returns:
        Of ``FIGURES`` those that ns-eval gave; ``steps`` and ``seconds`` of training over all resumptions; ``busy``,
        seconds of all commands; ``packages``, one entry a file with ``mb``, ``ms``, ``psnr_student`` and
        ``psnr_photos``; ``report`` and ``page``, paths within the folder, where they are there.
    """
    found: dict[str, Any] = {"busy": round(state.busy, 1)}
    if job.evaluate:
        measured = _read(folder / EVALUATION).get("results", {})
        found.update({name: measured[name] for name in FIGURES if measured.get(name) is not None})
    assert state.config is not None
    run = (folder / state.config).parent
    log = records.read_log(run / records.FILE)
    if log:
        found.update(steps=log[-1]["step"] + 1, seconds=log[-1]["seconds"])
    if (run / REPORT).is_file():
        found["report"] = (run / REPORT).relative_to(folder).as_posix()
    entries = _read(folder / PACKAGES / MANIFEST).get("files", [])
    kept = ("format", "precision", "path", "ms", "psnr_student", "psnr_photos")
    found["packages"] = [{**{name: each.get(name) for name in kept}, "mb": each["bytes"] / 1e6} for each in entries]
    page = next((each["path"] for each in entries if each["format"] == "web"), None)
    if page is not None:
        found["page"] = f"{PACKAGES}/{page}/index.html"
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError):
        return {}
