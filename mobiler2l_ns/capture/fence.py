"""Where a capture is good: the region of poses that a student was trained on, for whoever moves a camera in it.

A box says how far a camera may go: its distance from a point, and the elevations and azimuths as seen from there.
Within the box poses may still be far from any trained one, as where the cameras walked along a path: a few *anchors*
spread over the trained poses tell how far each pose is from them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from mobiler2l_ns.capture.pose_samplers import look_at_point
from mobiler2l_ns.geometry.pose_range import Poses, covered_arc

ANCHORS = 64
"""Poses that stand for all trained ones."""
STRAY = 0.01
"""Share of trained poses left out at each end of a range, and beyond the reach of the anchors."""
FACING = math.cos(math.radians(60.0))
"""Cameras that look at one point have it at most so far off their axes."""
LEAST_REACH = 0.05
"""Of the anchors, in radians and in parts of the capture's size: a capture of few poses leaves that much room."""


@dataclass
class Fence:
    """The region of trained poses, in the world frame of the run (z up)."""

    inward: Bool[Tensor, ""]
    """Whether the cameras look at ``middle``; if not they stand around it and look elsewhere, as in a room."""
    middle: Float[Tensor, "3"]
    """The point the cameras look at, or the middle of where they stand."""
    distance: Float[Tensor, "2"]
    """Least and most distance of a camera from ``middle``."""
    elevation: Float[Tensor, "2"]
    """Lowest and highest, degrees: of the camera as seen from ``middle``, or of where it looks."""
    azimuth: Float[Tensor, "2"]
    """Start and extent of the arc, degrees, counter-clockwise from +x: of the same."""
    anchors: Float[Tensor, "64 2 3"]
    """Centre and viewing direction of poses that stand for all trained ones."""
    reach: Float[Tensor, "2"]
    """World units and degrees that count as one: see ``strangeness``. Zeros: nothing is known."""

    @property
    def known(self) -> bool:
        """Whether there is a fence at all; runs of earlier versions have none."""
        return bool(self.reach[0] > 0)


def strangeness(poses: Poses, anchors: Float[Tensor, "a 2 3"], reach: Float[Tensor, "2"]) -> Float[Tensor, "n"]:
    """How far poses are from trained ones: 1 at the edge of what was trained, less within.

    It is the least, over the anchors, of the distance between the centres over ``reach[0]`` plus the angle between the
    viewing directions over ``reach[1]`` (degrees).
    """
    distance = torch.cdist(poses[:, :, 3], anchors[:, 0]) / reach[0]
    turn = torch.rad2deg((-poses[:, :, 2] @ anchors[:, 1].T).clamp(-1, 1).arccos()) / reach[1]
    return (distance + turn).amin(1)


def spread(poses: Poses, size: float, count: int) -> list[int]:
    """Indices of ``count`` poses spread over all: each the farthest from those before it, a radian of turn counting
    like ``size`` world units. They repeat where there are fewer."""
    centres, axes = poses[:, :, 3], -poses[:, :, 2]

    def distance_to(index: int) -> Tensor:
        turn = (axes @ axes[index]).clamp(-1, 1).arccos()
        return (centres - centres[index]).norm(dim=-1) / size + turn

    chosen = [int((centres - centres.mean(0)).norm(dim=-1).argmin())]
    nearest = distance_to(chosen[0])
    while len(chosen) < count:
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, distance_to(chosen[-1]))
    return chosen


def measure_fence(cameras: Poses, drawn: Poses) -> Fence:
    """The fence of a capture.

    Args:
        cameras: of the training photos.
        drawn: where pseudo views are taken from.
    """
    cameras, drawn = cameras.detach().cpu().float(), drawn.detach().cpu().float()
    trained = torch.cat([cameras, drawn])
    look_at = look_at_point(cameras)
    to_point = normalize(look_at - cameras[:, :, 3], dim=-1)
    facing = (to_point * -cameras[:, :, 2]).sum(-1) > FACING
    inward = float(facing.float().mean()) >= 0.9
    middle = look_at if inward else cameras[:, :, 3].mean(0)

    offset = trained[:, :, 3] - middle
    distance = offset.norm(dim=-1)
    ends = torch.tensor([STRAY, 1.0 - STRAY])
    direction = normalize(offset, dim=-1) if inward else -trained[:, :, 2]
    elevation = torch.rad2deg(direction[:, 2].clamp(-1, 1).asin()).quantile(ends)
    start, extent = covered_arc(torch.atan2(direction[:, 1], direction[:, 0]))
    size = float(distance.median() if inward else distance.quantile(ends[1]))
    size = size if size > 1e-6 else 1.0

    chosen = trained[spread(trained, size, ANCHORS)]
    anchors = torch.stack([chosen[:, :, 3], -chosen[:, :, 2]], dim=1)
    unit = torch.tensor([size, math.degrees(1.0)])
    reach = max(float(strangeness(trained, anchors, unit).quantile(1.0 - STRAY)), LEAST_REACH)
    nearest, farthest = distance.quantile(ends)
    return Fence(
        inward=torch.tensor(inward),
        middle=middle,
        distance=torch.stack([nearest if inward else torch.zeros(()), farthest]),
        elevation=elevation,
        azimuth=torch.tensor([math.degrees(start), math.degrees(extent)]),
        anchors=anchors,
        reach=reach * unit,
    )
