"""A run's time shared out: from seconds that are left and a machine's speeds to steps and pseudo views."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.progress.phases import PhasePlan
from mobiler2l_ns.student.growth import Growth

TEACHER = 0.3
"""Share of the teacher: nobody can learn from it what it has not learned, and it learns faster than the student."""
POOL = 0.25
"""Share of the first pseudo views. The rest is the student's, which learns slowest of all."""
HELD_BACK = 0.08
"""Share of the time that is left for all that is neither: evaluations, checkpoints, photos to be read."""
MOST_TEACHER = 1.5
"""Most steps of the teacher, in those of the recipe: 20,000 become the 30,000 of nerfstudio's own nerfacto."""
LEAST_STEPS = 100
"""Fewer of teacher or student are not worth their time."""
LEAST_VIEWS = 30
"""Fewer pseudo views show too little of a scene to measure it by."""


@dataclass(frozen=True)
class Speeds:
    """Seconds that things take on this machine."""

    teacher_step: float
    """0 where no teacher is trained."""
    view: float
    """To render a pseudo view on one device."""
    first_step: float
    """Step of the student in the first stage of its growth."""
    full_step: float
    """Step of the full student."""

    def __str__(self) -> str:
        teacher = f"{_seconds(self.teacher_step)} for a step of the teacher, " if self.teacher_step else ""
        student = _seconds(self.full_step)
        if self.first_step < 0.9 * self.full_step:
            student = f"{_seconds(self.first_step)}, later {student}"
        return f"{teacher}{_seconds(self.view)} for a pseudo view, {student} for a step of the student"


@dataclass(frozen=True)
class Recipe:
    """What time is shared out for.

    Attributes:
        steps: of the phases as they are without a limit of time; distillation and fine-tuning keep their proportion.
        growth: of the student.
        views: most pseudo views of all devices.
        ranks: devices.
        refresh_rate, refresh_share: of the pool.
        report_views: test views that teacher and student render at the end.
    """

    steps: PhasePlan
    growth: Growth
    views: int
    ranks: int = 1
    refresh_rate: float = 0.0
    refresh_share: float = 0.0
    report_views: int = 0


@dataclass(frozen=True)
class Settled:
    """What fits a run's time."""

    steps: PhasePlan
    views: int


def shares(trains_teacher: bool) -> tuple[float, float]:
    """Shares of a run's time: of the teacher's training, and of the first pseudo views."""
    return (TEACHER, POOL) if trains_teacher else (0.0, POOL / (1.0 - TEACHER))


def student_step(speeds: Speeds, recipe: Recipe) -> tuple[float, float]:
    """Mean seconds of a step in distillation and in fine-tuning, new pseudo views included."""
    growth = recipe.growth
    first = growth.active(0.0)
    a_block = (speeds.full_step - speeds.first_step) / max(1, growth.blocks - first)
    edges = sorted({0.0, *(min(1.0, end) for end in growth.until), 1.0})
    growing = 0.0
    for begin, end in zip(edges, edges[1:], strict=False):
        growing += (end - begin) * (speeds.first_step + a_block * (growth.active(begin) - first))

    def refreshed(seconds: float) -> float:
        most = seconds / (1.0 - recipe.refresh_share) if recipe.refresh_share < 1.0 else math.inf
        return min(seconds + recipe.refresh_rate * speeds.view, most)

    return refreshed(growing), refreshed(speeds.full_step)


def student_steps(seconds: float, speeds: Speeds, recipe: Recipe) -> tuple[int, int]:
    """Steps of distillation and fine-tuning that fit, in the recipe's proportion."""
    distil, finetune = student_step(speeds, recipe)
    of_photos = recipe.steps.finetune / max(1, recipe.steps.distil + recipe.steps.finetune)
    both = max(0.0, seconds) / ((1.0 - of_photos) * distil + of_photos * finetune)
    return int((1.0 - of_photos) * both), int(of_photos * both)


def usable(seconds: float, speeds: Speeds, recipe: Recipe) -> float:
    """Seconds for the phases, of those that are left until a run has to be over."""
    report = recipe.report_views * (speeds.view + speeds.full_step)
    return (1.0 - HELD_BACK) * (seconds - report)


def share_out(minutes: float, spent: float, speeds: Speeds, recipe: Recipe) -> Settled:
    """Steps and pseudo views that fit.

    Args:
        minutes: of the whole run.
        spent: seconds of them that have gone by.
        speeds: of this machine.
        recipe: what is shared out.

    Raises:
        UserError: if nothing sensible does.
    """
    settled = _shared_out(60.0 * minutes - spent, speeds, recipe)
    if settled is not None:
        return settled
    enough = 0.5
    while _shared_out(60.0 * enough - spent, speeds, recipe) is None:
        enough += 0.5
    raise UserError(
        f"--pipeline.minutes {minutes:g} is too short: here {spent:.0f} s go by before the first step, and this "
        f"machine takes {speeds}; give at least {enough:g}"
    )


def _shared_out(seconds: float, speeds: Speeds, recipe: Recipe) -> Settled | None:
    time = usable(seconds, speeds, recipe)
    view, wanted, teacher = speeds.view / recipe.ranks, recipe.steps.teacher, 0
    of_teacher, of_pool = shares(wanted > 0)
    if wanted:
        teacher = max(0, min(int(of_teacher * time / speeds.teacher_step), round(MOST_TEACHER * wanted)))
    views = max(min(LEAST_VIEWS, recipe.views), min(int(of_pool * time / view), recipe.views))
    distil, finetune = student_steps(time - teacher * speeds.teacher_step - views * view, speeds, recipe)
    if distil < LEAST_STEPS or teacher < min(LEAST_STEPS, wanted):
        return None
    return Settled(PhasePlan(teacher, distil, finetune), views)


def _seconds(value: float) -> str:
    if value >= 1.0:
        return f"{value:.1f} s"
    return f"{1000.0 * value:.0f} ms" if value >= 0.01 else f"{1000.0 * value:.1f} ms"
