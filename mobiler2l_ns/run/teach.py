"""The first phase: the teacher learns the photos, as its own method does."""

from __future__ import annotations

from typing import Any

from mobiler2l_ns.progress.phases import Phase
from mobiler2l_ns.run.phase import Losses, Rays, TrainingPhase

PREFIX = "teacher_"
"""Of the teacher's losses and metrics."""


class Teach(TrainingPhase):
    """Trains the teacher that is part of the run."""

    name = Phase.TEACHER

    def enter(self, step: int) -> None:
        self.run.wrap(self.run.model.teacher)

    def batch(self, step: int) -> tuple[Rays, dict[str, Any]]:
        return self.run.datamanager.next_train(step)

    def loss(self, outputs: dict[str, Any], batch: dict[str, Any]) -> tuple[Losses, Losses]:
        teacher = self.run.model.teacher
        metrics = teacher.get_metrics_dict(outputs, batch)
        losses = teacher.get_loss_dict(outputs, batch, metrics)
        named = ({f"{PREFIX}{name}": value for name, value in values.items()} for values in (losses, metrics))
        return tuple(named)  # type: ignore[return-value]
