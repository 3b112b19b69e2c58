"""A teacher that learns nothing begins again; if that does not help, the run ends before pseudo views are rendered."""

from __future__ import annotations

import pytest
import torch
from nerfstudio.utils import writer

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.progress.phases import Phase
from mobiler2l_ns.run.teach import CAREFUL
from mobiler2l_ns.teacher.watch import WINDOW, Finding

STEPS = 4 * WINDOW
TEACHER = ("fields", "proposal_networks")


def trainer_of(config):
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer


@pytest.fixture(autouse=True)
def _writers():
    yield
    writer.EVENT_WRITERS.clear()


def rates(trainer) -> list[float]:
    return [group["lr"] for name in TEACHER for group in trainer.optimizers.optimizers[name].param_groups]


def test_a_teacher_that_cannot_learn_ends_the_run_in_one_line(make_config, tmp_path, capsys):
    config = make_config(tmp_path, teacher_steps=STEPS)
    for name in TEACHER:
        config.optimizers[name]["optimizer"].lr = 1e4
        config.optimizers[name]["scheduler"] = None
    trainer = trainer_of(config)
    with pytest.raises(UserError, match="The teacher does not learn these photos: after 3 tries of 50 steps"):
        trainer.train()
    assert trainer.step == 3 * WINDOW - 1 and trainer.pipeline.datamanager.pool is None
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("learned nothing in 50 steps") == 2 and "try 3 of 3" in said
    assert rates(trainer) == pytest.approx([1e4 * CAREFUL**2] * 2)


def test_it_begins_again_with_new_weights_and_lower_rates_that_stay_lower(make_config, tmp_path, monkeypatch):
    trainer = trainer_of(make_config(tmp_path, teacher_steps=STEPS))
    pipeline, begun = trainer.pipeline, []
    findings = iter([Finding(9.0, 9.0, 0.0), None])
    monkeypatch.setattr("mobiler2l_ns.run.teach.TeacherWatch.verdict", lambda watch: next(findings))
    restart = pipeline.restart_teacher

    def watched(rate: float) -> None:
        before = {name: value.clone() for name, value in pipeline.model.teacher.named_parameters()}
        was = rates(trainer)
        restart(rate)
        after = dict(pipeline.model.teacher.named_parameters())
        matrices = {name: value for name, value in before.items() if value.dim() > 1}
        begun.append(bool(matrices) and not any(torch.equal(after[name], value) for name, value in matrices.items()))
        assert rates(trainer) == pytest.approx([CAREFUL * each for each in was])
        assert not any(trainer.optimizers.optimizers[name].state for name in TEACHER)

    monkeypatch.setattr(pipeline, "restart_teacher", watched)
    trainer.config.max_num_iterations = 0
    for step in range(2 * WINDOW):
        pipeline.begin_step(step)
        trainer.train_iteration(step)
        pipeline.end_step(step)
    assert begun == [True] and next(findings, "none left") == "none left"
    assert pipeline.phase.name is Phase.TEACHER
    base = [trainer.optimizers.schedulers[name].base_lrs[0] for name in TEACHER]
    assert base == pytest.approx([CAREFUL * trainer.config.optimizers[n]["optimizer"].lr for n in TEACHER])


def test_a_phase_too_short_to_judge_is_not_judged(make_config, tmp_path, monkeypatch):
    trainer = trainer_of(make_config(tmp_path, teacher_steps=4 * WINDOW - 1))
    monkeypatch.setattr("mobiler2l_ns.run.teach.TeacherWatch.see", lambda *_: pytest.fail("it was watched"))
    trainer.pipeline.begin_step(0)
    trainer.train_iteration(0)
