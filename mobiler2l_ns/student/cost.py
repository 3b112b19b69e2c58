"""What a student costs: parameters, arithmetic, bytes."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from mobiler2l_ns.student.config import NetworkShape
from mobiler2l_ns.student.network import StudentNetwork
from mobiler2l_ns.student.volume import Volume

CORNERS = 4
"""Cells that a lookup in a plane mixes, each a multiply-accumulate a channel; a lookup in the density mixes twice as
many."""


@dataclass(frozen=True)
class StudentCost:
    """What a student costs at one output size."""

    params: int
    """Trainable parameters, batch norms and the volume's planes included."""
    params_folded: int
    """Parameters of the exported student, batch norms folded into the convolutions."""
    gmac: float
    """Billions of multiply-accumulates for one picture, the volume's lookups included."""
    lookup_gmac: float
    """Those of them that are lookups."""
    fp16_bytes: int
    """Bytes of the folded weights, planes and densities in half precision."""
    input_shape: tuple[int, int, int, int]
    """Encoded low-resolution rays, NCHW."""
    output_shape: tuple[int, int, int, int]
    """The picture, NCHW; the low-resolution grid covers the asked size, so it may be a little larger."""


def measure_cost(student: NetworkShape | StudentNetwork, height: int, width: int) -> StudentCost:
    """Count parameters and multiply-accumulates for a picture of ``height`` x ``width`` pixels: of a network as it is
    and the volume before it, or of those that a config begins with."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        network = StudentNetwork(student) if isinstance(student, NetworkShape) else deepcopy(student).to("meta")
        config = network.config
        grid = (math.ceil(height / config.stride), math.ceil(width / config.stride))
        inputs = [torch.empty(1, config.input_channels, *grid)]
        if config.volume_rays:
            inputs.append(torch.empty(1, config.feature_channels, *(count * config.volume_rays for count in grid)))
        volume = Volume(config, config.output_channels) if config.volume_rays else None
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        picture = network.eval()(*inputs)
    kinds = nn.modules.batchnorm._NormBase  # several devices have a kind of their own
    norms = sum(p.numel() for m in network.modules() if isinstance(m, kinds) for p in m.parameters())
    params = sum(p.numel() for p in network.parameters())
    maps = lookups = densities = 0
    if volume is not None:
        params += sum(p.numel() for p in volume.parameters())
        densities = volume.proposals.density.numel()
        points = math.prod(inputs[1].shape[2:]) * config.volume_points
        placed = math.prod(grid) * config.placing_rays(max(height, width) / config.stride) ** 2
        maps = points * (volume.hidden.weight.numel() + volume.values.weight.numel())
        lookups = points * 3 * CORNERS * volume.hidden.in_features + placed * config.density_bins * 2 * CORNERS
    return StudentCost(
        params=params,
        params_folded=params - norms,
        gmac=(counter.get_total_flops() / 2 + maps + lookups) / 1e9,
        lookup_gmac=lookups / 1e9,
        fp16_bytes=2 * (params - norms + densities),
        input_shape=cast("tuple[int, int, int, int]", tuple(inputs[0].shape)),
        output_shape=cast("tuple[int, int, int, int]", tuple(picture.shape)),
    )
