"""A teacher that another run has trained: of this plugin or of another method."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy

import pytest
import torch
from short_run import checkpoint_of, open_run, train

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.teacher.loaded import load_teacher


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
    assert not any("teacher" in name for name in torch.load(checkpoint_of(trained))["pipeline"])
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
