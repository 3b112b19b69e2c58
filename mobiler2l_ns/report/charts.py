"""Line charts and maps of cameras as inline SVG; colours are the page's CSS classes, so that they follow its theme."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

Points = Sequence[tuple[float, float]]
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 26, 30
"""Margins around the plotted area in SVG units, which are CSS pixels at the width a chart is drawn for."""


@dataclass
class Line:
    """A curve of a chart."""

    name: str
    points: Points
    style: str
    """CSS class."""


@dataclass
class Band:
    """A stretch of the x-axis with a name, the first part of it greyed out."""

    name: str
    begin: float
    ready: float
    end: float


def ticks(low: float, high: float, most: int, steps: Sequence[float] = (1, 2, 5)) -> list[float]:
    """At most ``most`` + 1 round numbers from ``low`` to ``high``."""
    if not high > low:
        return [low]
    magnitude = 10.0 ** math.floor(math.log10((high - low) / most))
    candidates = [magnitude * factor * step for factor in (1, 10) for step in steps]
    step = next((step for step in candidates if (high - low) / step <= most), candidates[-1])
    return [step * i for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def time_unit(seconds: float) -> tuple[float, str]:
    """Seconds of the unit that suits a duration, and its name."""
    units = ((1.0, "s"), (60.0, "min"), (3600.0, "h"))
    return next((unit for unit in units if seconds < 180 * unit[0]), (86400.0, "d"))


def number(value: float) -> str:
    """Short, without trailing zeros."""
    return f"{value:.4g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.0e}"


def _svg(width: float, height: float, title: str, style: str, body: list[str]) -> str:
    return (
        f'<svg class="{style}" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">'
        + "".join(body)
        + "</svg>"
    )


def line_chart(
    title: str, lines: Sequence[Line], bands: Sequence[Band], width: int, height: int, style: str, logarithmic: bool
) -> str:
    """Curves over seconds of training.

    Args:
        title: read out in place of the chart.
        lines: their points are (seconds, value); values that a logarithm cannot show are left out.
        bands: phases, named above the plotted area.
        width, height: in CSS pixels, to which line widths and text sizes refer.
        style: CSS class of the chart.
        logarithmic: the axis of the values.
    """
    shown = [Line(line.name, [p for p in line.points if not logarithmic or p[1] > 0], line.style) for line in lines]
    values = [y for line in shown for _, y in line.points]
    if not values:
        return ""
    end = max([x for line in shown for x, _ in line.points] + [band.end for band in bands] + [1e-9])
    unit, unit_name = time_unit(end)
    scale = math.log10 if logarithmic else float
    low, high = min(map(scale, values)), max(map(scale, values))
    margin = 0.06 * (high - low) or 0.5
    low, high = low - margin, high + margin
    plot_width, plot_height = width - LEFT - RIGHT, height - TOP - BOTTOM

    def x(seconds: float) -> float:
        return LEFT + plot_width * seconds / end

    def y(scaled: float) -> float:
        return TOP + plot_height * (high - scaled) / (high - low)

    body = []
    for i, band in enumerate(bands):
        body.append(
            f'<rect class="band{i % 2}" x="{x(band.begin):.1f}" y="{TOP}" '
            f'width="{x(band.end) - x(band.begin):.1f}" height="{plot_height}"/>'
            f'<rect class="preparing" x="{x(band.begin):.1f}" y="{TOP}" '
            f'width="{x(band.ready) - x(band.begin):.1f}" height="{plot_height}"/>'
        )
        if x(band.end) - x(band.begin) > 7 * len(band.name):
            middle = (x(band.begin) + x(band.end)) / 2
            body.append(f'<text x="{middle:.1f}" y="{TOP - 8}" text-anchor="middle">{escape(band.name)}</text>')
    for value in _log_ticks(low, high) if logarithmic else ticks(low, high, 6):
        height_of = y(math.log10(value) if logarithmic else value)
        body.append(f'<path class="grid" d="M{LEFT} {height_of:.1f}H{width - RIGHT}"/>')
        body.append(f'<text x="{LEFT - 6}" y="{height_of + 4:.1f}" text-anchor="end">{number(value)}</text>')
    for value in ticks(0.0, end / unit, max(2, width // 110), (1, 2, 3, 5)):
        place = x(value * unit)
        body.append(f'<path class="grid" d="M{place:.1f} {TOP + plot_height}v4"/>')
        text = number(value) + (f" {unit_name}" if value == 0 else "")
        body.append(f'<text x="{place:.1f}" y="{height - 10}" text-anchor="middle">{text}</text>')
    for line in shown:
        if len(line.points) == 1:
            (at, value) = line.points[0]
            body.append(f'<circle class="{line.style}" cx="{x(at):.1f}" cy="{y(scale(value)):.1f}" r="3"/>')
        elif line.points:
            path = " ".join(f"{x(at):.1f},{y(scale(value)):.1f}" for at, value in line.points)
            body.append(f'<polyline class="{line.style}" points="{path}"/>')
    return _svg(width, height, title, style, body)


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(low), math.ceil(high) + 1)
    factors = (1, 2, 5) if high - low < 2.5 else (1,)
    values = [factor * 10.0**decade for decade in decades for factor in factors]
    return [value for value in values if low <= math.log10(value) <= high]


@dataclass
class Cameras:
    """Cameras on a map: where they stand and which way they look, in the two coordinates of the map."""

    name: str
    centres: Points
    directions: Points
    """Of the optical axis, at most of length 1."""
    style: str
    """CSS class."""


def camera_map(title: str, groups: Sequence[Cameras], axes: tuple[str, str], size: int, style: str) -> str:
    """Cameras seen along one axis of the world, at the same scale both ways.

    Args:
        title: read out in place of the map.
        groups: drawn in this order.
        axes: names of the coordinates to the right and up.
        size: width in CSS pixels; the plotted area is a square.
        style: CSS class of the map.
    """
    centres = [centre for group in groups for centre in group.centres]
    lows = [min(centre[i] for centre in centres) for i in (0, 1)]
    highs = [max(centre[i] for centre in centres) for i in (0, 1)]
    reach = max(highs[0] - lows[0], highs[1] - lows[1], 1e-6) * 1.15
    low = [(lows[i] + highs[i] - reach) / 2 for i in (0, 1)]
    plot = size - LEFT - RIGHT

    def place(point: tuple[float, float]) -> tuple[float, float]:
        return LEFT + plot * (point[0] - low[0]) / reach, TOP / 2 + plot * (1 - (point[1] - low[1]) / reach)

    body = [f'<rect class="band0" x="{LEFT}" y="{TOP / 2:g}" width="{plot}" height="{plot}"/>']
    for value in ticks(low[0], low[0] + reach, 5):
        at, _ = place((value, 0.0))
        body.append(f'<path class="grid" d="M{at:.1f} {TOP / 2:g}v{plot}"/>')
        body.append(f'<text x="{at:.1f}" y="{TOP / 2 + plot + 16:g}" text-anchor="middle">{number(value)}</text>')
    for value in ticks(low[1], low[1] + reach, 5):
        _, at = place((0.0, value))
        body.append(f'<path class="grid" d="M{LEFT} {at:.1f}h{plot}"/>')
        body.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{number(value)}</text>')
    right, up = axes
    body.append(f'<text x="{LEFT + plot - 4}" y="{TOP / 2 + plot - 6:g}" text-anchor="end">{escape(right)} →</text>')
    body.append(f'<text x="{LEFT + 5}" y="{TOP / 2 + 14:g}">↑ {escape(up)}</text>')
    length = 12.0
    for group in groups:
        strokes = []
        for centre, direction in zip(group.centres, group.directions, strict=True):
            at = place(centre)
            strokes.append(f"M{at[0]:.1f} {at[1]:.1f}l{length * direction[0]:.1f} {-length * direction[1]:.1f}")
        dots = "".join(f"M{at[0]:.1f} {at[1]:.1f}h0" for at in map(place, group.centres))
        body.append(f'<g class="{group.style}"><path class="axis" d="{"".join(strokes)}"/>')
        body.append(f'<path class="dot" d="{dots}"/></g>')
    return _svg(size, TOP / 2 + plot + 22, title, style, body)


def legend(names: Mapping[str, str]) -> str:
    """CSS class -> what is drawn in it."""
    keys = (f'<li><i class="{style}"></i>{escape(name)}</li>' for style, name in names.items())
    return f'<ul class="legend">{"".join(keys)}</ul>'
