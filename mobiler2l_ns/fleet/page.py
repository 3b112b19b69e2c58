"""fleet.html: all runs of a fleet on one page that needs nothing else, failures on top."""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
import time
from html import escape, unescape
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from mobiler2l_ns.fleet.drive import States
from mobiler2l_ns.fleet.job import Job
from mobiler2l_ns.fleet.plan import Plan
from mobiler2l_ns.fleet.state import RunState
from mobiler2l_ns.fleet.table import decibels, doing, summary
from mobiler2l_ns.progress.records import duration

NAME = "fleet.html"
TEASER_PIXELS = 160
"""Longest side of a teaser."""
_STUDENT = re.compile(r'<img src="data:image/[a-z]+;base64,([^"]+)" alt="student,')
STYLE = """
td, th { vertical-align: middle; }
td img { display: block; max-width: 120px; border-radius: 6px; }
.failed { color: #c5283d; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def write_page(plan: Plan, states: States, title: str) -> Path:
    """Write the page into the fleet's folder, whole or not at all."""
    style = files("mobiler2l_ns.report").joinpath("style.css").read_text(encoding="utf8") + STYLE
    jobs = list(plan.jobs)
    failed = [job for job in jobs if states[job.key].status == "failed"]
    head = f'<h1>{escape(title)}</h1><p class="quiet">{escape(summary(states))} · {time.strftime("%Y-%m-%d %H:%M")}</p>'
    parts = []
    if failed:
        parts.append(f"<section><h2>Failed</h2>{''.join(_failure(job, states[job.key]) for job in failed)}</section>")
    columns = ("", "capture", "method", "", "dB", "SSIM", "LPIPS", "MB", "ms", "steps", "time", "")
    numbers = ("dB", "SSIM", "LPIPS", "MB", "ms", "steps", "time")
    titles = "".join(f"<th{' class=number' if column in numbers else ''}>{column}</th>" for column in columns)
    rows = "".join(_row(job, states[job.key], plan.folder(job)) for job in jobs)
    note = (
        "dB, SSIM and LPIPS are the student's on the capture's test views, or while it trains the newest dB of its "
        "learning curve; MB and ms are those of its first package, ms on the machine that proved it; time is that of "
        "training."
    )
    parts.append(
        f'<section><h2>Runs</h2><div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{rows}</tbody>'
        f'</table></div><p class="quiet">{note}</p></section>'
    )
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>\n{style}</style></head>\n<body><main>{head}{''.join(parts)}</main></body></html>\n"
    )
    path = plan.output / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{NAME}.{os.getpid()}.part")
    partial.write_text(page, encoding="utf8")
    partial.replace(path)
    return path


def _failure(job: Job, state: RunState) -> str:
    lines = escape("\n".join(state.last_lines))
    return (
        f'<h3 class="failed">{escape(job.key)}</h3><p class="quiet">at {escape(state.doing or "its beginning")}, after '
        f"{state.failures} tries, on {escape(state.host)}</p><pre>{lines}</pre>"
    )


def _row(job: Job, state: RunState, folder: Path) -> str:
    result, psnr = state.result, decibels(state)
    package = next(iter(result.get("packages", [])), {})

    def number(value: float | None, digits: int) -> str:
        return "" if value is None else f"{value:,.{digits}f}"

    seconds = result.get("seconds")
    numbers = (
        number(psnr, 2),
        number(result.get("ssim"), 3),
        number(result.get("lpips"), 3),
        number(package.get("mb"), 2),
        number(package.get("ms"), 1),
        number(result.get("steps", state.step), 0),
        "" if seconds is None else duration(seconds),
    )
    links = [
        f'<a href="{escape(quote(f"{job.key}/{result[name]}"))}">{said}</a>'
        for name, said in (("report", "report"), ("page", "look"))
        if name in result
    ]
    picture = teaser(folder / result["report"]) if "report" in result else None
    shown = "" if picture is None else f'<img src="{picture}" alt="{escape(job.key)}">'
    kind = ' class="failed"' if state.status == "failed" else ""
    cells = "".join(f'<td class="number">{cell}</td>' for cell in numbers)
    return (
        f"<tr{kind}><td>{shown}</td><th>{escape(job.capture)}</th><td>{escape(job.label)}</td><td>{escape(doing(state))}</td>"
        f"{cells}<td>{' · '.join(links)}</td></tr>"
    )


def teaser(report: Path) -> str | None:
    """The first picture of the student in a run's report, made small, as a data URL; None if there is none."""
    try:
        found = _STUDENT.search(report.read_text(encoding="utf8"))
        if found is None:
            return None
        image = Image.open(io.BytesIO(base64.b64decode(unescape(found[1])))).convert("RGB")
    except (OSError, binascii.Error):
        return None
    image.thumbnail((TEASER_PIXELS, TEASER_PIXELS), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=85, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
