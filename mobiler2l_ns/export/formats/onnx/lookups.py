"""The volume's lookups as onnxruntime is fast at them.

Its GridSample computes a place anew for every channel. Here planes are tables of rows, one of all channels a cell; of
each place's four cells the rows are gathered and weighed, and the map to density and features is a matrix product.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mobiler2l_ns.export.graph import PoseToImage
from mobiler2l_ns.export.volume_graph import VolumeGraph

G = TypeVar("G", bound=nn.Module)


def gathered(plane: Float[Tensor, "1 c h w"], x: Tensor, y: Tensor) -> Float[Tensor, "places c"]:
    """What ``volume_graph.sample`` gives at places (1, k, rays), a row a place."""
    cells = plane.shape[3]
    table = plane.reshape(plane.shape[1], -1).T
    x, y = ((axis.reshape(-1).clamp(-1.0, 1.0) + 1.0) * ((cells - 1) / 2) for axis in (x, y))
    column, row = (axis.clamp(max=cells - 1.5).floor() for axis in (x, y))
    right, below = (x - column)[:, None], (y - row)[:, None]
    first = (row * cells + column).long()
    above, under = (
        left + (table[place + 1] - left) * right for place in (first, first + cells) for left in (table[place],)
    )
    return above + (under - above) * below


class GatheredVolume(VolumeGraph):
    """A volume that is looked up row by row."""

    def values_at(self, x: Tensor, y: Tensor, z: Tensor) -> Float[Tensor, "1 values k rays"]:
        levels = []
        for level in range(self.levels):
            front, floor, side = self.planes(level)
            levels.append(gathered(front, x, y) + gathered(floor, x, z) + gathered(side, y, z))
        rows = torch.cat(levels, dim=1)
        for layer, activation in ((self.hidden, functional.relu), (self.values, nn.Identity())):
            assert layer.bias is not None
            rows = activation(rows @ layer.weight[:, :, 0, 0].T + layer.bias)
        return rows.reshape(1, *x.shape[1:], -1).permute(0, 3, 1, 2)


def with_gathered_volume(graph: G) -> G:
    """A copy of a graph whose volume, if it has one, is looked up so."""
    if not isinstance(graph, PoseToImage) or graph.volume is None:
        return graph
    changed = deepcopy(graph)
    assert changed.volume is not None
    changed.volume.__class__ = GatheredVolume
    return changed
