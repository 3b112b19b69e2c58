"""Low-resolution rays of photos, worked out once, so that a training step asks the host and its cameras for nothing."""

from __future__ import annotations

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from mobiler2l_ns.geometry.picture import PictureGeometry
from mobiler2l_ns.geometry.rays import LowResRays, camera_rays, pinhole_rays


class PhotoRays:
    """The rays of photos of one size, on the device that trains.

    Those of photos without lens distortion are computed when they are asked for. Undistorting takes iterations and
    waits for a GPU, so of photos with it the rays of the whole grid are kept.

    Args:
        camera_to_worlds: of the photos, on the CPU as are the two that follow.
        intrinsics: fx, fy, cx, cy in pixels.
        distortion: nerfstudio's parameters.
        view: whose grid it is.
        device: where rays are asked for.
    """

    def __init__(
        self,
        camera_to_worlds: Float[Tensor, "n 3 4"],
        intrinsics: Float[Tensor, "n 4"],
        distortion: Float[Tensor, "n 6"],
        view: PictureGeometry,
        device: torch.device | str,
    ) -> None:
        self.device, self.view = torch.device(device), view
        self._poses, self._intrinsics = camera_to_worlds.to(device), intrinsics.to(device)
        self._directions: Float[Tensor, "n rows columns 3"] | None = None
        if bool((distortion != 0).any()):
            height, width = view.covered
            fx, fy, cx, cy = intrinsics.split(1, dim=-1)
            cameras = Cameras(camera_to_worlds, fx, fy, cx, cy, width, height, distortion)
            self._directions = camera_rays(cameras, view.stride).directions.to(device)

    def take(self, chosen: list[int], beginning_at: tuple[int, int] | None = None) -> LowResRays:
        """Rays of the chosen photos; of all of each, or of the part that ``PictureGeometry.beginning_at`` says.

        The rays of a part go through other places than those of the whole: between its directions they are linear, as
        exact as in ``finer_directions``.
        """
        poses = torch.stack([self._poses[index] for index in chosen])  # no index has to travel to the device
        down, right = beginning_at or (0, 0)
        part = self.view if beginning_at is None else self.view.beginning_at(down, right)
        if self._directions is None:
            fx, fy, cx, cy = torch.stack([self._intrinsics[index] for index in chosen]).split(1, dim=-1)
            intrinsics = torch.cat([fx, fy, cx - right, cy - down], dim=-1)
            return pinhole_rays(poses, intrinsics, *part.grid, part.stride)
        directions = torch.stack([self._directions[index] for index in chosen])
        if beginning_at is not None:
            for axis, shift in ((1, down), (2, right)):
                before = directions.narrow(axis, 0, directions.shape[axis] - 1)
                directions = torch.lerp(before, directions.narrow(axis, 1, before.shape[axis]), shift / part.stride)
        return LowResRays(poses[:, None, None, :, 3], directions)
