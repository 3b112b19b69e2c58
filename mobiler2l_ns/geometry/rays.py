"""Low-resolution rays: one ray through the centre of each S x S block of output pixels (paper §3.2).

Cameras are nerfstudio's: camera-to-world 3x4, OpenGL axes (x right, y up, looking along -z). Directions have length 1
along the optical axis, so that a depth along them is a z-depth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor


class LowResRays(NamedTuple):
    """A batch of grids of low-resolution rays in the world frame, one ray a block of pixels."""

    origins: Float[Tensor, "n #h #w 3"]
    """Camera centres."""
    directions: Float[Tensor, "n h w 3"]
    """Of length 1 along each camera's optical axis."""

    @property
    def count(self) -> int:
        """Rays in the batch."""
        return self.directions[..., 0].numel()

    @classmethod
    def join(cls, parts: Sequence[LowResRays]) -> LowResRays:
        """Batches one after the other."""
        return cls(*(torch.cat(each) for each in zip(*parts, strict=True)))


def grid_size(height: int, width: int, stride: int) -> tuple[int, int]:
    """Rows and columns of blocks that cover a picture; sizes that the stride does not divide are rounded up."""
    return math.ceil(height / stride), math.ceil(width / stride)


def pinhole_rays(
    camera_to_worlds: Float[Tensor, "n 3 4"],
    intrinsics: tuple[float, float, float, float] | Float[Tensor, "n 4"],
    rows: int,
    columns: int,
    stride: int,
) -> LowResRays:
    """Low-resolution rays of undistorted cameras, computed on the poses' device.

    Args:
        camera_to_worlds: poses.
        intrinsics: fx, fy, cx, cy in output pixels, shared (plain numbers, so nothing is copied to a GPU) or
            one row a camera.
        rows, columns: size of the low-resolution grid.
        stride: output pixels per ray and side.
    """
    if isinstance(intrinsics, Tensor):
        fx, fy, cx, cy = intrinsics.to(camera_to_worlds).T[..., None].unbind()
    else:
        fx, fy, cx, cy = intrinsics
    u = (torch.arange(columns, device=camera_to_worlds.device) + 0.5) * stride
    v = (torch.arange(rows, device=camera_to_worlds.device) + 0.5) * stride
    x = ((u - cx) / fx).reshape(-1, 1, columns, 1)
    y = ((v - cy) / fy).reshape(-1, rows, 1, 1)
    right, up, back, centre = (column[:, None, None, :] for column in camera_to_worlds.unbind(-1))
    return LowResRays(centre, x * right - y * up - back)


def is_perspective(cameras: Cameras) -> bool:
    """Whether all cameras are perspective ones: not fisheye, equirectangular, orthographic or stereo."""
    return bool((cameras.camera_type == CameraType.PERSPECTIVE.value).all())


def is_distorted(cameras: Cameras) -> bool:
    """Whether any camera has a lens distortion that is not zero."""
    return cameras.distortion_params is not None and bool((cameras.distortion_params != 0).any())


def low_res_cameras(cameras: Cameras, stride: int) -> Cameras:
    """Copies of the cameras whose pixels are the blocks; what S does not divide is rounded up.

    Raises:
        ValueError: for cameras that are not perspective: the student's blocks are cells of a plane.
    """
    if not is_perspective(cameras):
        raise ValueError(
            "mobiler2l renders perspective cameras only (no fisheye, equirectangular or orthographic ones)"
        )
    sizes = [torch.div(size + stride - 1, stride, rounding_mode="floor") for size in (cameras.height, cameras.width)]
    return Cameras(
        camera_to_worlds=cameras.camera_to_worlds,
        fx=cameras.fx / stride,
        fy=cameras.fy / stride,
        cx=cameras.cx / stride,
        cy=cameras.cy / stride,
        height=sizes[0],
        width=sizes[1],
        distortion_params=cameras.distortion_params,
        camera_type=cameras.camera_type,
    )


def camera_rays(cameras: Cameras, stride: int) -> LowResRays:
    """Low-resolution rays of cameras of one size, lens distortion included.

    A distorted photo keeps its pixels: the ray goes through the undistorted place of its block's centre (nerfstudio's
    own solver). Over a block the distortion is an affine map to well below a pixel, so resampling the photo, which
    would blur it and leave empty corners, is not needed.

    Raises:
        ValueError: for cameras that are not perspective.
    """
    blocks = low_res_cameras(cameras, stride)
    rows, columns = int(blocks.height.flatten()[0]), int(blocks.width.flatten()[0])
    if not is_distorted(cameras):
        intrinsics = torch.cat([cameras.fx, cameras.fy, cameras.cx, cameras.cy], dim=-1)
        return pinhole_rays(cameras.camera_to_worlds, intrinsics, rows, columns, stride)
    directions = []
    for index in range(len(blocks)):
        bundle = blocks.generate_rays(camera_indices=index, keep_shape=True)
        directions.append(bundle.directions * bundle.metadata["directions_norm"])
    return LowResRays(cameras.camera_to_worlds[:, None, None, :, 3], torch.stack(directions))
