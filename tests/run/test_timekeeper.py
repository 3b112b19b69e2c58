"""Runs with --pipeline.minutes: what they settle on, keep, and leave as it was. Speeds and the clock are given."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.utils import writer
from short_run import checkpoint_of, load_student, train

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.progress.phases import Phase, PhasePlan
from mobiler2l_ns.run.budget import Speeds
from mobiler2l_ns.run.rehearsal import LEAST, MOST, WARM_UP, measure, seconds_of
from mobiler2l_ns.run.timekeeper import Timekeeper
from mobiler2l_ns.saved_run import SavedRun

SPEEDS = Speeds(teacher_step=0.03, view=0.25, first_step=0.04, full_step=0.04)
MINUTES = 0.25
STEPS = {"teacher_steps": 400, "distill_steps": 200, "finetune_steps": 50}
FIRST = PhasePlan(138, 163, 40)
"""138 steps of the teacher in 0.3 of 13.8 s, 6 views, and what the student has time for in the other 8.16 s."""


class Clock:
    """Goes by as it is told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _writers():
    yield
    writer.EVENT_WRITERS.clear()
    writer.EVENT_STORAGE.clear()


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("mobiler2l_ns.run.trainer.Timekeeper", partial(Timekeeper, clock=clock))
    monkeypatch.setattr("mobiler2l_ns.run.timekeeper.measure", lambda *_: SPEEDS)
    return clock


@pytest.fixture
def configure(make_config, tmp_path):
    def build(timestamp: str = "run", minutes: float | None = MINUTES, **pipeline):
        config = make_config(tmp_path, timestamp, minutes=minutes, **{**STEPS, **pipeline})
        config.pipeline.datamanager.refresh_rate = 0.0
        return config

    return build


def set_up(config):
    config.save_config()
    trainer = config.setup()
    trainer.setup()
    return trainer


def rates(trainer, name: str, step: int) -> float:
    return trainer.optimizers.schedulers[name].lr_lambdas[0](step)


def test_a_run_settles_on_what_its_time_is_enough_for(configure, clock, capsys):
    config = configure()
    asked = {name: group["scheduler"] for name, group in config.optimizers.items()}
    trainer = set_up(config)
    assert config.pipeline.plan() == trainer.pipeline.plan == trainer.pipeline.log.plan == FIRST
    assert config.max_num_iterations == FIRST.total
    written: Any = SavedRun.open(trainer.base_dir / "config.yml").config
    assert written.pipeline.plan() == FIRST and written.pipeline.minutes == MINUTES
    said = " ".join(capsys.readouterr().out.split())
    assert "This machine takes 30 ms for a step of the teacher, 250 ms for a pseudo view, 40 ms for a step" in said
    assert (
        "In 0.25 minutes it has time for 138 steps of the teacher, 6 pseudo views, 163 steps of distillation and 40 "
        "steps of fine-tuning" in said
    )
    for name in ("fields", "proposal_networks"):
        was = asked[name].setup().get_scheduler(trainer.optimizers.optimizers[name], 2e-2).lr_lambdas[0]
        assert rates(trainer, name, FIRST.teacher) == pytest.approx(was(STEPS["teacher_steps"]), rel=0.01)
    assert rates(trainer, "student", FIRST.teacher + FIRST.distil - 1) < 0.01
    assert rates(trainer, "student", FIRST.total) == 0.0
    assert asked["fields"].max_steps == 2000  # another run's config is its own


def test_a_run_of_given_steps_is_not_measured(configure, clock):
    trainer = set_up(configure(minutes=None))
    assert trainer.timekeeper is None
    assert trainer.pipeline.plan == PhasePlan(*STEPS.values())


@pytest.mark.parametrize(("minutes", "told"), [(0.02, "is too short"), (0.0, "give a run some time")])
def test_too_little_time_ends_in_one_line(configure, clock, minutes, told):
    with pytest.raises(UserError, match=f"--pipeline.minutes {minutes:g}.*{told}"):
        set_up(configure(minutes=minutes))


@pytest.mark.parametrize("asked", [MINUTES, None, 5.0])
def test_a_resumed_run_keeps_its_plan_whatever_is_asked_for(configure, clock, asked, monkeypatch):
    trainer = set_up(configure())
    trainer.save_checkpoint(3)
    monkeypatch.setattr("mobiler2l_ns.run.timekeeper.measure", lambda *_: pytest.fail("it is measured again"))
    config = configure("resumed", asked)
    config.load_dir = trainer.checkpoint_dir
    resumed = set_up(config)
    assert resumed.timekeeper is None and resumed._start_step == 4
    assert resumed.pipeline.plan == config.pipeline.plan() == FIRST
    assert config.pipeline.datamanager.pool_views == 6 and config.pipeline.minutes == MINUTES
    for name in resumed.optimizers.schedulers:
        for step in (0, 50, FIRST.teacher + 20, FIRST.total - 5):
            assert rates(resumed, name, step) == rates(trainer, name, step)
    # And once more, by the checkpoint itself.
    resumed.save_checkpoint(5)
    again = configure("again", asked)
    again.load_checkpoint = checkpoint_of(resumed.base_dir / "config.yml")
    assert set_up(again).pipeline.plan == FIRST


def test_a_resumed_run_of_given_steps_keeps_them(configure, clock, capsys):
    trainer = set_up(configure(minutes=None))
    trainer.save_checkpoint(3)
    config = configure("resumed")
    config.load_dir = trainer.checkpoint_dir
    assert set_up(config).pipeline.plan == PhasePlan(*STEPS.values())
    assert "--pipeline.minutes is left out" in capsys.readouterr().out


def test_a_checkpoint_alone_does_not_tell_its_plan(configure, clock):
    trainer = set_up(configure())
    trainer.save_checkpoint(3)
    (trainer.base_dir / "config.yml").unlink()
    config = configure("resumed")
    config.load_dir = trainer.checkpoint_dir
    with pytest.raises(UserError, match="has no config.yml .* give the steps in place of --pipeline.minutes"):
        set_up(config)


def test_what_is_left_is_planned_again_where_the_students_phases_begin(configure, clock):
    trainer = set_up(configure())
    keeper, pipeline = trainer.timekeeper, trainer.pipeline
    pipeline.datamanager.fill_pool()
    for step in range(FIRST.teacher):
        keeper.look_at_the_clock(step)
    assert pipeline.plan == FIRST
    clock.now += 7.5  # half of the time, where it ought to have been 5.6 s
    keeper.look_at_the_clock(FIRST.teacher)
    plan = pipeline.plan
    assert plan == PhasePlan(FIRST.teacher, int(0.8 * 6.9 / 0.04), int(0.2 * 6.9 / 0.04))
    written: Any = SavedRun.open(trainer.base_dir / "config.yml").config
    assert written.pipeline.plan() == pipeline.log.plan == plan and written.max_num_iterations == plan.total
    assert rates(trainer, "student", plan.start(Phase.FINETUNE) - 1) < 0.01
    keeper.look_at_the_clock(FIRST.teacher + 1)
    assert pipeline.plan == plan
    clock.now += 6.6  # 48 ms a step in place of 40
    keeper.look_at_the_clock(plan.start(Phase.FINETUNE))
    assert pipeline.plan == replace(plan, finetune=int(0.92 * 0.9 / (6.6 / plan.distil)))
    assert rates(trainer, "student", pipeline.plan.total) == 0.0


def test_views_that_come_while_the_student_learns_take_their_time(configure, clock, monkeypatch):
    trainer = set_up(configure())
    keeper, pipeline = trainer.timekeeper, trainer.pipeline
    monkeypatch.setattr(pipeline.datamanager, "missing_views", lambda: 4)  # of 250 ms each
    clock.now += 7.5
    keeper.look_at_the_clock(FIRST.teacher)
    plan = pipeline.plan
    assert plan == PhasePlan(FIRST.teacher, int(0.8 * 5.9 / 0.04), int(0.2 * 5.9 / 0.04))
    clock.now += 1.0 + 0.04 * plan.distil  # as expected
    keeper.look_at_the_clock(plan.start(Phase.FINETUNE))
    left = 0.92 * (15.0 - 8.5 - 0.04 * plan.distil)
    assert pipeline.plan == replace(plan, finetune=int(left / 0.04))


def test_late_runs_end_soon_but_whole(configure, clock):
    trainer = set_up(configure())
    trainer.pipeline.datamanager.fill_pool()
    clock.now += 1000.0
    trainer.timekeeper.look_at_the_clock(FIRST.teacher)
    assert trainer.pipeline.plan == PhasePlan(FIRST.teacher, 100, 0)


def test_a_timed_run_goes_through_all_phases_and_can_be_exported(configure, clock, monkeypatch):
    from nerfstudio.engine.trainer import Trainer

    iteration = Trainer.train_iteration

    def taking_its_time(trainer, step):
        clock.now += 0.028 if trainer.pipeline.plan.at(step) is Phase.TEACHER else 0.05
        return iteration(trainer, step)

    monkeypatch.setattr(Trainer, "train_iteration", taking_its_time)
    for module in ("budget", "timekeeper"):
        monkeypatch.setattr(f"mobiler2l_ns.run.{module}.LEAST_STEPS", 10)
    config = configure(minutes=0.07)
    path = train(config)
    run: Any = SavedRun.open(path).config
    plan = run.pipeline.plan()
    # The views have taken no time, and the student's steps more than they were measured.
    assert plan == PhasePlan(38, 57, 5)
    assert checkpoint_of(path).name == f"step-{plan.total - 1:09d}.ckpt"
    assert 4.1 < clock.now - 100.0 < 4.2
    assert load_student(path) is not None


# Measuring


def everything(trainer) -> dict[str, object]:
    pipeline = trainer.pipeline
    manager = pipeline.datamanager
    return {
        "weights": {name: value.clone() for name, value in pipeline.model.state_dict().items()},
        "plain": [
            {k: v for k, v in vars(module).items() if isinstance(v, int | float | str | None)}
            for module in pipeline.modules()
        ],
        "gradients": [parameter.grad for parameter in pipeline.parameters()],
        "random": random.getstate(),
        "numpy": [np.array_equal(each, each) and str(each) for each in np.random.get_state()],
        "torch": torch.get_rng_state(),
        "poses": manager.generator.get_state(),
        "pool": manager.pool,
        "extent": (manager.extent, dict(vars(manager.extent))),
        "refresh": (manager._refresh, dict(vars(manager._refresh)), manager._owed_views),
        "counted": (manager.train_count, manager._rays_in_batch),
        "phase": pipeline.phase,
        "events": len(writer.EVENT_STORAGE),
        "scaler": trainer.grad_scaler,
        "optimizers": {name: each.state_dict() for name, each in trainer.optimizers.optimizers.items()},
        "schedules": {name: each.last_epoch for name, each in trainer.optimizers.schedulers.items()},
    }


def same(found, expected) -> bool:
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[name], value) for name, value in expected.items())
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    return torch.equal(found, expected) if isinstance(expected, torch.Tensor) else bool(found == expected)


@pytest.mark.parametrize("volume", [0, 4])
def test_after_measuring_all_is_as_before(configure, volume):
    config = configure(minutes=None)
    config.pipeline.model = replace(config.pipeline.model, volume_rays=volume)
    config.pipeline.datamanager.train_num_images_to_sample_from = 5
    config.pipeline.datamanager.train_num_times_to_repeat_images = 2
    trainer = set_up(config)
    for draw in (random.random, np.random.rand, torch.randn(1).normal_):
        draw()
    before = everything(trainer)
    optimizers = trainer.optimizers
    seen = []
    render = trainer.pipeline.datamanager.render_view
    trainer.pipeline.datamanager.render_view = lambda pose: (seen.append(pose), render(pose))
    speeds = measure(trainer, trainer._build_optimizers(), 0.0)
    trainer.optimizers = optimizers
    after = everything(trainer)
    assert [name for name, value in before.items() if not same(after[name], value)] == []
    assert min(speeds.teacher_step, speeds.view, speeds.first_step, speeds.full_step) > 0.0
    assert len(seen) == WARM_UP + LEAST  # and none for the pool's refreshment
    assert not trainer.pipeline.datamanager._train_photos.is_loaded


def test_an_interrupted_measurement_leaves_nothing_either(configure, monkeypatch):
    trainer = set_up(configure(minutes=None))
    before = everything(trainer)

    def fail(*_):
        raise RuntimeError("no memory")

    monkeypatch.setattr(trainer.pipeline.datamanager, "pseudo_batch", fail)
    optimizers = trainer.optimizers
    with pytest.raises(RuntimeError, match="no memory"):
        measure(trainer, trainer._build_optimizers(), 0.0)
    trainer.optimizers = optimizers
    after = everything(trainer)
    assert [name for name, value in before.items() if not same(after[name], value)] == []


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize(("minutes", "compiled"), [(0.1, False), (100_000.0, True)])
def test_a_teacher_is_measured_as_it_will_be_in_the_run(configure, monkeypatch, minutes, compiled, trained):
    trainer = set_up(configure(minutes=None))
    if not trained:  # as where another run's teaches
        trainer.pipeline.plan = replace(trainer.pipeline.plan, teacher=0)
    functions = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: functions.append(function) or function)
    grids = trainer.pipeline.model.hash_grids
    measured = []
    monkeypatch.setattr(
        "mobiler2l_ns.run.rehearsal.seconds_of",
        lambda work, *_: (work(), measured.append(bool(grids.compiled)), 1.0 if grids.compiled else 2.0)[-1],
    )
    speeds = measure(trainer, trainer._build_optimizers(), 60.0 * minutes)
    assert len(functions) == (len(grids.grids) if compiled else 0)
    assert (speeds.teacher_step, speeds.view) == ((1.0 if compiled else 2.0) * trained, 1.0 if compiled else 2.0)
    assert measured[:2] == [False, compiled]  # the same once more, or what comes next


def test_the_median_counts_and_the_first_times_do_not():
    times = iter([9.0, 9.0, 1.0, 5.0, 2.0])
    clock = Clock()

    def work() -> None:
        clock.now += next(times)

    assert seconds_of(work, "cpu", 0.0, clock) == 2.0


@pytest.mark.parametrize(("each", "most", "times"), [(1.0, 0.5, LEAST), (1.0, 5.0, 5), (0.01, 100.0, MOST)])
def test_measuring_takes_no_longer_than_it_may(each, most, times):
    clock, done = Clock(), []

    def work() -> None:
        done.append(0)
        clock.now += each

    assert seconds_of(work, "cpu", most, clock) == pytest.approx(each)
    assert len(done) == WARM_UP + times
