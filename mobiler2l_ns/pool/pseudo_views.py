"""The pool of pseudo views: pictures the teacher rendered at sampled poses, bounded in memory, refreshed in place."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mobiler2l_ns.geometry.bounds import SceneExtent

BYTES_PER_GIB = 1 << 30


def quantise(picture: Float[Tensor, "*any"]) -> UInt8[Tensor, "*any"]:
    """Colours in 0..1 as bytes, rounded to the nearest."""
    return (picture.clamp(0.0, 1.0) * 255.0 + 0.5).to(torch.uint8)


def sent(values: Tensor, device: torch.device | str) -> Tensor:
    """Values on a device. From the host to a GPU they travel by pinned memory, so that the host does not wait for what
    the GPU still has to do."""
    if torch.device(device).type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


class PseudoViewPool:
    """A ring of pseudo views. Pictures stay bytes wherever the pool lives; only drawn ones travel to the device.

    Args:
        views: how many views are wanted.
        height, width: size of a view in pixels.
        budget_gib: the pool is cut to this much memory, but keeps at least one view.
        device: where the pictures live.
        channels: 3, or 4 for premultiplied RGBA.
        seed: of the draws.
    """

    def __init__(
        self,
        views: int,
        height: int,
        width: int,
        budget_gib: float,
        device: torch.device | str,
        channels: int = 3,
        seed: int = 0,
    ) -> None:
        self.capacity = max(1, min(views, int(budget_gib * BYTES_PER_GIB) // (height * width * channels)))
        self.pictures = torch.empty(self.capacity, height, width, channels, dtype=torch.uint8, device=device)
        self.poses = torch.empty(self.capacity, 3, 4, device=device)
        # Drawn where the pictures live: on a GPU a draw then needs nothing from the host.
        self.generator = torch.Generator(device).manual_seed(seed)
        self.filled = 0
        self.rendered = 0

    def __len__(self) -> int:
        return self.filled

    def add(self, pose: Float[Tensor, "3 4"], picture: Float[Tensor, "h w channels"]) -> None:
        """Store a view; when the pool is full it replaces the oldest."""
        slot = self.rendered % self.capacity
        self.poses[slot] = pose
        self.pictures[slot] = quantise(picture)
        self.rendered += 1
        self.filled = min(self.rendered, self.capacity)

    def draw(
        self, count: int, device: torch.device | str
    ) -> tuple[Float[Tensor, "n 3 4"], Float[Tensor, "n h w channels"]]:
        """Random views as poses and colours in 0..1 on ``device``; no view twice unless the pool holds fewer."""
        where = self.pictures.device
        if count <= self.filled:
            chosen = torch.randperm(self.filled, generator=self.generator, device=where)[:count]
        else:
            chosen = torch.randint(self.filled, (count,), generator=self.generator, device=where)
        return sent(self.poses[chosen], device), sent(self.pictures[chosen], device).float() / 255.0

    def newest(self, count: int) -> list[int]:
        """Indices into ``poses`` and ``pictures`` of up to ``count`` views, the newest first."""
        return [(self.rendered - 1 - age) % self.capacity for age in range(min(count, self.filled))]

    def mean_colour(self) -> Float[Tensor, "channels"]:
        """Mean of up to 64 views, 0..1."""
        return self.pictures[: min(self.filled, 64)].float().mean((0, 1, 2)) / 255.0

    def is_opaque(self) -> bool:
        """Whether no pixel of an RGBA pool lets more than half of what is behind it through."""
        return not bool((self.pictures[: self.filled, ..., 3] < 128).any())

    def save(self, path: Path, extent: SceneExtent) -> None:
        """Write the filled part and what it tells of the scene's extent to a file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.part")
        filled = {"poses": self.poses[: self.filled].cpu(), "pictures": self.pictures[: self.filled].cpu()}
        torch.save({**filled, "extent": extent.state()}, partial)
        partial.replace(path)

    def load(self, path: Path, extent: SceneExtent) -> None:
        """Fill the pool, and what its views tell of the scene's extent, from a file written by ``save``, as far as both
        reach."""
        stored = torch.load(path, map_location="cpu")
        count = min(self.capacity, len(stored["poses"]))
        self.poses[:count] = stored["poses"][:count].to(self.poses.device)
        self.pictures[:count] = stored["pictures"][:count].to(self.pictures.device)
        self.filled = self.rendered = count
        extent.take(stored.get("extent"))
