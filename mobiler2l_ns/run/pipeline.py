"""Teacher, distil, fine-tune: which phase is this step, what does it optimise."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.nerfacto import NerfactoModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils import comms, writer
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from mobiler2l_ns.capture.photos import is_cut_out, over_background
from mobiler2l_ns.capture.pose_samplers import pose_range
from mobiler2l_ns.errors import UserError
from mobiler2l_ns.metrics import psnr
from mobiler2l_ns.pool.datamanager import MobileR2LDataManager, MobileR2LDataManagerConfig
from mobiler2l_ns.progress.log import RunLog
from mobiler2l_ns.progress.phases import Phase, PhasePlan
from mobiler2l_ns.run import distributed
from mobiler2l_ns.run.console import announce
from mobiler2l_ns.run.finetune import BestStudent, selection_psnr
from mobiler2l_ns.saved_run import read_run_config
from mobiler2l_ns.student.capture_record import PROOF_POSES
from mobiler2l_ns.student.growth import Growth
from mobiler2l_ns.student.model import MobileR2LModel, MobileR2LModelConfig
from mobiler2l_ns.student.pruning import Pruning, channel_moments, describe, prune
from mobiler2l_ns.teacher.teacher import (
    adopted_dataparser,
    check_teacher,
    fingerprint,
    for_objects,
    lazy_lpips,
    learned_background,
    load_teacher,
    render_pseudo_view,
)
from mobiler2l_ns.viewer.panel import Panel

PRUNING_BATCHES = 8
"""Batches that a round of pruning judges the channels by."""
SELECTION_CHECKS = 10
"""How often in each phase of the student the selection photos are looked at."""


@dataclass
class MobileR2LPipelineConfig(VanillaPipelineConfig):
    """One run: a teacher, a student distilled from it, fine-tuned on the photos."""

    _target: type = field(default_factory=lambda: MobileR2LPipeline)
    """Target class to instantiate."""
    datamanager: MobileR2LDataManagerConfig = field(default_factory=MobileR2LDataManagerConfig)
    """Photos and pseudo views."""
    model: MobileR2LModelConfig = field(default_factory=MobileR2LModelConfig)
    """The student."""
    teacher: NerfactoModelConfig = field(default_factory=NerfactoModelConfig)
    """The teacher trained in this run."""
    teacher_preset: Literal["auto", "object", "scene"] = "auto"
    """object: nerfstudio's nerfacto settings for synthetic objects (plain background, near 2, far 6, no contraction,
    cameras as given) replace those of --pipeline.teacher; scene: as given there; auto: object for Blender data."""
    teacher_load_config: Path | None = None
    """config.yml of an existing nerfstudio run of any method: it is the teacher, and the teacher phase is skipped."""
    teacher_steps: int = 20_000
    """Steps of the teacher phase."""
    distill_steps: int = 50_000
    """Steps of distillation on pseudo views."""
    finetune_steps: int = 5_000
    """Steps of fine-tuning on the photos, mixed with pseudo views; 0 leaves it out."""

    growth_shares: tuple[float, ...] = (0.07, 0.2, 0.5)
    """Shares of the backbone's residual blocks that are trained in the first stages of distillation; none: all at
    once."""
    growth_until: tuple[float, ...] = (0.4, 0.6, 0.8)
    """Where each of those stages ends, in shares of distillation."""

    def growth(self) -> Growth:
        """How the backbone grows, fully so before it is pruned."""
        return Growth(self.model.num_blocks, self.growth_shares, self.pruning().until(self.growth_until))

    def pruning(self) -> Pruning:
        """How the student is pruned.

        Raises:
            UserError: if it cannot be pruned so, or distillation is over before the last round.
        """
        pruning = Pruning(self.model)
        last = max((place for place, _ in pruning.rounds()), default=0.0)
        if math.ceil(last * self.distill_steps) >= self.distill_steps > 0:
            raise UserError(f"--pipeline.distill-steps {self.distill_steps} are too few to prune the student in")
        return pruning

    def plan(self) -> PhasePlan:
        """The phases of this run."""
        teacher = 0 if self.teacher_load_config is not None else self.teacher_steps
        return PhasePlan(teacher=teacher, distil=self.distill_steps, finetune=self.finetune_steps)

    def adopt_teacher(self) -> None:
        """Take the dataparser, and so the world frame, of a loaded teacher, and the colour it shows behind cut-out
        photos; remember where the teacher lives.

        Raises:
            UserError: if there is no such run.
        """
        if self.teacher_load_config is None:
            return
        self.teacher_load_config = self.teacher_load_config.expanduser().resolve()
        teacher = read_run_config(self.teacher_load_config)
        dataparser = adopted_dataparser(teacher, self.datamanager.data)
        self.datamanager.dataparser = dataparser  # type: ignore[assignment]
        self.datamanager.data = dataparser.data  # type: ignore[attr-defined]
        if getattr(dataparser, "alpha_color", None) is None:
            self.model.background_color = learned_background(teacher) or self.model.background_color


class MobileR2LPipeline(VanillaPipeline):
    """nerfstudio's pipeline, with the phase set before each step and the student's start and end taken care of."""

    config: MobileR2LPipelineConfig
    datamanager: MobileR2LDataManager
    model: MobileR2LModel

    def __init__(
        self,
        config: MobileR2LPipelineConfig,
        device: str,
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        grad_scaler: Any = None,
    ) -> None:
        # As for one device: nerfstudio would wrap the model for several before it has its teacher.
        super().__init__(config, device, test_mode, 1, local_rank, grad_scaler)
        self.world_size = world_size
        self.plan = config.plan()
        self.growth = config.growth()
        self.pruning = config.pruning()
        self.log = RunLog(self.plan)
        self.panel = Panel(self)
        self.student_optimizer: torch.optim.Optimizer | None = None
        self.best_student: BestStudent | None = None
        self._announced: Phase | None = None
        trains = test_mode == "val"
        if trains:
            self.datamanager.check_background(self.model.background())
        if config.teacher_load_config is None:
            self._build_teacher(device, grad_scaler)
        else:
            self._load_teacher(config.teacher_load_config, device, required=trains)
        self.datamanager.connect(self.model.student.config, self._render if trains else None)
        self._record_capture()
        if trains and config.finetune_steps > 0:
            self.datamanager.check_photos()
        if trains:
            self.datamanager.check_pitches()
            self.model.student.compile_for(torch.device(device))

    # Setup

    def _teacher_config(self) -> NerfactoModelConfig:
        """Settings of the teacher that is trained in this run."""
        config, background = self.config.teacher, self.config.model.background_color
        preset = self.config.teacher_preset
        if preset == "auto":
            blender = isinstance(self.datamanager.dataparser_config, BlenderDataParserConfig)
            preset = "object" if blender else "scene"
        if preset == "object":
            config = for_objects(config, background)
        if is_cut_out(self.datamanager.train_dataset):
            # Over one colour, empty space may as well be painted in it; over random ones only alpha is right.
            config = replace(config, background_color="random" if self.config.model.alpha else background)
        return config

    def _build_teacher(self, device: str, grad_scaler: Any) -> None:
        dataset, config = self.datamanager.train_dataset, self._teacher_config()
        with lazy_lpips():
            teacher = config.setup(
                scene_box=dataset.scene_box,
                num_train_data=len(dataset),
                metadata=dataset.metadata,
                device=device,
                grad_scaler=grad_scaler,
                seed_points=None,
            )
        self.model.add_teacher(teacher.to(device), trained_here=True)
        self.model.student.capture.record(unbounded=torch.tensor(not config.disable_scene_contraction))

    def _load_teacher(self, config_path: Path, device: str, required: bool) -> None:
        try:
            loaded = load_teacher(config_path, self.datamanager.config.data, device)
            if required:
                check_teacher(loaded, self.datamanager.train_dataset, self.model.background())
        except UserError as error:
            if required:
                raise
            CONSOLE.print(f"[yellow]Only the student is shown. {error}")
            return
        if required and is_cut_out(self.datamanager.train_dataset):
            CONSOLE.print(f"Transparent photos are laid over {self.config.model.background_color}, as by the teacher")
        self.model.add_teacher(loaded.model, trained_here=False)
        bounded = getattr(loaded.model.config, "disable_scene_contraction", None)
        if bounded is None:
            bounded = isinstance(self.datamanager.dataparser_config, BlenderDataParserConfig)
        self.model.student.capture.record(unbounded=torch.tensor(not bounded))

    def _record_capture(self) -> None:
        """Write what viewing and exporting need to know of the capture into the student's buffers."""
        view, outputs = self.datamanager.view, self.datamanager.train_dataparser_outputs
        selection = self.datamanager.eval_dataset.cameras.camera_to_worlds.cpu().float()
        if len(selection) == 0:
            selection = self.datamanager.train_poses
        chosen = torch.linspace(0, len(selection) - 1, PROOF_POSES).round().long()
        self.model.student.capture.record(
            image_size=torch.tensor([view.height, view.width]),
            intrinsics=torch.tensor(view.intrinsics),
            world_transform=outputs.dataparser_transform.cpu().float()[:3],
            world_scale=torch.tensor(float(outputs.dataparser_scale)),
            start_pose=self.datamanager.train_poses[0].float(),
            proof_poses=selection[chosen],
        )
        trained = torch.cat([self.datamanager.sample_poses(2048), self.datamanager.train_poses.float()])
        self.model.student.capture.record_poses(pose_range(trained, self.datamanager.look_at))

    def _render(self, camera: Cameras) -> dict[str, Tensor]:
        teacher = self.model.find_teacher()
        assert teacher is not None
        over = None if self.config.model.alpha else self.model.background()
        picture = render_pseudo_view(teacher, camera, over)
        if self.log.now.activity == "preparing":
            # A training step keeps the viewer waiting, and this one renders a whole pool.
            self.panel.give_way()
        return picture

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        self._enter(self.plan.at(step))
        if any(name.startswith("best_student.") for name in loaded_state):
            self.best_student = BestStudent(self.model.student.network)
        super().load_pipeline(loaded_state, step)

    # Phases

    def _enter(self, phase: Phase) -> None:
        self.model.phase = self.datamanager.phase = phase

    def begin_step(self, step: int) -> None:
        """Set the phase of a step, and on its first step here announce it and prepare what it needs."""
        phase = self.plan.at(step)
        self._enter(phase)
        progress = (step - self.plan.start(Phase.DISTIL)) / max(1, self.plan.distil)
        self.set_progress(progress)
        if phase is not self._announced:
            self._announced = phase
            self._begin_phase(phase, step)
        if phase is Phase.DISTIL:
            self.prune_if_due(progress)

    def set_progress(self, progress: float) -> None:
        """What is trained when ``progress`` of distillation is done, less than 0 before it and more than 1 after."""
        self.model.student.network.active_blocks = self.growth.active(progress)
        several = len(self.config.model.pitches) > 1
        self.model.learns_coarser = several and progress >= self.config.model.coarser_from

    def _begin_phase(self, phase: Phase, step: int) -> None:
        announce(self.plan, step)
        self.log.begin_phase(step)
        writer.put_scalar(name="Phase", scalar=list(Phase).index(phase), step=step)
        self._wrap(phase)
        if phase is not Phase.TEACHER:
            self._prepare_student(phase, step)
        self.log.ready(step)

    def _prepare_student(self, phase: Phase, step: int) -> None:
        teacher = self.model.find_teacher()
        assert teacher is not None
        cached = self.config.datamanager.cache_dir is not None
        self.datamanager.fill_pool(f"{fingerprint(teacher)} {self.config.model.background_color}" if cached else "")
        self._measure_extent()
        if phase is Phase.FINETUNE:
            self.datamanager.load_photos(self.model.background())
            self._consider_student(step)

    def _wrap(self, phase: Phase) -> None:
        if self.world_size > 1:
            trained = self.model.teacher if phase is Phase.TEACHER else self.model.student
            self._model = distributed.wrap(self.model, trained)

    def prune_if_due(self, progress: float) -> None:
        """One round of pruning, if the network is larger than it may be when ``progress`` (0..1) of distillation is
        done; the state of ``student_optimizer`` shrinks with it."""
        student = self.model.student
        macs = self.pruning.due(student.network, progress)
        if macs is None:
            return
        batches = [channel_moments(student.network, self._encoded_batch()) for _ in range(PRUNING_BATCHES)]
        moments = [torch.stack(of_block).mean(0) for of_block in zip(*batches, strict=True)]
        prune(student.network, distributed.mean_of_ranks(moments), macs, self.student_optimizer)
        student.compile_for(torch.device(self.device))
        self._wrap(Phase.DISTIL)
        # What fine-tuning on an earlier run remembered is of another shape.
        self.best_student = None
        gmac = math.prod(self.datamanager.view.grid) * 1e-9
        CONSOLE.print(
            f"Pruned to {student.network.macs() * gmac:.3g} of {self.pruning.macs * gmac:.3g} GMAC: "
            f"{describe(student.network)}"
        )

    def _encoded_batch(self) -> Tensor:
        rays, _ = self.datamanager.next_train(0)
        return self.model.student.encode_rays(rays.origins, rays.directions * rays.metadata["directions_norm"])

    def _measure_extent(self) -> None:
        """Where the student samples its points, once: it is part of what it learns."""
        capture = self.model.student.capture
        if bool(capture.depth_known):
            return
        assert self.datamanager.pool is not None
        extent, colour = self.datamanager.measure_extent(), self.datamanager.pool.mean_colour().cpu()
        # Every rank has seen views of its own.
        planes, sphere, colour = distributed.from_rank_0((extent.planes(), extent.sphere(), colour))
        near, far = (
            given if given is not None else measured
            for given, measured in zip(
                (self.config.model.near, self.config.model.far), planes or (None, None), strict=True
            )
        )
        if near is None or far is None:
            raise UserError("The teacher gives no depth: set --pipeline.model.near and --pipeline.model.far")
        if not 0.0 < near < far:
            raise UserError(f"Near {near:.3g} and far {far:.3g} are no depth range: set --pipeline.model.near and .far")
        capture.record(depth_range=torch.tensor([near, far]), depth_known=torch.tensor(True))
        if self.config.model.initialisation == "identity":
            self.model.student.network.begin_with(colour)
        if sphere is not None and self.config.model.near is None and self.config.model.far is None:
            centre, radius = sphere
            nearest = (self.datamanager.train_poses[:, :, 3] - centre).norm(dim=-1).min()
            # From inside the sphere half of a ray's piece would lie behind the camera.
            if float(nearest) > float(radius):
                capture.record(scene_centre=centre, scene_radius=radius)
        if self.model.student.in_sphere():
            CONSOLE.print(f"The student samples points in a sphere of radius {float(capture.scene_radius):.3g}")
        else:
            CONSOLE.print(f"The student samples depths from {near:.3g} to {far:.3g}")

    def end_step(self, step: int) -> None:
        """Watch the selection photos; at the end of fine-tuning return to the student that was best on them."""
        phase = self.plan.at(step)
        done, length = step + 1 - self.plan.start(phase), self.plan.length(phase)
        last = done >= length
        if phase is Phase.TEACHER or not (last or done % max(1, length // SELECTION_CHECKS) == 0):
            return
        if phase is Phase.DISTIL:
            self._watch_selection_photos(step)
        else:
            score = self._consider_student(step)
            assert self.best_student is not None
            if last:
                self.log.selection(step, float(self.best_student.best))
                self.model.student.network.load_state_dict(self.best_student.network.state_dict())
                CONSOLE.print(
                    f"Selection photos: {float(self.best_student.before):.2f} dB before fine-tuning, "
                    f"{score:.2f} dB at its end, {float(self.best_student.best):.2f} dB kept"
                )

    def _watch_selection_photos(self, step: int) -> None:
        if comms.is_main_process() and self.datamanager.load_selection_photos(self.model.background()):
            assert self.datamanager.selection_photos is not None
            self.log.selection(step, selection_psnr(self.model.student, self.datamanager.selection_photos))

    def _consider_student(self, step: int) -> float:
        assert self.datamanager.selection_photos is not None
        score = distributed.from_rank_0(selection_psnr(self.model.student, self.datamanager.selection_photos))
        self.log.selection(step, score)
        if self.best_student is None:
            self.best_student = BestStudent(self.model.student.network)
        self.best_student.consider(self.model.student.network, score)
        return score

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        if training_callback_attributes.optimizers is not None:
            self.student_optimizer = training_callback_attributes.optimizers.optimizers["student"]
        begin = TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], self.begin_step, 1)
        end = TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], self.end_step, 1)
        return [begin, *super().get_training_callbacks(training_callback_attributes), end]

    # Measuring

    def get_eval_loss_dict(self, step: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        if self.model.phase is Phase.TEACHER:
            return super().get_eval_loss_dict(step)
        camera, batch = self.datamanager.next_eval_image(step)
        outputs = self.model.render_student(camera)
        photo = over_background(batch["image"].to(self.device), self.model.background())
        loss = torch.nn.functional.mse_loss(outputs["rgb"], photo)
        return outputs, {"student_rgb_loss": loss}, {"student_psnr": psnr(outputs["rgb"], photo)}

    def get_eval_image_metrics_and_images(self, step: int):
        with self.model.comparing():
            return super().get_eval_image_metrics_and_images(step)

    def get_average_image_metrics(self, *args, **kwargs):
        with self.model.comparing():
            return super().get_average_image_metrics(*args, **kwargs)
