"""A run that is stopped and resumed ends as if nothing had happened: weights, moments and learning rates.

Three things are not in nerfstudio's checkpoints, and make a resumed run another one in practice: the state of the
random number generators, the pool of pseudo views, which the teacher renders anew, and how many steps ago nerfacto's
sampler updated its proposal networks. Here every step draws random numbers of its own, the pool is drawn from the same
poses, and the sampler's counters are handed over; then all else must be the same to the last bit.
"""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.utils import writer
from short_run import TOTAL, checkpoint_of, train

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.run.pipeline import MobileR2LPipeline

STEPS = {"teacher_steps": 14, "distill_steps": 12, "finetune_steps": 6}
END = sum(STEPS.values())
STOPS = {"teacher": 12, "distil": 21, "fine-tune": 29}
"""Name of a phase -> steps that are done when it is interrupted."""


def seed(trainer, number: int) -> None:
    """Let all that is drawn from here on depend on this number alone."""
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)
    manager = trainer.pipeline.datamanager
    manager.generator.manual_seed(number)
    if manager.pool is not None:
        manager.pool.generator.manual_seed(number)


def counters(trainer) -> dict[str, int]:
    sampler = trainer.pipeline.model.teacher.proposal_sampler
    return {name: getattr(sampler, name) for name in ("_step", "_steps_since_update")}


@dataclass
class Trained:
    """What became of a run.

    Attributes:
        losses: of each step.
        rates: (optimizer, step) -> learning rates of its groups, as the optimizer took them.
        counters: of nerfacto's sampler after each step.
        end: the last checkpoint.
    """

    losses: dict[int, float] = field(default_factory=dict)
    rates: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    counters: dict[int, dict[str, int]] = field(default_factory=dict)
    end: dict[str, Any] = field(default_factory=dict)


def go(trainer, after_step=lambda step: None) -> Trained:
    """Train a run that is set up to its end."""
    trained, now = Trained(), [0]
    for name, optimizer in trainer.optimizers.optimizers.items():

        def note(optimizer, *_, name=name):
            trained.rates[name, now[0]] = [group["lr"] for group in optimizer.param_groups]

        optimizer.register_step_pre_hook(note)
    manager, train_iteration, fill_pool = (
        trainer.pipeline.datamanager,
        trainer.train_iteration,
        trainer.pipeline.datamanager.fill_pool,
    )

    def step(number: int):
        seed(trainer, number)
        now[0] = number
        result = train_iteration(number)
        trained.losses[number] = float(result[0])
        trained.counters[number] = counters(trainer)
        after_step(number)
        return result

    def fill(*args) -> None:
        seed(trainer, 1000)
        fill_pool(*args)

    trainer.train_iteration, manager.fill_pool = step, fill
    trainer.train()
    writer.EVENT_WRITERS.clear()
    trained.end = torch.load(checkpoint_of(trainer.base_dir / "config.yml"))
    return trained


def set_up(config):
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    trainer = config.setup()
    config.save_config()
    trainer.setup()
    # One thread adds up in one order.
    torch.set_num_threads(1)
    return trainer


def assert_same(found, expected, where: str = "") -> None:
    """Of nested dictionaries and lists with tensors and numbers, to the last bit."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for name, value in expected.items():
            assert_same(found[name], value, f"{where}/{name}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for index, value in enumerate(expected):
            assert_same(found[index], value, f"{where}/{index}")
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True, msg=lambda text: f"{where}: {text}")
    else:
        assert found == expected, where


@pytest.fixture(scope="module", autouse=True)
def _threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def configure(make_config, tmp_path_factory):
    """Builds the config of a run whose pool stays as it is: how often it is refreshed depends on the clock."""
    folder = tmp_path_factory.mktemp("resuming")

    def build(timestamp: str):
        config = make_config(folder, timestamp, **STEPS)
        config.pipeline.datamanager.pool_views, config.pipeline.datamanager.refresh_rate = 4, 0.0
        return config

    return build


@pytest.fixture(scope="module")
def whole(configure):
    """A run without interruption, and for each stop the folder of its checkpoint of that moment."""
    trainer = set_up(configure("whole"))
    kept = {}

    def keep(step: int) -> None:
        if step + 1 in STOPS.values():
            trainer.save_checkpoint(step)
            kept[step + 1] = trainer.base_dir.parent / f"stopped_{step + 1}" / "nerfstudio_models"
            shutil.copytree(trainer.checkpoint_dir, kept[step + 1])
            shutil.copy(trainer.base_dir / "progress.jsonl", kept[step + 1].parent)

    return go(trainer, keep), kept


@pytest.fixture(scope="module", params=STOPS)
def resumed(configure, whole, request):
    """A resumed run that is set up, and the folder of the checkpoint that it goes on from."""
    expected, kept = whole
    stop = STOPS[request.param]
    config = configure(f"resumed_{stop}")
    config.load_dir = kept[stop]
    trainer = set_up(config)
    saved = torch.load(next(kept[stop].iterdir()))
    loaded = {
        "pipeline": {name: value.clone() for name, value in trainer.pipeline.state_dict().items()},
        "optimizers": {k: v.state_dict() for k, v in trainer.optimizers.optimizers.items()},
        "schedulers": {k: dict(v.state_dict()) for k, v in trainer.optimizers.schedulers.items()},
        "step": trainer._start_step - 1,
    }
    assert_same(loaded, {name: saved[name] for name in loaded})
    assert saved["step"] == stop - 1 and len(saved["optimizers"]["student"]["state"]) == (stop > 14) * len(
        loaded["optimizers"]["student"]["state"]
    )
    sampler = trainer.pipeline.model.teacher.proposal_sampler
    for name, value in expected.counters[stop - 1].items():
        setattr(sampler, name, value)
    return stop, go(trainer)


def test_a_resumed_run_trains_the_steps_that_are_left_and_learns_the_same_from_each(resumed, whole):
    stop, trained = resumed
    assert list(trained.losses) == list(range(stop, END))
    assert trained.losses == {step: loss for step, loss in whole[0].losses.items() if step >= stop}


def test_a_resumed_run_learns_at_the_same_rates(resumed, whole):
    stop, trained = resumed
    expected = {key: rates for key, rates in whole[0].rates.items() if key[1] >= stop}
    assert ("student", END - 1) in expected and trained.rates == expected


def test_a_resumed_run_ends_with_the_same_weights_and_moments(resumed, whole):
    _, trained = resumed
    assert any(name.startswith("best_student.") for name in trained.end["pipeline"])
    assert any(name.startswith("_model.teacher.") for name in trained.end["pipeline"])
    assert_same(trained.end, whole[0].end)


def test_all_rates_follow_their_schedules(whole):
    rates = {step: values for (name, step), values in whole[0].rates.items() if name == "student"}
    assert list(rates) == list(range(STEPS["teacher_steps"], END))
    assert len({tuple(values) for values in rates.values()}) > 5


def test_random_numbers_are_taken_up_from_storages_of_their_own(monkeypatch):
    taken: list[torch.Tensor] = []
    manager = SimpleNamespace(generator=SimpleNamespace(set_state=taken.append))
    monkeypatch.setattr(torch, "set_rng_state", taken.append)
    pipeline: Any = SimpleNamespace(_trains=True, datamanager=manager)
    MobileR2LPipeline.set_extra_state(pipeline, torch.stack([torch.get_rng_state()] * 2))
    assert [state.storage_offset() for state in taken] == [0, 0]
    assert all(torch.equal(state, torch.get_rng_state()) for state in taken)


def test_a_finished_run_has_nothing_left_to_do_and_loses_nothing(make_config, finished_run, tmp_path):
    again = make_config(tmp_path, "again")
    again.load_dir = finished_run.parent / "nerfstudio_models"
    path = train(again)
    assert checkpoint_of(path).name == f"step-{TOTAL - 1:09d}.ckpt"
    found, expected = (torch.load(checkpoint_of(config)) for config in (path, finished_run))
    assert_same(found["pipeline"], expected["pipeline"])
    assert_same(found["optimizers"], expected["optimizers"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"density_bins": 8}, "with other settings: give --pipeline.model.density-bins 32$"),
        ({"volume_cells": (64,), "near": 0.5}, "give --pipeline.model.volume-cells 128 --pipeline.model.near None$"),
        ({"activation": "gelu", "width": 16}, "give --pipeline.model.width [0-9]+ --pipeline.model.activation relu$"),
    ],
)
def test_a_student_is_gone_on_with_as_what_it_was(settings, said, make_config, finished_run, tmp_path):
    config = make_config(tmp_path, "again")
    config.load_dir = finished_run.parent / "nerfstudio_models"
    for name, value in settings.items():
        setattr(config.pipeline.model, name, value)
    with pytest.raises(UserError, match=said):
        train(config)


def test_weights_of_other_sizes_are_one_line_where_no_config_tells_which(make_config, finished_run, tmp_path):
    config = make_config(tmp_path, "again")
    config.load_checkpoint = tmp_path / "step-000000001.ckpt"
    shutil.copy(checkpoint_of(finished_run), config.load_checkpoint)
    config.pipeline.model.volume_cells = (64,)
    with pytest.raises(UserError, match="1 weights have other sizes, student.volume.planes.0 first: resume with the"):
        train(config)


def test_a_plan_that_ends_before_the_checkpoint_is_one_line(make_config, finished_run, tmp_path):
    config = make_config(tmp_path, "again")
    config.load_dir = finished_run.parent / "nerfstudio_models"
    config.pipeline.finetune_steps -= 1
    with pytest.raises(UserError, match=f"The checkpoint has {TOTAL} steps, .* give {TOTAL - 1}: give the same steps"):
        train(config)
    assert not list((tmp_path / "demo").rglob("*.ckpt"))


def test_a_kill_while_saving_leaves_the_previous_checkpoint(make_config, finished_run, tmp_path, monkeypatch):
    run = shutil.copytree(finished_run.parent, tmp_path / "demo" / "mobiler2l-tiny" / "run")
    config = make_config(tmp_path)
    trainer = config.setup()
    trainer.pipeline = torch.nn.Linear(1, 1)
    trainer.optimizers = type("Nothing", (), {"optimizers": {}, "schedulers": {}})()

    def killed(_, path):
        Path(path).write_bytes(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.save_checkpoint(10_000)
    assert [path.name for path in (run / "nerfstudio_models").iterdir()] == [f"step-{TOTAL - 1:09d}.ckpt"]
