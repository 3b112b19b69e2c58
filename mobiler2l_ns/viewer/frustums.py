"""Cameras of a run as frustums in the viewer's scene."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor
from viser import CameraFrustumHandle, ViserServer

from mobiler2l_ns.geometry.picture import PictureGeometry
from mobiler2l_ns.viewer.viewer_frame import ViewerPose


class Frustums:
    """Cameras of one kind.

    Args:
        server: of the viewer.
        folder: name in the scene's tree, beginning with a slash.
        colour: of the lines, red, green and blue in 0..255.
        view: geometry of the cameras' pictures.
        scale: size of a frustum in the viewer's scene.
        visible: whether they are seen from the start.
    """

    def __init__(
        self,
        server: ViserServer,
        folder: str,
        colour: tuple[int, int, int],
        view: PictureGeometry,
        scale: float,
        visible: bool,
    ) -> None:
        self._server = server
        self._folder = folder
        self._colour = colour
        self._fov = 2.0 * math.atan(view.height / 2.0 / view.fy)
        self._aspect = view.width / view.height
        self._scale = scale
        self._root = server.scene.add_frame(folder, show_axes=False, visible=visible)
        self.handles: list[CameraFrustumHandle] = []

    @property
    def visible(self) -> bool:
        """Whether they are seen."""
        return self._root.visible

    @visible.setter
    def visible(self, visible: bool) -> None:
        self._root.visible = visible

    def place(self, poses: Float[Tensor, "n 3 4"]) -> None:
        """One frustum for each camera-to-world matrix of the run; others go."""
        for index, pose in enumerate(map(ViewerPose.of, poses)):
            if index < len(self.handles):
                self.handles[index].position = pose.position
                self.handles[index].wxyz = pose.wxyz
                continue
            self.handles.append(
                self._server.scene.add_camera_frustum(
                    f"{self._folder}/{index:03d}",
                    self._fov,
                    self._aspect,
                    self._scale,
                    self._colour,
                    wxyz=pose.wxyz,
                    position=pose.position,
                )
            )
        while len(self.handles) > len(poses):
            self.handles.pop().remove()
