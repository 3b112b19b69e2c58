"""Splats behind nerfstudio's Model interface, rendered by gsplat on CUDA and by the reference elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any, Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox, SceneBox
from nerfstudio.model_components import renderers
from nerfstudio.models.base_model import Model, ModelConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from mobiler2l_ns.metrics import LazyLPIPS, image_metrics
from mobiler2l_ns.teacher import splat_reference
from mobiler2l_ns.teacher.splat_cloud import SplatCloud

NO_DEPTH = 10.0
"""Depth of a picture of nothing, as splatfacto gives it."""


@dataclass
class SplatTeacherConfig(ModelConfig):
    """How splats are shown."""

    _target: type = field(default_factory=lambda: SplatTeacher)
    """Target class to instantiate."""
    enable_collider: bool = False
    """Unused: splats are not sampled along rays."""
    background_color: Literal["random", "white", "black"] = "random"
    """What they were trained over, and are shown over; random: what they are shown over is up to others, or black."""
    antialiased: bool = False
    """Whether they were trained with their dilation made up for, nerfstudio's ``rasterize_mode``."""


class SplatTeacher(Model):
    """Splats behind nerfstudio's interface. They are not trained here; cameras of all kinds are taken as pinholes.

    Args:
        cloud: the splats, in nerfstudio's frame.
        config: how they are shown.
        scene_box: of the capture.
    """

    config: SplatTeacherConfig

    def __init__(self, cloud: SplatCloud, config: SplatTeacherConfig, scene_box: SceneBox) -> None:
        super().__init__(config, scene_box=scene_box, num_train_data=0)
        for name in ("means", "quaternions", "scales", "opacities", "sh"):
            self.register_buffer(name, getattr(cloud, name))

    @property
    def cloud(self) -> SplatCloud:
        """The splats, on this model's device."""
        return SplatCloud(self.means, self.quaternions, self.scales, self.opacities, self.sh)  # type: ignore[arg-type]

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        """Picture of one camera.

        Args:
            camera: shape (1,).
            obb_box: only splats whose centres lie in it are shown.

        Returns:
            ``rgb`` and the ``background`` it is laid over (H, W, 3) in 0..1, ``accumulation`` (H, W, 1), and ``depth``
            (H, W, 1) along the optical axis in scene units, the farthest one where nothing is.
        """
        camera = camera.to(self.device)
        cloud = self.cloud
        if obb_box is not None:
            cloud = cloud.part(obb_box.within(cloud.means))
        pose = camera.camera_to_worlds[0]
        render = renderer_for(self.device)
        rgb, depth, accumulation = render(
            cloud,
            world_to_opencv(pose),
            camera.get_intrinsics_matrices()[0],
            int(camera.width[0]),
            int(camera.height[0]),
            self.config.antialiased,
        )
        seen = accumulation > 0
        depth = torch.where(seen, depth, depth.max() if seen.any() else NO_DEPTH)
        background = self._background().to(rgb).expand_as(rgb)
        rgb = (rgb + (1.0 - accumulation) * background).clamp(0.0, 1.0)
        return {"rgb": rgb, "depth": depth, "accumulation": accumulation, "background": background}

    def _background(self) -> Float[Tensor, "3"]:
        override = renderers.BACKGROUND_COLOR_OVERRIDE
        if isinstance(override, Tensor):
            return override
        return torch.full((3,), 1.0 if self.config.background_color == "white" else 0.0)

    def get_outputs(self, ray_bundle: Any) -> dict[str, Tensor]:
        """As for ``get_outputs_for_camera``, whose pictures are all there are."""
        return self.get_outputs_for_camera(ray_bundle)

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """A picture against a photo, which is laid over the picture's background."""
        photo = batch["image"].to(outputs["rgb"])
        if photo.shape[-1] == 4:
            photo = photo[..., :3] * photo[..., 3:] + outputs["background"] * (1.0 - photo[..., 3:])
        metrics = image_metrics(outputs["rgb"], photo, LazyLPIPS())
        return metrics, {"img": torch.cat([photo, outputs["rgb"]], dim=1)}


def world_to_opencv(pose: Float[Tensor, "3 4"]) -> Float[Tensor, "4 4"]:
    """From the world to a camera's x to the right, y down and z ahead; ``pose`` is nerfstudio's, camera to world with y
    up and z back."""
    rotation = (pose[:, :3] * pose.new_tensor([1.0, -1.0, -1.0])).T
    matrix = torch.eye(4, device=pose.device, dtype=pose.dtype)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = -rotation @ pose[:, 3]
    return matrix


def renderer_for(device: torch.device) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """gsplat's renderer on CUDA, ``splat_reference.render`` elsewhere and where gsplat cannot be compiled."""
    if device.type != "cuda":
        return splat_reference.render
    return render_by_gsplat if _gsplat_is_compiled() else splat_reference.render


@cache
def _gsplat_is_compiled() -> bool:
    try:
        # Compiled when it is first imported, which takes minutes.
        if import_module("gsplat.cuda._backend")._C is not None:
            return True
        reason = "there is no CUDA toolkit (nvcc)"
    except Exception as error:  # whatever a compiler that is unfit ends in
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    CONSOLE.print("[yellow]Splats are rendered slowly, gsplat cannot be compiled:", end=" ")
    CONSOLE.print(reason, style="yellow", markup=False)
    return False


@torch.no_grad()
def render_by_gsplat(
    cloud: SplatCloud,
    world_to_camera: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
    width: int,
    height: int,
    antialiased: bool = False,
) -> tuple[Float[Tensor, "height width 3"], Float[Tensor, "height width 1"], Float[Tensor, "height width 1"]]:
    """Picture of splats on CUDA; arguments and results are those of ``splat_reference.render``."""
    from gsplat.rendering import rasterization

    picture, accumulation, _ = rasterization(
        means=cloud.means,
        quats=cloud.quaternions,
        scales=cloud.scales,
        opacities=cloud.opacities,
        colors=cloud.sh,
        viewmats=world_to_camera[None],
        Ks=intrinsics[None],
        width=width,
        height=height,
        near_plane=splat_reference.NEAR,
        eps2d=splat_reference.DILATION,
        sh_degree=cloud.degree,
        packed=False,
        tile_size=splat_reference.TILE,
        render_mode="RGB+ED",
        rasterize_mode="antialiased" if antialiased else "classic",
    )
    return picture[0, ..., :3], picture[0, ..., 3:], accumulation[0]
