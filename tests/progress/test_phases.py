"""Phases are a pure function of the step, and the learning rate follows them."""

import pytest
import torch

from mobiler2l_ns.progress.phases import Phase, PhasePlan
from mobiler2l_ns.run.optimizer import AdamWOptimizerConfig
from mobiler2l_ns.run.schedule import StudentSchedulerConfig
from mobiler2l_ns.student.config import StudentConfig
from mobiler2l_ns.student.growth import Growth
from mobiler2l_ns.student.network import StudentNetwork

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


def test_blocks_that_join_later_warm_up_on_their_own():
    growth = Growth(blocks=4, shares=(0.25, 0.5), until=(0.2, 0.6))
    schedule = scheduler(warmup_steps=10, decay_from=0.5, block_warmup_steps=20, growth=growth)
    assert schedule.block_factor(105, 0) == schedule.factor(105)  # there from the start
    assert schedule.block_factor(139, 1) == 0.0  # joins at a fifth of 200 steps
    assert schedule.block_factor(149, 1) == pytest.approx(0.5)
    assert schedule.block_factor(170, 1) == schedule.factor(170)
    assert schedule.block_factor(230, 3) == pytest.approx(schedule.factor(230) * 11 / 20)  # joins at three fifths
    assert schedule.block_factor(310, 3) == schedule.factor(310)


def test_every_parameter_group_has_its_own_rate():
    network = StudentNetwork(StudentConfig(width=8, num_blocks=4, sr_channels=(4, 4, 4)))
    optimizer = AdamWOptimizerConfig(lr=1e-2, block_lr=0.5).setup(network.parameter_groups())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))
    assert [group["lr"] for group in optimizer.param_groups] == [1e-2, *[5e-3] * 4]
    growth = Growth(blocks=4, shares=(0.25,), until=(0.5,))
    plan = PhasePlan(teacher=0, distil=100, finetune=0)
    config = StudentSchedulerConfig(warmup_steps=0, decay_from=1.0, block_warmup_steps=10, plan=plan, growth=growth)
    schedule = config.setup().get_scheduler(optimizer, 1e-2)
    for _ in range(54):
        optimizer.step()
        schedule.step()
    assert schedule.get_last_lr() == pytest.approx([1e-2, 5e-3, *[2.5e-3] * 3])


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
