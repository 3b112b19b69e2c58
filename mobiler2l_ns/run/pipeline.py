"""A run as nerfstudio's pipeline: puts capture, teacher and student together, and passes the steps on to the phases."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.models.nerfacto import NerfactoModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils import comms, writer
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor, nn

from mobiler2l_ns.capture.background import is_cut_out
from mobiler2l_ns.capture.fence import measure_fence
from mobiler2l_ns.capture.parsing import has_cameras_only
from mobiler2l_ns.capture.splits import proof_cameras
from mobiler2l_ns.errors import UserError
from mobiler2l_ns.geometry.pose_range import pose_range
from mobiler2l_ns.metrics import psnr
from mobiler2l_ns.pool.datamanager import MobileR2LDataManager, MobileR2LDataManagerConfig
from mobiler2l_ns.progress.log import RunLog
from mobiler2l_ns.progress.phases import Phase, PhasePlan
from mobiler2l_ns.run import distributed
from mobiler2l_ns.run.console import announce
from mobiler2l_ns.run.distil import Distil
from mobiler2l_ns.run.finetune import FineTune
from mobiler2l_ns.run.phase import TrainingPhase
from mobiler2l_ns.run.resumed import check_same_pictures, refusing_other_sizes
from mobiler2l_ns.run.selection import BestStudent
from mobiler2l_ns.run.teach import Teach
from mobiler2l_ns.saved_run import SavedRun, check_weights
from mobiler2l_ns.student.growth import Growth
from mobiler2l_ns.student.model import MobileR2LModel, MobileR2LModelConfig
from mobiler2l_ns.student.pruning import Pruning
from mobiler2l_ns.teacher import nerfacto
from mobiler2l_ns.teacher.corrections import corrections_of_photos, learned_corrections
from mobiler2l_ns.teacher.empty_space import EmptySpace
from mobiler2l_ns.teacher.loaded import adopted_dataparser, check_teacher, learned_background
from mobiler2l_ns.teacher.nerfacto import TeacherPreset
from mobiler2l_ns.teacher.render import rays_of_teacher, render_pseudo_view
from mobiler2l_ns.teacher.splats import SplatFrame, load_run, load_splats
from mobiler2l_ns.viewer.panel import Panel


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
    teacher_preset: TeacherPreset = "auto"
    """object: nerfstudio's nerfacto settings for synthetic objects (plain background, near 2, far 6, no contraction,
    cameras as given) replace those of --pipeline.teacher; scene: as given there; auto: object for Blender data. A run's
    config.yml says scene, with the settings that came of it."""
    teacher_load_config: Path | None = None
    """config.yml of an existing nerfstudio run of any method: it is the teacher, and the teacher phase is skipped."""
    teacher_splats: Path | None = None
    """Gaussian splats of the capture, a .ply or .spz: they are the teacher, and the teacher phase is skipped."""
    teacher_splats_frame: SplatFrame = "capture"
    """What the coordinates of those splats are. capture: the photos' reconstruction's (COLMAP's), as 3DGS keeps them;
    transforms: those written in transforms.json, where they are others; world: nerfstudio's own, as ns-export writes
    them."""
    teacher_steps: int = 20_000
    """Steps of the teacher phase."""
    distill_steps: int = 50_000
    """Steps of distillation on pseudo views."""
    finetune_steps: int = 5_000
    """Steps of fine-tuning on the photos, mixed with pseudo views; 0 leaves it out."""

    minutes: float | None = None
    """Time for the whole run, its report included: the machine is measured, and the steps of all phases and the number
    of pseudo views follow from its speed. Of the steps above counts only in which proportion the student is distilled
    and fine-tuned. A run that is resumed keeps its steps. None: as many steps as are given."""

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
        pruning = Pruning(self.model, self.model)
        last = max((progress for progress, _ in pruning.rounds()), default=0.0)
        if math.ceil(last * self.distill_steps) >= self.distill_steps > 0:
            raise UserError(f"--pipeline.distill-steps {self.distill_steps} are too few to prune the student in")
        return pruning

    def plan(self) -> PhasePlan:
        """The phases of this run."""
        given = self.teacher_load_config is not None or self.teacher_splats is not None
        teacher = 0 if given else self.teacher_steps
        return PhasePlan(teacher=teacher, distil=self.distill_steps, finetune=self.finetune_steps)

    def adopt_teacher(self) -> None:
        """Take the dataparser, and so the world frame, of a loaded teacher, and the colour it shows behind cut-out
        photos; remember where the teacher lives.

        Raises:
            UserError: if there is no such run, or splats are to be the teacher, too.
        """
        if self.teacher_splats is not None:
            if self.teacher_load_config is not None:
                raise UserError("Two teachers: give --pipeline.teacher-load-config or --pipeline.teacher-splats")
            self.teacher_splats = self.teacher_splats.expanduser().resolve()
            manager = self.datamanager
            manager.cameras_only |= has_cameras_only(manager.dataparser, manager.data)
            if manager.cameras_only and self.finetune_steps > 0:
                self.finetune_steps = 0
                CONSOLE.print("There are cameras and no photos: the student is not fine-tuned, nor measured on photos")
        elif self.datamanager.cameras_only:
            raise UserError("--pipeline.datamanager.cameras-only: without photos splats must teach, give them to "
                            "--pipeline.teacher-splats")  # fmt: skip
        if self.teacher_load_config is None:
            return
        self.teacher_load_config = self.teacher_load_config.expanduser().resolve()
        teacher = SavedRun.open(self.teacher_load_config).config
        dataparser = adopted_dataparser(teacher, self.datamanager.data)
        self.datamanager.dataparser = dataparser  # type: ignore[assignment]
        self.datamanager.data = dataparser.data  # type: ignore[attr-defined]
        if getattr(dataparser, "alpha_color", None) is None:
            self.model.background_color = learned_background(teacher) or self.model.background_color


class MobileR2LPipeline(VanillaPipeline):
    """Capture, teacher and student of a run.

    Attributes:
        plan, growth, pruning: what happens when.
        phases, phase: all of them, and the one that a step belongs to.
        log: what has happened so far.
        student_optimizer, best_student, empty_space, knows_empty_space: see ``phase.Run``.
    """

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
        self.phases: dict[Phase, TrainingPhase] = {phase.name: phase(self) for phase in (Teach, Distil, FineTune)}
        self.phase = self.phases[self.plan.at(0)]
        self._entered: TrainingPhase | None = None
        self._photos_of_teacher: list[Path] | None = None
        self.empty_space: EmptySpace | None = None
        self.knows_empty_space = False
        self._optimizers: Optimizers | None = None
        trains = self._trains = test_mode == "val"
        if trains:
            background = config.model.background
            background.check(self.datamanager.dataparser_config, self.datamanager.train_dataparser_outputs)
        if config.teacher_load_config is None and config.teacher_splats is None:
            self._build_teacher(device, grad_scaler, trains)
        else:
            self._load_teacher(device, required=trains)
        render = self._render if trains else None
        self.datamanager.connect(config.model.stride, config.model.background, render)
        self._record_capture()
        if trains and config.finetune_steps > 0:
            self.datamanager.check_photos()
        if trains:
            self.datamanager.check_pitches(max(config.model.pitches))
            self.model.student.compile_for(torch.device(device))

    # Setup

    def _build_teacher(self, device: str, grad_scaler: Any, trains: bool) -> None:
        config, dataset = self.config, self.datamanager.train_dataset
        dataparser, background = self.datamanager.dataparser_config, config.model.background
        settled = nerfacto.settled_config(config.teacher, config.teacher_preset, dataparser, dataset, background)
        if trains:
            # What config.yml will say: the settings the teacher has, and that they are to be taken as they are.
            config.teacher, config.teacher_preset = settled, "scene"
        self.model.add_teacher(nerfacto.build(settled, dataset, device, grad_scaler), trained_here=True)
        self.model.student.capture.record(unbounded=torch.tensor(not settled.disable_scene_contraction))

    def _load_teacher(self, device: str, required: bool) -> None:
        config, dataset = self.config, self.datamanager.train_dataset
        background = config.model.background
        try:
            if config.teacher_splats is not None:
                data = getattr(self.datamanager.dataparser_config, "data", None)
                frame, compared = config.teacher_splats_frame, required and not self.datamanager.config.cameras_only
                shown = background if compared else None
                loaded = load_splats(config.teacher_splats, frame, dataset, data, device, shown)
            else:
                assert config.teacher_load_config is not None
                loaded = load_run(config.teacher_load_config, self.datamanager.config.data, device)
                if required:
                    check_teacher(loaded, dataset, background)
        except UserError as error:
            if required:
                raise
            CONSOLE.print("[yellow]Only the student is shown.", end=" ")
            CONSOLE.print(str(error), style="yellow", markup=False)
            return
        if required and is_cut_out(dataset):
            CONSOLE.print(f"Transparent photos are laid over {background.colour}, as by the teacher")
        self.model.add_teacher(loaded.model, trained_here=False)
        self._photos_of_teacher = loaded.outputs.image_filenames
        bounded = loaded.is_bounded(self.datamanager.dataparser_config)
        self.model.student.capture.record(unbounded=torch.tensor(not bounded))

    def _record_capture(self) -> None:
        """Write what viewing and exporting need to know of the capture into the student's buffers."""
        datamanager, capture = self.datamanager, self.model.student.capture
        view, outputs = datamanager.view, datamanager.train_dataparser_outputs
        train = datamanager.train_poses.float()
        capture.record(
            image_size=torch.tensor([view.height, view.width]),
            intrinsics=torch.tensor(view.intrinsics),
            world_transform=outputs.dataparser_transform.cpu().float()[:3],
            world_scale=torch.tensor(float(outputs.dataparser_scale)),
            start_pose=train[0],
            proof_poses=proof_cameras(datamanager.eval_dataset.cameras.camera_to_worlds.cpu().float(), train),
        )
        drawn = datamanager.sample_poses(2048)
        capture.record_poses(pose_range(torch.cat([drawn, train]), datamanager.look_at))
        capture.record_fence(measure_fence(train, drawn))

    def _render(self, camera: Cameras) -> dict[str, Tensor]:
        teacher, empty = self.model.find_teacher(), self.empty_space
        assert teacher is not None
        with nullcontext() if empty is None else empty.skipped():
            picture = render_pseudo_view(teacher, camera, self.config.model.background)
        if self.log.now.activity == "preparing":
            # A training step keeps the viewer waiting, and this one renders a whole pool.
            self.panel.give_way()
        return picture

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        self.phase = self.phases[self.plan.at(step)]
        check_weights(self.model, loaded_state, "this run")
        if self._trains:
            check_same_pictures(self.model.student.capture, loaded_state)
        if any(name.startswith("best_student.") for name in loaded_state):
            self.best_student = BestStudent(self.model.student)
        with refusing_other_sizes():
            super().load_pipeline(loaded_state, step)

    def get_extra_state(self) -> Tensor:
        """Where torch's random numbers and those of poses and batches are, so that a resumed run does not draw again
        what it has had."""
        return torch.stack([torch.get_rng_state(), self.datamanager.generator.get_state()])

    def set_extra_state(self, state: Tensor) -> None:
        """Go on with the random numbers of a checkpoint, on each rank with others."""
        if not self._trains:
            return
        # Copies: torch 2.11 reads past a state that begins behind its storage's beginning.
        of_torch, of_poses = (row.clone() for row in state.cpu())
        torch.set_rng_state(of_torch)
        self.datamanager.generator.set_state(of_poses)
        if rank := comms.get_rank():
            torch.manual_seed(int(torch.randint(1 << 31, ())) + rank)
            self.datamanager.generator.manual_seed(int(torch.randint(1 << 31, ())))

    # Steps

    def begin_step(self, step: int) -> None:
        """Pass a step to its phase, which is entered first if it has not been here."""
        self.phase = self.phases[self.plan.at(step)]
        if self.phase is not self._entered:
            self._entered = self.phase
            announce(self.plan, step)
            self.log.begin_phase(step)
            writer.put_scalar(name="Phase", scalar=list(Phase).index(self.phase.name), step=step)
            self.phase.enter(step)
            self.log.ready(step)
        self.phase.begin_step(step)

    def get_train_loss_dict(self, step: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        rays, batch = self.phase.batch(step)
        outputs = self._model(rays)  # through what averages gradients over several devices
        losses, metrics = self.phase.loss(outputs, batch)
        return outputs, losses, metrics

    def follow(self, plan: PhasePlan) -> None:
        """Go by another plan from here on, of the same steps up to here."""
        self.plan = plan
        self.log.follow(plan)

    def end_step(self, step: int) -> None:
        """Tell the phase of a step that it is over, and after its last step that the phase is."""
        self.phase.end_step(step)
        if self.phase.steps_done(step) >= self.plan.length(self.phase.name):
            self.phase.leave(step)

    def camera_corrections(self) -> Float[Tensor, "n 3 4"] | None:
        """How far the teacher has found each training photo's camera to be from where the capture has it; None if it
        has not looked."""
        teacher = self.model.find_teacher()
        if teacher is None or self._photos_of_teacher is None:
            return None if teacher is None else learned_corrections(teacher)
        return corrections_of_photos(teacher, self._photos_of_teacher, self.datamanager.train_dataset.image_filenames)

    def wrap(self, trained: nn.Module) -> None:
        """Let several devices, if there are several, average the gradients of what is trained."""
        if self.world_size > 1:
            self._model = distributed.wrap(self.model, trained)

    def restart_teacher(self, rate: float) -> None:
        """Give the teacher new weights, and a share of its learning rates."""
        fresh = nerfacto.build(self.config.teacher, self.datamanager.train_dataset, str(self.device), None)
        self.model.teacher.load_state_dict(fresh.state_dict())
        assert self._optimizers is not None
        for name, optimizer in self._optimizers.optimizers.items():
            if name == "student":
                continue
            optimizer.state.clear()
            for group in optimizer.param_groups:
                group["lr"] *= rate
            if name in self._optimizers.schedulers:
                scheduler = self._optimizers.schedulers[name]
                scheduler.base_lrs = [rate * base for base in scheduler.base_lrs]
        self.wrap(self.model.teacher)

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        self._optimizers = training_callback_attributes.optimizers
        if self._optimizers is not None:
            self.student_optimizer = self._optimizers.optimizers["student"]
        begin = TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], self.begin_step, 1)
        end = TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], self.end_step, 1)
        return [begin, *super().get_training_callbacks(training_callback_attributes), end]

    # Measuring

    def get_eval_loss_dict(self, step: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        self.eval()
        try:
            if self.phase.name is Phase.TEACHER:
                rays, batch = self.datamanager.next_eval(step)
                teacher = self.model.find_teacher()
                assert teacher is not None
                outputs = rays_of_teacher(teacher, rays)
                return outputs, *self.phase.loss(outputs, batch)
            camera, batch = self.datamanager.next_eval_image(step)
            outputs = self.model.render_student(camera)
            photo = self.config.model.background.shown(batch["image"].to(self.device))
            mask = batch.get("mask")
            squared = (outputs["rgb"] - photo).square()
            loss = squared.mean() if mask is None else squared[mask.to(self.device)[..., 0]].mean()
            return outputs, {"student_rgb_loss": loss}, {"student_psnr": psnr(outputs["rgb"], photo, mask)}
        finally:
            self.train()

    def get_eval_image_metrics_and_images(self, step: int):
        with self.model.comparing():
            return super().get_eval_image_metrics_and_images(step)

    def get_average_image_metrics(self, data_loader: Any, *args, **kwargs) -> dict[str, Any]:
        """Means over the held-out photos that are not wholly hidden; empty where there are none."""
        if len(self.datamanager.eval_dataset.visible) == 0:
            CONSOLE.print("[yellow]This capture holds out no photos, or none that is visible: nothing is measured")
            return {}
        with self.model.comparing():
            return super().get_average_image_metrics(data_loader, *args, **kwargs)
