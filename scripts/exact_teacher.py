"""A demo scene's own renderer behind nerfstudio's Model interface: a teacher that makes no mistakes."""

from __future__ import annotations

from typing import Any

import torch
from make_demo_scene import SCENES, SceneName, render
from nerfstudio.models.base_model import Model
from torch import Tensor


class ExactTeacher(Model):
    """A demo scene, over white.

    Args:
        name: of the scene.
    """

    def __init__(self, name: SceneName = "still-life") -> None:
        torch.nn.Module.__init__(self)
        self.solids = SCENES[name]
        # In place of weights, by which pools of pseudo views are told apart.
        which = torch.full((1,), float(list(SCENES).index(name)))
        self.device_indicator_param = torch.nn.Parameter(which, requires_grad=False)

    def get_outputs_for_camera(self, camera: Any, obb_box: Any = None) -> dict[str, Tensor]:
        pose = camera.camera_to_worlds.reshape(3, 4)
        width, height, focal = int(camera.width), int(camera.height), float(camera.fx)
        centre = float(camera.cx), float(camera.cy)  # not the picture's: one that is learned is of whole cells
        rgba = render(pose, width, height, focal, 2, self.solids, camera.device, centre)
        rays = camera.reshape(1).generate_rays(camera_indices=0, keep_shape=True)
        towards = rays.directions.reshape(-1, 3).T
        origin = pose[:, 3:].expand_as(towards)
        depth = torch.stack([solid.intersect(origin, towards) for solid in self.solids]).amin(0)
        alpha = rgba[..., 3:]
        return {
            "rgb": rgba[..., :3] * alpha + 1.0 - alpha,
            "accumulation": alpha,
            "depth": depth.nan_to_num(posinf=1000.0).reshape(height, width, 1),
        }
