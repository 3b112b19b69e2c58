"""Where pseudo views are taken from, as frustums beside those of the photos."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor
from viser import CameraFrustumHandle, ViserServer

from mobiler2l_ns.data.student_view import StudentView
from mobiler2l_ns.panel.viewer_frame import ViewerPose

FOLDER = "/pseudo_cameras"
COLOUR = (255, 128, 0)


class PseudoCameras:
    """Frustums in the viewer's scene; those of the photos are nerfstudio's own.

    Args:
        server: of the viewer.
        view: geometry of the pseudo views.
        scale: size of a frustum in the viewer's scene.
        visible: whether they are seen from the start.
    """

    def __init__(self, server: ViserServer, view: StudentView, scale: float, visible: bool) -> None:
        self._server = server
        self._fov = 2.0 * math.atan(view.height / 2.0 / view.fy)
        self._aspect = view.width / view.height
        self._scale = scale
        self._folder = server.scene.add_frame(FOLDER, show_axes=False, visible=visible)
        self._frustums: list[CameraFrustumHandle] = []

    def set_visible(self, visible: bool) -> None:
        """Show or hide all of them."""
        self._folder.visible = visible

    def place(self, poses: Float[Tensor, "n 3 4"]) -> None:
        """One frustum for each pose, in the world of the run; others go."""
        for index, pose in enumerate(map(ViewerPose.of, poses)):
            if index < len(self._frustums):
                self._frustums[index].position = pose.position
                self._frustums[index].wxyz = pose.wxyz
            else:
                name = f"{FOLDER}/{index:03d}"
                frustum = self._server.scene.add_camera_frustum(
                    name, self._fov, self._aspect, self._scale, COLOUR, wxyz=pose.wxyz, position=pose.position
                )
                self._frustums.append(frustum)
        while len(self._frustums) > len(poses):
            self._frustums.pop().remove()
