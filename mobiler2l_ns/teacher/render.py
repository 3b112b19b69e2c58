"""Pictures of a teacher of any method."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.model_components import renderers
from nerfstudio.models.base_model import Model
from nerfstudio.models.splatfacto import SplatfactoModel
from torch import Tensor

from mobiler2l_ns.capture.background import Background
from mobiler2l_ns.errors import UserError
from mobiler2l_ns.teacher.splat_teacher import SplatTeacher


def render_teacher(
    teacher: Model, camera: Cameras, background: Float[Tensor, "3"] | None = None, obb_box: OrientedBox | None = None
) -> dict[str, Tensor]:
    """Picture of a teacher in evaluation mode.

    Args:
        teacher: a model of any method.
        camera: one camera, shape (1,), on any device.
        background: colour in 0..1 to lay the picture over; None: as the teacher does.
        obb_box: what the picture is cropped to.

    Returns:
        The teacher's outputs, with ``rgb`` (H, W, 3) in 0..1 and, if it has them, ``accumulation`` and ``depth``
        (H, W, 1), the distance along each pixel's ray in scene units.
    """
    camera = camera.to(teacher.device)
    if background is None:
        override = nullcontext()
    else:
        background = background.to(teacher.device)
        override = renderers.background_color_override_context(background)
    training = teacher.training
    teacher.eval()
    try:
        # Views that are refreshed during training would otherwise be rendered in its half precision.
        with torch.no_grad(), torch.autocast(teacher.device.type, enabled=False), override:
            outputs = teacher.get_outputs_for_camera(camera, obb_box=obb_box)
    finally:
        teacher.train(training)
    for name in ("rgb", "depth", "accumulation"):
        # The coarse-to-fine methods (vanilla-nerf, mipnerf) name their outputs so.
        if name not in outputs and f"{name}_fine" in outputs:
            outputs[name] = outputs[f"{name}_fine"]
    outputs["rgb"] = outputs["rgb"][..., :3].clamp(0.0, 1.0)
    return _as_of_rays(outputs, camera, background) if "background" in outputs else outputs


def _as_of_rays(
    outputs: dict[str, Tensor], camera: Cameras, background: Float[Tensor, "3"] | None
) -> dict[str, Tensor]:
    """Outputs of splatfacto and its kin, the methods that name their ``background``, as the others mean theirs.

    They lay the picture over that colour whatever the renderers are told, and measure depth along the optical axis.
    """
    changed = dict(outputs)
    if background is not None and "accumulation" in outputs:
        difference = (1.0 - outputs["accumulation"]) * (background - outputs["background"])
        changed["rgb"] = (outputs["rgb"] + difference).clamp(0.0, 1.0)
    if "depth" in outputs:
        rays = camera.generate_rays(camera_indices=0, keep_shape=True)
        # A view of nothing may come from another device than the camera's.
        changed["depth"] = outputs["depth"] * rays.metadata["directions_norm"].to(outputs["depth"])
    return changed


def rays_of_teacher(teacher: Model, rays: RayBundle) -> dict[str, Tensor]:
    """A teacher's outputs of a bundle of rays, in training for its losses and otherwise for nerfstudio's exporters.

    Raises:
        UserError: if it is made of splats.
    """
    if isinstance(teacher, SplatfactoModel | SplatTeacher):
        raise UserError(
            "The teacher is made of splats, which are seen by cameras and not along single rays: export it with "
            "ns-export gaussian-splat from its own run, and leave out --render-nearest-camera"
        )
    return teacher(rays)


def render_like_photo(teacher: Model, camera: Cameras, background: Float[Tensor, "3"]) -> dict[str, Tensor]:
    """Picture of a teacher to stand beside photos that are laid over ``background``, see ``render_teacher``.

    A teacher that was trained over random colours is laid over the photos' one; any other shows the colour it learned.
    """
    anywhere = getattr(getattr(teacher, "config", None), "background_color", None) == "random"
    return render_teacher(teacher, camera, background if anywhere else None)


def render_pseudo_view(teacher: Model, camera: Cameras, background: Background) -> dict[str, Tensor]:
    """Picture of a teacher for the student to learn.

    Args:
        teacher, camera: as for ``render_teacher``.
        background: of the capture's transparent photos.

    Returns:
        The teacher's outputs and ``picture``: RGB as ``render_like_photo`` gives it, or premultiplied RGBA.

    Raises:
        UserError: if RGBA is asked of a teacher that does not know its accumulation.
    """
    if not background.alpha:
        outputs = render_like_photo(teacher, camera, background.rgb)
        return {**outputs, "picture": outputs["rgb"]}
    outputs = render_teacher(teacher, camera, torch.zeros(3))
    if "accumulation" not in outputs:
        raise UserError("This teacher gives no accumulation: a student with alpha cannot be distilled from it")
    accumulation = outputs["accumulation"].clamp(0.0, 1.0)
    return {**outputs, "picture": torch.cat([outputs["rgb"].minimum(accumulation), accumulation], dim=-1)}


def fingerprint(teacher: Model) -> str:
    """Digest of a teacher's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(teacher.state_dict().items()):
        digest.update(name.encode())
        # A single value out of a wider tensor counts as contiguous whatever its stride is: a copy has stride 1.
        flat = value.detach().cpu().reshape(-1).clone(memory_format=torch.contiguous_format)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
