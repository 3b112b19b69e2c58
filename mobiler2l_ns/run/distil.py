"""The second phase: the student learns the teacher's pseudo views, growing first and, if asked, pruned later."""

from __future__ import annotations

import math
from typing import Any

import torch
from nerfstudio.utils.rich_utils import CONSOLE

from mobiler2l_ns.progress.phases import Phase
from mobiler2l_ns.run import distributed
from mobiler2l_ns.run.learn import Learn, count_density
from mobiler2l_ns.run.phase import Rays
from mobiler2l_ns.student.pruning import channel_moments, describe, prune

PRUNING_BATCHES = 8
"""Batches that a round of pruning judges the channels by."""


class Distil(Learn):
    """Trains the student on pseudo views (paper §3.4)."""

    name = Phase.DISTIL
    reference = "teacher"

    def enter(self, step: int) -> None:
        self._activate(self._progress(step))
        super().enter(step)

    def pool_progress(self, step: int) -> float:
        return self._progress(step)

    def begin_step(self, step: int) -> None:
        self._fill_pool(step)
        self.set_progress(self._progress(step))

    def batch(self, step: int) -> tuple[Rays, dict[str, Any]]:
        return self.run.datamanager.pseudo_batch().as_nerfstudio()

    def leave(self, step: int) -> None:
        self.look_at_selection_photos(step)

    def _progress(self, step: int) -> float:
        return (step - self.run.plan.start(self.name)) / max(1, self.run.plan.distil)

    def _fill_pool(self, step: int) -> None:
        """Go on filling the first pool; once it is full the student's volume knows all of its views."""
        manager = self.run.datamanager
        progress, full = self._progress(step), manager.config.fill_share
        manager.fill_further(progress)
        # By the step and not by what was missing, so that a run that is resumed does the same.
        if self._progress(step - 1) < full <= progress and step > self.run.plan.start(self.name):
            count_density(self.run, keep_box=True)

    def set_progress(self, progress: float) -> None:
        """What is trained when ``progress`` of distillation, 0..1, is done: some of the blocks, and of the channels
        what pruning leaves."""
        self._activate(progress)
        self._prune_if_due(progress)

    def _activate(self, progress: float) -> None:
        run = self.run
        run.model.student.network.active_blocks = run.growth.active(progress)
        config = run.model.config
        run.model.learns_coarser = len(config.pitches) > 1 and progress >= config.coarser_from

    def _prune_if_due(self, progress: float) -> None:
        """One round of pruning, if the network is larger than it may be; the optimizer's state shrinks with it."""
        run, student = self.run, self.run.model.student
        macs = run.pruning.due(student.network, progress)
        if macs is None:
            return
        batches = []
        for _ in range(PRUNING_BATCHES):
            inputs, _ = student.network_inputs(*run.datamanager.pseudo_batch().rays)
            batches.append(channel_moments(student.network, *inputs))
        moments = [torch.stack(of_block).mean(0) for of_block in zip(*batches, strict=True)]
        prune(student.network, distributed.mean_of_ranks(moments), macs, run.student_optimizer)
        student.compile_for(torch.device(run.model.device))
        run.wrap(student)
        # What fine-tuning on an earlier run remembered is of another shape.
        run.best_student = None
        gmac = math.prod(run.datamanager.view.grid) * 1e-9
        CONSOLE.print(
            f"Pruned to {student.network.macs() * gmac:.3g} of {run.pruning.macs * gmac:.3g} GMAC: "
            f"{describe(student.network)}"
        )
