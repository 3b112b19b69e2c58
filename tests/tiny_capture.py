"""Captures of a few bytes that tests write themselves, each as odd as the test wants it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 24, 16


def pattern(index: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A smooth picture, upright and its own mirror nowhere: (height, width, 3) bytes."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [255 * x / (width - 1), 255 * y / (height - 1), np.full(x.shape, 20.0 * index)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def pose(index: int) -> np.ndarray:
    """Cameras on an arc about the y axis, at a distance of 3, that look at zero."""
    angle = 0.2 * index
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [np.cos(angle), 0, np.sin(angle)],
        [0, 1, 0],
        [-np.sin(angle), 0, np.cos(angle)],
    ]
    matrix[:3, 3] = 3 * matrix[:3, 2]
    return matrix


def write_capture(
    folder: Path,
    count: int = 10,
    save: Callable[[int, Path], Any] | None = None,
    frame: Callable[[int], dict] | None = None,
    pose: Callable[[int], np.ndarray] = pose,
    suffix: str = ".png",
    **meta: Any,
) -> Path:
    """Write a transforms.json with its photos.

    Args:
        save: writes a photo to a path; None: its ``pattern``.
        frame: more entries of a frame.
        pose: its transform_matrix.
        meta: entries of the file; None leaves one out.
    """
    (folder / "images").mkdir(parents=True)
    frames = []
    for index in range(count):
        path = folder / "images" / f"{index:02d}{suffix}"
        (save or (lambda index, path: Image.fromarray(pattern(index)).save(path)))(index, path)
        matrix = np.asarray(pose(index)).tolist()
        more = {} if frame is None else frame(index)
        frames.append({"file_path": f"images/{path.name}", "transform_matrix": matrix, **more})
    camera = {"fl_x": 20.0, "fl_y": 20.0, "cx": WIDTH / 2, "cy": HEIGHT / 2, "w": WIDTH, "h": HEIGHT}
    camera = {key: value for key, value in {**camera, **meta}.items() if value is not None}
    (folder / "transforms.json").write_text(json.dumps({**camera, "frames": frames}))
    return folder


def edit(folder: Path, change: Callable[[dict], Any], name: str = "transforms.json") -> Path:
    """Change a capture's file in place."""
    meta = json.loads((folder / name).read_text())
    change(meta)
    (folder / name).write_text(json.dumps(meta))
    return folder
