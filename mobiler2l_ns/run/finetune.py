"""The last phase: the student learns the photos themselves, mixed with pseudo views."""

from __future__ import annotations

from typing import Any

from nerfstudio.utils.rich_utils import CONSOLE

from mobiler2l_ns.progress.phases import Phase
from mobiler2l_ns.run.learn import SELECTION_CHECKS, Learn
from mobiler2l_ns.run.phase import Rays


class FineTune(Learn):
    """Trains the student on photos, and ends with the student that was best on the selection photos."""

    name = Phase.FINETUNE
    reference = "photos_and_teacher"

    def enter(self, step: int) -> None:
        super().enter(step)
        config = self.run.model.config
        self.run.model.student.network.active_blocks = config.num_blocks
        self.run.model.learns_coarser = len(config.pitches) > 1
        self.run.datamanager.load_photos()
        self.remember_best(step)

    def batch(self, step: int) -> tuple[Rays, dict[str, Any]]:
        return self.run.datamanager.mixed_batch().as_nerfstudio()

    def end_step(self, step: int) -> None:
        done, length = self.steps_done(step), self.run.plan.length(self.name)
        if done < length and done % max(1, length // SELECTION_CHECKS) == 0:
            self.remember_best(step)

    def leave(self, step: int) -> None:
        run, last = self.run, self.remember_best(step)
        best = run.best_student
        assert best is not None
        if last is None:
            CONSOLE.print("No selection photo shows a visible pixel: the student of the last step is kept")
            return
        if not best.is_known:
            CONSOLE.print("[yellow]The student's pictures hold NaN since before fine-tuning: its training has diverged")
            return
        run.log.selection(step, float(best.best))
        best.restore(run.model.student)
        CONSOLE.print(
            f"Selection photos: {float(best.before):.2f} dB before fine-tuning, {last:.2f} dB at its end, "
            f"{float(best.best):.2f} dB kept"
        )
