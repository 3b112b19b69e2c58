"""The nerfstudio Model: shows and measures the student and its teacher, whichever the phase or the viewer asks for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from nerfstudio.models.base_model import Model, ModelConfig
from nerfstudio.utils import colormaps
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import mse_loss

from mobiler2l_ns.capture.background import Background, BackgroundColour
from mobiler2l_ns.errors import UserError
from mobiler2l_ns.geometry.cells import CoarserCells
from mobiler2l_ns.geometry.rays import is_perspective
from mobiler2l_ns.metrics import LazyLPIPS, image_metrics, psnr
from mobiler2l_ns.progress.phases import Phase
from mobiler2l_ns.student.config import Execution, PruningSchedule, StudentConfig
from mobiler2l_ns.student.renderer import Student
from mobiler2l_ns.teacher.hash_grids import HashGrids
from mobiler2l_ns.teacher.teacher import render_like_photo, render_teacher

Outputs = dict[str, Any]
Shown = Literal["phase", "student", "teacher", "split", "error"]
"""What the viewer shows: the model of the phase, one of the two, the teacher left of the student, or their
difference."""
NO_DEPTH = 1000.0
"""Depth of the student's pictures, nerfstudio's far plane: the viewer then draws the cameras over a light field, which
has no depth that could hide them."""
ERROR_RANGE = 0.25
"""Mean absolute colour error that the error map shows as its brightest colour."""


@dataclass
class MobileR2LModelConfig(StudentConfig, Execution, PruningSchedule, ModelConfig):
    """The student's network and how it is trained and shown."""

    _target: type = field(default_factory=lambda: MobileR2LModel)
    """Target class to instantiate."""
    enable_collider: bool = False
    """Unused: the student samples between its own near and far."""
    near: float | None = None
    """Depth of a ray's first point; None measures it on the teacher's pseudo views. If near or far is given, points
    lie between the two and never in the scene's sphere."""
    far: float | None = None
    """Depth of a ray's last point; None measures it on the teacher's pseudo views. If near or far is given, points lie
    between the two and never in the scene's sphere."""
    coarser_weight: float = 0.5
    """Where several pitches are learned, each step holds its pictures at full resolution and once more at one of the
    others: the weight of the error there."""
    coarser_from: float = 0.5
    """Share of distillation before which the student learns its full resolution only."""
    background_color: BackgroundColour = "white"
    """What photos with an alpha channel are laid over, by the teacher that is trained with the student too. A teacher
    of another run that has learned one of its own brings that."""

    @property
    def background(self) -> Background:
        """Of transparent photos."""
        return Background(self.background_color, self.alpha)


def squared_error(picture: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    """Mean squared error of (n, H, W, channels), where the mask (n, H, W) is 1."""
    if mask is None:
        return mse_loss(picture, target)
    values = target.shape[-1] * mask.sum().clamp(min=1.0)
    return ((picture - target) ** 2 * mask[..., None]).sum() / values


@dataclass(frozen=True)
class FrameTime:
    """How long a picture of the student took on this device."""

    seconds: float
    width: int
    height: int


class MobileR2LModel(Model):
    """Student and teacher behind nerfstudio's Model interface.

    In the teacher phase it is the teacher; afterwards the student, whose ray bundles are low-resolution rays of shape
    (views, rows, columns). Metrics and losses carry the name of the one they belong to.

    Attributes:
        show: what a camera's picture shows; ``split`` is the teacher's share of its width when it shows both.
        frame_time: of the newest picture of the student that was shown.
        learns_coarser: whether a step of training holds a coarser pitch beside the full one.
    """

    config: MobileR2LModelConfig

    def populate_modules(self) -> None:
        super().populate_modules()
        self.student = Student(self.config, self.config)
        self.phase = Phase.DISTIL
        self.learns_coarser = len(self.config.pitches) > 1
        self.lpips = LazyLPIPS()
        self.show: Shown = "phase"
        self.split = 0.5
        self.frame_time: FrameTime | None = None
        self._comparing = False
        self._warned: set[str] = set()
        # A teacher of another run stays out of the module tree, and so out of checkpoints and optimizers.
        self._loaded_teacher: tuple[Model, ...] = ()

    def add_teacher(self, teacher: Model, trained_here: bool) -> None:
        """Set the teacher; one trained here becomes part of the checkpoint."""
        HashGrids(teacher)
        if trained_here:
            self.teacher = teacher
        else:
            self._loaded_teacher = (teacher,)

    def find_teacher(self) -> Model | None:
        """The teacher, wherever it comes from."""
        return self._modules.get("teacher") or next(iter(self._loaded_teacher), None)  # type: ignore[return-value]

    def background(self) -> Tensor:
        """The colour transparent photos are laid over, (3,)."""
        return torch.full((3,), 1.0 if self.config.background_color == "white" else 0.0)

    # Training

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        trained_here = self._modules.get("teacher")
        groups = trained_here.get_param_groups() if isinstance(trained_here, Model) else {}
        return {**groups, "student": self.student.network.parameter_groups()}  # type: ignore[dict-item]

    def get_training_callbacks(self, attributes: TrainingCallbackAttributes) -> list[TrainingCallback]:
        trained_here = self._modules.get("teacher")
        return trained_here.get_training_callbacks(attributes) if isinstance(trained_here, Model) else []

    def get_outputs(self, ray_bundle: RayBundle | Cameras) -> Outputs:
        """Teacher: colours of rays. Student: ``rgb`` (views, H, W, 3) of low-resolution rays, or with alpha
        premultiplied RGBA (views, H, W, 4)."""
        assert isinstance(ray_bundle, RayBundle)
        if self.phase is Phase.TEACHER:
            return self.teacher(ray_bundle)
        directions = ray_bundle.directions * ray_bundle.metadata["directions_norm"]
        outputs = {"rgb": self.student(ray_bundle.origins, directions).permute(0, 2, 3, 1)}
        if self.training and self.learns_coarser:
            pitch = self.config.pitches[1 + int(torch.randint(len(self.config.pitches) - 1, ()))]
            cells = CoarserCells.draw(directions.shape[1], directions.shape[2], self.config.stride, pitch)
            coarser = self.student(ray_bundle.origins[:, :1, :1], cells.rays(directions), pitch)
            outputs.update(coarser_rgb=coarser.permute(0, 2, 3, 1), coarser_cells=cells)
        return outputs

    def get_metrics_dict(self, outputs: Outputs, batch: dict) -> Outputs:
        if self.phase is Phase.TEACHER:
            return {f"teacher_{name}": value for name, value in self.teacher.get_metrics_dict(outputs, batch).items()}
        image = batch["image"].to(self.device)
        reference = "teacher" if self.phase is Phase.DISTIL else "photos_and_teacher"
        # Where a mask hides the picture, take the student's own pixels: only the rest counts.
        visible = batch["mask"].to(self.device)[..., None] if "mask" in batch else torch.ones_like(image[..., :1])
        error = ((outputs["rgb"].detach() - image) ** 2 * visible)[..., :3]
        squared = error.sum() / (3 * visible.sum())
        return {f"student_psnr_to_{reference}": -10 * torch.log10(squared.clamp(min=1e-16))}

    def get_loss_dict(self, outputs: Outputs, batch: dict, metrics_dict: Outputs | None = None) -> Outputs:
        if self.phase is Phase.TEACHER:
            metrics = {name.removeprefix("teacher_"): value for name, value in (metrics_dict or {}).items()}
            losses = self.teacher.get_loss_dict(outputs, batch, metrics)
            return {f"teacher_{name}": value for name, value in losses.items()}
        image = batch["image"].to(self.device)
        mask = batch["mask"].to(self.device) if "mask" in batch else None
        losses = {"student_rgb_loss": squared_error(outputs["rgb"], image, mask)}
        if "coarser_cells" in outputs:
            cells = outputs["coarser_cells"]
            coarser = cells.pictures(image), None if mask is None else cells.mask(mask)
            error = squared_error(outputs["coarser_rgb"], *coarser)
            losses["student_coarser_rgb_loss"] = self.config.coarser_weight * error
        return losses

    # Looking

    @torch.no_grad()
    def render_student(self, camera: Cameras) -> Outputs:
        """Picture of the student over the background colour; accumulation is its alpha, or 1 everywhere, and depth
        ``NO_DEPTH``."""
        training = self.student.training
        self.student.eval()
        try:
            rgb = self.student.render(camera)
        finally:
            self.student.train(training)
        alpha = rgb[..., 3:] if self.config.alpha else torch.ones_like(rgb[..., :1])
        rgb = (rgb[..., :3] + (1.0 - alpha) * self.background().to(rgb)).clamp(0.0, 1.0)
        return {"rgb": rgb, "accumulation": alpha, "depth": torch.full_like(alpha, NO_DEPTH)}

    def render_teacher(self, camera: Cameras, obb_box: OrientedBox | None = None) -> Outputs:
        """Picture of the teacher, over the background colour if it has learned none of its own; if it is cropped, over
        what the viewer sets."""
        teacher = self.find_teacher()
        assert teacher is not None
        if obb_box is not None:
            return render_teacher(teacher, camera, obb_box=obb_box)
        return render_like_photo(teacher, camera, self.background())

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> Outputs:
        """What ``show`` asks for: by default the model of the phase.

        Args:
            camera: one camera of any size, focal length and principal point; it is not changed. Of one that is not
                perspective the teacher's picture is shown.
            obb_box: crops the teacher; a light field has no space to crop.

        Returns:
            ``rgb`` (H, W, 3), ``accumulation`` and ``depth`` (H, W, 1), exactly the camera's size.

        Raises:
            UserError: if the camera is not perspective and there is no teacher; the viewer, whose thread must live, is
                shown a perspective camera's picture instead.
        """
        teacher = self.find_teacher()
        shown = "phase" if self._comparing else self.show  # what somebody looks at is not what is measured
        if shown == "phase" or (teacher is None and shown != "student"):
            begun = self.phase is not Phase.TEACHER and bool(self.student.capture.depth_known)
            shown = "student" if begun or teacher is None else "teacher"
        if shown != "teacher" and not is_perspective(camera):
            if teacher is None:
                camera = self._perspective(camera)
            else:
                shown = "teacher"
                self._warn_once("The student renders perspective cameras only: others show its teacher")
        if shown == "student":
            outputs = self._timed_student(camera)
            if self._comparing and teacher is not None:
                outputs["teacher_rgb"] = self.render_teacher(camera)["rgb"].to(outputs["rgb"])
            return outputs
        assert teacher is not None
        if self._comparing and self.phase is Phase.TEACHER:
            return render_teacher(teacher, camera)  # its own metrics want its own background
        theirs = self.render_teacher(camera, obb_box)
        rgb = theirs["rgb"]
        ones = torch.ones_like(rgb[..., :1])
        outputs = {"rgb": rgb, "accumulation": theirs.get("accumulation", ones), "depth": theirs.get("depth", ones)}
        if shown == "teacher":
            return outputs
        student = self._timed_student(camera)
        if shown == "error":
            error = (student["rgb"] - rgb).abs().mean(-1, keepdim=True)
            return {**student, "rgb": colormaps.apply_float_colormap((error / ERROR_RANGE).clamp(0, 1), "turbo")}
        cut = round(rgb.shape[1] * self.split)
        return {name: torch.cat([outputs[name][:, :cut], student[name][:, cut:]], dim=1) for name in student}

    def _perspective(self, camera: Cameras) -> Cameras:
        """What the viewer is shown in place of a camera that is not perspective."""
        # nerfstudio's commands render in the main thread, its viewer in threads of its own.
        if threading.current_thread() is threading.main_thread():
            raise UserError(
                "The student renders perspective cameras only (no fisheye or 360° ones), and its teacher is not here: "
                'give the camera path "camera_type": "perspective"'
            )
        self._warn_once("The student renders perspective cameras only: others are shown as one")
        return self.student.perspective(camera)

    def _warn_once(self, warning: str) -> None:
        if warning not in self._warned:
            self._warned.add(warning)
            CONSOLE.print(f"[yellow]{warning}")

    def _timed_student(self, camera: Cameras) -> Outputs:
        begin = time.perf_counter()
        outputs = self.render_student(camera)
        float(outputs["rgb"][0, 0, 0])  # waits for the device
        height, width = outputs["rgb"].shape[:2]
        self.frame_time = FrameTime(time.perf_counter() - begin, width, height)
        return outputs

    # Measuring

    @contextmanager
    def comparing(self) -> Iterator[None]:
        """Within it the student's outputs carry the teacher's picture of the same camera, for metrics."""
        self._comparing = True
        try:
            yield
        finally:
            self._comparing = False

    def get_image_metrics_and_images(self, outputs: Outputs, batch: dict) -> tuple[dict[str, float], Outputs]:
        """Student (or in its phase the teacher) against the photo, and the student against the teacher."""
        if self.phase is Phase.TEACHER:
            metrics, images = self.teacher.get_image_metrics_and_images(outputs, batch)
            return {f"teacher_{name}": value for name, value in metrics.items() if value == value}, images
        photo = over_background(batch["image"].to(self.device), self.background())
        rgb = outputs["rgb"]
        metrics, shown = image_metrics(rgb, photo, self.lpips), [photo, rgb]
        if "teacher_rgb" in outputs:
            theirs = outputs["teacher_rgb"]
            metrics["psnr_to_teacher"] = float(psnr(rgb, theirs))
            metrics.update({f"teacher_{k}": v for k, v in image_metrics(theirs, photo, self.lpips).items()})
            shown.insert(1, theirs)
        error = (rgb - photo).abs().mean(-1, keepdim=True) / ERROR_RANGE
        shown.append(colormaps.apply_float_colormap(error.clamp(0, 1), "turbo"))
        return metrics, {"img": torch.cat(shown, dim=1)}
