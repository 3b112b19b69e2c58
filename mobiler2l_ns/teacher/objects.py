"""Captures of one object without surroundings: where it lies, and the settings that nerfacto takes for it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.models.nerfacto import NerfactoModelConfig
from torch import Tensor

from mobiler2l_ns.capture.background import BackgroundColour
from mobiler2l_ns.capture.pose_samplers import look_at_point

FITS = 2.0
"""A dataparser's own box stays if it is no more than this much larger or smaller than what the cameras see."""


def shows_an_object(dataparser: DataParserConfig) -> bool:
    """Whether a capture is of a synthetic object, bounded and without surroundings: Blender data."""
    return isinstance(dataparser, BlenderDataParserConfig)


@dataclass(frozen=True)
class ObjectBounds:
    """Where an object lies that all cameras look at, in the world frame of the run."""

    near: float = 2.0
    """Distance before which no camera sees anything."""
    far: float = 6.0
    """Distance behind which none does."""
    centre: Float[Tensor, "3"] | None = None
    """What the cameras look at; None: not known, and the dataparser's own box is taken."""
    half_side: float = 1.5
    """Of the cube about it that the cameras see. The defaults are those of NeRF's Blender scenes."""

    @classmethod
    def seen_by(cls, cameras: Cameras) -> ObjectBounds | None:
        """From half as far away as the point the cameras look at to as far behind it, as nerfstudio's benchmark has it
        for NeRF's Blender scenes (2 and 6 for cameras 4 away), and sideways as far as their pictures reach.

        Returns:
            None if there is no one point that lies before all cameras.
        """
        poses = cameras.camera_to_worlds.detach().cpu().float()
        centre = look_at_point(poses)
        offset = centre - poses[:, :, 3]
        distance = offset.norm(dim=-1)
        ahead = (offset * -poses[:, :, 2]).sum(-1)
        if not bool((ahead > 0.5 * distance).all()) or float(distance.min()) < 0.05 * float(distance.max()):
            return None
        half_field = torch.maximum(cameras.width / cameras.fx, cameras.height / cameras.fy).reshape(-1).cpu() / 2
        reach = float((distance * half_field).max())
        half_way = float(distance.min()) / 2
        return cls(half_way, float(distance.max()) + half_way, centre, reach)

    def box(self, own: SceneBox) -> SceneBox:
        """The box that the teacher keeps its scene in.

        Args:
            own: the dataparser's, which stays unless it is of another scale than what the cameras see.
        """
        sides = own.aabb[1] - own.aabb[0]
        ratio = float(sides.max()) / (2 * self.half_side)
        if self.centre is None or 1 / FITS <= ratio <= FITS:
            return own
        return SceneBox(aabb=torch.stack([self.centre - self.half_side, self.centre + self.half_side]))


def for_objects(
    config: NerfactoModelConfig,
    background_color: BackgroundColour = "white",
    bounds: ObjectBounds = ObjectBounds(),  # noqa: B008  it is frozen
) -> NerfactoModelConfig:
    """nerfacto's settings for synthetic objects: those of nerfstudio's own Blender benchmark, where the background is
    white. What is set to something else than nerfacto's own default was asked for, and stays."""
    settings: dict[str, Any] = {
        "background_color": background_color,
        "near_plane": bounds.near,
        "far_plane": bounds.far,
        "proposal_initial_sampler": "uniform",
        "distortion_loss_mult": 0.0,
        "disable_scene_contraction": True,
        "use_average_appearance_embedding": False,
        "camera_optimizer": CameraOptimizerConfig(mode="off"),
    }
    default = NerfactoModelConfig()
    untouched = {field.name for field in fields(default) if getattr(config, field.name) == getattr(default, field.name)}
    return replace(config, **{name: value for name, value in settings.items() if name in untouched})
