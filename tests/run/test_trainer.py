"""The trainer: what it measures, the student's rate, and checkpoints that go on elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from short_run import open_run
from torch.amp.grad_scaler import GradScaler

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.plugin import methods
from mobiler2l_ns.run.trainer import Scaler
from mobiler2l_ns.saved_run import SavedRun


@pytest.fixture
def trainer(make_config, tmp_path):
    """At the first step of distillation, by a teacher that has learned nothing."""
    config = make_config(tmp_path, teacher_steps=0, distill_steps=4, finetune_steps=0)
    trainer = config.setup()
    config.save_config()
    trainer.setup()
    trainer.callbacks[0].func(step=0)
    return trainer


def test_a_machine_without_a_gpu_is_told_how_to_train_on_its_cpu(make_config, tmp_path):
    config = make_config(tmp_path)
    config.machine.device_type = "cuda"
    with pytest.raises(UserError, match="no NVIDIA GPU here: train on the CPU with --machine.device-type cpu"):
        config.setup()


def test_config_yml_says_what_was_trained(finished_run):
    asked = methods.mobiler2l_tiny.config.pipeline.teacher  # type: ignore[attr-defined]
    assert asked.far_plane == 1000.0 and not asked.disable_scene_contraction
    config: Any = SavedRun.open(finished_run).config.pipeline
    pipeline, _ = open_run(finished_run)
    assert config.teacher_preset == "scene"  # as it stands there
    assert config.teacher == pipeline.model.teacher.config
    assert config.teacher.disable_scene_contraction and config.teacher.background_color == "white"
    distance = pipeline.datamanager.train_poses[:, :, 3].norm(dim=-1)
    assert float(distance.max()) < config.teacher.far_plane < 2 * float(distance.max())


def test_what_is_looked_at_is_not_what_is_measured(finished_run):
    pipeline, _ = open_run(finished_run)
    model, camera = pipeline.model, pipeline.model.student.training_camera(pipeline.model.student.capture.start_pose)
    with model.comparing():
        expected = model.get_outputs_for_camera(camera)
        for model.display.show in ("teacher", "split", "error"):
            measured = model.get_outputs_for_camera(camera)
            assert measured.keys() == expected.keys() and torch.equal(measured["rgb"], expected["rgb"])


def test_the_students_rate_follows_the_step_when_nerfstudio_leaves_the_schedule_behind(trainer):
    scheduler = trainer.optimizers.schedulers["student"]
    trainer.train_iteration(0)
    assert scheduler.last_epoch == 1
    scheduler.last_epoch = 0  # a step whose gradients were out of range
    scheduler.optimizer.param_groups[0]["lr"] = 0.0
    rates = []
    scheduler.optimizer.register_step_pre_hook(lambda *_: rates.append(scheduler.optimizer.param_groups[0]["lr"]))
    trainer.train_iteration(1)
    assert rates == [scheduler.base_lrs[0] * scheduler.lr_lambdas[0](1)] and rates[0] > 0
    assert scheduler.last_epoch == 2


def test_only_the_teachers_gradients_are_scaled(make_config, tmp_path):
    config = make_config(tmp_path, teacher_steps=1, distill_steps=2, finetune_steps=0)
    trainer = config.setup()
    config.save_config()
    trainer.setup()
    trainer.grad_scaler = GradScaler("cpu")
    scaled = []
    for step in range(3):
        trainer.callbacks[0].func(step=step)
        trainer.train_iteration(step)
        scaled.append(trainer.grad_scaler.is_enabled())
    assert scaled == [True, False, False]


def test_one_of_several_ranks_does_not_keep_the_viewer_open_while_others_wait(make_config, tmp_path, monkeypatch):
    monkeypatch.setattr("mobiler2l_ns.run.distributed.set_up_rank", lambda *_: None)
    for ranks, quits in ((1, False), (2, True)):
        config = make_config(tmp_path)
        config.viewer.quit_on_train_completion = False
        config.setup(world_size=ranks)
        assert config.viewer.quit_on_train_completion is quits


def test_a_checkpoint_of_another_device_goes_on_with_this_ones_kernels(trainer, make_config, tmp_path):
    trainer.train_iteration(0)
    trainer.save_checkpoint(0)
    (path,) = trainer.checkpoint_dir.iterdir()
    state = torch.load(path)
    for group in state["optimizers"]["student"]["param_groups"]:
        group["fused"] = None
    torch.save(state, path)
    config = make_config(tmp_path, "resumed", teacher_steps=0, distill_steps=4, finetune_steps=0)
    config.load_dir = trainer.checkpoint_dir
    resumed = config.setup()
    config.save_config()
    resumed.setup()
    student = resumed.optimizers.optimizers["student"]
    assert student.defaults["fused"] is not None
    assert {group["fused"] for group in student.param_groups} == {student.defaults["fused"]}


def test_a_run_that_began_without_scaled_gradients_goes_on_with_them(monkeypatch):
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)  # as on a GPU
    scaler = Scaler(init_scale=4.0)
    scaler.load_state_dict({})  # of a CPU's checkpoint
    assert scaler.get_scale() == 4.0
    scaler.load_state_dict({**scaler.state_dict(), "scale": 8.0})
    assert scaler.get_scale() == 8.0
