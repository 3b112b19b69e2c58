"""nerfstudio's trainer, with a length that follows from the phases and checkpoints that survive a kill."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import tyro
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.engine.trainer import TRAIN_INTERATION_OUTPUT, Trainer, TrainerConfig
from nerfstudio.utils.decorators import check_main_thread
from nerfstudio.utils.rich_utils import CONSOLE

from mobiler2l_ns import distributed
from mobiler2l_ns.pipeline import MobileR2LPipeline, MobileR2LPipelineConfig
from mobiler2l_ns.schedule import StudentSchedulerConfig


@dataclass
class MobileR2LTrainerConfig(TrainerConfig):
    """A nerfstudio training configuration whose length is the sum of its phases."""

    _target: type = field(default_factory=lambda: MobileR2LTrainer)
    """Target class to instantiate."""
    pipeline: MobileR2LPipelineConfig = field(default_factory=MobileR2LPipelineConfig)
    """Teacher, student and their data."""
    max_num_iterations: tyro.conf.Fixed[int] = 0
    """Follows from --pipeline.teacher-steps, --pipeline.distill-steps and --pipeline.finetune-steps."""

    def __post_init__(self) -> None:
        self.max_num_iterations = self.pipeline.plan().total

    def save_config(self) -> None:
        self.pipeline.adopt_teacher()
        super().save_config()


class MobileR2LTrainer(Trainer):
    """Runs the phases to their common end, also when resumed."""

    config: MobileR2LTrainerConfig

    def __init__(self, config: MobileR2LTrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        distributed.set_up_rank(config.machine.device_type, local_rank)
        super().__init__(config, local_rank, world_size)

    def setup_optimizers(self) -> Optimizers:
        optimizers = dict(self.config.optimizers)
        student = dict(optimizers["student"])
        if isinstance(student["scheduler"], StudentSchedulerConfig):
            pipeline = self.config.pipeline
            student["scheduler"] = replace(student["scheduler"], plan=pipeline.plan(), growth=pipeline.growth())
        # All schedules tick from the first step on, also the student's, long before its optimizer does.
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        built = Optimizers({**optimizers, "student": student}, self.pipeline.get_param_groups())
        # Clipping (max_norm) wants the parameters themselves, not the optimizer's groups of them.
        built.parameters["student"] = list(cast(MobileR2LPipeline, self.pipeline).model.student.parameters())
        return built

    def train(self) -> None:
        total = self.config.pipeline.plan().total
        # nerfstudio counts this many iterations on top of the resumed step.
        self.config.max_num_iterations = max(0, total - self._start_step)
        if self._start_step >= total:
            CONSOLE.print(f"This run is complete: its checkpoint is at step {self._start_step - 1} of {total}")
            self.step = self._start_step - 1
        super().train()

    def train_iteration(self, step: int) -> TRAIN_INTERATION_OUTPUT:
        loss, losses, metrics = super().train_iteration(step)
        distributed.average_batch_norms(cast(MobileR2LPipeline, self.pipeline).model.student.network)
        plan = self.config.pipeline.plan()
        if plan.at(step + 1) is not plan.at(step):
            # The next phase starts with long work on what this one has learned.
            self.save_checkpoint(step)
        return loss, losses, metrics

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Write the checkpoint beside the checkpoint folder, then move it in: a kill leaves the previous one whole."""
        folder, self.checkpoint_dir = self.checkpoint_dir, self.base_dir / ".unfinished_checkpoint"
        try:
            super().save_checkpoint(step)
            written = self.checkpoint_dir
        finally:
            self.checkpoint_dir = folder
        if written.exists():
            self._publish(written, folder)

    def _publish(self, written: Path, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for checkpoint in written.glob("*.ckpt"):
            checkpoint.replace(folder / checkpoint.name)
            for older in folder.glob("*.ckpt") if self.config.save_only_latest_checkpoint else ():
                if older.name != checkpoint.name:
                    older.unlink()
        written.rmdir()
