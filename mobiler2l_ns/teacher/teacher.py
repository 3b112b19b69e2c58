"""The teacher: a nerfacto trained in this run, or the model of any existing nerfstudio run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig, DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.model_components import renderers
from nerfstudio.models.base_model import Model
from nerfstudio.models.nerfacto import NerfactoModelConfig
from torch import Tensor

from mobiler2l_ns.capture.photos import over_background
from mobiler2l_ns.errors import UserError
from mobiler2l_ns.metrics import LazyLPIPS, psnr
from mobiler2l_ns.saved_run import latest_checkpoint, read_run_config


@contextmanager
def lazy_lpips() -> Iterator[None]:
    """Let nerfstudio models be built without a network: their LPIPS fetches its weights when first called."""
    import torchmetrics.image
    import torchmetrics.image.lpip as lpip

    real = lpip.LearnedPerceptualImagePatchSimilarity
    modules = [module for module in (lpip, torchmetrics.image) if hasattr(module, real.__name__)]
    for module in modules:
        setattr(module, real.__name__, LazyLPIPS)
    try:
        yield
    finally:
        for module in modules:
            setattr(module, real.__name__, real)


def for_objects(
    config: NerfactoModelConfig, background_color: Literal["white", "black"] = "white"
) -> NerfactoModelConfig:
    """nerfacto's settings for synthetic objects: those of nerfstudio's own Blender benchmark, where the background is
    white."""
    return replace(
        config,
        background_color=background_color,
        near_plane=2.0,
        far_plane=6.0,
        proposal_initial_sampler="uniform",
        distortion_loss_mult=0.0,
        disable_scene_contraction=True,
        use_average_appearance_embedding=False,
        camera_optimizer=CameraOptimizerConfig(mode="off"),
    )


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


def render_like_photo(teacher: Model, camera: Cameras, background: Float[Tensor, "3"]) -> dict[str, Tensor]:
    """Picture of a teacher to stand beside photos that are laid over ``background``, see ``render_teacher``.

    A teacher that was trained over random colours is laid over the photos' one; any other shows the colour it learned.
    """
    anywhere = getattr(getattr(teacher, "config", None), "background_color", None) == "random"
    return render_teacher(teacher, camera, background if anywhere else None)


def render_pseudo_view(teacher: Model, camera: Cameras, background: Float[Tensor, "3"] | None) -> dict[str, Tensor]:
    """Picture of a teacher for the student to learn.

    Args:
        teacher, camera: as for ``render_teacher``.
        background: what photos are laid over; None keeps RGBA.

    Returns:
        The teacher's outputs and ``picture``: RGB as ``render_like_photo`` gives it, or premultiplied RGBA.

    Raises:
        UserError: if RGBA is asked of a teacher that does not know its accumulation.
    """
    if background is not None:
        outputs = render_like_photo(teacher, camera, background)
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


# An existing run


def adopted_dataparser(teacher: TrainerConfig, data: Path | None) -> DataParserConfig:
    """The dataparser of a teacher's run, which fixes its world frame, pointed at ``data`` if given.

    Raises:
        UserError: if the run was not trained from a dataparser.
    """
    dataparser = deepcopy(getattr(teacher.pipeline.datamanager, "dataparser", None))
    if not isinstance(dataparser, DataParserConfig):
        raise UserError(f"The teacher ({teacher.method_name}) has no dataparser: its world frame cannot be taken over")
    recorded = teacher.pipeline.datamanager.data or getattr(dataparser, "data", None) or teacher.data
    dataparser.data = Path(data or recorded or ".").resolve()  # type: ignore[attr-defined]
    return dataparser


def learned_background(teacher: TrainerConfig) -> Literal["white", "black"] | None:
    """The colour that the model of a run has learned to show where its photos are transparent; None: whatever it is
    laid over, or not known."""
    colour = getattr(teacher.pipeline.model, "background_color", None)
    # nerfstudio lays photos over black for a model whose background is the last sample of each ray.
    return {"white": "white", "black": "black", "last_sample": "black"}.get(str(colour))  # type: ignore[return-value]


@dataclass
class LoadedTeacher:
    """The model of an existing run, and the frame it lives in."""

    model: Model
    outputs: DataparserOutputs
    """Training cameras of that run, as its data is parsed today."""
    recorded_frame: dict[str, Any] | None
    """``dataparser_transforms.json`` of the run: the frame it was trained in."""


def load_teacher(config_path: Path, data: Path | None, device: torch.device | str) -> LoadedTeacher:
    """Load the model of an existing run of any method, without its photos.

    Args:
        config_path: its config.yml.
        data: the capture; the run's own folder if None, or if the run's own folder still exists.
        device: where to put the model.

    Raises:
        UserError: if the run, its checkpoint or its capture cannot be loaded.
    """
    config = read_run_config(config_path)
    checkpoint = latest_checkpoint(config)
    own = getattr(adopted_dataparser(config, None), "data", None)
    if own is None or not Path(own).exists():
        config.pipeline.datamanager.data = data
    try:
        with lazy_lpips():
            pipeline = config.pipeline.setup(device=device, test_mode="inference")
        state = torch.load(checkpoint, map_location="cpu")
        pipeline.load_pipeline(state["pipeline"], state["step"])
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"The teacher's run {config_path} cannot be loaded: {reason}") from error
    transforms = config_path.parent / "dataparser_transforms.json"
    recorded = json.loads(transforms.read_text()) if transforms.exists() else None
    model = pipeline.model
    if find := getattr(model, "find_teacher", None):
        # A run of this plugin's shows its student, which knows no depth: its own teacher is taken.
        model = find()
        if model is None:
            raise UserError(f"{config_path} is a student without its teacher: give the run that taught it")
    model = model.eval().requires_grad_(False)
    return LoadedTeacher(model, pipeline.datamanager.train_dataparser_outputs, recorded)


def check_teacher(teacher: LoadedTeacher, dataset: InputDataset, background: Float[Tensor, "3"]) -> None:
    """Refuse a teacher that does not show this capture in this frame.

    Compared are the recorded frame, the cameras of photos of the same name, and three pictures: a teacher must be
    nearer to the photos, laid over ``background``, than their own mean colour is.

    Raises:
        UserError: with what does not match.
    """
    ours = dataset._dataparser_outputs
    if teacher.recorded_frame is not None:
        transform = torch.tensor(teacher.recorded_frame["transform"])
        scale = float(teacher.recorded_frame["scale"])
        if not torch.allclose(transform, ours.dataparser_transform.cpu().float(), atol=1e-3) or (
            abs(scale / ours.dataparser_scale - 1) > 1e-3
        ):
            raise UserError(
                "The teacher's world frame is not this capture's: its poses were normalised differently. "
                "Give --data the folder the teacher was trained on, unchanged"
            )
    poses = {path.name: pose for path, pose in zip(ours.image_filenames, ours.cameras.camera_to_worlds, strict=True)}
    theirs = zip(teacher.outputs.image_filenames, teacher.outputs.cameras.camera_to_worlds, strict=True)
    pairs = [(poses[path.name], pose) for path, pose in theirs if path.name in poses]
    if not pairs or any(not torch.allclose(a, b, atol=1e-3) for a, b in pairs):
        raise UserError(
            "The teacher was trained on another capture: its photos' names or poses are not those of --data"
        )
    to_photo, to_grey = [], []
    for index in torch.linspace(0, len(dataset) - 1, 3).long().tolist():
        camera = deepcopy(dataset.cameras[index : index + 1])
        camera.rescale_output_resolution(min(1.0, 64 / int(camera.width.max())))
        rgb = render_like_photo(teacher.model, camera, background)["rgb"].cpu()
        photo = over_background(dataset.get_data(index)["image"], background)
        chw = torch.nn.functional.interpolate(photo.permute(2, 0, 1)[None], rgb.shape[:2], mode="area")
        photo = chw[0].permute(1, 2, 0)
        to_photo.append(psnr(rgb, photo))
        to_grey.append(psnr(photo.mean((0, 1)).expand_as(photo), photo))
    seen, grey = float(torch.stack(to_photo).mean()), float(torch.stack(to_grey).mean())
    if seen < grey:
        raise UserError(
            f"The teacher's pictures are not this capture's photos ({seen:.1f} dB; their mean colour gives "
            f"{grey:.1f} dB): give --data the folder the teacher was trained on"
        )
