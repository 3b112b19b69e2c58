"""The nerfstudio Model: the student and its teacher behind nerfstudio's interface."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from nerfstudio.models.base_model import Model, ModelConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch.nn import Parameter

from mobiler2l_ns.capture.background import Background, BackgroundColour
from mobiler2l_ns.errors import UserError
from mobiler2l_ns.geometry.rays import LowResRays
from mobiler2l_ns.metrics import SSIM_WINDOW, LazyLPIPS, behind_mask, image_metrics, psnr
from mobiler2l_ns.student.config import Execution, PruningSchedule, StudentConfig
from mobiler2l_ns.student.display import Display, Outputs, error_map
from mobiler2l_ns.student.losses import training_losses, training_outputs
from mobiler2l_ns.student.renderer import NO_DEPTH, SOLID, Student
from mobiler2l_ns.student.single_rays import look_along
from mobiler2l_ns.teacher.hash_grids import HashGrids
from mobiler2l_ns.teacher.render import rays_of_teacher, render_like_photo, render_teacher


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


class MobileR2LModel(Model):
    """Student and teacher.

    A bundle of photos' rays trains the teacher, a batch of low-resolution rays the student. Measured and shown is the
    student as soon as it has begun to learn, until then the teacher.

    Attributes:
        learns_coarser: whether a step of training holds a coarser pitch beside the full one.
        display: what the viewer shows.
        hash_grids: the teacher's, where there is one.
    """

    config: MobileR2LModelConfig

    def populate_modules(self) -> None:
        super().populate_modules()
        self.student = Student(self.config, self.config)
        self.learns_coarser = False
        self.lpips = LazyLPIPS()
        self.display = Display(self)
        self._comparing = False
        self._said = ""
        # A teacher of another run stays out of the module tree, and so out of checkpoints and optimizers.
        self._loaded_teacher: tuple[Model, ...] = ()
        self.hash_grids: HashGrids | None = None

    def add_teacher(self, teacher: Model, trained_here: bool) -> None:
        """Set the teacher; one trained here becomes part of the checkpoint."""
        self.hash_grids = HashGrids(teacher)
        if trained_here:
            self.teacher = teacher
        else:
            self._loaded_teacher = (teacher,)

    def find_teacher(self) -> Model | None:
        """The teacher, wherever it comes from."""
        return self._modules.get("teacher") or next(iter(self._loaded_teacher), None)  # type: ignore[return-value]

    def has_begun(self) -> bool:
        """Whether the student has begun to learn: it knows how far its scene reaches."""
        return self.student.capture.is_measured

    # Training

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        trained_here = self._modules.get("teacher")
        groups = trained_here.get_param_groups() if isinstance(trained_here, Model) else {}
        return {**groups, "student": self.student.parameter_groups()}  # type: ignore[dict-item]

    def get_training_callbacks(self, attributes: TrainingCallbackAttributes) -> list[TrainingCallback]:
        trained_here = self._modules.get("teacher")
        return trained_here.get_training_callbacks(attributes) if isinstance(trained_here, Model) else []

    def get_outputs(self, ray_bundle: RayBundle | Cameras | LowResRays) -> Outputs:
        """Of low-resolution rays the student's outputs, see ``training_outputs``; of photos' rays the teacher's that
        train it. Of single rays that nerfstudio's exporters look along, what the student's volume shows as soon as the
        student has begun, see ``look_along``, and otherwise the teacher's outputs; which of the two is said once."""
        if isinstance(ray_bundle, LowResRays):
            return training_outputs(self.student, ray_bundle, self.training and self.learns_coarser)
        assert isinstance(ray_bundle, RayBundle)
        teacher, sees_space = self.find_teacher(), self.has_begun() and self.student.volume is not None
        if not self.training and sees_space:
            self._say_once("Single rays show the student's volume")
            return look_along(self.student, ray_bundle, self.config.background.rgb)
        if teacher is None:
            raise UserError(
                "The teacher is not here, and this student knows nothing of single rays, it has no volume or has not "
                "begun: meshes, point clouds and --render-nearest-camera need the run that "
                "--pipeline.teacher-load-config named"
            )
        if not self.training:
            why = "has no volume" if self.student.volume is None else "has not begun"
            self._say_once(f"Single rays show the teacher: the student {why}")
        return rays_of_teacher(teacher, ray_bundle)

    def _say_once(self, line: str) -> None:
        if line != self._said:
            CONSOLE.print(line)
            self._said = line

    def get_loss_dict(self, outputs: Outputs, batch: dict, metrics_dict: Outputs | None = None) -> Outputs:
        """Losses of the student's outputs."""
        on_device = {name: batch[name].to(self.device) for name in ("image", "mask") if name in batch}
        return training_losses(outputs, on_device, self.config.coarser_weight)

    # Looking

    @torch.no_grad()
    def render_student(self, camera: Cameras, obb_box: OrientedBox | None = None) -> Outputs:
        """Picture of the student over the background colour.

        Returns:
            ``rgb``; ``depth``, the distance to what is seen in scene units, ``NO_DEPTH`` where nothing is and without a
            volume; ``accumulation``, its alpha, or what the volume says, or 1 everywhere. With a volume only what lies
            in the box is shown.
        """
        training = self.student.training
        self.student.eval()
        try:
            rgb, depth, accumulation = self.student.render_geometry(camera)
        finally:
            self.student.train(training)
        background = self.config.background.rgb.to(rgb)
        alpha = rgb[..., 3:] if self.config.alpha else torch.ones_like(rgb[..., :1])
        rgb = (rgb[..., :3] + (1.0 - alpha) * background).clamp(0.0, 1.0)
        if depth is None or accumulation is None:
            return {"rgb": rgb, "accumulation": alpha, "depth": torch.full_like(alpha, NO_DEPTH)}
        depth = torch.where(accumulation > SOLID, depth, NO_DEPTH)
        alpha = alpha if self.config.alpha else accumulation
        if obb_box is not None:
            rays = camera.to(rgb.device).generate_rays(camera_indices=0, keep_shape=True)
            points = rays.origins + depth * rays.directions
            kept = obb_box.within(points.reshape(-1, 3)).reshape(depth.shape)
            rgb, alpha = torch.where(kept, rgb, background), alpha * kept
            depth = torch.where(kept, depth, NO_DEPTH)
        return {"rgb": rgb, "accumulation": alpha, "depth": depth}

    def render_teacher(self, camera: Cameras, obb_box: OrientedBox | None = None) -> Outputs:
        """Picture of the teacher, over the background colour if it has learned none of its own; if it is cropped, over
        what the viewer sets."""
        teacher = self.find_teacher()
        assert teacher is not None
        if obb_box is not None:
            return render_teacher(teacher, camera, obb_box=obb_box)
        return render_like_photo(teacher, camera, self.config.background.rgb)

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> Outputs:
        """What the viewer has chosen, see ``Display.picture``; while comparing, what is measured."""
        if not self._comparing:
            return self.display.picture(camera, obb_box)
        teacher = self.find_teacher()
        if self.display.resolve("phase") == "teacher":
            assert teacher is not None
            return render_teacher(teacher, camera)  # its own metrics want its own background
        outputs = self.display.picture(camera, obb_box, show="phase")
        if teacher is not None:
            outputs["teacher_rgb"] = self.render_teacher(camera)["rgb"].to(outputs["rgb"])
        return outputs

    def get_rgba_image(self, outputs: Outputs, output_name: str = "rgb") -> torch.Tensor:
        """RGBA (H, W, 4) with straight alpha of a picture, all opaque unless the student learns alpha; of single rays
        that show its volume, with the accumulation."""
        if output_name == "rgb" and "rgba" in outputs:
            return outputs["rgba"]
        rgb = outputs[output_name]
        alpha = outputs.get(output_name.replace("rgb", "accumulation"))
        if alpha is None or not self.config.alpha:
            return torch.cat([rgb, torch.ones_like(rgb[..., :1])], dim=-1)
        own = (rgb - (1.0 - alpha) * self.config.background.rgb.to(rgb)) / alpha.clamp(min=1e-6)
        return torch.cat([own.clamp(0.0, 1.0), alpha.clamp(0.0, 1.0)], dim=-1)

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
        """Student (or before it has begun, the teacher) against the photo, and the student against the teacher.

        Where the batch has a ``mask`` (H, W, 1), the photo counts where it is visible, see ``image_metrics``; the
        student is compared with the teacher everywhere.
        """
        photo, mask = self.config.background.shown(batch["image"].to(self.device)), batch.get("mask")
        if self.display.resolve("phase") == "teacher":
            teacher = self.find_teacher()
            assert teacher is not None
            if min(photo.shape[:2]) < SSIM_WINDOW:  # nerfstudio's models fail on smaller pictures
                metrics = image_metrics(outputs["rgb"], photo, self.lpips, mask)
                images = {"img": torch.cat([photo, outputs["rgb"]], dim=1)}
                return {f"teacher_{name}": value for name, value in metrics.items()}, images
            seen = {**outputs, "rgb": behind_mask(outputs["rgb"], photo, mask)}
            metrics, images = teacher.get_image_metrics_and_images(seen, batch)
            if mask is not None:
                metrics["psnr"] = float(psnr(outputs["rgb"], photo, mask))
            return {f"teacher_{name}": value for name, value in metrics.items() if value == value}, images
        rgb = outputs["rgb"]
        metrics, shown = image_metrics(rgb, photo, self.lpips, mask), [photo, rgb]
        if "teacher_rgb" in outputs:
            teacher_rgb = outputs["teacher_rgb"]
            metrics["psnr_to_teacher"] = float(psnr(rgb, teacher_rgb))
            of_teacher = image_metrics(teacher_rgb, photo, self.lpips, mask)
            metrics.update({f"teacher_{name}": value for name, value in of_teacher.items()})
            shown.insert(1, teacher_rgb)
        return metrics, {"img": torch.cat([*shown, error_map(rgb, photo)], dim=1)}
