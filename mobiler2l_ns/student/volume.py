"""The student's volume: learned features on three planes, composited along rays in front of the network.

A light field does not know that there is a scene. Here the cell of each low-resolution ray is crossed by m x m finer
rays, whose points lie where the teacher's surfaces are (``proposals``). There features are the sum of what three axis-
aligned planes show (EG3D, Chan et al. 2022 §4.1; K-Planes, Fridovich-Keil et al. 2023; MERF, Reiser et al. 2023 §4.1),
a two-layer map makes them density and features, and those are composited front to back. The network gets the composited
features beside the encoded rays and does the rest in one pass, as without them. (LightSpeed, Gupta et al. 2023, has its
planes in the space of rays, where nothing is composited; that is for captures that look one way.)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mobiler2l_ns.geometry.chords import Chords
from mobiler2l_ns.student.config import VolumeShape
from mobiler2l_ns.student.proposals import Proposals

STEEPEST = 6.0
"""Largest logarithm of the factor between a learned optical depth and the proposals'."""
SEEN = 1e-3
"""Least accumulation that a place is divided by."""


class Composited(NamedTuple):
    """What the volume shows of a batch's rays."""

    features: Float[Tensor, "n f mh mw"]
    """Composited features, then the accumulation."""
    colours: Float[Tensor, "n mh mw colours"]
    """The picture that the first features make, over a learned background."""
    t: Float[Tensor, "n mh mw"]
    """Mean place along each ray of what is seen."""


class Volume(nn.Module):
    """Proposals, planes, and the map from planes to density and features.

    Args:
        shape: of all three.
        colours: channels of the student's picture.
    """

    def __init__(self, shape: VolumeShape, colours: int) -> None:
        super().__init__()
        self.shape, self.colours = shape, colours
        channels = shape.volume_channels
        self.proposals = Proposals(shape)
        self.planes = nn.ParameterList(
            [nn.Parameter(0.1 * torch.randn(3, channels, cells, cells)) for cells in shape.volume_cells]
        )
        self.hidden = nn.Linear(channels * len(shape.volume_cells), shape.volume_hidden)
        self.values = nn.Linear(shape.volume_hidden, 1 + shape.volume_features)
        self.background = nn.Parameter(torch.zeros(colours))

    def forward(self, fine: Chords, coarse: Chords, edges: Float[Tensor, "bins1"], contracted: bool) -> Composited:
        """Composite a batch of rays.

        Args:
            fine: (n, mh, mw, 3) rays to composite.
            coarse: (n, h, w, 3) rays that proposals are made for; each is that of a square block of the fine ones.
            edges: of the bins of the proposals.
            contracted: whether points go through the scene contraction.
        """
        with torch.no_grad():
            t, optical = self.proposals(coarse, edges, contracted)
            block = fine.along.shape[1] // coarse.along.shape[1]
            if block > 1:
                t, optical = (x.repeat_interleave(block, 1).repeat_interleave(block, 2) for x in (t, optical))
            points = self.proposals.places(fine, t, contracted)
        values = self.values(functional.relu(self.hidden(self.look_up(points))))
        optical = optical * values[..., 0].clamp(-STEEPEST, STEEPEST).exp()
        weights = (optical - optical.cumsum(-1)).exp() * (1.0 - (-optical).exp())
        accumulation = weights.sum(-1, keepdim=True)
        features = (weights[..., None] * values[..., 1:]).sum(-2)
        colours = features[..., : self.colours] + (1.0 - accumulation) * self.background
        place = ((weights * t).sum(-1) / accumulation[..., 0].clamp(min=SEEN)).detach()
        return Composited(torch.cat([features, accumulation], dim=-1).permute(0, 3, 1, 2), colours, place)

    def look_up(self, points: Float[Tensor, "n h w k 3"]) -> Float[Tensor, "n h w k c"]:
        """Sums of the planes (x, y), (x, z) and (y, z) at points in units of the box, level after level."""
        x, y, z = points.reshape(1, -1, 3).unbind(-1)
        places = torch.stack([torch.stack(pair, -1) for pair in ((x, y), (x, z), (y, z))])  # (3, 1, points, 2)
        levels = [
            functional.grid_sample(planes, places, mode="bilinear", padding_mode="border", align_corners=True)
            for planes in self.planes
        ]
        return torch.cat(levels, 1).sum(0)[:, 0].T.unflatten(0, points.shape[:-1])
