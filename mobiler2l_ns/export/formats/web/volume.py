"""The student's volume as the page's engines look it up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mobiler2l_ns.export.formats.web.network import NetworkLayers
from mobiler2l_ns.export.formats.web.volume_kernels import EMPTY, NOWHERE, Level, VolumeShape
from mobiler2l_ns.export.volume_graph import VolumeGraph
from mobiler2l_ns.student.proposals import FAINT, SOLID
from mobiler2l_ns.student.renderer import SOLID as SHOWN
from mobiler2l_ns.student.volume import STEEPEST


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().float().numpy()


def density_of(volume: VolumeGraph) -> NDArray[np.float32]:
    """The coarse density, (z, y, x)."""
    proposals = volume.proposals
    cells, tiles = proposals.cells, proposals.tiles
    atlas = _array(proposals.atlas()).reshape(tiles, cells, tiles, cells)
    return atlas.transpose(0, 2, 1, 3).reshape(tiles**2, cells, cells)[:cells]


def add_volume(
    layers: NetworkLayers, rays: int, volumes: Mapping[str, VolumeGraph]
) -> tuple[dict[str, Any], VolumeShape]:
    """Append the volume's tables to the weights.

    Args:
        layers: of the network.
        rays: through the volume in the cell of a low-resolution ray, each way.
        volumes: by the name of their view; they differ in the rays that points are placed for.

    Returns:
        What network.json says of it, and what the WebAssembly functions are made for.
    """
    volume = next(iter(volumes.values()))
    proposals = volume.proposals
    middles, steps = (_array(part).ravel() for part in (proposals.middles, proposals.steps))
    edges = np.append(middles - steps / 2, middles[-1] + steps[-1] / 2)
    density = layers.append(density_of(volume))
    levels, width = [], 0
    for level in range(volume.levels):
        planes = [_array(plane)[0] for plane in volume.planes(level)]
        filled = np.pad(np.stack(planes), [(0, 0), (0, -planes[0].shape[0] % 4), (0, 0), (0, 0)])
        width, cells = filled.shape[1:3]
        levels.append({"cells": cells, "planes": layers.append(filled.transpose(0, 2, 3, 1))})
    first, second = _matrix(volume.hidden), _matrix(volume.values)
    # The planes' channels are filled up, level after level; of the values the density comes last.
    by_level = first[0].reshape(len(first[0]), len(levels), -1)
    wide = np.pad(by_level, [(0, 0), (0, 0), (0, width - by_level.shape[2])]).reshape(len(first[0]), -1)
    hidden = layers.append_linear(wide, first[1], wide.shape[1])
    weight, bias = (np.roll(part, -1, axis=0) for part in second)
    values = layers.append_linear(weight, bias, hidden["outputs"])
    features = len(second[1]) - 1
    described = {
        "rays": rays,
        "density_rays": {name: rays // each.block for name, each in volumes.items()},
        "edges": edges.tolist(),
        "points": volume.count,
        "scales": volume.points.scales,
        "shifts": volume.points.shifts,
        "density": {"cells": proposals.cells, "values": density},
        "channels": width,
        "levels": levels,
        "hidden": hidden,
        "values": values,
        "features": features,
        "faint": FAINT,
        "solid": SOLID,
        "steepest": STEEPEST,
        "empty": EMPTY,
        "shown": SHOWN,
        "nowhere": NOWHERE,
    }
    shape = VolumeShape(
        contracted=volume.points.contracted,
        scales=tuple(volume.points.scales),
        shifts=tuple(volume.points.shifts),
        first=proposals.first,
        bins=proposals.bins,
        points=volume.count,
        cells=proposals.cells,
        density=4 * density,
        channels=width,
        levels=tuple(Level(level["cells"], 4 * level["planes"]) for level in levels),
        features=features,
    )
    return described, shape


def _matrix(convolution: nn.Conv2d) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    assert convolution.bias is not None
    return _array(convolution.weight)[:, :, 0, 0], _array(convolution.bias)
