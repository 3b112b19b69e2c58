"""Poses that a package brings along: named views, and a turntable, a closed path of the camera."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mobiler2l_ns.capture.fence import Fence
from mobiler2l_ns.capture.pose_samplers import look_at_poses
from mobiler2l_ns.capture.poses import pose_matrix
from mobiler2l_ns.errors import UserError
from mobiler2l_ns.geometry.pose_range import Poses

KEYFRAMES = 24
"""Of a turntable: 15 degrees apart, which clients pass through smoothly."""
MOST_KEYFRAMES = 60
"""Of a camera path."""
SECONDS = 12.0
"""Of a turntable, once around."""
FENCE_MEANS = (
    "good is what lies within: the distance of the camera from the middle, and elevation and azimuth (z up, "
    "counter-clockwise from +x) of the camera as seen from the middle (cameras: inward) or of where it looks "
    "(outward); "
    "within these, a pose is as far from trained ones as the least, over the anchors, of the distance to the anchor's "
    "centre / reach.distance + the angle to its direction / reach.degrees: 1 at the edge"
)
UP = torch.tensor([0.0, 0.0, 1.0])
INSIDE = 0.7
"""How much of the fence's ranges the views use: its rim is seen by few cameras."""


@dataclass
class PackagePoses:
    """Poses of a package, in the world frame of the run."""

    views: dict[str, Float[Tensor, "3 4"]] = field(default_factory=dict)
    """By name."""
    turntable: Float[Tensor, "n 3 4"] | None = None
    """Poses the camera passes through at equal times."""
    seconds: float = SECONDS
    """Once around."""
    closed: bool = True
    """Whether it goes on from the last pose to the first; if not, it ends there."""


def _look(fence: Fence, distance: Tensor, elevation: Tensor, azimuth: Tensor) -> Poses:
    """Poses in a fence: ``distance`` (n) from its middle, in the direction, or looking in the direction, of degrees."""
    elevation, azimuth = torch.deg2rad(elevation), torch.deg2rad(azimuth)
    flat = elevation.cos()
    direction = torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), elevation.sin()], dim=-1)
    level = torch.zeros(len(azimuth))
    if not bool(fence.inward):
        centres = fence.middle.expand_as(direction)
        return look_at_poses(centres, centres + direction, level, UP)
    centres = fence.middle + distance[:, None] * direction
    return look_at_poses(centres, fence.middle.expand_as(centres), level, UP)


def poses_of_fence(fence: Fence) -> PackagePoses:
    """Views from the front, from both sides, from above and from nearby, and a turntable; none without a fence.

    A fence that is open all around is circled; in any other the turntable swings to and fro.
    """
    if not fence.known:
        return PackagePoses()
    distance, (low, high) = fence.distance.mean(), fence.elevation
    middle = (low + high) / 2
    start, extent = fence.azimuth
    around, front = float(extent) >= 359.9, start + extent / 2
    side = torch.tensor(90.0) if around else INSIDE * extent / 2
    places = {
        "front": (distance, middle, front),
        "left": (distance, middle, front - side),
        "right": (distance, middle, front + side),
        "above": (distance, middle + INSIDE * (high - low) / 2, front),
    }
    if bool(fence.inward):
        places["near"] = (distance + INSIDE * (fence.distance[0] - distance), middle, front)
    if around:
        places["back"] = (distance, middle, front + 180.0)
    stacked = (torch.stack(values) for values in zip(*places.values(), strict=True))
    views = dict(zip(places, _look(fence, *stacked), strict=True))

    turn = 2 * math.pi * torch.arange(KEYFRAMES) / KEYFRAMES
    azimuth = front + (torch.rad2deg(turn) if around else INSIDE * extent / 2 * turn.sin())
    every = torch.ones(KEYFRAMES)
    return PackagePoses(views, _look(fence, distance * every, middle * every, azimuth))


def poses_of_file(path: Path) -> PackagePoses:
    """The poses of a camera path as nerfstudio's viewer saves it: its keyframes are the views, called view-1, view-2
    and so on unless they are given a "name", its path is the turntable.

    Raises:
        UserError: if it is none.
    """
    try:
        described = json.loads(path.read_text(encoding="utf8"))
        frames, keyframes = described["camera_path"], described["keyframes"]
        seconds, closed = float(described["seconds"]), bool(described["is_cycle"])
        on_path = [np.reshape(frame["camera_to_world"], (4, 4)) for frame in frames]
        named = {
            str(key.get("name", f"view-{index + 1}")): np.reshape(key["matrix"], (4, 4))
            for index, key in enumerate(keyframes)
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"--poses {path}: no camera path of nerfstudio's viewer ({type(error).__name__}: {error}): save one there, "
            "or give auto or none"
        ) from None
    views = {name: _pose(matrix, f"{path}: {name}") for name, matrix in named.items()}
    every = max(1, -(-len(on_path) // MOST_KEYFRAMES))
    poses = [_pose(matrix, f"{path}: frame {index}") for index, matrix in enumerate(on_path) if index % every == 0]
    return PackagePoses(views, torch.stack(poses) if len(poses) > 1 else None, seconds, closed)


def read_poses(asked: str) -> PackagePoses | None:
    """What ``--poses`` asks for: nothing (none), a camera path's, or None for the fence's own (auto).

    Raises:
        UserError: if a file is no camera path.
    """
    return None if asked == "auto" else PackagePoses() if asked == "none" else poses_of_file(Path(asked))


def _pose(matrix: Any, of: str) -> Float[Tensor, "3 4"]:
    return torch.tensor(pose_matrix(matrix, of)[:3], dtype=torch.float32)


def describe_poses(poses: PackagePoses) -> dict[str, Any]:
    """As manifest.json has them."""
    views = {name: rounded(pose) for name, pose in poses.views.items()}
    if poses.turntable is None:
        return {"views": views, "turntable": None}
    return {
        "views": views,
        "turntable": {"seconds": poses.seconds, "closed": poses.closed, "poses": rounded(poses.turntable)},
    }


def describe_fence(fence: Fence) -> dict[str, Any] | None:
    """As manifest.json has it; None where it is not known."""
    if not fence.known:
        return None
    anchors = rounded(fence.anchors)
    return {
        "cameras": "inward" if bool(fence.inward) else "outward",
        "middle": rounded(fence.middle),
        "distance": rounded(fence.distance),
        "elevation_degrees": rounded(fence.elevation),
        "azimuth_degrees": dict(zip(("start", "extent"), rounded(fence.azimuth), strict=True)),
        "anchors": {"centres": [pair[0] for pair in anchors], "directions": [pair[1] for pair in anchors]},
        "reach": dict(zip(("distance", "degrees"), rounded(fence.reach), strict=True)),
        "meaning": FENCE_MEANS,
    }


def rounded(values: Tensor) -> Any:
    """Numbers as lists, to a hundred thousandth: a manifest is read over networks."""
    return json.loads(json.dumps(values.tolist()), parse_float=lambda text: round(float(text), 5))
