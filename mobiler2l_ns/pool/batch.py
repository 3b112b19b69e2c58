"""What the student learns from in one step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mobiler2l_ns.geometry.rays import LowResRays


class StudentBatch(NamedTuple):
    """Low-resolution rays and the pictures they stand for."""

    rays: LowResRays
    pictures: Float[Tensor, "n h w channels"]
    """RGB or premultiplied RGBA in 0..1."""
    masks: Float[Tensor, "n h w"] | None = None
    """1 where a picture shows something; None: everywhere."""

    @classmethod
    def join(cls, parts: Sequence[StudentBatch]) -> StudentBatch:
        """Batches one after the other."""
        masks = None
        if any(part.masks is not None for part in parts):
            masks = torch.cat(
                [torch.ones_like(part.pictures[..., 0]) if part.masks is None else part.masks for part in parts]
            )
        return cls(LowResRays.join([part.rays for part in parts]), torch.cat([part.pictures for part in parts]), masks)

    def as_nerfstudio(self) -> tuple[LowResRays, dict[str, Tensor]]:
        """Rays and batch as nerfstudio passes them on: ``image`` (n, h, w, channels) and, if there is one, ``mask``
        (n, h, w)."""
        batch = {"image": self.pictures}
        return self.rays, batch if self.masks is None else {**batch, "mask": self.masks}
