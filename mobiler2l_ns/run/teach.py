"""The first phase: the teacher learns the photos, as its own method does."""

from __future__ import annotations

from typing import Any

from nerfstudio.utils.rich_utils import CONSOLE

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.progress.phases import Phase
from mobiler2l_ns.run import distributed
from mobiler2l_ns.run.phase import Losses, Rays, Run, TrainingPhase
from mobiler2l_ns.teacher.watch import WINDOW, TeacherWatch

PREFIX = "teacher_"
"""Of the teacher's losses and metrics."""
TRIES = 3
"""How often a teacher may begin before the run ends."""
CAREFUL = 0.25
"""Share of the learning rates that each further try has."""
MOST_STEPS = 1000
"""Steps after which a teacher of a long phase is judged; one of a short phase after a quarter of it."""


class Teach(TrainingPhase):
    """Trains the teacher that is part of the run, and begins again more carefully if it learns nothing."""

    name = Phase.TEACHER

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._watch: TeacherWatch | None = None
        self._judged_at = 0
        self._tries = 1

    def enter(self, step: int) -> None:
        self.run.wrap(self.run.model.teacher)
        self._watch_from(step)

    def _watch_from(self, step: int) -> None:
        patience = min(MOST_STEPS, self.run.plan.teacher // 4)
        self._judged_at = step + patience
        # Of a phase that is too short to say anything the steps are not watched at all.
        self._watch = TeacherWatch() if patience >= WINDOW else None

    def batch(self, step: int) -> tuple[Rays, dict[str, Any]]:
        return self.run.datamanager.next_train(step)

    def loss(self, outputs: dict[str, Any], batch: dict[str, Any]) -> tuple[Losses, Losses]:
        teacher = self.run.model.teacher
        metrics = teacher.get_metrics_dict(outputs, batch)
        losses = teacher.get_loss_dict(outputs, batch, metrics)
        if self._watch is not None and teacher.training:
            renderer: Any = teacher.renderer_rgb
            photo = renderer.blend_background(batch["image"].to(outputs["rgb"].device))
            self._watch.see(outputs["rgb"], photo, outputs["accumulation"])
        named = ({f"{PREFIX}{name}": value for name, value in values.items()} for values in (losses, metrics))
        return tuple(named)  # type: ignore[return-value]

    def end_step(self, step: int) -> None:
        if self._watch is None or step + 1 < self._judged_at:
            return
        finding = distributed.from_rank_0(self._watch.verdict())
        self._watch = None
        if finding is None or not finding.has_failed:
            return
        steps = min(MOST_STEPS, self.run.plan.teacher // 4)
        if self._tries == TRIES:
            raise UserError(
                f"The teacher does not learn these photos: after {TRIES} tries of {steps} steps it has {finding}. Look "
                "at the cameras' poses, at --pipeline.teacher.near-plane and .far-plane, or give a teacher of your "
                "own with --pipeline.teacher-load-config"
            )
        self._tries += 1
        CONSOLE.print(
            f"[yellow]The teacher has learned nothing in {steps} steps: {finding}. It begins again at {CAREFUL:g} of "
            f"its learning rates, try {self._tries} of {TRIES}"
        )
        self.run.restart_teacher(CAREFUL)
        self._watch_from(step + 1)
