"""Where the points of rays lie, as straight pieces: points are ``start + t * along``, contracted afterwards or not."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

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

    Linear between the cells' centres: exact without lens distortion, and with it to well below a pixel. Of a single row
    or column cells are taken as square, and a single cell as a point: pictures of a few pixels.
    """
    if rays == 1:
        return directions
    offsets = (torch.arange(rays, device=directions.device, dtype=directions.dtype) + 0.5) / rays - 0.5
    shares = offsets[:, None]
    down, across = _steps(directions, 1), _steps(directions, 2)
    forward = functional.normalize(directions.mean((1, 2), keepdim=True), dim=-1)
    if directions.shape[1] == 1:
        down = torch.linalg.cross(forward.expand_as(across), across)
    elif directions.shape[2] == 1:
        across = torch.linalg.cross(down, forward.expand_as(down))
    parts = directions[:, :, None, :, None] + shares * across[:, :, None, :, None]
    parts = parts + offsets[:, None, None, None] * down[:, :, None, :, None]
    return parts.flatten(3, 4).flatten(1, 2)


def _steps(directions: Float[Tensor, "n h w 3"], axis: int) -> Float[Tensor, "n h w 3"]:
    """At each cell the mean of the steps to its neighbours along an axis, and at the edges the only one there is; zero
    where there is no neighbour."""
    if directions.shape[axis] == 1:
        return torch.zeros_like(directions)
    steps = directions.diff(dim=axis)
    before = torch.cat([steps.narrow(axis, 0, 1), steps], dim=axis)
    after = torch.cat([steps, steps.narrow(axis, steps.shape[axis] - 1, 1)], dim=axis)
    return (before + after) / 2
