"""nerfstudio's trainer, with a length that follows from the phases and checkpoints that survive a kill."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
import yaml
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.engine.trainer import TRAIN_INTERATION_OUTPUT, Trainer, TrainerConfig
from nerfstudio.utils import comms, writer
from nerfstudio.utils.decorators import check_main_thread
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim.lr_scheduler import LambdaLR

from mobiler2l_ns import devices
from mobiler2l_ns.errors import UserError, unwritable
from mobiler2l_ns.export.proof_photos import record_proof_photos
from mobiler2l_ns.progress.phases import Phase
from mobiler2l_ns.progress.records import FILE
from mobiler2l_ns.run import console, distributed
from mobiler2l_ns.run.pipeline import MobileR2LPipeline, MobileR2LPipelineConfig
from mobiler2l_ns.run.resumed import check_same_student, config_of_resumed, is_resumed
from mobiler2l_ns.run.schedule import StudentSchedulerConfig
from mobiler2l_ns.run.timekeeper import Timekeeper, keep_plan
from mobiler2l_ns.saved_run import SavedRun, how_to_go_on, newest_checkpoint, read_checkpoint
from mobiler2l_ns.student.network import StudentNetwork

TORCH_CANNOT_WRITE = ("PytorchStreamWriter", "unexpected pos", "cannot be opened", "does not exist")


@dataclass
class MobileR2LTrainerConfig(TrainerConfig):
    """A nerfstudio training configuration whose length is the sum of its phases."""

    _target: type = field(default_factory=lambda: MobileR2LTrainer)
    """Target class to instantiate."""
    pipeline: MobileR2LPipelineConfig = field(default_factory=MobileR2LPipelineConfig)
    """Teacher, student and their data."""
    max_num_iterations: tyro.conf.Fixed[int] = 0
    """Follows from --pipeline.teacher-steps, --pipeline.distill-steps and --pipeline.finetune-steps."""
    report_views: int = 32
    """Most test views that the report.html at the end of a run measures; 0 leaves the report out."""

    def __post_init__(self) -> None:
        self.max_num_iterations = self.pipeline.plan().total

    def save_config(self) -> None:
        self.pipeline.adopt_teacher()
        keep_plan(self)
        try:
            super().save_config()
        except OSError as error:
            raise unwritable(self.get_base_dir(), error, "try again, or choose another --output-dir") from error

    def print_to_terminal(self) -> None:
        """The plan of the run; its several hundred settings are in its config.yml."""
        # The teacher may bring the capture, which names the folder of the run from here on.
        self.pipeline.adopt_teacher()
        keep_plan(self)
        with torch.device("meta"):
            parameters = sum(value.numel() for value in StudentNetwork(self.pipeline.model).parameters())
        manager = self.pipeline.datamanager
        capture = self.data or manager.data or getattr(manager.dataparser, "data", None)
        name, plan, run = self.method_name or "mobiler2l", self.pipeline.plan(), self.get_base_dir()
        console.print_plan(name, plan, parameters, capture, run, None if is_resumed(self) else self.pipeline.minutes)


class Scaler(GradScaler):
    """Of gradients on CUDA; checkpoints written without one, on a CPU, may go on with it."""

    def __init__(self, enabled: bool = True, **settings: Any) -> None:
        super().__init__("cuda", enabled=enabled, **settings)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict:
            super().load_state_dict(state_dict)


class MobileR2LTrainer(Trainer):
    """Runs the phases to their common end, also when resumed."""

    config: MobileR2LTrainerConfig
    pipeline: MobileR2LPipeline

    def __init__(self, config: MobileR2LTrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        if config.machine.device_type == "cuda" and not torch.cuda.is_available():
            raise UserError("torch finds no NVIDIA GPU here: train on the CPU with --machine.device-type cpu")
        distributed.set_up_rank(config.machine.device_type, local_rank)
        keep_plan(config)
        if world_size > 1:
            # The other ranks wait at the end, and take half an hour of waiting for a failure.
            config.viewer.quit_on_train_completion = True
        super().__init__(config, local_rank, world_size)
        # nerfstudio takes one with a GPU in the machine, whether it trains on that or not.
        self.grad_scaler = Scaler(enabled=self.mixed_precision or config.use_grad_scaler)
        self.student_schedule: StudentSchedulerConfig | None = None
        is_timed = config.pipeline.minutes is not None and not is_resumed(config)
        self.timekeeper = Timekeeper(self) if is_timed else None

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        super().setup(test_mode)
        if comms.is_main_process():
            self._open_log()
            if test_mode == "val":
                # Written once before, but what is trained is known only now.
                self.write_config()
                manager, capture = self.pipeline.datamanager, self.pipeline.model.student.capture
                record_proof_photos(self.base_dir, manager.eval_dataset, capture.proof_poses)
        self.callbacks.append(TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], self._finish))

    def write_config(self) -> None:
        """Write config.yml again, whole or not at all."""
        path = self.base_dir / "config.yml"
        partial = path.with_name(f"{path.name}.{os.getpid()}.part")
        partial.write_text(yaml.dump(self.config), encoding="utf8")
        partial.replace(path)

    def _open_log(self) -> None:
        config, log = self.config, self.pipeline.log
        resumed = config.load_dir or (config.load_checkpoint.parent if config.load_checkpoint is not None else None)
        earlier = None if resumed is None else resumed.resolve().parent / FILE
        facts = {"device": devices.device_name(self.device), "devices": self.world_size}
        log.open(self.base_dir / FILE, self._start_step, earlier, **facts, versions=devices.versions())
        for each in writer.EVENT_WRITERS:
            if isinstance(each, console.PhaseWriter):
                each.follow(log, self.checkpoint_dir)

    def setup_optimizers(self) -> Optimizers:
        if self.timekeeper is not None:
            self.timekeeper.settle(self._build_optimizers())
        return self._build_optimizers()

    def _build_optimizers(self) -> Optimizers:
        optimizers = dict(self.config.optimizers)
        student = dict(optimizers["student"])
        if isinstance(student["scheduler"], StudentSchedulerConfig):
            pipeline = self.config.pipeline
            self.student_schedule = replace(student["scheduler"], plan=pipeline.plan(), growth=pipeline.growth())
            student["scheduler"] = self.student_schedule
        # All schedules tick from the first step on, also the student's, long before its optimizer does.
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        built = Optimizers({**optimizers, "student": student}, self.pipeline.get_param_groups())
        # Clipping (max_norm) wants the parameters themselves, not the optimizer's groups of them.
        built.parameters["student"] = list(self.pipeline.model.student.parameters())
        return built

    def _load_checkpoint(self) -> None:
        config = self.config
        if config.load_dir is not None and config.load_step is None:
            found = newest_checkpoint(config.load_dir)
            if found is None:
                raise UserError(f"No checkpoint in {config.load_dir}: give --load-dir the folder of a run")
            config.load_dir = found.parent
            self._check_resumed(found)
        elif config.load_dir is not None:
            self._check_resumed(config.load_dir / f"step-{config.load_step:09d}.ckpt")
        elif config.load_checkpoint is not None:
            self._check_resumed(config.load_checkpoint)
        super()._load_checkpoint()
        optimizer = self.optimizers.optimizers["student"]
        for group in optimizer.param_groups:
            group["fused"] = optimizer.defaults["fused"]  # this device's, not the one's that wrote the checkpoint

    def _check_resumed(self, checkpoint: Path) -> None:
        """Before a checkpoint is loaded: can it be read, is its student this one, and does the plan reach that far?"""
        pipeline, state = self.config.pipeline, read_checkpoint(checkpoint)
        path = config_of_resumed(self.config)
        earlier = None if path is None else _pipeline_config(path)
        if earlier is not None:
            check_same_student(pipeline.model, earlier.model, state["pipeline"])
        done, total = state["step"] + 1, pipeline.plan().total
        if done > total:
            raise UserError(
                f"The checkpoint has {done} steps, and --pipeline.teacher-steps, .distill-steps and .finetune-steps "
                f"give {total}: give the same steps or more"
            )

    def train(self) -> None:
        total = self.config.pipeline.plan().total
        # nerfstudio counts this many iterations on top of the resumed step.
        self.config.max_num_iterations = max(0, total - self._start_step)
        if self._start_step == total:
            CONSOLE.print(f"This run is complete: its checkpoint is at step {self._start_step - 1} of {total}")
            self.step = self._start_step - 1
        if self.timekeeper is not None:
            # How many there will be is known only when the last phase begins: the last step ends the loop.
            self.config.max_num_iterations = sys.maxsize
        try:
            super().train()
        except torch.OutOfMemoryError as error:
            raise self._out_of_memory() from error
        finally:
            for each in writer.EVENT_WRITERS:
                if isinstance(each, console.PhaseWriter):
                    each.close()

    def _out_of_memory(self) -> UserError:
        """The one line for a GPU whose memory is full: what to make smaller first."""
        now = self.pipeline.log.now
        if now.phase is Phase.TEACHER:
            what, advice = "the teacher is trained", "--pipeline.datamanager.train-num-rays-per-batch 1024"
        elif now.activity == "preparing":
            what = "pseudo views are rendered"
            advice = "--pipeline.teacher.eval-num-rays-per-chunk 4096, then --pipeline.datamanager.pool-device cpu"
        else:
            what = "the student is trained"
            advice = (
                "--pipeline.datamanager.pool-device cpu, then --pipeline.datamanager.views-per-batch 1 or a smaller "
                "--pipeline.datamanager.max-image-size"
            )
        going_on = how_to_go_on(self.base_dir, self.config.load_dir)
        return UserError(f"CUDA is out of memory where {what}: {going_on}, and give {advice}")

    def _after_train(self) -> None:
        # A loop that is ended by its last step has begun one more.
        self.step = min(self.step, self.config.pipeline.plan().total - 1)
        super()._after_train()

    def train_iteration(self, step: int) -> TRAIN_INTERATION_OUTPUT:
        if self.timekeeper is not None:
            self.timekeeper.look_at_the_clock(step)
        self._set_student_rates(step)
        plan = self.config.pipeline.plan()
        if plan.at(step) is not Phase.TEACHER and self.grad_scaler.is_enabled():
            # bfloat16 reaches as far as float32: the student's gradients need no scale, whose checks wait for the GPU.
            self.grad_scaler = Scaler(enabled=False)
        loss, losses, metrics = super().train_iteration(step)
        distributed.average_batch_norms(self.pipeline.model.student.network)
        self._log_step(step, loss, metrics)
        if plan.at(step + 1) is not plan.at(step):
            # The next phase starts with long work on what this one has learned.
            self.save_checkpoint(step)
        if self.timekeeper is not None and step + 1 >= plan.total:
            self.stop_training = True
        return loss, losses, metrics

    def _set_student_rates(self, step: int) -> None:
        """nerfstudio leaves schedulers behind whenever the gradients' scale was too large."""
        scheduler = self.optimizers.schedulers.get("student")
        if isinstance(scheduler, LambdaLR) and scheduler.last_epoch != step:
            scheduler.last_epoch = step
            rates = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
            for group, rate, factor in rates:
                group["lr"] = rate * factor(step)

    def _log_step(self, step: int, loss: Tensor, metrics: dict[str, Tensor]) -> None:
        psnr = next((value for name, value in metrics.items() if "psnr" in name), None)
        images = self.config.pipeline.datamanager.views_per_batch * self.world_size
        teacher = self.pipeline.phase.name is Phase.TEACHER
        self.pipeline.log.trained(step, loss, psnr, None if teacher else images)

    def _finish(self, step: int) -> None:
        """After the last checkpoint: write the report, and say how to go on."""
        if not comms.is_main_process():
            return
        log, config_path = self.pipeline.log, self.base_dir / "config.yml"
        log.finish(step, peak_memory=devices.peak_memory(self.device))
        distilled = log.plan.at(step) is not Phase.TEACHER
        results, files = {}, {"run": str(self.base_dir), "checkpoint": str(self.checkpoint_dir)}
        if distilled and self.config.report_views > 0:
            from mobiler2l_ns.report.write import write_report

            try:
                written = write_report(self.pipeline, config_path, step, self.config.report_views)
                results, files["report"] = written.results(), str(written.path)
            except (Exception, UserError) as error:
                CONSOLE.print(f"[yellow]The run is saved, its report could not be written: {_one_line(error)}")
        console.print_results(f"{self.config.method_name}: {console.duration(log.seconds())}", results, files)
        console.print_next_commands(config_path, distilled)

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Write the checkpoint beside the checkpoint folder, then move it in: a kill leaves the previous one whole."""
        folder, written = self.checkpoint_dir, self.base_dir / ".unfinished_checkpoint"
        self.checkpoint_dir = written
        try:
            super().save_checkpoint(step)
            if written.exists():
                self._publish(written, folder)
        except (OSError, RuntimeError) as error:
            # torch tells of a full disk by a RuntimeError of its writer's.
            if isinstance(error, RuntimeError) and not any(word in str(error) for word in TORCH_CANNOT_WRITE):
                raise
            shutil.rmtree(written, ignore_errors=True)
            raise unwritable(folder, error, how_to_go_on(self.base_dir, self.config.load_dir)) from error
        finally:
            self.checkpoint_dir = folder

    def _publish(self, written: Path, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for checkpoint in written.glob("*.ckpt"):
            checkpoint.replace(folder / checkpoint.name)
            for older in folder.glob("*.ckpt") if self.config.save_only_latest_checkpoint else ():
                if older.name != checkpoint.name:
                    older.unlink()
        written.rmdir()


def _pipeline_config(path: Path) -> MobileR2LPipelineConfig | None:
    """Of a run's config.yml, if that can be read."""
    try:
        config = SavedRun.open(path).config.pipeline
    except UserError:
        return None
    return config if isinstance(config, MobileR2LPipelineConfig) else None


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
