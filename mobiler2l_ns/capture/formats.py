"""What kind of capture a folder holds, seen from its files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mobiler2l_ns.errors import UserError

CaptureFormat = Literal["nerfstudio", "blender", "colmap"]
COLMAP_PLACES = ("colmap/sparse/0", "sparse/0", "sparse")
"""Where a capture keeps COLMAP's model, the first that is there."""


def colmap_place(capture: Path) -> str | None:
    """Which of ``COLMAP_PLACES`` a capture has."""
    return next((place for place in COLMAP_PLACES if (capture / place).is_dir()), None)


def format_of(capture: Path) -> CaptureFormat:
    """What a capture is: a folder, or its transforms.json.

    Raises:
        UserError: if no file tells.
    """
    if capture.suffix == ".json" or (capture / "transforms.json").exists():
        return "nerfstudio"
    if (capture / "transforms_train.json").exists():
        return "blender"
    if colmap_place(capture) is not None:
        return "colmap"
    raise UserError(
        f"{capture} is no capture: it holds no transforms.json, no transforms_train.json and no folder sparse. "
        "Give the folder that ns-process-data wrote"
    )
