"""Depth as a package's second output: what it is held against, and how far off it may be."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export.contract import Contract
from mobiler2l_ns.export.format import Format
from mobiler2l_ns.geometry.picture import PictureGeometry
from mobiler2l_ns.student.renderer import Student

SOLID = 0.5
"""Accumulation from which on depth counts."""
MOST_WRONG = 0.01
"""Largest mean error of a package's depth, in depths: three decimal digits of half precision, and some rounding."""


def check(form: Format, contract: Contract, student: Student) -> None:
    """See that a format can give depth of a student.

    Raises:
        UserError: if it cannot.
    """
    if student.volume is None:
        raise UserError("--depth: this student has no volume that could tell depth")
    if not form.holds_depth:
        raise UserError(f"--depth: {form.name} packages give a picture alone")
    if contract != "pose":
        raise UserError("--depth is given from a pose; a client that composites the volume itself has the depth there")


@torch.no_grad()
def expected_depth(
    student: Student, view: PictureGeometry, pitch: float, pose: Float[Tensor, "3 4"]
) -> Float[Tensor, "2 mh mw"]:
    """Depth along the optical axis, scene units, and accumulation, by the student itself."""
    poses = pose[None].to(student.capture.intrinsics)
    rays = view.rays(poses)

    def finer(count: int) -> Float[Tensor, "1 mh mw 3"]:
        return view.finer_rays(poses, count).directions

    _, composited = student.look(*rays, pitch, finer)
    assert composited is not None
    offsets = student.surfaces(rays, composited, finer)[0] - pose[:, 3].to(rays.origins)
    return torch.stack([-offsets @ pose[:, 2].to(offsets), composited.features[0, -1]]).cpu()


def relative_error(got: Float[Tensor, "2 mh mw"], expected: Float[Tensor, "2 mh mw"]) -> float:
    """Mean error in depths where the student sees something, 0 where it does nowhere; infinite if the shapes differ."""
    if got.shape != expected.shape:
        return float("inf")
    seen = expected[1] > SOLID
    if not bool(seen.any()):
        return 0.0
    return float(((got[0] - expected[0]).abs() / expected[0])[seen].mean())
