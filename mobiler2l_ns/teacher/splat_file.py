"""Files of Gaussian splats: the PLY that 3DGS and its kin write, and, read by gsply, packed PLY and SPZ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.teacher.splat_cloud import MOST_DEGREE, SplatCloud

TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"},
}
"""PLY's names of types -> numpy's."""
BYTE_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
MEANS = ("x", "y", "z")
COLOURS = ("f_dc_0", "f_dc_1", "f_dc_2")
SCALES = ("scale_0", "scale_1", "scale_2")
QUATERNIONS = ("rot_0", "rot_1", "rot_2", "rot_3")
FIELDS = (*MEANS, *COLOURS, "opacity", *SCALES, *QUATERNIONS)
"""What every splat has; ``f_rest_0`` and so on are the further harmonics."""
LONGEST_HEADER = 1 << 16
SPZ_TO_PLY = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
"""SPZ looks at the same world with y up and z back, where the PLY of 3DGS has y down and z ahead."""


def read_splats(path: Path) -> SplatCloud:
    """Splats of a file, in its own coordinates; those of an SPZ as if it had been a PLY.

    Args:
        path: a .ply or .spz.

    Raises:
        UserError: if there is no such file, it does not hold splats, or not all that it says it holds.
    """
    if not path.is_file():
        raise UserError(f"No splats at {path}: give a .ply or .spz file")
    suffix = path.suffix.lower()
    if suffix == ".spz":
        return _checked(path, *_read_by_gsply(path, "read_spz")).moved(SPZ_TO_PLY)
    if suffix != ".ply":
        raise UserError(f"{path} is not a file of splats that can be read: give a .ply or .spz")
    with path.open("rb") as file:
        header = _read_header(path, file)
        if header.is_packed:
            return _checked(path, *_read_by_gsply(path, "plyread"))
        return _checked(path, *_unpacked(path, _read_vertices(path, file, header)))


Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""As files have them: means (N, 3), quaternions (N, 4) of any length, logarithms of scales (N, 3), logits of opacities
(N,), coefficients (N, bases, 3)."""


def _checked(path: Path, *arrays: np.ndarray) -> SplatCloud:
    means, quaternions, scales, opacities, sh = (torch.tensor(values, dtype=torch.float32) for values in arrays)
    if len(means) == 0:
        raise UserError(f"{path} holds no splats")
    # An opacity of 0 or 1 has an infinite logit.
    finite = torch.stack([values.flatten(1).isfinite().all(1) for values in (means, quaternions, scales, sh)]).all(0)
    broken = int((~finite | opacities.isnan()).sum())
    if broken:
        raise UserError(f"{path} is damaged: {broken} of its {len(means)} splats are not finite numbers")
    lengths = quaternions.norm(dim=-1, keepdim=True)
    upright = torch.tensor([1.0, 0.0, 0.0, 0.0])
    quaternions = torch.where(lengths > 0, quaternions / lengths.clamp(min=1e-20), upright)
    return SplatCloud(means, quaternions, scales.exp(), opacities.sigmoid(), sh)


# PLY


@dataclass
class _Element:
    name: str
    count: int
    fields: list[tuple[str, str]]
    """Name and numpy's type; empty for lists."""


@dataclass
class _Header:
    byte_order: str
    """numpy's; empty for text."""
    elements: list[_Element]

    @property
    def is_packed(self) -> bool:
        """Whether several values of a splat share a number, as PlayCanvas packs them."""
        return any(name == "packed_position" for element in self.elements for name, _ in element.fields)


def _read_header(path: Path, file: BinaryIO) -> _Header:
    if file.readline(16).strip() != b"ply":
        raise UserError(f"{path} is not a PLY file")
    byte_order, elements = None, []
    while file.tell() < LONGEST_HEADER and (line := file.readline(LONGEST_HEADER)):
        words = line.decode("latin1").split()
        if words[:1] == ["end_header"] and byte_order is not None:
            return _Header(byte_order, elements)
        if words[:1] == ["format"] and len(words) > 1:
            byte_order = BYTE_ORDERS.get(words[1])
        elif words[:1] == ["element"] and len(words) == 3 and words[2].isdigit():
            elements.append(_Element(words[1], int(words[2]), []))
        elif words[:1] == ["property"] and elements and len(words) >= 3:
            elements[-1].fields.append((words[-1], TYPES.get(words[1], "")))
    raise UserError(f"{path} is not a PLY file: its header has no end")


def _read_vertices(path: Path, file: BinaryIO, header: _Header) -> np.ndarray:
    """The vertices as a structured array."""
    names_of_elements = [element.name for element in header.elements]
    if "vertex" not in names_of_elements:
        raise UserError(f"{path} is a PLY without splats: it has no vertices")
    *earlier, vertices = header.elements[: names_of_elements.index("vertex") + 1]
    names = {name for name, _ in vertices.fields}
    missing = [name for name in FIELDS if name not in names]
    if missing:
        raise UserError(f"{path} is a PLY without splats: its vertices have no {', '.join(missing)}")
    if any(not kind for element in (*earlier, vertices) for _, kind in element.fields):
        raise UserError(f"{path} is a PLY with lists before its splats, which is not read: write it anew without faces")
    if header.byte_order:
        for element in earlier:
            file.seek(_dtype(element, header).itemsize * element.count, 1)
        kind = _dtype(vertices, header)
        there = max(0, path.stat().st_size - file.tell()) // kind.itemsize
        found = np.fromfile(file, kind, min(vertices.count, there))
    else:
        rows = [line.split() for line in file.read().decode("latin1").splitlines() if line.strip()]
        rows = rows[sum(element.count for element in earlier) :][: vertices.count]
        try:
            found = np.array([tuple(map(float, row)) for row in rows], _dtype(vertices, header))
        except ValueError:
            raise UserError(f"{path} is damaged: a line of it is not {len(vertices.fields)} numbers") from None
    if len(found) < vertices.count:
        raise UserError(f"{path} is cut off: {len(found)} of its {vertices.count} splats are there")
    return found


def _dtype(element: _Element, header: _Header) -> np.dtype:
    return np.dtype([(name, header.byte_order + kind) for name, kind in element.fields])


def _unpacked(path: Path, vertices: np.ndarray) -> Arrays:
    def columns(*names: str) -> np.ndarray:
        return np.stack([vertices[name].astype(np.float32) for name in names], axis=-1)

    rest = sum(str(name).startswith("f_rest_") for name in vertices.dtype.names or ())
    degrees = {3 * ((degree + 1) ** 2 - 1): degree for degree in range(MOST_DEGREE + 1)}
    if rest not in degrees or any(f"f_rest_{index}" not in (vertices.dtype.names or ()) for index in range(rest)):
        raise UserError(f"{path} has {rest} fields f_rest_*, where splats have {', '.join(map(str, degrees))}")
    sh = columns(*COLOURS)[:, None]
    if rest:
        # All of red's come first, then green's, then blue's.
        further = columns(*(f"f_rest_{index}" for index in range(rest)))
        sh = np.concatenate([sh, further.reshape(len(sh), 3, rest // 3).transpose(0, 2, 1)], axis=1)
    return columns(*MEANS), columns(*QUATERNIONS), columns(*SCALES), vertices["opacity"].astype(np.float32), sh


# By gsply


def _read_by_gsply(path: Path, function: str) -> Arrays:
    try:
        import gsply  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            f"{path} is packed, which the Python package gsply reads: pip install 'mobiler2l-ns[splats]'"
        ) from None
    try:
        data: Any = getattr(gsply, function)(path)
    except Exception as error:  # whatever a damaged file ends in
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} cannot be read by gsply: {reason}") from error
    sh = data.sh0[:, None]
    if data.shN is not None and data.shN.size:
        sh = np.concatenate([sh, data.shN.reshape(len(sh), -1, 3)], axis=1)
    return data.means, data.quats, data.scales, data.opacities.reshape(-1), sh
