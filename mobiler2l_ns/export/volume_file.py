"""A student's volume for clients that composite it themselves: volume.bin, and what manifest.json says of it.

The file holds what is large, as float16; all else is in the manifest. Packages that are asked with features are proven
with the stored values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from mobiler2l_ns.student.proposals import FAINT, SOLID
from mobiler2l_ns.student.renderer import Student
from mobiler2l_ns.student.volume import STEEPEST, Volume

NAME = "volume.bin"

MEANING = (
    "rays: as for the low-resolution ones, through the centres of density_rays x density_rays (one count for each of "
    "pitches) and of rays x rays squares in each stride x stride block of pixels; their points are as in points and "
    "contraction, and then (point - low) * 2 / (high - low) - 1 with the box's low and high",
    "lookups: bilinear (trilinear) between the middles of cells, the first at -1 and the last at 1, which places are "
    "clamped to",
    "places: at the middle of each bin of a density_rays ray, between two edges, the density is looked up; "
    "c = its sums up to and with each bin; w = exp(density - c) - exp(-c) + faint / bins; s = 1 - exp(-last c); "
    "v = w / (s + faint); of point k of points, q = (k + 0.5) / points; place = first edge + the sum over bins of "
    "clamp((q - sum of v before the bin) / v, 0, 1) * width of the bin; e = min(s, solid) / points; "
    "depth = log((1 - k e) / (1 - (k + 1) e))",
    "features: the rays of a square share the places and depths of the density_rays ray in whose square they lie; at "
    "each point, level after level, the sum of what the planes show at (x, y), (x, z) and (y, z), the first along "
    "columns; values = values.weight @ max(hidden.weight @ sums + hidden.bias, 0) + values.bias; "
    "d = depth * exp(clamp(values[0], -steepest, steepest)); "
    "weight = exp(-sum of d of the points before) * (1 - exp(-d)); the features are the sums of weight * values[1:] "
    "and at last of the weights; channel f of the ray in row r and column c is features[0, f, r, c]",
    "surface: where at least half of the light is stopped, a ray meets what it shows at the place that is the sum of "
    "weight * place over that of the weights: that point, not contracted, tells depth and hides objects",
)


def _arrays(student: Student) -> dict[str, NDArray[np.float16]]:
    """What the file holds, in its order."""
    volume = cast(Volume, student.volume)
    planes = {f"planes_{i}": planes.permute(0, 2, 3, 1) for i, planes in enumerate(volume.planes)}
    tables = {"density": volume.proposals.density[0, 0], **planes}
    return {name: table.detach().cpu().numpy().astype("<f2") for name, table in tables.items()}


def write(folder: Path, student: Student) -> Path:
    """Write the file of a student's volume; the same student gives the same bytes."""
    path = folder / NAME
    path.write_bytes(b"".join(array.tobytes() for array in _arrays(student).values()))
    return path


def _layer(layer: nn.Linear) -> dict[str, Any]:
    return {"weight": layer.weight.tolist(), "bias": layer.bias.tolist()}


def describe(student: Student) -> dict[str, Any]:
    """What the manifest says of a student's volume."""
    volume, shape = cast(Volume, student.volume), student.config
    arrays, offset = {}, 0
    for name, array in _arrays(student).items():
        arrays[name] = {"offset": offset, "shape": list(array.shape)}
        offset += array.nbytes
    axes = {"density": "z, y, x", "planes": "plane, row, column, channel; one array a level"}
    return {
        "file": NAME,
        "bytes": offset,
        "dtype": "float16, little-endian",
        "arrays": arrays,
        "axes": axes,
        "box": dict(zip(("low", "high"), volume.proposals.box.tolist(), strict=True)),
        "edges": student.bin_edges().tolist(),
        "rays": shape.volume_rays,
        "density_rays": [student.density_rays(pitch) for pitch in shape.pitches],
        "points": shape.volume_points,
        "faint": FAINT,
        "solid": SOLID,
        "steepest": STEEPEST,
        "hidden": _layer(volume.hidden),
        "values": _layer(volume.values),
        "meaning": list(MEANING),
    }
