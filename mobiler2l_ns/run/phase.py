"""What all phases of a run have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor, nn

from mobiler2l_ns.geometry.rays import LowResRays
from mobiler2l_ns.pool.datamanager import MobileR2LDataManager
from mobiler2l_ns.progress.log import RunLog
from mobiler2l_ns.progress.phases import Phase, PhasePlan
from mobiler2l_ns.run.selection import BestStudent
from mobiler2l_ns.student.growth import Growth
from mobiler2l_ns.student.model import MobileR2LModel
from mobiler2l_ns.student.pruning import Pruning
from mobiler2l_ns.teacher.empty_space import EmptySpace

Rays = RayBundle | LowResRays
Losses = dict[str, Any]


class Run(Protocol):
    """What a phase sees of the run it belongs to."""

    plan: PhasePlan
    growth: Growth
    pruning: Pruning
    log: RunLog
    student_optimizer: torch.optim.Optimizer | None
    """None until the trainer has built it."""
    best_student: BestStudent | None
    """None before fine-tuning; part of the checkpoint."""
    empty_space: EmptySpace | None
    """What pseudo views leave out; None: nothing."""
    knows_empty_space: bool
    """Whether it has been looked for."""

    @property
    def model(self) -> MobileR2LModel:
        """Student and teacher, not wrapped."""
        ...

    @property
    def datamanager(self) -> MobileR2LDataManager:
        """Photos and pseudo views."""
        ...

    def camera_corrections(self) -> Float[Tensor, "n 3 4"] | None:
        """How far the teacher has found each training photo's camera to be from where the capture has it."""
        ...

    def wrap(self, trained: nn.Module) -> None:
        """Let several devices, if there are several, average the gradients of what is trained."""
        ...

    def restart_teacher(self, rate: float) -> None:
        """Give the teacher new weights, and a share of its learning rates."""
        ...


class TrainingPhase(ABC):
    """One phase of a run. The pipeline enters it, asks for a batch and its loss in each step, and leaves it.

    Args:
        run: all of the run.
    """

    name: ClassVar[Phase]

    def __init__(self, run: Run) -> None:
        self.run = run

    @abstractmethod
    def enter(self, step: int) -> None:
        """Prepare for the first step that this process trains, which may be in the middle of the phase."""

    def begin_step(self, step: int) -> None:  # noqa: B027  most phases have nothing to do
        """Before a step."""

    @abstractmethod
    def batch(self, step: int) -> tuple[Rays, dict[str, Any]]:
        """What a step learns from: rays, and what they should show."""

    @abstractmethod
    def loss(self, outputs: dict[str, Any], batch: dict[str, Any]) -> tuple[Losses, Losses]:
        """Losses and metrics of the model's outputs, by name."""

    def end_step(self, step: int) -> None:  # noqa: B027
        """After a step."""

    def leave(self, step: int) -> None:  # noqa: B027
        """After the phase's last step."""

    def steps_done(self, step: int) -> int:
        """Steps of this phase that are done after a step."""
        return step + 1 - self.run.plan.start(self.name)
