"""What a developer types to use a package, on each kind of device: code with a package's own names, sizes and numbers.

``snippets`` fills the templates of ``templates`` with what manifest.json says and nothing else; ``write`` leaves
them as CLIENT.md beside the manifest. docs/clients.md is the same page of an example.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from mobiler2l_ns.export.formats import all_formats

NAME = "CLIENT.md"


@dataclass(frozen=True)
class Snippet:
    """The code of one client of one package."""

    path: str
    """The package, as the manifest lists it."""
    platform: str
    """Where it runs, and by what."""
    language: str
    """As Markdown calls it."""
    code: str
    needs: str
    """What to install."""
    checked: str
    """What of it was run, and by what."""
    documentation: tuple[str, ...]
    """Where the interfaces it uses are described."""


def snippets(manifest: Mapping[str, Any]) -> list[Snippet]:
    """The clients of each file of a manifest, in its order, for the first size of each.

    Args:
        manifest: manifest.json.
    """
    environment = _environment()
    found = []
    for file in manifest["files"]:
        values = _values(manifest, file)
        for kind in all_formats()[file["format"]].clients:
            code = environment.get_template(kind.template).render(values).strip("\n") + "\n"
            checked = kind.checked + (kind.encoding_checked if file["contract"] != "pose" else "")
            found.append(
                Snippet(file["path"], kind.platform, kind.language, code, kind.needs, checked, kind.documentation)
            )
    return found


def page(manifest: Mapping[str, Any], example: bool = False) -> str:
    """The Markdown page of a manifest's clients.

    Args:
        manifest: manifest.json.
        example: whether the packages are an example's, for the documentation.
    """
    files = {file["path"]: file for file in manifest["files"]}
    by_file: dict[str, list[Snippet]] = {path: [] for path in files}
    for snippet in snippets(manifest):
        by_file[snippet.path].append(snippet)
    known = all_formats()
    sections = [(files[path], known[files[path]["format"]].function_is, found) for path, found in by_file.items()]
    template = _environment().get_template("page.md.jinja")
    fence = bool(manifest.get("fence"))
    shown = {"manifest": manifest, "sections": sections, "example": example, "fence": fence}
    placing = {file["format"] for file in files.values()} & {"coreml", "litert", "snapml"}
    return template.render(shown, placing=placing).strip("\n") + "\n"


def write(manifest: Path) -> None:
    """Write CLIENT.md beside a manifest.json."""
    text = page(json.loads(manifest.read_text(encoding="utf8")))
    manifest.with_name(NAME).write_text(text, encoding="utf8")


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("mobiler2l_ns.export.clients", "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        lstrip_blocks=True,
        autoescape=False,
    )


def _number(value: float) -> str:
    """The shortest digits that give a float32 back, with a point, as every language reads them."""
    return np.format_float_positional(np.float32(value), trim="0")


def _numbers(values: Sequence[float]) -> list[str]:
    return [_number(value) for value in values]


def _values(manifest: Mapping[str, Any], file: Mapping[str, Any]) -> dict[str, Any]:
    """What the templates may use of a manifest and one of its files."""
    view, points = file["views"][0], manifest["points"]
    sphere = points["in"] == "sphere"
    (dtype,) = set(file["inputs"].values())
    return {
        **{name: file[name] for name in ("format", "path", "contract", "precision", "layout", "inputs")},
        **{name: view[name] for name in ("function", "height", "width", "rows", "columns")},
        **{name: _number(value) for name, value in view["intrinsics"].items()},
        "stem": Path(file["path"]).stem,
        "several": len(file["views"]) > 1,
        "dtype": dtype,
        "scalar": {"float32": "Float", "float16": "Float16"}[dtype],
        "alpha": manifest["output"].startswith("RGBA"),
        "pose": [_numbers(row) for row in manifest["start_pose"]],
        "stride": manifest["stride"],
        "channels": manifest["contracts"]["encoding"]["encoding"]["shape"][1],
        "frequencies": manifest["num_frequencies"],
        "places": _numbers(points["places"]),
        "sphere": sphere,
        "centre": _numbers(points["centre"]),
        "radius": _number(points["radius"]),
        "least": _number(points["shortest_half_chord"] ** 2),
        "contracted": manifest["contracted"],
        "student_sha256": manifest["student_sha256"],
        "fence": _fence(manifest["fence"]) if manifest.get("fence") else None,
        "depth": "depth" in view,
        "volume": _volume(manifest, view) if file["contract"] == "features" else None,
        "log_pitch": _number(np.log2(view["pitch"])) if len(manifest["pitches"]) > 1 else None,
    }


GIVE = 8.0
"""Degrees that a camera may go beyond its range."""


def _fence(fence: Mapping[str, Any]) -> dict[str, Any]:
    """What the templates may use of a fence; angles are in radians."""
    (nearest, farthest), (low, high) = fence["distance"], fence["elevation_degrees"]
    start, extent = (fence["azimuth_degrees"][name] for name in ("start", "extent"))
    # The middle of the arc between -180 and 180 degrees, where all languages' arithmetic begins.
    middle = (start + extent / 2 + 180.0) % 360.0 - 180.0
    degrees = {"lowest": low, "highest": high, "arc_middle": middle, "half_arc": extent / 2, "give": GIVE}
    return {
        "inward": fence["cameras"] == "inward",
        "around": extent >= 359.9,
        "middle": _numbers(fence["middle"]),
        "nearest": _number(nearest),
        "farthest": _number(farthest),
        "far_give": _number(0.1 * (nearest or farthest)),
        **{name: _number(np.deg2rad(value)) for name, value in degrees.items()},
    }


def _volume(manifest: Mapping[str, Any], view: Mapping[str, Any]) -> dict[str, Any]:
    """What the templates may use of a volume; places in volume.bin are counted in its numbers."""
    volume = manifest["volume"]
    low, high = (np.array(volume["box"][name]) for name in ("low", "high"))
    rays = volume["density_rays"][manifest["pitches"].index(view["pitch"])]
    levels: list[dict[str, int]] = []
    for name, about in volume["arrays"].items():
        if name != "density":
            _, cells, _, channels = about["shape"]
            at = {"first": about["offset"] // 2, "cells": cells, "channels": channels, "size": cells**2 * channels}
            levels.append({**at, "sums": sum(level["channels"] for level in levels)})
    maps = {
        name: {part: _numbers(np.ravel(volume[name][part]).tolist()) for part in ("weight", "bias")}
        for name in ("hidden", "values")
    }
    return {
        **maps,
        **{name: _number(volume[name]) for name in ("faint", "solid", "steepest")},
        "edges": _numbers(volume["edges"]),
        "low": _numbers(low.tolist()),
        "scale": _numbers((2.0 / (high - low)).tolist()),
        "bins": len(volume["edges"]) - 1,
        "points": volume["points"],
        "cells": volume["arrays"]["density"]["shape"][0],
        "levels": levels,
        "inputs": sum(level["channels"] for level in levels),
        "width": len(volume["hidden"]["bias"]),
        "features": len(volume["values"]["bias"]),
        "rows": view["rows"] * volume["rays"],
        "columns": view["columns"] * volume["rays"],
        "block": volume["rays"] // rays,
        "coarse": _number(manifest["stride"] / rays),
        "fine": _number(manifest["stride"] / volume["rays"]),
    }
