"""From a camera to the pieces of its rays, in operations that all phone runtimes share."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mobiler2l_ns.geometry.encoding import SHORTEST_CHORD
from mobiler2l_ns.geometry.picture import PictureGeometry
from mobiler2l_ns.student.renderer import Student


class RayGraph(nn.Module):
    """Rays through the centres of square blocks of a view's pixels; equal to ``Student.chords`` of such rays.

    Args:
        student: whose scene they cross.
        view: what they look at.
        rays: of each low-resolution ray's cell, each way.
    """

    u: Tensor
    v: Tensor
    centre: Tensor
    radius: Tensor

    def __init__(self, student: Student, view: PictureGeometry, rays: int = 1) -> None:
        super().__init__()
        self.rows, self.columns = (count * rays for count in view.grid)
        self.in_sphere = student.in_sphere()
        size = student.config.stride / rays
        u, v = ((torch.arange(count) + 0.5) * size for count in (self.columns, self.rows))
        # A row and a column, not a value for each ray, which would take up more than the network.
        self.register_buffer("u", u.reshape(1, 1, 1, -1))
        self.register_buffer("v", v.reshape(1, 1, -1, 1))
        self.register_buffer("centre", student.capture.scene_centre.detach().cpu().reshape(1, 3, 1))
        self.register_buffer("radius", student.capture.scene_radius.detach().cpu().reshape(1, 1, 1))

    def forward(
        self, camera_to_world: Float[Tensor, "1 3 4"], intrinsics: Float[Tensor, "1 4"]
    ) -> tuple[Float[Tensor, "1 3 #rays"], Float[Tensor, "1 3 rays"]]:
        """``start`` and ``along`` of each ray, row after row."""
        fx, fy, cx, cy = intrinsics.reshape(1, 4, 1, 1).split(1, dim=1)
        x, y = (self.u - cx) / fx, (cy - self.v) / fy
        right, up, backward, centre = camera_to_world.reshape(1, 3, 1, 4).split(1, dim=3)
        directions = (right * x + (up * y - backward)).reshape(1, 3, self.rows * self.columns)
        origin = centre.reshape(1, 3, 1)
        if not self.in_sphere:
            return origin, directions
        start, along = (origin - self.centre) / self.radius, directions / self.radius
        squared = (along * along).sum(dim=1, keepdim=True)
        nearest = start - ((start * along).sum(dim=1, keepdim=True) / squared) * along
        inside = (1.0 - (nearest * nearest).sum(dim=1, keepdim=True)).clamp(min=SHORTEST_CHORD**2)
        return nearest, along * (inside / squared).sqrt()

    def depth(
        self,
        camera_to_world: Float[Tensor, "1 3 4"],
        intrinsics: Float[Tensor, "1 4"],
        place: Float[Tensor, "1 1 rays"],
    ) -> Float[Tensor, "1 1 rays"]:
        """Depths along the optical axis, in scene units, of places on the rays."""
        if not self.in_sphere:
            return place
        start, along = self(camera_to_world, intrinsics)
        _, _, backward, origin = camera_to_world.reshape(1, 3, 1, 4).split(1, dim=3)
        offset = (start + place * along) * self.radius + self.centre - origin.reshape(1, 3, 1)
        return -(offset * backward.reshape(1, 3, 1)).sum(dim=1, keepdim=True)
