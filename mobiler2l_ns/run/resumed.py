"""Runs that are gone on with: is it this capture, and which plan had they?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.student.capture_record import CaptureRecord


def check_same_pictures(capture: CaptureRecord, loaded_state: Mapping[str, Any]) -> None:
    """See that what is resumed was trained on this capture, in this size.

    Raises:
        UserError: if it was not.
    """
    prefix = next(name for name in loaded_state if name.endswith("student.capture.start_pose"))
    prefix = prefix.removesuffix("start_pose")
    recorded = ("image_size", "world_transform", "start_pose")
    saved = {name: loaded_state[prefix + name].cpu() for name in recorded}
    now = {name: capture.get_buffer(name).cpu() for name in saved}
    if not torch.equal(saved["image_size"], now["image_size"]):
        (height, width), (was_high, was_wide) = now["image_size"].tolist(), saved["image_size"].tolist()
        raise UserError(
            f"The checkpoint is of pictures of {was_wide} x {was_high} pixels, these are {width} x {height}: "
            "resume with the same --pipeline.datamanager.max-image-size and the same photos"
        )
    if any(not torch.allclose(saved[name], now[name], atol=1e-3) for name in saved):
        raise UserError("The checkpoint is of another capture, whose cameras are not these: give the same --data")
