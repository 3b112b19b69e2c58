"""One run of all phases on the demo scene, and what nerfstudio's own commands make of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from short_run import PHASES, open_run, train

from mobiler2l_ns.capture.splits import selection_split
from mobiler2l_ns.errors import UserError
from mobiler2l_ns.teacher.loaded import load_teacher

TOTAL = sum(PHASES.values())


def checkpoint(config_path: Path) -> Path:
    (found,) = (config_path.parent / "nerfstudio_models").glob("*.ckpt")
    return found


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
    assert checkpoint(finished_run).name == f"step-{TOTAL - 1:09d}.ckpt"
    assert not (finished_run.parent / ".unfinished_checkpoint").exists()
    assert torch.load(checkpoint(finished_run))["step"] == TOTAL - 1  # weights_only, as torch >= 2.6 does


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


# Resuming


@pytest.mark.parametrize("stop", [10, 40, 60], ids=["teacher", "distil", "fine-tune"])
def test_a_resumed_run_ends_at_the_same_total(make_config, tmp_path, stop):
    config = make_config(tmp_path, "first")
    trainer = config.setup()
    config.save_config()
    trainer.setup()
    original = trainer.train_iteration

    def interrupted(step):
        if step >= stop:
            raise KeyboardInterrupt
        result = original(step)
        trainer.save_checkpoint(step)
        return result

    trainer.train_iteration = interrupted
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    first = config.get_base_dir() / "config.yml"
    assert checkpoint(first).name == f"step-{stop - 1:09d}.ckpt"

    resumed = make_config(tmp_path, "second")
    resumed.load_dir = first.parent / "nerfstudio_models"
    second = train(resumed)
    assert checkpoint(second).name == f"step-{TOTAL - 1:09d}.ckpt"
    curves = scalars(second)
    trained = [step for tag, steps in curves.items() if tag.endswith("_rgb_loss") and "Train" in tag for step in steps]
    assert min(trained) in (stop, stop + 1) and max(trained) >= TOTAL - 2
    assert ("Train Loss Dict/teacher_rgb_loss" in curves) == (stop < PHASES["teacher"])

    # A finished run has nothing left to do and loses nothing.
    again = make_config(tmp_path, "second")
    again.load_dir = second.parent / "nerfstudio_models"
    before = torch.load(checkpoint(second))["pipeline"]
    train(again)
    assert checkpoint(second).name == f"step-{TOTAL - 1:09d}.ckpt"
    after = torch.load(checkpoint(second))["pipeline"]
    assert all(torch.equal(value, after[name]) for name, value in before.items())


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


# Teachers from elsewhere


def test_a_run_of_this_plugin_teaches_by_its_teacher(finished_run, tmp_path):
    from nerfstudio.models.nerfacto import NerfactoModel

    loaded = load_teacher(finished_run, None, "cpu")
    assert isinstance(loaded.model, NerfactoModel) and not loaded.model.training
    pipeline, _ = open_run(finished_run)
    for name, weight in pipeline.model.teacher.state_dict().items():
        torch.testing.assert_close(loaded.model.state_dict()[name], weight)


def test_an_existing_run_is_the_teacher_and_brings_its_frame(make_config, nerfacto_run, tmp_path):
    config = make_config(tmp_path, teacher_load_config=nerfacto_run, distill_steps=6, finetune_steps=2)
    trained = train(config)
    pipeline, step = open_run(trained)
    assert step == 7  # no teacher phase
    assert pipeline.model.find_teacher() is not None
    assert not any("teacher" in name for name in torch.load(checkpoint(trained))["pipeline"])
    # The teacher's dataparser halves the world.
    assert float(pipeline.model.student.capture.world_scale) == 0.5
    assert pipeline.datamanager.dataparser.scale_factor == 0.5  # type: ignore[attr-defined]
    assert float(pipeline.model.student.capture.depth_range[1]) < 3.5
    assert pipeline.config.teacher_load_config == nerfacto_run.resolve()


def test_a_run_is_named_after_the_capture_its_teacher_brings(make_config, nerfacto_run, demo_scene, tmp_path, capsys):
    config = make_config(tmp_path, teacher_load_config=nerfacto_run)
    config.data = config.experiment_name = config.pipeline.datamanager.dataparser.data = None
    config.print_to_terminal()
    assert f"capture {demo_scene}" in " ".join(capsys.readouterr().out.split())
    assert config.get_base_dir() == tmp_path / demo_scene.name / "mobiler2l-tiny" / "run"
    adopted = deepcopy(config.pipeline)
    config.save_config()
    assert config.pipeline == adopted
    assert (tmp_path / demo_scene.name / "mobiler2l-tiny" / "run" / "config.yml").exists()


def test_a_run_whose_teacher_is_gone_still_shows_its_student(make_config, nerfacto_run, tmp_path, capsys):
    copy = shutil.copytree(nerfacto_run.parent, tmp_path / "teacher") / "config.yml"
    trained = train(make_config(tmp_path, teacher_load_config=copy, distill_steps=2, finetune_steps=0))
    shutil.rmtree(copy.parent)
    pipeline, _ = open_run(trained)
    assert pipeline.model.find_teacher() is None
    assert "Only the student is shown. No run at" in " ".join(capsys.readouterr().out.split())
    pipeline.model.display.show = "teacher"
    camera = pipeline.model.student.training_camera(pipeline.model.student.capture.start_pose)
    assert pipeline.model.get_outputs_for_camera(camera)["rgb"].shape == (52, 52, 3)


def test_a_teacher_of_another_capture_is_refused(make_config, nerfacto_run, demo_scene, tmp_path):
    other = shutil.copytree(demo_scene, tmp_path / "other")
    for split in ("train", "val", "test"):
        transforms = json.loads((other / f"transforms_{split}.json").read_text())
        for frame in transforms["frames"]:
            frame["transform_matrix"][0][3] += 0.5
        (other / f"transforms_{split}.json").write_text(json.dumps(transforms))
    config = make_config(tmp_path, teacher_load_config=nerfacto_run)
    config.data = config.pipeline.datamanager.data = other
    with pytest.raises(UserError, match="trained on another capture"):
        train(config)


def test_a_teacher_in_another_frame_is_refused(make_config, nerfacto_run, tmp_path):
    copy = shutil.copytree(nerfacto_run.parent, tmp_path / "teacher")
    frame = json.loads((copy / "dataparser_transforms.json").read_text())
    frame["scale"] *= 2
    (copy / "dataparser_transforms.json").write_text(json.dumps(frame))
    with pytest.raises(UserError, match="world frame is not this capture's"):
        train(make_config(tmp_path, teacher_load_config=copy / "config.yml"))


def test_a_teacher_that_shows_something_else_is_refused(make_config, nerfacto_run, demo_scene, tmp_path):
    from PIL import Image, ImageOps

    other = shutil.copytree(demo_scene, tmp_path / "other")
    for path in other.glob("train/*.png"):
        photo = Image.open(path)
        white = Image.new("RGB", photo.size, "white")
        white.paste(photo, mask=photo.getchannel("A"))
        ImageOps.invert(white).save(path)
    teacher = shutil.copytree(nerfacto_run.parent, tmp_path / "teacher") / "config.yml"
    config = make_config(tmp_path, teacher_load_config=teacher)
    config.data = config.pipeline.datamanager.data = other
    with pytest.raises(UserError, match="pictures are not this capture's photos"):
        train(config)


def test_a_missing_run_is_one_clear_line(make_config, tmp_path):
    with pytest.raises(UserError, match="No run at .*: give the config.yml of a nerfstudio run"):
        train(make_config(tmp_path, teacher_load_config=tmp_path / "nowhere" / "config.yml"))


# nerfstudio's commands


def command(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).parent / arguments[0]), *arguments[1:]], capture_output=True, text=True, cwd=cwd
    )


def test_ns_eval_writes_the_students_metrics(finished_run, tmp_path):
    output = tmp_path / "eval.json"
    # The run's folders are relative to where it was started in real life; here they are absolute.
    done = command("ns-eval", "--load-config", str(finished_run), "--output-path", str(output))
    assert done.returncode == 0, done.stderr
    results = json.loads(output.read_text())["results"]
    assert {"psnr", "ssim", "psnr_to_teacher", "teacher_psnr", "teacher_ssim"} <= set(results)
    assert 3 < results["psnr"] < 60 and -1 <= results["ssim"] <= 1


@pytest.mark.parametrize("kind", ["interpolate", "spiral", "camera-path", "dataset"])
def test_ns_render(finished_run, tmp_path, kind):
    from nerfstudio.scripts import render

    output = tmp_path / "out"
    common = {"load_config": finished_run, "output_path": output}
    if kind == "interpolate":
        job = render.RenderInterpolated(
            **common, pose_source="eval", interpolation_steps=2, output_format="images", rendered_output_names=["rgb"]
        )
    elif kind == "spiral":
        job = render.SpiralRender(
            **common, seconds=0.1, frame_rate=20, output_format="images", rendered_output_names=["rgb"]
        )
    elif kind == "camera-path":
        pose = torch.eye(4)
        pose[2, 3] = 4.0
        path = {
            "camera_type": "perspective",
            "render_height": 40,
            "render_width": 70,
            "fps": 2,
            "seconds": 1,
            "camera_path": [{"camera_to_world": pose.flatten().tolist(), "fov": 50, "aspect": 1.75}] * 2,
        }
        (tmp_path / "path.json").write_text(json.dumps(path))
        job = render.RenderCameraPath(
            **common,
            camera_path_filename=tmp_path / "path.json",
            output_format="images",
            rendered_output_names=["rgb"],
        )
    else:
        job = render.DatasetRender(**common, split="test", rendered_output_names=["rgb", "gt-rgb"])
    job.main()
    pictures = list(tmp_path.rglob("*.jpg")) + list(tmp_path.rglob("*.png"))
    assert len(pictures) >= 2
