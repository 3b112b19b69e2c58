"""One run of all phases on the demo scene: what it trains, keeps and shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from short_run import PHASES, TOTAL, checkpoint_of, open_run

from mobiler2l_ns.capture.splits import selection_split


def scalars(config_path: Path) -> dict[str, list[int]]:
    """Steps at which each scalar was written to tensorboard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(config_path.parent))
    events.Reload()
    return {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.fixture(scope="module")
def loaded(finished_run):
    return open_run(finished_run)


def test_the_run_ends_with_one_checkpoint_at_the_sum_of_its_phases(finished_run):
    assert checkpoint_of(finished_run).name == f"step-{TOTAL - 1:09d}.ckpt"
    assert not (finished_run.parent / ".unfinished_checkpoint").exists()
    assert torch.load(checkpoint_of(finished_run))["step"] == TOTAL - 1  # weights_only, as torch >= 2.6 does


def test_teacher_and_student_curves_are_apart(finished_run):
    curves = scalars(finished_run)
    teacher = curves["Train Loss Dict/teacher_rgb_loss"]
    student = curves["Train Loss Dict/student_rgb_loss"]
    distil = curves["Train Metrics Dict/student_psnr_to_teacher"]
    assert max(teacher) < PHASES["teacher"] <= min(student)
    assert min(distil) >= PHASES["teacher"] and max(distil) < PHASES["teacher"] + PHASES["distil"]
    assert min(curves["Train Metrics Dict/student_psnr_to_photos_and_teacher"]) >= TOTAL - PHASES["finetune"]
    begins = [0, PHASES["teacher"], PHASES["teacher"] + PHASES["distil"]]
    assert curves["Phase"] == begins
    assert {"Eval Images Metrics/psnr", "Eval Images Metrics/psnr_to_teacher"} <= set(curves)


def test_each_phase_moves_its_own_weights_only(make_config, tmp_path):
    config = make_config(tmp_path, teacher_steps=4, distill_steps=4, finetune_steps=0)
    trainer = config.setup()
    config.save_config()
    trainer.setup()
    trainer.callbacks[0].func(step=0)

    def snapshot():
        return {name: value.clone() for name, value in trainer.pipeline.model.named_parameters()}

    def moved(before):
        return {
            name.split(".")[0]
            for name, value in trainer.pipeline.model.named_parameters()
            if (value != before[name]).any()
        }

    before = snapshot()
    trainer.train_iteration(0)
    assert moved(before) == {"teacher"}
    trainer.pipeline.begin_step(4)
    before = snapshot()
    trainer.train_iteration(4)
    assert moved(before) == {"student"}


def test_the_students_gradients_can_be_clipped(make_config, tmp_path):
    config = make_config(tmp_path, teacher_steps=0, distill_steps=2, finetune_steps=0)
    config.optimizers["student"]["optimizer"].max_norm = 1e-6
    trainer = config.setup()
    config.save_config()
    trainer.setup()
    trainer.callbacks[0].func(step=0)
    trainer.train_iteration(0)
    gradients = [p.grad for p in trainer.pipeline.model.student.parameters() if p.grad is not None]
    assert 0 < float(torch.stack([gradient.norm() for gradient in gradients]).norm()) < 1.1e-6


def test_depths_and_poses_come_from_the_capture(loaded):
    capture = loaded[0].model.student.capture
    near, far = capture.depth_range.tolist()
    assert 1.5 < near < 4.0 < far < 6.5  # cameras at a distance of 4, objects within 1.3
    assert capture.has_sphere and 0.5 < float(capture.scene_radius) < 3.0
    assert float(capture.scene_centre.norm()) < 1.0
    assert capture.size() == (52, 52)
    assert float(capture.get_buffer("look_at").norm()) < 0.2
    assert 3.0 < float(capture.get_buffer("distance")[0]) < float(capture.get_buffer("distance")[1]) < 5.0


@pytest.mark.parametrize(
    ("near", "far", "sphere"), [(None, None, True), (2.0, None, False), (None, 7.0, False), (2.0, 7.0, False)]
)
def test_a_depth_range_that_is_given_is_used(make_config, tmp_path, near, far, sphere):
    config = make_config(tmp_path, teacher_steps=0, distill_steps=2, finetune_steps=0)
    config.pipeline.model = replace(config.pipeline.model, near=near, far=far)
    pipeline = config.pipeline.setup(device="cpu", test_mode="val")

    def a_disc(camera):
        rays = camera.generate_rays(camera_indices=0, keep_shape=True)
        depth = -(rays.origins * rays.directions).sum(-1, keepdim=True)
        seen = (rays.origins + depth * rays.directions).norm(dim=-1, keepdim=True) < 1.0
        return {"picture": torch.zeros_like(rays.directions), "depth": depth, "accumulation": seen.float()}

    pipeline.datamanager._render = a_disc
    pipeline.begin_step(0)
    student = pipeline.model.student
    assert student.in_sphere() == sphere
    for given, used in zip((near, far), student.capture.depth_range.tolist(), strict=True):
        assert used == given if given is not None else 3.0 < used < 5.0  # the cameras are at a distance of 4


# Looking


SIZES = [(10, 10), (10, 150), (150, 10), (30, 20), (20, 30), (50, 40), (40, 50), (110, 60), (60, 110), (130, 130)]


@pytest.mark.parametrize("shown", ["phase", "student", "teacher", "split", "error"])
@pytest.mark.parametrize("focal", [15.0, 300.0])
def test_the_viewer_gets_exactly_its_size(loaded, shown, focal):
    model = loaded[0].model
    model.display.show = shown
    try:
        for width, height in SIZES if shown in ("phase", "student") else SIZES[:3]:
            camera = Cameras(torch.eye(4)[None, :3], focal, focal, width / 2, height / 2, width=width, height=height)
            outputs = model.get_outputs_for_camera(camera, obb_box=None)
            assert outputs["rgb"].shape == (height, width, 3)
            assert outputs["depth"].shape == outputs["accumulation"].shape == (height, width, 1)
            assert bool(outputs["rgb"].isfinite().all())
    finally:
        model.display.show = "phase"


def test_the_picture_shown_follows_the_phase(loaded):
    model = loaded[0].model
    camera = model.student.training_camera(model.student.capture.start_pose)
    student, teacher = model.render_student(camera)["rgb"], None
    try:
        assert torch.equal(model.get_outputs_for_camera(camera)["rgb"], student)
        model.student.capture.record(depth_known=torch.tensor(False))
        teacher = model.get_outputs_for_camera(camera)["rgb"]
    finally:
        model.student.capture.record(depth_known=torch.tensor(True))
    assert not torch.equal(teacher, student)
    half = teacher.shape[1] // 2
    model.display.show = "split"
    both = model.get_outputs_for_camera(camera)["rgb"]
    model.display.show = "phase"
    assert torch.equal(both[:, :half], teacher[:, :half]) and torch.equal(both[:, half:], student[:, half:])


def test_viewing_renders_no_pseudo_views(loaded):
    datamanager = loaded[0].datamanager
    assert datamanager.pool is None and datamanager._render is None


# Fine-tuning


def test_fine_tuning_keeps_the_better_student(make_config, tmp_path):
    config = make_config(tmp_path, teacher_steps=10, distill_steps=10, finetune_steps=5)
    trainer = config.setup()
    config.save_config()
    trainer.setup()
    original, student = trainer.train_iteration, trainer.pipeline.model.student
    before = {}

    def ruinous(step):
        if step == 20:
            before.update({name: value.clone() for name, value in student.network.state_dict().items()})
        result = original(step)
        if step >= 20:  # fine-tuning that can only do harm: black pictures of a white scene
            student.network.out[0].bias.data.fill_(-50.0)
        return result

    trainer.train_iteration = ruinous
    trainer.train()
    best = trainer.pipeline.best_student
    assert float(best.best) == float(best.before)
    after = student.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_selection_photos_are_not_fine_tuned_on():
    for count in (1, 2, 5, 20, 100, 1000):
        train_photos, selection = selection_split(count)
        assert 1 <= len(selection) <= 8 and train_photos
        assert count == 1 or not set(train_photos) & set(selection)
