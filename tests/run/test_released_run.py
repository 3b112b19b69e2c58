"""A run that version 0.1.0 trained still opens, though its classes have moved since."""

from __future__ import annotations

import re
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from short_run import load_script, load_student, open_run, train

from mobiler2l_ns.progress.phases import Phase
from mobiler2l_ns.progress.records import SELECTION, read_log
from mobiler2l_ns.released_names import MOVED
from mobiler2l_ns.saved_run import SavedRun

RELEASED = Path(__file__).resolve().parents[1] / "released" / "v0.1.0"


@pytest.fixture
def released(tmp_path) -> Path:
    """config.yml of the run, beside a capture like its own."""
    load_script("make_demo_scene").write_scene(tmp_path / "capture", size=36, train=10, val=2, test=2, supersample=1)
    run = shutil.copytree(RELEASED, tmp_path / "runs" / "released" / "mobiler2l-tiny" / "run")
    config = run / "config.yml"
    text = config.read_text()
    for name in ("capture", "runs"):
        steps = "".join(f"- {part}\n" for part in (tmp_path / name).parts)
        text, count = re.subn(rf"(?<=pathlib.PosixPath\n)- {name}\n", steps, text)
        assert count == 1
    config.write_text(text)
    return config


def test_its_config_names_modules_that_are_gone(released):
    named = set(re.findall(r"mobiler2l_ns\.([a-z_.]+)\.[A-Z]", released.read_text()))
    assert named <= set(MOVED) and len(named) >= 7


@pytest.mark.parametrize("old", MOVED)
def test_old_modules_give_what_their_successors_have(old):
    new = import_module(f"mobiler2l_ns.{MOVED[old]}")
    moved = import_module(f"mobiler2l_ns.{old}")
    names = [name for name, value in vars(new).items() if getattr(value, "__module__", None) == new.__name__]
    assert names and all(getattr(moved, name) is getattr(new, name) for name in names)
    with pytest.raises(AttributeError):
        moved.no_such_thing  # noqa: B018


def test_its_student_shows_the_same_picture(released):
    student = load_student(released)
    with torch.no_grad():
        picture = student.render(student.training_camera(student.capture.proof_poses[0]))
    expected = torch.from_numpy(np.load(RELEASED / "student_at_proof_pose_0.npy"))
    torch.testing.assert_close(picture, expected, atol=1e-5, rtol=0)


def test_the_whole_run_opens_as_ns_eval_does_it(released):
    pipeline, step = open_run(released)
    assert step == 79 and pipeline.phase.name is Phase.FINETUNE and pipeline.model.has_begun()
    metrics = pipeline.get_average_eval_image_metrics()
    assert {"psnr", "ssim", "psnr_to_teacher", "teacher_psnr"} <= set(metrics)


def test_it_goes_on(released):
    config = SavedRun.open(released).config
    config.load_dir = released.parent / "nerfstudio_models"
    config.timestamp, config.pipeline.finetune_steps = "longer", 14  # type: ignore[attr-defined]
    resumed = SavedRun.open(train(config))
    assert resumed.step == 83
    steps = [record["step"] for record in read_log(resumed.path.parent / "progress.jsonl")]
    assert steps == sorted(steps) and steps[0] == 0 and steps[-1] == 83


def test_its_log_names_the_selection_photos_as_today():
    curves = {record.get("curve") for record in read_log(RELEASED / "progress.jsonl")}
    assert curves == {None, SELECTION}
