"""Geometry of the student's pictures: size, intrinsics, and the grid of low-resolution rays that covers them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from mobiler2l_ns.geometry.rays import LowResRays, grid_size, pinhole_rays


@dataclass(frozen=True)
class PictureGeometry:
    """Geometry of the student's pictures: nerfstudio intrinsics in pixels, and the blocks that cover them."""

    height: int
    width: int
    fx: float
    fy: float
    cx: float
    cy: float
    stride: int

    @classmethod
    def of(cls, cameras: Cameras, stride: int) -> PictureGeometry:
        """The most common size of the cameras, with the median intrinsics of that size."""
        sizes = torch.cat([cameras.height.reshape(-1, 1), cameras.width.reshape(-1, 1)], dim=1).cpu()
        unique, counts = torch.unique(sizes, dim=0, return_counts=True)
        height, width = unique[counts.argmax()].tolist()
        same = (sizes == torch.tensor([height, width])).all(1)
        fx, fy, cx, cy = (
            float(value.reshape(-1).cpu()[same].median()) for value in (cameras.fx, cameras.fy, cameras.cx, cameras.cy)
        )
        return cls(height, width, fx, fy, cx, cy, stride)

    def at(self, pitch: float) -> PictureGeometry:
        """The same view in fewer pixels, whose rays stand for cells ``pitch`` times as wide."""
        height, width = max(1, round(self.height / pitch)), max(1, round(self.width / pitch))
        across, down = width / self.width, height / self.height
        return PictureGeometry(
            height, width, self.fx * across, self.fy * down, self.cx * across, self.cy * down, self.stride
        )

    def window(self, height: int, width: int) -> PictureGeometry:
        """A picture of another size with the same focal length and middle: it shows less, or more, of the scene."""
        left, top = (self.width - width) / 2, (self.height - height) / 2
        return PictureGeometry(height, width, self.fx, self.fy, self.cx - left, self.cy - top, self.stride)

    def beginning_at(self, down: int, right: int) -> PictureGeometry:
        """The part of what this view covers that begins so many pixels, at most a block, from its corner, one block
        smaller each way. Its rays go through other places than this view's."""
        height, width = (pixels - self.stride for pixels in self.covered)
        return PictureGeometry(height, width, self.fx, self.fy, self.cx - right, self.cy - down, self.stride)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of low-resolution rays."""
        return grid_size(self.height, self.width, self.stride)

    @property
    def covered(self) -> tuple[int, int]:
        """Height and width of what the student renders: whole blocks, at least the picture."""
        rows, columns = self.grid
        return rows * self.stride, columns * self.stride

    @property
    def intrinsics(self) -> tuple[float, float, float, float]:
        """fx, fy, cx, cy in pixels."""
        return self.fx, self.fy, self.cx, self.cy

    def cameras(self, poses: Float[Tensor, "n 3 4"]) -> Cameras:
        """Undistorted cameras at the poses, as large as what the student renders."""
        height, width = self.covered
        return Cameras(poses, self.fx, self.fy, self.cx, self.cy, width=width, height=height)

    def rays(self, poses: Float[Tensor, "n 3 4"]) -> LowResRays:
        """Low-resolution rays of undistorted cameras at the poses, computed on the poses' device."""
        return self.finer_rays(poses, 1)

    def finer_rays(self, poses: Float[Tensor, "n 3 4"], rays: int) -> LowResRays:
        """The same through ``rays`` x ``rays`` parts of each cell; the stride is a multiple of ``rays``."""
        rows, columns = (count * rays for count in self.grid)
        return pinhole_rays(poses, self.intrinsics, rows, columns, self.stride // rays)
