"""Time is shared out by a machine's speeds, given here, among teacher, pseudo views and student."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.progress.phases import PhasePlan
from mobiler2l_ns.run.budget import Recipe, Settled, Speeds, share_out, student_step, usable
from mobiler2l_ns.student.growth import Growth

SPEEDS = Speeds(teacher_step=0.1, view=1.0, first_step=0.02, full_step=0.05)
RECIPE = Recipe(PhasePlan(1000, 2700, 300), Growth(8, (0.25,), (0.5,)), views=500)


def seconds(settled: Settled, speeds: Speeds, recipe: Recipe) -> float:
    distil, finetune = student_step(speeds, recipe)
    steps = settled.steps
    student = steps.distil * distil + steps.finetune * finetune
    return steps.teacher * speeds.teacher_step + settled.views * speeds.view / recipe.ranks + student


def test_the_plan_follows_from_the_speeds():
    # 1000 s are left, 8 % are held back: 276 s are the teacher's, 230 s the pool's; of the rest a step takes 35 ms
    # while the student grows and 50 ms then.
    settled = share_out(20.0, 200.0, SPEEDS, replace(RECIPE, steps=PhasePlan(4000, 2700, 300)))
    each = 414.0 / (0.9 * 0.035 + 0.1 * 0.05)
    assert settled == Settled(PhasePlan(2760, int(0.9 * each), int(0.1 * each)), 230)


@pytest.mark.parametrize("minutes", [3.0, 10.0, 60.0, 600.0])
@pytest.mark.parametrize("speeds", [SPEEDS, replace(SPEEDS, view=0.05), replace(SPEEDS, full_step=0.5)])
def test_it_takes_as_long_as_there_is_time(minutes, speeds):
    recipe = replace(RECIPE, refresh_rate=0.1, refresh_share=0.2, report_views=5)
    settled = share_out(minutes, 20.0, speeds, recipe)
    time = usable(60.0 * minutes - 20.0, speeds, recipe)
    assert 0.0 <= time - seconds(settled, speeds, recipe) < 2.0
    assert settled.steps.finetune == pytest.approx(settled.steps.distil / 9, abs=1)
    assert settled.steps.teacher <= 1.5 * recipe.steps.teacher and 30 <= settled.views <= recipe.views


def test_what_teacher_and_pool_do_not_need_is_the_students():
    settled = share_out(600.0, 0.0, SPEEDS, RECIPE)
    assert (settled.steps.teacher, settled.views) == (1500, 500)


def test_the_time_of_a_loaded_teacher_goes_to_the_others():
    loaded = replace(RECIPE, steps=replace(RECIPE.steps, teacher=0))
    with_teacher, without = (share_out(10.0, 0.0, SPEEDS, recipe) for recipe in (RECIPE, loaded))
    assert without.steps.teacher == 0
    assert without.views > 1.3 * with_teacher.views and without.steps.distil > 1.3 * with_teacher.steps.distil


def test_several_devices_render_more_views():
    assert (
        share_out(10.0, 0.0, SPEEDS, replace(RECIPE, ranks=2)).views == 2 * share_out(10.0, 0.0, SPEEDS, RECIPE).views
    )


def test_a_small_pool_stays_small():
    assert share_out(10.0, 0.0, SPEEDS, replace(RECIPE, views=6)).views == 6


def test_new_views_take_no_more_than_their_share():
    recipe = replace(RECIPE, refresh_rate=0.01, refresh_share=0.2)
    assert student_step(SPEEDS, recipe)[1] == pytest.approx(0.05 + 0.01)
    assert student_step(SPEEDS, replace(recipe, refresh_rate=1.0))[1] == pytest.approx(0.05 / 0.8)
    assert student_step(SPEEDS, replace(recipe, refresh_rate=1.0, refresh_share=1.0))[1] == pytest.approx(1.05)


@pytest.mark.parametrize("teacher", [0, 1000])
@pytest.mark.parametrize("speeds", [SPEEDS, replace(SPEEDS, view=0.01), replace(SPEEDS, full_step=0.5)])
@pytest.mark.parametrize("views", [6, 500])
def test_too_little_time_is_told_and_how_much_is_enough(speeds, teacher, views):
    recipe = replace(RECIPE, steps=replace(RECIPE.steps, teacher=teacher), views=views, report_views=3)
    with pytest.raises(UserError, match=r"--pipeline.minutes 0.1 is too short: .* give at least \d") as told:
        share_out(0.1, 5.0, speeds, recipe)
    enough = float(str(told.value).split()[-1])
    share_out(enough, 5.0, speeds, recipe)
    with pytest.raises(UserError):
        share_out(enough - 0.5, 5.0, speeds, recipe)


def test_speeds_are_told_in_words():
    assert str(SPEEDS) == (
        "100 ms for a step of the teacher, 1.0 s for a pseudo view, 20 ms, later 50 ms for a step of the student"
    )
    assert str(Speeds(0.0, 0.004, 0.05, 0.05)) == "4.0 ms for a pseudo view, 50 ms for a step of the student"
