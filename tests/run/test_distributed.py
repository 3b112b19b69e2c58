"""Training on several devices: one student, every rank with pseudo views of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.utils import comms
from short_run import load_student, open_run
from two_ranks import console_file, train_on_two_ranks

TEACHER, DISTIL, FINETUNE = 4, 10, 4
TOTAL, MORE = TEACHER + DISTIL + FINETUNE, 2


@dataclass
class Run:
    config_path: Path
    ranks: list[dict[str, Any]]
    consoles: list[str]


@pytest.fixture(scope="module")
def runs(make_config, tmp_path_factory) -> dict[str, Run]:
    """A run, the same gone on with for a few more steps, one with batch norms and two pitches, and one pruned as far
    as can be."""
    folder = tmp_path_factory.mktemp("ranks")
    steps = {"teacher_steps": TEACHER, "distill_steps": DISTIL, "finetune_steps": FINETUNE}
    configs = {
        "plain": make_config(folder, "plain", **steps),
        "resumed": make_config(folder, "resumed", **{**steps, "finetune_steps": FINETUNE + MORE}),
        "norm": make_config(folder, "norm", **steps),
        "pruned": make_config(folder, "pruned", **steps),
    }
    configs["resumed"].load_dir = configs["plain"].get_checkpoint_dir()
    norm = configs["norm"].pipeline
    norm.model = replace(norm.model, norm=True, pitches=(1.0, 2.0))
    configs["pruned"].report_views = 2
    pruned = configs["pruned"].pipeline
    pruned.model = replace(pruned.model, width=32, num_blocks=4, norm=True, prune=(0.1, 0.29))
    for config in configs.values():
        config.pipeline.datamanager.pool_views, config.pipeline.datamanager.refresh_rate = 3, 0.15
    reports = train_on_two_ranks(list(configs.values()), folder)
    consoles = [console_file(folder, rank).read_text() for rank in (0, 1)]
    return {
        name: Run(config.get_base_dir() / "config.yml", ranks, consoles)
        for (name, config), ranks in zip(configs.items(), reports, strict=True)
    }


@pytest.fixture(scope="module", params=["plain", "resumed", "norm", "pruned"])
def run(runs, request) -> Run:
    return runs[request.param]


def test_all_ranks_have_the_same_weights_and_buffers_after_every_phase(run):
    for first, second in zip(*(rank["states"] for rank in run.ranks), strict=True):
        assert first.keys() == second.keys()
        different = [name for name in first if not torch.equal(first[name], second[name])]
        assert different == ["_extra_state"]  # random numbers: each rank has its own
    last = run.ranks[0]["states"][-1]
    for part in ("_model.module.teacher.", "_model.module.student.network.", "best_student.network."):
        assert any(name.startswith(part) for name in last)
    assert bool(last["_model.module.student.capture.depth_known"])
    assert float(last["best_student.best"]) >= float(last["best_student.before"]) > 0
    assert run.ranks[0]["has_sphere"] == run.ranks[1]["has_sphere"]


def test_each_rank_learns_from_data_of_its_own(run):
    first, second = (rank["losses"] for rank in run.ranks)
    assert first.keys() == second.keys()
    assert all(first[step] != second[step] for step in first)


def test_ranks_share_out_the_pool(run):
    for poses in ("first_poses", "last_poses"):
        first, second = (rank[poses] for rank in run.ranks)
        assert len(first) == len(second) == 2
        assert float(torch.cdist(first.flatten(1), second.flatten(1)).min()) > 0


def test_both_ranks_go_through_all_phases_refresh_their_pool_and_grow_the_backbone(runs):
    for rank in runs["plain"].ranks:
        assert len(rank["states"]) == 3 and rank["rendered"] > 2
        assert set(rank["depths"]) == {1, 2}


@pytest.mark.parametrize(("name", "from_step"), [("norm", TEACHER + DISTIL // 2), ("plain", TOTAL)])
def test_coarser_pitches_are_learned_from_the_middle_of_distillation_on(runs, name, from_step):
    for rank in runs[name].ranks:
        assert rank["coarser"] == [step >= from_step for step in range(TOTAL)]


def test_batch_norms_measure_the_batches_of_all_ranks(runs):
    state = runs["norm"].ranks[0]["states"][-1]
    means = [value for name, value in state.items() if name.endswith("running_mean")]
    assert means and all(bool(mean.any()) for mean in means)
    assert all(float(rank["mean_of_ranks"]) == 0.5 for rank in runs["norm"].ranks)


def test_pruning_leaves_all_ranks_the_same_network(runs):
    for rank in runs["pruned"].ranks:
        weights = {name: value for name, value in rank["states"][-1].items() if ".student.network." in name}
        widths = [len(value) for name, value in weights.items() if name.endswith(".body.0.weight")]
        assert widths == [8, 0, 0, 0, 0, 0, 0]
    assert (runs["pruned"].config_path.parent / "report.html").is_file()
    speaking, _ = runs["pruned"].consoles
    assert speaking.count("GMAC: 1 of 7 residual blocks, 8 hidden channels") == 1


def test_only_rank_0_prints(runs):
    speaking, silent = runs["plain"].consoles
    assert "distil: 10 steps of 18" in speaking and "The student samples" in speaking and "dB kept" in speaking
    assert not silent.replace("Loading latest Nerfstudio checkpoint from load_dir...", "").strip()


def test_a_resumed_run_goes_on_from_the_checkpoint(runs):
    assert [list(rank["losses"]) for rank in runs["resumed"].ranks] == [[TOTAL, TOTAL + 1]] * 2


def test_the_checkpoint_opens_on_a_single_device(run):
    pipeline, step = open_run(run.config_path)
    (checkpoint,) = (run.config_path.parent / "nerfstudio_models").iterdir()
    assert checkpoint.name == f"step-{step:09d}.ckpt" and step == max(run.ranks[0]["losses"])
    trained = {name.removeprefix("_model.module."): value for name, value in run.ranks[0]["states"][-1].items()}
    opened = pipeline.model.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in opened.items())
    exported = load_student(run.config_path).state_dict()
    assert all(torch.equal(value, trained[f"student.{name}"]) for name, value in exported.items())


def test_other_ranks_leave_the_checkpoints_to_rank_0(make_config, tmp_path, monkeypatch):
    trainer = make_config(tmp_path).setup()
    half_written = trainer.base_dir / ".unfinished_checkpoint" / "step-000000005.ckpt"
    half_written.parent.mkdir(parents=True)
    half_written.touch()
    monkeypatch.setattr(comms, "get_rank", lambda: 1)
    trainer.save_checkpoint(5)
    assert half_written.exists() and not trainer.checkpoint_dir.exists()
