"""Which photos are learned from, which select the student, and which test it.

*Selection photos* are training photos that fine-tuning leaves out: the student that is best on them is kept. *Test
views* are the capture's evaluation split, which nothing has learned from; eight of their cameras, the *proof cameras*,
go into the checkpoint, and every exported package is compared with the student there.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mobiler2l_ns.errors import UserError

PROOF_CAMERAS = 8


def selection_split(count: int) -> tuple[list[int], list[int]]:
    """Indices of the training photos that fine-tune, and of the selection photos.

    Every eighth photo selects, at least one, at most eight. A single photo does both.
    """
    if count < 2:
        return list(range(count)), list(range(count))
    step = max(8, -(-count // 8))
    selection = list(range(min(step // 2, count - 1), count, step))
    return [index for index in range(count) if index not in selection], selection


def proof_cameras(test: Float[Tensor, "n 3 4"], train: Float[Tensor, "m 3 4"]) -> Float[Tensor, "8 3 4"]:
    """Camera-to-world matrices evenly from all test views, or from the training views if there are none."""
    poses = test if len(test) > 0 else train
    if len(poses) == 0:
        raise UserError("This capture has no photos")
    return poses[torch.linspace(0, len(poses) - 1, PROOF_CAMERAS).round().long()]
