"""Where the points of rays lie, as straight pieces: points are ``start + t * along``, contracted afterwards or not."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mobiler2l_ns.geometry.encoding import contract, points_on_rays


class Chords(NamedTuple):
    """Pieces of rays in the coordinates that points are sampled in."""

    start: Float[Tensor, "*#rays 3"]
    along: Float[Tensor, "*rays 3"]

    def at(self, t: Float[Tensor, "k"] | Float[Tensor, "*rays k"], contracted: bool) -> Float[Tensor, "*rays k 3"]:
        """Points at places ``t``, through the scene contraction or not."""
        points = points_on_rays(self.start, self.along, t)
        return contract(points) if contracted else points

    def within(self, box: Float[Tensor, "2 3"]) -> Chords:
        """The same pieces in units of a box, whose least coordinates become -1 and whose largest 1."""
        low, high = box
        scale = 2.0 / (high - low)
        return Chords((self.start - low) * scale - 1.0, self.along * scale)

    def part(self, index: Tensor) -> Chords:
        """Some of a list of rays, both of whose parts have shape (r, 3)."""
        return Chords(self.start[index], self.along[index])


def finer_directions(directions: Float[Tensor, "n h w 3"], rays: int) -> Float[Tensor, "n mh mw 3"]:
    """Directions through the centres of ``rays`` x ``rays`` parts of each cell, of length 1 along the optical axis.

    Linear between the cells' centres: exact without lens distortion, and with it to well below a pixel.

    Raises:
        ValueError: for a grid of one row or column, which does not say how wide a cell is.
    """
    if rays == 1:
        return directions
    if min(directions.shape[1:3]) < 2:
        raise ValueError(f"a grid of {directions.shape[1]} x {directions.shape[2]} rays has cells of unknown size")
    offsets = (torch.arange(rays, device=directions.device, dtype=directions.dtype) + 0.5) / rays - 0.5
    for axis in (1, 2):
        steps = directions.diff(dim=axis)
        # At each cell the mean of the steps to its neighbours, and at the edges the only one there is.
        before = torch.cat([steps.narrow(axis, 0, 1), steps], dim=axis)
        after = torch.cat([steps, steps.narrow(axis, steps.shape[axis] - 1, 1)], dim=axis)
        shares = offsets.reshape([-1 if d == axis + 1 else 1 for d in range(5)])
        parts = directions.unsqueeze(axis + 1) + shares * ((before + after) / 2).unsqueeze(axis + 1)
        directions = parts.flatten(axis, axis + 1)
    return directions
