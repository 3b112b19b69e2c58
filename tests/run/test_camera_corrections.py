"""A teacher that has corrected its cameras: photos that fine-tune and select the student stand where it has them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from short_run import train

from mobiler2l_ns.run.pipeline import MobileR2LPipeline
from mobiler2l_ns.run.teach import Teach
from mobiler2l_ns.teacher import loaded
from mobiler2l_ns.teacher.corrections import corrected, learned_corrections

MOVED = torch.tensor([0.02, -0.05, 0.03, 0.01, 0.02, -0.04])


@pytest.fixture
def pipelines(monkeypatch) -> list[MobileR2LPipeline]:
    """Every run's pipeline that is made, whose teacher moves its cameras far when its phase begins."""
    made: list[Any] = []
    setup, enter = MobileR2LPipeline.__init__, Teach.enter

    def noting(self, *args, **kwargs):
        setup(self, *args, **kwargs)
        made.append(self)

    def moving(self, step):
        optimizer = self.run.model.teacher.camera_optimizer
        if optimizer.config.mode != "off":
            factors = torch.linspace(-1, 1, optimizer.num_cameras)[:, None]
            optimizer.pose_adjustment.data.copy_(factors * MOVED)
        enter(self, step)

    monkeypatch.setattr(MobileR2LPipeline, "__init__", noting)
    monkeypatch.setattr(Teach, "enter", moving)
    return made


def assert_photos_are_moved(pipeline) -> None:
    manager = pipeline.datamanager
    corrections = learned_corrections(pipeline.model.find_teacher())
    assert corrections is not None and float((corrections - torch.eye(4)[:3]).abs().max()) > 0.03
    expected = corrected(manager.train_poses, corrections)
    chosen, selection = manager._split()
    torch.testing.assert_close(manager.photos.camera_to_worlds, expected[chosen])
    torch.testing.assert_close(manager.load_selection_photos().camera_to_worlds, expected[selection])


def correcting(make_config, tmp_path, **settings):
    config = make_config(tmp_path, teacher_steps=2, distill_steps=2, finetune_steps=2, **settings)
    config.pipeline.teacher.camera_optimizer = CameraOptimizerConfig(mode="SO3xR3")
    config.pipeline.teacher_preset = "scene"
    config.pipeline.teacher.near_plane, config.pipeline.teacher.far_plane = 2.0, 6.0
    return config


def test_photos_follow_the_cameras_of_a_teacher_here_and_of_a_loaded_one(make_config, tmp_path, pipelines, monkeypatch):
    # Two steps make no likeness.
    monkeypatch.setattr(loaded, "likeness", lambda *_: (30.0, 10.0))
    teacher = train(correcting(make_config, tmp_path / "teacher"))
    assert_photos_are_moved(pipelines[-1])
    train(make_config(tmp_path / "student", teacher_load_config=teacher, distill_steps=2, finetune_steps=2))
    # The teacher's own run is opened for it, and so made as well.
    assert_photos_are_moved(next(pipeline for pipeline in pipelines[1:] if pipeline.config.teacher_load_config))


def test_photos_stay_where_they_are_if_the_teacher_leaves_them(make_config, tmp_path, pipelines):
    train(make_config(tmp_path, teacher_steps=2, distill_steps=2, finetune_steps=2))
    manager = pipelines[0].datamanager
    assert manager.photo_poses is None
    assert torch.equal(manager.photos.camera_to_worlds, manager.train_poses[manager._split()[0]])
