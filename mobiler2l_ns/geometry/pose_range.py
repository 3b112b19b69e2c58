"""The range of a set of poses, as seen from the point they look at."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Poses = Float[Tensor, "n 3 4"]


def covered_arc(azimuth: Float[Tensor, "n"]) -> tuple[float, float]:
    """Start and extent (radians) of the arc that holds all azimuths: the circle less its largest gap.

    A gap that is not clearly larger than the others is chance: then the whole circle counts as covered.
    """
    ordered = torch.sort(azimuth % (2 * math.pi)).values
    gaps = torch.cat([ordered[1:], ordered[:1] + 2 * math.pi]) - ordered
    widest = int(gaps.argmax())
    if float(gaps[widest]) < max(math.pi / 3, 6 * math.pi / len(ordered)):
        return 0.0, 2 * math.pi
    return float(ordered[(widest + 1) % len(ordered)]), 2 * math.pi - float(gaps[widest])


@dataclass
class PoseRange:
    """The poses a student was trained on, in the world frame of the run."""

    centre_box: Float[Tensor, "2 3"]
    """Lowest and highest camera centre."""
    look_at: Float[Tensor, "3"]
    """Point nearest to all optical axes."""
    distance: Float[Tensor, "2"]
    """Nearest and farthest camera from ``look_at``."""
    elevation: Float[Tensor, "2"]
    """Lowest and highest camera above ``look_at``, degrees."""
    azimuth: Float[Tensor, "2"]
    """Start and extent of the arc of cameras around ``look_at``, degrees, counter-clockwise from +x."""


def pose_range(poses: Poses, look_at: Float[Tensor, "3"]) -> PoseRange:
    """The range of a set of poses as seen from ``look_at``, for the manifest of an exported package."""
    poses, look_at = poses.detach().cpu().float(), look_at.detach().cpu().float()
    centres = poses[:, :, 3]
    offset = centres - look_at
    distance = offset.norm(dim=-1)
    elevation = torch.rad2deg(torch.asin((offset[:, 2] / distance.clamp(min=1e-9)).clamp(-1, 1)))
    start, extent = covered_arc(torch.atan2(offset[:, 1], offset[:, 0]))
    return PoseRange(
        centre_box=torch.stack([centres.amin(0), centres.amax(0)]),
        look_at=look_at,
        distance=torch.stack([distance.min(), distance.max()]),
        elevation=torch.stack([elevation.min(), elevation.max()]),
        azimuth=torch.tensor([math.degrees(start), math.degrees(extent)]),
    )
