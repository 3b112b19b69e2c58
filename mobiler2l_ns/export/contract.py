"""What all of the export speaks of: what a package is asked with, what runs it, and where it is described."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

MANIFEST = "manifest.json"
"""Describes the packages of a folder, or a package that stands alone."""

Contract = Literal["pose", "encoding", "features"]
"""What a package is asked with: a camera's pose and intrinsics; the encoded low-resolution rays, of a student without a
volume; or those and what its volume shows."""

CONTRACTS: dict[Contract, str] = {
    "pose": "camera_to_world, intrinsics -> image",
    "encoding": "encoding -> image",
    "features": "encoding, features -> image",
}
"""Inputs and output of each contract."""

IMAGE, DEPTH = "image", "depth"
"""Outputs; the second one is of packages that were asked for it."""

DEPTH_MEANS = (
    "Of each square block of pixels, two channels: depth along the optical axis, in units of the world frame, and how "
    "much of the light is stopped there, 0..1; where that is little, depth means nothing."
)

Runner = Callable[[Mapping[str, NDArray[Any]]], NDArray[np.float32]]
"""A package in a runtime: one array for each input to a picture (channels, height, width) in 0..1."""


def outputs_of(graph: object) -> tuple[str, ...]:
    """Names of a graph's outputs, in order; a module that names none gives a picture."""
    return getattr(graph, "outputs", (IMAGE,))


class DepthRunner(Protocol):
    """A runner of packages that may have been asked for depth."""

    def with_depth(self, inputs: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The picture, and depth and accumulation (2, rows, columns), of a package that gives them."""
        ...


@dataclass(frozen=True)
class GraphInput:
    """One input of a graph, of a fixed shape, as phones' accelerators like it."""

    name: str
    shape: tuple[int, ...]
    description: str
    """Axes, order and units, for people."""
    dtype: Literal["float32", "float16"] = "float32"
    """What a client gives; the graph itself is traced in float32 unless it says otherwise."""


POSE_INPUTS = (
    GraphInput(
        "camera_to_world",
        (1, 3, 4),
        "Camera pose, row-major [R|t], shape (1, 3, 4): right, up and backward axes of the camera (OpenGL: it looks "
        "along -z) and its centre as columns, in the units of the training scene.",
    ),
    GraphInput(
        "intrinsics",
        (1, 4),
        "Focal lengths and principal point fx, fy, cx, cy, shape (1, 4), in output pixels from the upper left corner; "
        "keep the focal lengths the student was trained for.",
    ),
)
"""Inputs of a graph that goes from a pose to an image."""
