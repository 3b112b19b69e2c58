"""The three phases of a run, as a pure function of the step."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Phase(str, Enum):
    """What a training step optimises."""

    TEACHER = "teacher"
    """The teacher, on rays of the photos."""
    DISTIL = "distil"
    """The student, on pseudo views rendered by the teacher."""
    FINETUNE = "fine-tune"
    """The student, on the photos mixed with pseudo views."""


@dataclass(frozen=True)
class PhasePlan:
    """Lengths of the phases in steps."""

    teacher: int
    distil: int
    finetune: int

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.teacher + self.distil + self.finetune

    def start(self, phase: Phase) -> int:
        """First step of a phase."""
        return {Phase.TEACHER: 0, Phase.DISTIL: self.teacher, Phase.FINETUNE: self.teacher + self.distil}[phase]

    def length(self, phase: Phase) -> int:
        """Steps of a phase."""
        return {Phase.TEACHER: self.teacher, Phase.DISTIL: self.distil, Phase.FINETUNE: self.finetune}[phase]

    def at(self, step: int) -> Phase:
        """Phase of a step; steps past the end belong to the last phase that has any."""
        for phase in (Phase.FINETUNE, Phase.DISTIL, Phase.TEACHER):
            if step >= self.start(phase) and self.length(phase) > 0:
                return phase
        return Phase.DISTIL
