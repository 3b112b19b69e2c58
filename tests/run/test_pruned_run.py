"""A run that is pruned while it is distilled: in rounds, resumed between them, opened and exported as it was left."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.utils import writer
from short_run import load_student, open_run

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export.package import Request, export_packages
from mobiler2l_ns.student.network import StudentNetwork
from mobiler2l_ns.student.pruning import GROUP

PRUNED = {"teacher_steps": 0, "distill_steps": 20, "finetune_steps": 4}


def widths(pipeline) -> list[int]:
    return [block.hidden for block, _ in pipeline.model.student.network.residual_blocks()]


@pytest.fixture(scope="module")
def pruned_config(make_config, nerfacto_run):
    """Builds the config of a short run that prunes in two rounds, in the steps 13 and 17."""

    def make(folder: Path, timestamp: str):
        config = make_config(folder, timestamp, teacher_load_config=nerfacto_run, **PRUNED)
        config.pipeline.model = replace(config.pipeline.model, width=32, num_blocks=4, norm=True, prune=(0.1, 0.25))
        return config

    return make


def train_and_watch(config, stop: int | None = None) -> tuple[dict[int, list[int]], Any]:
    """Train; returns the blocks' widths in each step, and the trainer. Stops after a step and its checkpoint."""
    trainer = config.setup()
    config.save_config()
    trainer.setup()
    original, seen = trainer.train_iteration, {}

    def watched(step):
        result = original(step)
        seen[step] = widths(trainer.pipeline)
        if step == stop:
            trainer.save_checkpoint(step)
            raise KeyboardInterrupt
        return result

    trainer.train_iteration = watched
    if stop is None:
        trainer.train()
    else:
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    writer.EVENT_WRITERS.clear()
    return seen, trainer


def test_a_run_is_pruned_in_rounds_resumes_between_them_opens_and_exports(pruned_config, tmp_path, capsys):
    whole = pruned_config(tmp_path, "whole")
    first, _ = train_and_watch(whole)
    assert [step for step in range(1, 24) if first[step] != first[step - 1]] == [13, 17]
    printed = " ".join(capsys.readouterr().out.split())
    gmacs = re.findall(r"Pruned to ([\d.]+) of ([\d.]+) GMAC: \d of 7 residual blocks, (\d+) hidden channels", printed)
    assert [int(channels) for *_, channels in gmacs] == [sum(first[13]), sum(first[17])]
    group = GROUP * 2 * 8 * 8**2 * 7**2 * 1e-9  # GMAC of the channels that go at once where they cost most
    for share, (left, of, _) in zip((0.9, 0.75), gmacs, strict=True):
        assert share * float(of) - group - 1e-5 < float(left) <= share * float(of)

    config_path = whole.get_base_dir() / "config.yml"
    pipeline, _ = open_run(config_path)
    assert widths(pipeline) == first[23]
    camera = pipeline.model.student.training_camera(pipeline.model.student.capture.start_pose)
    student = load_student(config_path)
    torch.testing.assert_close(student.render(camera), pipeline.model.render_student(camera)["rgb"], atol=1e-5, rtol=0)
    (package,) = export_packages(student, [Request("onnx", precision="fp32")], tmp_path / "exported")
    assert package.bytes > 0 and package.psnr_student >= 80
    whole = StudentNetwork(student.config)
    assert student.network.macs() <= 0.75 * whole.macs()

    # Stopped between the rounds, the run is resumed as it was left: optimizer and all.
    stopped, _ = train_and_watch(pruned_config(tmp_path, "stopped"), stop=14)
    resumed = pruned_config(tmp_path, "resumed")
    resumed.load_dir = tmp_path / "demo" / "mobiler2l-tiny" / "stopped" / "nerfstudio_models"
    second, trainer = train_and_watch(resumed)
    assert min(second) == 15 and second[15] == second[16] == stopped[14] != second[17]
    optimizer = trainer.optimizers.optimizers["student"]
    for parameter in trainer.pipeline.model.student.network.parameters():
        state = optimizer.state.get(parameter, {})
        assert all(value.shape in ((), parameter.shape) for value in state.values())
        assert parameter.numel() == 0 or int(state["step"]) > 0


def test_distillation_too_short_to_prune_in_is_one_clear_line(make_config, tmp_path):
    config = make_config(tmp_path, distill_steps=6)
    config.pipeline.model.prune = (0.1,)
    with pytest.raises(UserError, match="--pipeline.distill-steps 6 are too few to prune the student in"):
        config.pipeline.setup(device="cpu")
