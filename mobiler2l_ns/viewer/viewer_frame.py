"""Poses of a run in the viewer's scene, which is nerfstudio's world made larger."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import viser.transforms as vtf
from jaxtyping import Float
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO
from numpy.typing import NDArray
from torch import Tensor


@dataclass
class ViewerPose:
    """A camera in the viewer's scene: OpenCV axes."""

    position: NDArray[np.float64]
    wxyz: NDArray[np.float64]

    @classmethod
    def of(cls, pose: Float[Tensor, "3 4"]) -> ViewerPose:
        """From a camera-to-world matrix with OpenGL axes in the world of the run."""
        matrix = pose.detach().cpu().double().numpy()
        rotation = vtf.SO3.from_matrix(matrix[:, :3]) @ vtf.SO3.from_x_radians(np.pi)
        return cls(viewer_point(pose[:, 3]), rotation.wxyz)


def viewer_point(point: Float[Tensor, "*any"]) -> NDArray[np.float64]:
    """A point, or a length, of the run's world in the viewer's scene."""
    return point.detach().cpu().double().numpy() * VISER_NERFSTUDIO_SCALE_RATIO
