"""The facts of a run as one HTML page: pictures, styles and drawings are in it, scripts and addresses are not."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files

from mobiler2l_ns.progress.log import CURVES
from mobiler2l_ns.progress.phases import Phase
from mobiler2l_ns.progress.records import duration
from mobiler2l_ns.report import charts, coverage, packages
from mobiler2l_ns.report.facts import Facts
from mobiler2l_ns.report.measure import View
from mobiler2l_ns.student.display import ERROR_RANGE

METRICS = {
    "psnr": ("student dB", 2),
    "ssim": ("student SSIM", 4),
    "lpips": ("student LPIPS", 4),
    "psnr_to_teacher": ("student to teacher dB", 2),
    "teacher_psnr": ("teacher dB", 2),
    "teacher_ssim": ("teacher SSIM", 4),
    "teacher_lpips": ("teacher LPIPS", 4),
}
"""Metric -> column and decimals."""


def write_page(facts: Facts) -> str:
    """The whole page."""
    style = files("mobiler2l_ns.report").joinpath("style.css").read_text(encoding="utf8")
    title = f"{facts.experiment} · {facts.method}"
    sections = {
        "Test views": _pictures(facts),
        "Measured": _metrics(facts),
        "Learning curves": _curves(facts),
        "Where the pseudo views are taken from": _coverage(facts),
        "Sizes": _rows(_sizes(facts)),
        "Timings": _timings(facts),
        "Packages": packages.empty(
            f"mobiler2l-export coreml --load-config {shlex.quote(str(facts.config_path))} "
            f"--output-dir {shlex.quote(str(facts.config_path.parent / 'exports'))}"
        ),
        "Versions": _versions(facts),
        "Settings": f"<details><summary>config.yml</summary><pre>{escape(facts.config)}</pre></details>",
    }
    body = "".join(f"<section><h2>{escape(name)}</h2>{content}</section>" for name, content in sections.items())
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>\n{style}</style></head>\n"
        f'<body><main data-student="{facts.student_sha256}">{_head(facts, title)}{body}</main></body></html>\n'
    )


def _rows(values: Mapping[str, str]) -> str:
    rows = (f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in values.items())
    return f'<table class="wrap"><tbody>{"".join(rows)}</tbody></table>'


def _head(facts: Facts, title: str) -> str:
    means, cost = facts.measured.means(), facts.cost
    tiles = {"student, test photos": f"{means['psnr']:.2f} dB", "its SSIM": f"{means['ssim']:.3f}"}
    if "teacher_psnr" in means:
        tiles["teacher, test photos"] = f"{means['teacher_psnr']:.2f} dB"
        tiles["student to teacher"] = f"{means['psnr_to_teacher']:.2f} dB"
    tiles["parameters"] = f"{cost.params:,}"
    tiles["half precision"] = f"{cost.fp16_bytes / 1e6:.2f} MB"
    if facts.history.spans:
        tiles["training"] = duration(facts.history.seconds)
    done = "" if facts.step + 1 >= facts.steps else f", stopped after step {facts.step + 1} of {facts.steps}"
    device = f" · trained on {facts.history.starts[-1]['device']}" if facts.history.starts else ""
    return (
        f"<h1>{escape(title)}</h1>"
        f'<p class="quiet">{escape(facts.capture)} · {facts.written}{done}{escape(device)}</p>'
        '<div class="tiles">'
        + "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in tiles.items())
        + "</div>"
    )


def _pictures(facts: Facts) -> str:
    strips = []
    for view in facts.measured.views:
        if not view.pictures:
            continue
        decibels = {"student": view.metrics.get("psnr"), "teacher": view.metrics.get("teacher_psnr")}
        figures = []
        for name, url in view.pictures.items():
            caption = name if decibels.get(name) is None else f"{name} {decibels[name]:.2f} dB"
            caption += f" ({view.name})" if name == "photo" else ""
            figures.append(
                f'<figure><img src="{url}" alt="{escape(f"{name}, {view.name}")}">'
                f"<figcaption>{escape(caption)}</figcaption></figure>"
            )
        strips.append(f'<div class="strip" style="--pictures: {len(figures)}">{"".join(figures)}</div>')
    note = f"Error: mean absolute difference of the colours to the photo, from 0 (dark) to {ERROR_RANGE} or more (red)."
    return f'{"".join(strips)}<p class="quiet">{note}</p>'


def _metrics(facts: Facts) -> str:
    measured = facts.measured
    means = measured.means()
    columns = [name for name in METRICS if name in means]

    def row(name: str, metrics: Mapping[str, float], kind: str = "") -> str:
        cells = (f'<td class="number">{metrics[column]:.{METRICS[column][1]}f}</td>' for column in columns)
        return f"<tr{kind}><th>{escape(name)}</th>{''.join(cells)}</tr>"

    def rows(views: Sequence[View]) -> str:
        return "".join(row(view.name, view.metrics) for view in views)

    head = "".join(f'<th class="number">{METRICS[column][0]}</th>' for column in columns)
    all_of_them = len(measured.views) == measured.available
    of = f"All {measured.available}" if all_of_them else f"{len(measured.views)} of {measured.available}"
    width, height = measured.size
    return (
        f"<p>{of} views of the capture's {measured.split} split, {width} × {height} pixels, as <code>ns-eval</code> "
        "measures them: against the photos, and the student against its teacher.</p>"
        f'<div class="scroll"><table id="metrics"><thead><tr><th>view</th>{head}</tr></thead><tbody>'
        + row("mean", means, ' class="mean"')
        + rows(measured.views)
        + "</tbody></table></div>"
    )


def _curves(facts: Facts) -> str:
    history = facts.history
    if not history.psnr:
        return '<p class="quiet">This run kept no log of its training, and no tensorboard files.</p>'
    bands = [charts.Band(span.phase, span.begin, span.ready, span.end) for span in history.spans]
    psnr = [charts.Line(CURVES[name], history.psnr[name], name) for name in CURVES if name in history.psnr]
    loss = [charts.Line(name, points, name) for name, points in history.loss.items()]

    def both(title: str, lines: list[charts.Line], logarithmic: bool) -> str:
        wide = charts.line_chart(title, lines, bands, 1120, 340, "wide", logarithmic)
        return wide + charts.line_chart(title, lines, bands, 366, 280, "narrow", logarithmic)

    keys = {line.style: line.name for line in psnr}
    if any(band.ready > band.begin for band in bands):
        keys["preparation"] = "preparing: pseudo views are rendered, photos loaded"
    return (
        f"<h3>dB over the time of training</h3>{both('dB over the time of training', psnr, False)}"
        f"{charts.legend(keys)}"
        '<p class="quiet">The curves of the phases are measured on their own batches, the teacher\'s on rays. Held-out '
        "here are the training photos that fine-tuning leaves out; the teacher has seen them.</p>"
        f"<h3>Loss over the time of training</h3>{both('Loss over the time of training', loss, True)}"
        f"{charts.legend({line.style: line.name for line in loss})}"
    )


def _coverage(facts: Facts) -> str:
    drawn = coverage.draw(facts.coverage)
    note = f"{facts.coverage.pool}; {facts.coverage.sampler}. At most {coverage.MOST_CAMERAS} of each kind are drawn."
    return f"{drawn}<p class='quiet'>{escape(note)}</p>"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.2f} MB"


def _sizes(facts: Facts) -> dict[str, str]:
    cost, (width, height) = facts.cost, facts.picture
    _, channels, rows, columns = cost.input_shape
    sizes = {
        "picture": f"{width} × {height} pixels from {columns} × {rows} rays of {channels} channels",
        "parameters": f"{cost.params:,} ({cost.params_folded:,} with batch norms folded)",
        "work of a frame": f"{cost.gmac:.3g} GMAC",
        "half precision": _megabytes(cost.fp16_bytes),
    }
    if facts.checkpoint_bytes is not None:
        sizes["checkpoint"] = f"{_megabytes(facts.checkpoint_bytes)}, with optimizers and a teacher trained here"
    if facts.pool_bytes is not None:
        sizes["pseudo views in memory"] = _megabytes(facts.pool_bytes)
    if facts.history.peak_memory is not None:
        sizes["memory of the training at most"] = _megabytes(facts.history.peak_memory)
    return sizes


def _timings(facts: Facts) -> str:
    history, measured = facts.history, facts.measured
    rows = []
    for phase in (phase.value for phase in Phase):
        spans = [span for span in history.spans if span.phase == phase]
        if spans:
            preparing = sum(span.ready - span.begin for span in spans)
            training, steps = sum(span.end - span.ready for span in spans), sum(span.steps for span in spans)
            rate = f"{steps / training:.2f}" if training > 0 else ""
            rows.append((phase, duration(preparing), duration(training), f"{steps}", rate))
    columns = ("phase", "preparing", "training", "steps", "steps/s")
    table = packages.table(columns, columns[1:], rows) if rows else ""
    width, height = measured.size
    frames = {"student": measured.student_ms, "teacher": measured.teacher_ms}
    said = [f"{who} {ms:.1f} ms" for who, ms in frames.items() if ms is not None]
    if said:
        table += f"<p>A frame of {width} × {height} pixels in PyTorch on {escape(facts.device)}: {', '.join(said)}.</p>"
    return table


def _versions(facts: Facts) -> str:
    starts = facts.history.starts
    parts = []
    for start in starts:
        devices = f" × {start['devices']}" if start.get("devices", 1) > 1 else ""
        begun = "started" if start["step"] == 0 else f"resumed at step {start['step']}"
        parts.append((f"{start['time']}, {begun} on {start['device']}{devices}", _listed(start["versions"])))
    if not starts or starts[-1]["versions"] != facts.versions:
        parts.append((f"{facts.written}, this report on {facts.device}", _listed(facts.versions)))
    return "".join(f'<h3>{escape(head)}</h3><p class="quiet">{escape(versions)}</p>' for head, versions in parts)


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
