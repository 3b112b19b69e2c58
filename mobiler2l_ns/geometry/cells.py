"""A batch's pictures once more in coarser cells, for a student that learns several pitches.

A low-resolution ray stands for a cell of fixed angular size. From a picture and its grid of rays, a part of the same
picture in fewer pixels and its rays are made on the device: no second copy of the pictures is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional

VISIBLE = 0.999
"""Share of a coarser pixel that the finer picture must show for it to count."""


@dataclass(frozen=True)
class CoarserCells:
    """A grid of cells, each ``pitch`` times as wide as a block, on a part of a batch's pictures.

    Attributes:
        pitch: width of a cell in units of the full picture's.
        stride: pixels of a block, and of a cell in the coarser picture, each way.
        rows, columns: size of the coarser grid.
        top, left, height, width: the part of the full picture that it covers, in pixels.
    """

    pitch: float
    stride: int
    rows: int
    columns: int
    top: int
    left: int
    height: int
    width: int

    @classmethod
    def draw(
        cls, rows: int, columns: int, stride: int, pitch: float, generator: Generator | None = None
    ) -> CoarserCells:
        """As many cells as fit a grid of ``rows`` x ``columns`` blocks, at least one, at a random place in it."""
        cells = int(rows / pitch), int(columns / pitch)
        height, width = (round(count * stride * pitch) for count in cells)
        top, left = (
            int(torch.randint(blocks * stride - size + 1, (), generator=generator))
            for blocks, size in ((rows, height), (columns, width))
        )
        return cls(pitch, stride, *cells, top, left, height, width)

    def rays(self, directions: Float[Tensor, "n rows columns 3"]) -> Float[Tensor, "n coarser_rows coarser_columns 3"]:
        """Directions through the cells' centres, of length 1 along the optical axis, from the blocks'.

        Linear between the blocks' centres: exact without lens distortion, and with it to well below a pixel.
        """
        for axis, (begin, size, cells) in enumerate(
            ((self.top, self.height, self.rows), (self.left, self.width, self.columns)), start=1
        ):
            centres = begin + (torch.arange(cells, device=directions.device) + 0.5) * (size / cells)
            blocks = centres / self.stride - 0.5
            before = blocks.floor().long().clamp(0, directions.shape[axis] - 2)
            share = (blocks - before).reshape(-1, *[1] * (3 - axis))
            near, far = directions.index_select(axis, before), directions.index_select(axis, before + 1)
            directions = near + (far - near) * share
        return directions

    def pictures(self, pictures: Float[Tensor, "n h w channels"]) -> Float[Tensor, "n coarser_h coarser_w channels"]:
        """The part in the cells' pixels, averaged."""
        part = pictures[:, self.top : self.top + self.height, self.left : self.left + self.width].permute(0, 3, 1, 2)
        size = (self.rows * self.stride, self.columns * self.stride)
        return functional.interpolate(part, size, mode="bilinear", antialias=True).permute(0, 2, 3, 1)

    def mask(self, mask: Float[Tensor, "n h w"]) -> Float[Tensor, "n coarser_h coarser_w"]:
        """1 where nothing that the mask hides is part of a coarser pixel."""
        return (self.pictures(mask[..., None])[..., 0] > VISIBLE).to(mask)
