"""A run renders its pseudo views without empty space, and everything else as the teacher has it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from short_run import train

from mobiler2l_ns.run.pipeline import MobileR2LPipeline
from mobiler2l_ns.teacher import empty_space
from mobiler2l_ns.teacher.empty_space import EmptySpace


@pytest.fixture
def trained(make_config, tmp_path, monkeypatch, capsys) -> tuple[Any, int, str]:
    """A run's pipeline, how often empty space was looked for, and what was printed."""
    made: list[Any] = []
    looked: list[Any] = []
    setup, find = MobileR2LPipeline.__init__, EmptySpace.find

    def noting(self, *args, **kwargs):
        setup(self, *args, **kwargs)
        made.append(self)

    def finding(*arguments):
        looked.append(find(*arguments))
        return looked[-1]

    monkeypatch.setattr(MobileR2LPipeline, "__init__", noting)
    monkeypatch.setattr(EmptySpace, "find", finding)
    monkeypatch.setattr(empty_space, "CELLS", 16)
    monkeypatch.setattr(empty_space, "PAYS_FROM", 0)
    train(make_config(tmp_path, teacher_steps=2, distill_steps=2, finetune_steps=2))
    return made[0], len(looked), capsys.readouterr().out


def test_empty_space_is_found_once_and_left_out_of_pseudo_views_alone(trained):
    pipeline, looked, printed = trained
    empty, manager = pipeline.empty_space, pipeline.datamanager
    assert looked == 1 and empty is not None
    assert printed.count("Pseudo views skip empty space") == 1
    camera = manager.view.cameras(manager.train_poses[:1])
    before = empty.points
    pseudo_view = pipeline._render(camera)["picture"]
    asked = empty.points
    assert asked > before
    shown = pipeline.model.render_teacher(camera)["rgb"]
    assert empty.points == asked
    torch.testing.assert_close(pseudo_view, shown, atol=0.01, rtol=0.0)
