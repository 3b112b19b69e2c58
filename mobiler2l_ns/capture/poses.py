"""The poses of a capture's file, as numbers that single precision can hold and nerfstudio's dataparsers can take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from mobiler2l_ns.errors import UserError

FAR = 1000.0
"""Cameras whose middle is so many times their own extent from zero lose digits that matter in single precision."""
CLEAN = 1e-3
"""Rotations that are this near to orthonormal are left as they are."""
NO_ROTATION = 0.02
"""Matrices that are this far from a scaled rotation are none."""


def pose_matrix(value: Any, of: str) -> Float64[np.ndarray, "4 4"]:
    """The camera-to-world matrix of a frame: finite, with a right-handed orthonormal rotation.

    Args:
        value: 3 x 4 or 4 x 4 numbers, as the file has them. A scale of the rotation is taken out.
        of: names the frame in messages.

    Raises:
        UserError: if it is no camera's pose.
    """
    try:
        given = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{of}: its transform_matrix does not hold 3 x 4 or 4 x 4 numbers: write it anew") from None
    if given.shape not in ((3, 4), (4, 4)):
        shape = " x ".join(map(str, given.shape))
        raise UserError(f"{of}: its transform_matrix is {shape}, a camera-to-world pose has 3 x 4 or 4 x 4 numbers")
    if not np.isfinite(given).all():
        raise UserError(f"{of}: its pose holds NaN or infinity: take this photo out, or estimate its pose again")
    pose = np.eye(4)
    pose[:3] = given[:3]
    if given.shape == (4, 4):
        if np.abs(given[3, :3]).max() > 1e-6 or abs(given[3, 3]) < 1e-9:
            raise UserError(f"{of}: the last row of its pose is not 0 0 0 1: give camera-to-world matrices, row by row")
        pose[:3] /= given[3, 3]
    rotation = pose[:3, :3]
    gram = rotation.T @ rotation
    scale = np.sqrt(np.trace(gram) / 3.0)
    error = np.abs(gram / max(scale, 1e-12) ** 2 - np.eye(3)).max()
    if error > NO_ROTATION:
        raise UserError(f"{of}: the left 3 x 3 numbers of its pose are no rotation: estimate its pose again")
    if np.linalg.det(rotation) < 0:
        raise UserError(
            f"{of}: its pose mirrors the scene: it is left-handed. Turn the axes of all cameras to x right, y up, "
            "z backwards"
        )
    if abs(scale - 1.0) > CLEAN or error > CLEAN:
        left, _, right = np.linalg.svd(rotation)
        pose[:3, :3] = left @ right
    return pose


def clean_poses(frames: list[dict[str, Any]], file: Path) -> list[str]:
    """Replace each frame's ``transform_matrix`` by what ``pose_matrix`` makes of it.

    Returns:
        What was changed, in lines for people.

    Raises:
        UserError: if one of them is no camera's pose.
    """
    scales = []
    for frame in frames:
        if "transform_matrix" not in frame:
            raise UserError(f"{file}: {frame['file_path']} has no transform_matrix: give it its pose, or take it out")
        pose = pose_matrix(frame["transform_matrix"], f"{file}: {frame['file_path']}")
        given = np.array(frame["transform_matrix"], dtype=np.float64)
        scales.append(np.linalg.norm(given[:3, 0]) / (given[3, 3] if len(given) == 4 else 1.0))
        frame["transform_matrix"] = pose.tolist()
    if max(scales) > 1.0 + CLEAN or min(scales) < 1.0 - CLEAN:
        return [f"The rotations of {file.name} carry a scale ({np.median(scales):.4g}): it is taken out"]
    return []


def centres(frames: list[dict[str, Any]]) -> Float64[np.ndarray, "n 3"]:
    """Where the cameras stand, from clean poses."""
    return np.array([np.array(frame["transform_matrix"])[:3, 3] for frame in frames])


def stand_at_one_place(frames: list[dict[str, Any]]) -> bool:
    """Whether all cameras stand at the same point, but for the last digits of the file."""
    places = centres(frames)
    middle = places.mean(0)
    return bool(np.abs(places - middle).max() <= 1e-7 + 1e-9 * np.abs(middle).max())


def stand_far_away(frames: list[dict[str, Any]]) -> bool:
    """Whether the cameras are so far from zero that single precision blurs where they stand."""
    places = centres(frames)
    middle = places.mean(0)
    extent = np.abs(places - middle).max()
    return bool(np.abs(middle).max() > FAR * max(extent, 1e-3))


def move_to_zero(frames: list[dict[str, Any]]) -> Float64[np.ndarray, "3"]:
    """Put the middle of the cameras at zero, in double precision; cameras at one place stand there exactly.

    Returns:
        Where the middle was.
    """
    together = stand_at_one_place(frames)
    middle = centres(frames).mean(0)
    for frame in frames:
        pose = np.array(frame["transform_matrix"])
        pose[:3, 3] = 0.0 if together else pose[:3, 3] - middle
        frame["transform_matrix"] = pose.tolist()
    return middle
