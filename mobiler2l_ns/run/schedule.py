"""The student's learning rate over the run: it starts with the distil phase, whatever came before."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import tyro
from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from mobiler2l_ns.progress.phases import Phase, PhasePlan
from mobiler2l_ns.student.growth import Growth


@dataclass
class StudentSchedulerConfig(SchedulerConfig):
    """Warm-up, then constant and a linear decay to zero, or the official exponential decay."""

    _target: type = field(default_factory=lambda: StudentScheduler)
    """Target class to instantiate."""
    warmup_steps: int = 200
    """Steps of linear warm-up at the start of distillation."""
    warmup_from: float = 0.1
    """Share of the learning rate at the first step."""
    shape: Literal["linear", "exponential"] = "linear"
    """linear: constant until decay_from, then to zero at the end of distillation; exponential: 0.1 ** (step / 500k)."""
    decay_from: float = 0.25
    """Share of distillation after which the linear decay begins."""
    finetune_share: float = 0.3
    """Share of the learning rate at the start of fine-tuning, decaying linearly to zero."""
    block_warmup_steps: int = 100
    """Steps of linear warm-up of a residual block that joins while the backbone grows."""
    plan: tyro.conf.Suppress[PhasePlan | None] = None
    """The run's phases; filled in by the trainer."""
    growth: tyro.conf.Suppress[Growth | None] = None
    """The backbone's growth; filled in by the trainer."""


class StudentScheduler(Scheduler):
    """Learning rate as a pure function of the run's step."""

    config: StudentSchedulerConfig

    def factor(self, step: int) -> float:
        """Share of the optimizer's learning rate at a step of the run."""
        config, plan = self.config, self.config.plan
        assert plan is not None, "the trainer sets the plan"
        phase = plan.at(step)
        if phase is Phase.TEACHER:
            return config.warmup_from
        since = step - plan.start(phase)
        progress = min(1.0, since / max(1, plan.length(phase)))
        if phase is Phase.FINETUNE:
            return config.finetune_share * (1.0 - progress)
        if since < config.warmup_steps:
            return config.warmup_from + (1.0 - config.warmup_from) * since / config.warmup_steps
        if config.shape == "exponential":
            return math.pow(0.1, (since - config.warmup_steps) / 500_000)
        return min(1.0, (1.0 - progress) / (1.0 - config.decay_from)) if config.decay_from < 1.0 else 1.0

    def block_factor(self, step: int, block: int) -> float:
        """The same for one of the backbone's blocks, which has its own warm-up if it joins later."""
        config, plan = self.config, self.config.plan
        assert plan is not None, "the trainer sets the plan"
        born = 0.0 if config.growth is None else config.growth.born(block)
        if born == 0.0 or plan.at(step) is not Phase.DISTIL:
            return self.factor(step)
        age = step - plan.start(Phase.DISTIL) - math.ceil(born * plan.distil)
        return self.factor(step) * min(1.0, max(0.0, (age + 1) / max(1, config.block_warmup_steps)))

    def factor_of(self, group: dict[str, Any]) -> Callable[[int], float]:
        """The factor of one of the optimizer's parameter groups."""
        return partial(self.block_factor, block=group["block"]) if "block" in group else self.factor

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> LRScheduler:
        return LambdaLR(optimizer, [self.factor_of(group) for group in optimizer.param_groups])
