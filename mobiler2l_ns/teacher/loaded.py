"""A teacher from elsewhere: the model of any existing nerfstudio run."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig, DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.base_model import Model

from mobiler2l_ns.capture.background import Background, BackgroundColour
from mobiler2l_ns.errors import UserError
from mobiler2l_ns.metrics import psnr
from mobiler2l_ns.saved_run import SavedRun
from mobiler2l_ns.teacher.corrections import same_photos
from mobiler2l_ns.teacher.nerfacto import lazy_lpips
from mobiler2l_ns.teacher.objects import shows_an_object
from mobiler2l_ns.teacher.render import render_like_photo


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


def learned_background(teacher: TrainerConfig) -> BackgroundColour | None:
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

    def is_bounded(self, dataparser: DataParserConfig) -> bool:
        """Whether it knows a bounded scene only; where its method does not say, a capture of an object is one."""
        bounded = getattr(self.model.config, "disable_scene_contraction", None)
        return shows_an_object(dataparser) if bounded is None else bool(bounded)


def load_teacher(config_path: Path, data: Path | None, device: torch.device | str) -> LoadedTeacher:
    """Load the model of an existing run of any method, without its photos.

    Args:
        config_path: its config.yml.
        data: the capture; the run's own folder if None, or if the run's own folder still exists.
        device: where to put the model.

    Raises:
        UserError: if the run, its checkpoint or its capture cannot be loaded.
    """
    run = SavedRun.open(config_path)
    run.checkpoint  # noqa: B018  its absence is told as such
    own = getattr(adopted_dataparser(run.config, None), "data", None)
    if own is None or not Path(own).exists():
        run.config.pipeline.datamanager.data = data
    try:
        with lazy_lpips():
            pipeline = run.pipeline(device, "inference")
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


def likeness(teacher: Model, dataset: InputDataset, background: Background) -> tuple[float, float]:
    """How near three small pictures of a teacher are to the photos, and how near the photos' mean colour is, in dB."""
    to_photo, to_grey = [], []
    for index in torch.linspace(0, len(dataset) - 1, 3).long().tolist():
        camera = deepcopy(dataset.cameras[index : index + 1])
        camera.rescale_output_resolution(min(1.0, 64 / int(camera.width.max())))
        rgb = render_like_photo(teacher, camera, background.rgb)["rgb"].cpu()
        photo = background.shown(dataset.get_data(index)["image"]).permute(2, 0, 1)[None]
        photo = torch.nn.functional.interpolate(photo, rgb.shape[:2], mode="area")[0].permute(1, 2, 0)
        to_photo.append(psnr(rgb, photo))
        to_grey.append(psnr(photo.mean((0, 1)).expand_as(photo), photo))
    return float(torch.stack(to_photo).mean()), float(torch.stack(to_grey).mean())


def check_teacher(teacher: LoadedTeacher, dataset: InputDataset, background: Background) -> None:
    """Refuse a teacher that does not show this capture in this frame.

    Compared are the recorded frame, the cameras of photos of the same name, and three pictures: a teacher must be
    nearer to the photos, transparent ones over ``background``, than their own mean colour is.

    Raises:
        UserError: with what does not match.
    """
    capture = dataset._dataparser_outputs
    if teacher.recorded_frame is not None:
        transform = torch.tensor(teacher.recorded_frame["transform"])
        scale = float(teacher.recorded_frame["scale"])
        if not torch.allclose(transform, capture.dataparser_transform.cpu().float(), atol=1e-3) or (
            abs(scale / capture.dataparser_scale - 1) > 1e-3
        ):
            raise UserError(
                "The teacher's world frame is not this capture's: its poses were normalised differently. "
                "Give --data the folder the teacher was trained on, unchanged"
            )
    same = same_photos(teacher.outputs.image_filenames, capture.image_filenames)
    poses, of_teacher = capture.cameras.camera_to_worlds, teacher.outputs.cameras.camera_to_worlds
    pairs = [(poses[place], pose) for place, pose in zip(same, of_teacher, strict=True) if place is not None]
    if not pairs or any(not torch.allclose(a, b, atol=1e-3) for a, b in pairs):
        raise UserError(
            "The teacher was trained on another capture: its photos' names or poses are not those of --data"
        )
    seen, grey = likeness(teacher.model, dataset, background)
    if seen < grey:
        raise UserError(
            f"The teacher's pictures are not this capture's photos ({seen:.1f} dB; their mean colour gives "
            f"{grey:.1f} dB): give --data the folder the teacher was trained on"
        )
