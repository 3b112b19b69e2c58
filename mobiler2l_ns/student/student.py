"""The student as a renderer: any perspective camera in, picture out."""

from __future__ import annotations

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor, nn
from torch.nn import functional

from mobiler2l_ns.data.low_res_rays import camera_rays
from mobiler2l_ns.student.capture import Capture
from mobiler2l_ns.student.encoding import contract, encode, jitter_depths, points_on_rays, sample_depths
from mobiler2l_ns.student.network import StudentConfig, StudentNetwork

MAX_PIXELS = 1 << 22
"""Most pixels of one forward pass; cameras that would need more (very wide views) are rendered coarser."""


class Student(nn.Module):
    """The network with the geometry of its capture.

    A student knows cells of one angular size: the S x S block of its training cameras. Another focal length is
    therefore rendered at the training focal and resized (see ``render``).
    """

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        self.capture = Capture()
        self.network = StudentNetwork(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def is_contracted(self) -> bool:
        """Whether sampled points go through the scene contraction."""
        return self.config.contraction == "on" or (
            self.config.contraction == "auto" and bool(self.capture.unbounded.item())
        )

    def depths(self) -> Float[Tensor, "k"]:
        """z-depths of the sampled points."""
        near, far = self.capture.depth_range
        spacing = self.config.depth_spacing
        if spacing == "auto":
            spacing = "disparity" if self.is_contracted() else "linear"
        return sample_depths(near, far, self.config.num_points, spacing)

    def encode_rays(
        self, origins: Float[Tensor, "n #h #w 3"], directions: Float[Tensor, "n h w 3"]
    ) -> Float[Tensor, "n channels h w"]:
        """The network's input for low-resolution rays, channels_last in memory; depths are jittered in training."""
        depths = self.depths()
        if self.training:
            views, height, width, _ = directions.shape
            depths = jitter_depths(depths, views, height, width, self.config.jitter)
        points = points_on_rays(origins, directions, depths)
        if self.is_contracted():
            points = contract(points)
        return encode(points.flatten(-2), self.config.num_frequencies).permute(0, 3, 1, 2)

    def forward(
        self, origins: Float[Tensor, "n #h #w 3"], directions: Float[Tensor, "n h w 3"]
    ) -> Float[Tensor, "n 3 sh sw"]:
        """Pictures (RGB, 0..1) of low-resolution rays whose directions have length 1 along the optical axis."""
        # The encoding's sines need all of float32; only the network may run in half precision.
        with torch.autocast(directions.device.type, enabled=False):
            encoded = self.encode_rays(origins.float(), directions.float())
        with torch.autocast(directions.device.type, dtype=torch.bfloat16, enabled=encoded.is_cuda):
            return self.network(encoded).float()

    def render(self, camera: Cameras) -> Float[Tensor, "h w 3"]:
        """Picture of one camera of any size, focal length, principal point and lens distortion.

        The camera is brought to the training focal length (rounded so that its pixels are whole), rendered with one
        block of margin on each side, cropped and resized with antialiasing. A camera at the training focal is only
        cropped, which is also what an exported package computes.

        Args:
            camera: one camera, shape (1,); it is not changed.

        Raises:
            ValueError: if the camera is not a perspective camera.
        """
        device = self.capture.intrinsics.device
        camera = camera.to(device)
        height, width = int(camera.height.flatten()[0]), int(camera.width.flatten()[0])
        fx, fy = float(camera.fx.flatten()[0]), float(camera.fy.flatten()[0])
        train_fx, train_fy = self.capture.intrinsics[:2].tolist()
        columns, rows = width * train_fx / fx, height * train_fy / fy
        shrink = min(1.0, (MAX_PIXELS / (columns * rows)) ** 0.5)
        columns, rows = max(1, round(columns * shrink)), max(1, round(rows * shrink))
        resized = (rows, columns) != (height, width)
        margin = self.config.stride if resized else 0
        view = Cameras(
            camera_to_worlds=camera.camera_to_worlds.reshape(1, 3, 4),
            fx=camera.fx.reshape(1, 1) * (columns / width),
            fy=camera.fy.reshape(1, 1) * (rows / height),
            cx=camera.cx.reshape(1, 1) * (columns / width) + margin,
            cy=camera.cy.reshape(1, 1) * (rows / height) + margin,
            width=columns + 2 * margin,
            height=rows + 2 * margin,
            distortion_params=None if camera.distortion_params is None else camera.distortion_params.reshape(1, -1),
            camera_type=camera.camera_type.reshape(1, 1),
        ).to(device)
        picture = self(*camera_rays(view, self.config.stride))
        picture = picture[..., margin : margin + rows, margin : margin + columns]
        if resized:
            picture = functional.interpolate(picture, (height, width), mode="bilinear", antialias=True).clamp(0.0, 1.0)
        return picture[0].permute(1, 2, 0)

    def training_camera(self, pose: Float[Tensor, "3 4"]) -> Cameras:
        """The capture's own camera at a pose: student size, intrinsics, no distortion."""
        height, width = self.capture.size()
        fx, fy, cx, cy = self.capture.intrinsics.tolist()
        return Cameras(pose[None].to(self.capture.intrinsics), fx, fy, cx, cy, width=width, height=height)
