"""Phases are a pure function of the step, and the learning rate follows them."""

import pytest
import torch

from mobiler2l_ns.phases import Phase, PhasePlan
from mobiler2l_ns.schedule import StudentSchedulerConfig

PLAN = PhasePlan(teacher=100, distil=200, finetune=50)


@pytest.mark.parametrize(
    ("step", "phase"),
    [(0, "teacher"), (99, "teacher"), (100, "distil"), (299, "distil"), (300, "fine-tune"), (349, "fine-tune")],
)
def test_each_step_has_its_phase(step, phase):
    assert PLAN.at(step).value == phase
    assert PLAN.total == 350


def test_a_phase_of_no_steps_never_comes():
    assert PhasePlan(0, 10, 0).at(0) is Phase.DISTIL
    assert PhasePlan(0, 10, 0).at(10) is Phase.DISTIL  # after the end: what was last
    assert PhasePlan(5, 0, 5).at(5) is Phase.FINETUNE
    assert PhasePlan(5, 0, 0).at(7) is Phase.TEACHER


def scheduler(**settings):
    config = StudentSchedulerConfig(plan=PLAN, **settings)
    return config.setup()


def test_the_students_rate_starts_with_distillation():
    schedule = scheduler(warmup_steps=10, warmup_from=0.1, decay_from=0.5, finetune_share=0.2)
    assert schedule.factor(100) == pytest.approx(0.1)
    assert schedule.factor(105) == pytest.approx(0.55)
    assert schedule.factor(110) == schedule.factor(200) == pytest.approx(1.0)
    assert schedule.factor(250) == pytest.approx(0.5)
    assert 0 < schedule.factor(299) < 0.02
    assert schedule.factor(300) == pytest.approx(0.2)
    assert schedule.factor(325) == pytest.approx(0.1)


def test_the_published_schedule():
    schedule = StudentSchedulerConfig(
        plan=PhasePlan(0, 600_000, 0), warmup_steps=200, warmup_from=0.2, shape="exponential"
    ).setup()
    assert 5e-4 * schedule.factor(0) == pytest.approx(1e-4)
    assert schedule.factor(200) == 1.0
    assert schedule.factor(500_200) == pytest.approx(0.1)


def test_rates_are_python_floats_so_that_checkpoints_load():
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = scheduler().get_scheduler(optimizer, 1e-3)
    for _ in range(120):
        optimizer.step()
        schedule.step()
    assert all(type(rate) is float for rate in schedule.get_last_lr())
