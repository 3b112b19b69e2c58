"""Runs with --pipeline.minutes: measured and planned before their first step, and planned again where a phase ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, Protocol, cast

from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.engine.schedulers import SchedulerConfig
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import comms
from nerfstudio.utils.rich_utils import CONSOLE

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.progress.phases import Phase, PhasePlan
from mobiler2l_ns.run import distributed
from mobiler2l_ns.run.budget import LEAST_STEPS, Recipe, Settled, Speeds, share_out, student_step, student_steps, usable
from mobiler2l_ns.run.pipeline import MobileR2LPipeline, MobileR2LPipelineConfig
from mobiler2l_ns.run.rehearsal import measure
from mobiler2l_ns.run.resumed import config_of_resumed, is_resumed
from mobiler2l_ns.run.schedule import StudentSchedulerConfig
from mobiler2l_ns.saved_run import SavedRun, newest_checkpoint

WARM_UP = 0.05
"""Most of distillation that the student's warm-up may take."""
MOST_FINETUNING = 5.0
"""Most steps of fine-tuning, in those planned, if distillation ends early."""
IN_STEPS = ("max_steps", "warmup_steps", "warm_up_end")
"""What nerfstudio's schedules have in steps."""


class TimedConfig(Protocol):
    """What of a trainer's config is planned."""

    pipeline: MobileR2LPipelineConfig
    optimizers: dict[str, Any]
    max_num_iterations: int
    report_views: int


class TimedTrainer(Protocol):
    """What a plan is changed in."""

    config: Any
    student_schedule: StudentSchedulerConfig | None

    def write_config(self) -> None:
        """Write config.yml."""
        ...


def keep_plan(config: TrainerConfig) -> None:
    """Go by the plan of the run that is gone on with, if that was given its time, whatever was asked for now.

    Raises:
        UserError: if this one is given a time, and that run's config.yml is not there or cannot be read.
    """
    if not is_resumed(config) or (config.load_dir is not None and newest_checkpoint(config.load_dir) is None):
        return
    pipeline = cast(MobileR2LPipelineConfig, config.pipeline)
    path, earlier = config_of_resumed(config), None
    try:
        if path is None:
            raise UserError(
                "The run that is resumed has no config.yml beside its folder of checkpoints, which says how many steps "
                "its time was enough for: give the steps in place of --pipeline.minutes"
            )
        earlier = SavedRun.open(path).config
    except UserError:
        if pipeline.minutes is not None:
            raise
        return
    planned = earlier.pipeline
    if not isinstance(planned, MobileR2LPipelineConfig):
        return
    if planned.minutes is None:
        if pipeline.minutes is not None:
            pipeline.minutes = None
            CONSOLE.print("[yellow]The run that is resumed has its steps given: --pipeline.minutes is left out")
        return
    for name in ("teacher_steps", "distill_steps", "finetune_steps"):
        setattr(pipeline, name, getattr(planned, name))
    pipeline.datamanager.pool_views = planned.datamanager.pool_views
    if pipeline.minutes != planned.minutes:
        CONSOLE.print(f"The steps are those of the run that is resumed, which was given {planned.minutes:g} minutes")
    pipeline.minutes = planned.minutes
    for name, group in earlier.optimizers.items():
        if name in config.optimizers:
            config.optimizers[name] = {**config.optimizers[name], "scheduler": group["scheduler"]}
    config.max_num_iterations = pipeline.plan().total


def take(config: TimedConfig, settled: Settled) -> None:
    """Write a plan into a config; the teacher's schedules are stretched with its steps, the student's warm-up is cut
    where distillation is short."""
    pipeline, steps = config.pipeline, settled.steps
    stretch = steps.teacher / pipeline.teacher_steps if steps.teacher else 1.0
    if steps.teacher:
        pipeline.teacher_steps = steps.teacher
    pipeline.distill_steps, pipeline.finetune_steps = steps.distil, steps.finetune
    pipeline.datamanager.pool_views = settled.views
    config.optimizers = {
        name: {**group, "scheduler": _fitted(group["scheduler"], stretch, steps.distil)}
        for name, group in config.optimizers.items()
    }
    config.max_num_iterations = pipeline.plan().total


def _fitted(schedule: SchedulerConfig | None, stretch: float, distil: int) -> SchedulerConfig | None:
    if isinstance(schedule, StudentSchedulerConfig):
        most = max(1, int(WARM_UP * distil))
        return replace(
            schedule,
            warmup_steps=min(schedule.warmup_steps, most),
            block_warmup_steps=min(schedule.block_warmup_steps, most),
        )
    if schedule is None:
        return None
    stretched: dict[str, Any] = {
        each.name: round(stretch * getattr(schedule, each.name)) for each in fields(schedule) if each.name in IN_STEPS
    }
    if "max_steps" in stretched:
        stretched["max_steps"] = max(stretched["max_steps"], stretched.get("warmup_steps", 0) + 1)
    milestones = getattr(schedule, "milestones", None)
    if milestones is not None:
        stretched["milestones"] = tuple(max(1, round(stretch * each)) for each in milestones)
    return replace(schedule, **stretched)


class Timekeeper:
    """Plans a run that is given its time, and looks at the clock where a phase begins.

    The first plan comes from a few steps of each kind. How long the teacher and its pseudo views have really taken is
    known when distillation begins, and the student's pace when fine-tuning does: what is left is planned again then.

    Args:
        trainer: of the run, which begins now.
        clock: tells the time in seconds.
    """

    def __init__(self, trainer: Trainer, clock: Callable[[], float] = time.monotonic) -> None:
        self.trainer = trainer
        self._clock, self._began = clock, clock()
        self._learned_from = 0.0
        self._filling = 0.0
        config = cast(TimedConfig, trainer.config)
        assert config.pipeline.minutes is not None
        if config.pipeline.minutes <= 0:
            raise UserError(f"--pipeline.minutes {config.pipeline.minutes:g}: give a run some time")
        self.minutes = config.pipeline.minutes
        self.speeds: Speeds | None = None
        manager = config.pipeline.datamanager
        self.recipe = Recipe(
            config.pipeline.plan(),
            config.pipeline.growth(),
            manager.pool_views,
            trainer.world_size,
            manager.refresh_rate,
            manager.refresh_share,
            config.report_views,
        )

    @property
    def pipeline(self) -> MobileR2LPipeline:
        """Of the run."""
        return cast(MobileR2LPipeline, self.trainer.pipeline)

    def spent(self) -> float:
        """Seconds that have gone by."""
        return self._clock() - self._began

    def settle(self, optimizers: Optimizers) -> None:
        """Measure this machine and plan the run, before its first step.

        Args:
            optimizers: to measure with; others must be built afterwards.

        Raises:
            UserError: if the time is too short.
        """
        found: tuple[Speeds, Settled] | str = ""
        if comms.is_main_process():
            shown = min(self.recipe.report_views, len(self.pipeline.datamanager.eval_dataset))
            self.recipe = replace(self.recipe, report_views=shown)
            try:
                speeds = measure(self.trainer, optimizers, 60.0 * self.minutes)
                found = speeds, share_out(self.minutes, self.spent(), speeds, self.recipe)
            except UserError as error:
                found = str(error)
        found = distributed.from_rank_0(found)
        if isinstance(found, str):
            raise UserError(found)
        self.speeds, settled = found
        take(cast(TimedConfig, self.trainer.config), settled)
        config = self.pipeline.config
        config.pruning()  # which may ask for more steps
        self.pipeline.follow(config.plan())
        CONSOLE.print(f"This machine takes {self.speeds}")
        CONSOLE.print(f"In {self.minutes:g} minutes it has time for {_told(self.pipeline.plan, settled.views)}")

    def look_at_the_clock(self, step: int) -> None:
        """Plan the rest again if a phase of the student begins with this step."""
        plan = self.pipeline.plan
        phase = plan.at(step)
        if phase is Phase.TEACHER or step != plan.start(phase):
            return
        plan = distributed.from_rank_0(self._fitting(phase, plan))
        self._learned_from = self.spent()
        trainer = cast(TimedTrainer, self.trainer)
        config: TimedConfig = trainer.config
        config.pipeline.distill_steps, config.pipeline.finetune_steps = plan.distil, plan.finetune
        config.max_num_iterations = plan.total
        if trainer.student_schedule is not None:
            trainer.student_schedule.plan = plan
        self.pipeline.follow(plan)
        if comms.is_main_process():
            trainer.write_config()
        CONSOLE.print(
            f"{self.spent() / 60.0:.1f} of {self.minutes:g} minutes have gone by, the others are enough for "
            f"{_told(plan, None, phase)}"
        )

    def _fitting(self, phase: Phase, plan: PhasePlan) -> PhasePlan:
        assert self.speeds is not None
        left = usable(60.0 * self.minutes - self.spent(), self.speeds, self.recipe)
        if phase is Phase.DISTIL:
            self._filling = self.pipeline.datamanager.missing_views() * self.speeds.view
            distil, finetune = student_steps(left - self._filling, self.speeds, self.recipe)
            return replace(plan, distil=max(LEAST_STEPS, distil), finetune=finetune)
        expected, step = student_step(self.speeds, self.recipe)
        pace = (self.spent() - self._learned_from) / (self._filling + expected * plan.distil)
        most = int(MOST_FINETUNING * plan.finetune)
        return replace(plan, finetune=max(1, min(int(left / (step * pace)), most)))


def _told(plan: PhasePlan, views: int | None, begins: Phase = Phase.TEACHER) -> str:
    parts = []
    if plan.teacher and begins is Phase.TEACHER:
        parts.append(f"{plan.teacher} steps of the teacher")
    if views is not None:
        parts.append(f"{views} pseudo views")
    if begins is not Phase.FINETUNE:
        parts.append(f"{plan.distil} steps of distillation")
    if plan.finetune:
        parts.append(f"{plan.finetune} steps of fine-tuning")
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]
