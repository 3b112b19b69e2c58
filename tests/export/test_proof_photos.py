"""The photos that packages are compared with are those of the proof cameras, as the student would show them."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from small_student import make_student

from mobiler2l_ns.capture.photos import sized_dataset
from mobiler2l_ns.export.proof import Reference
from mobiler2l_ns.export.proof_photos import RECORD, load_proof_photos, record_proof_photos


@pytest.fixture
def capture(demo_scene, make_config, tmp_path):
    """A copy of the demo scene, the config of a run on it, and its test views."""
    scene = shutil.copytree(demo_scene, tmp_path / "scene")
    config = make_config(tmp_path)
    config.pipeline.datamanager.dataparser.data = scene
    config.pipeline.datamanager.dataparser.alpha_color = None  # photos stay transparent
    config.pipeline.datamanager.data = None
    outputs = config.pipeline.datamanager.dataparser.setup().get_dataparser_outputs(split="test")
    return SimpleNamespace(config=config, dataset=sized_dataset(outputs, None), files=outputs.image_filenames)


def student_at(dataset, **settings):
    """A student with the test views' cameras, which looks from the first three of them and from nowhere else."""
    camera = dataset.cameras[0]
    student = make_student(height=int(camera.height), width=int(camera.width), **settings)
    lens = torch.tensor([float(getattr(camera, name)) for name in ("fx", "fy", "cx", "cy")])
    poses = student.capture.proof_poses.clone()
    poses[:3] = dataset.cameras.camera_to_worlds[:3]
    student.capture.record(intrinsics=lens, proof_poses=poses)
    return student


@pytest.mark.parametrize("colour", ["white", "black"])
def test_photos_lie_over_the_runs_own_background(capture, colour):
    capture.config.pipeline.model.background_color = colour
    student = student_at(capture.dataset)
    photos = load_proof_photos(capture.config, student)
    assert [photo is not None for photo in photos] == [True] * 3 + [False] * 5
    for index, photo in enumerate(photos[:3]):
        assert photo is not None and photo.mask.all()
        rgba = torch.from_numpy(capture.dataset.get_numpy_image(index) / 255.0).float()
        expected = rgba[..., :3] * rgba[..., 3:] + (colour == "white") * (1.0 - rgba[..., 3:])
        torch.testing.assert_close(photo.picture, expected.permute(2, 0, 1), atol=1e-6, rtol=0)
    known = Reference(student, photos).psnr_photos()
    assert known is not None and 0.0 < known < 60.0


def test_a_student_with_alpha_is_compared_with_premultiplied_photos_where_there_are_some(capture):
    Image.open(capture.files[1]).convert("RGB").save(capture.files[1])
    capture.config.pipeline.model.alpha = True
    photos = load_proof_photos(capture.config, student_at(capture.dataset, alpha=True))
    assert [photo is not None for photo in photos] == [True, False, True] + [False] * 5
    assert photos[0] is not None
    rgba = torch.from_numpy(capture.dataset.get_numpy_image(0) / 255.0).float()
    expected = torch.cat([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], dim=-1)
    torch.testing.assert_close(photos[0].picture, expected.permute(2, 0, 1), atol=1e-6, rtol=0)


def test_a_capture_that_has_moved_away_is_no_error(capture, tmp_path, capsys):
    student = student_at(capture.dataset)
    capture.config.pipeline.datamanager.dataparser.data = tmp_path / "elsewhere"
    photos = load_proof_photos(capture.config, student)
    assert photos == [None] * 8 and Reference(student, photos).psnr_photos() is None
    assert "The capture is not there" in capsys.readouterr().out


def kept(photos):
    return [photo is not None for photo in photos[:3]]


def test_photos_that_have_changed_since_training_are_not_taken_for_those_that_were_there(capture, tmp_path, capsys):
    student = student_at(capture.dataset)
    record_proof_photos(tmp_path, capture.dataset, student.capture.proof_poses)
    assert kept(load_proof_photos(capture.config, student, tmp_path)) == [True] * 3
    assert "when the run was trained" not in capsys.readouterr().out
    Image.open(capture.files[1]).rotate(180).save(capture.files[1])
    assert kept(load_proof_photos(capture.config, student, tmp_path)) == [True, False, True]
    said = " ".join(capsys.readouterr().out.split())
    assert "1 of the capture's 3 photos at the proof cameras are not those that were there" in said
    # A run of an earlier version has noted nothing.
    (tmp_path / RECORD).unlink()
    assert kept(load_proof_photos(capture.config, student, tmp_path)) == [True] * 3


def test_cameras_that_have_changed_since_training_are_told(capture, tmp_path, capsys):
    student = student_at(capture.dataset)
    record_proof_photos(tmp_path, capture.dataset, student.capture.proof_poses)
    folder = capture.config.pipeline.datamanager.dataparser.data
    for split in ("val", "test"):
        file = folder / f"transforms_{split}.json"
        meta = json.loads(file.read_text())
        for frame in meta["frames"]:
            frame["transform_matrix"][0][3] += 0.5
        file.write_text(json.dumps(meta))
    assert kept(load_proof_photos(capture.config, student, tmp_path)) == [False] * 3
    assert "3 of the capture's 3 photos at the proof cameras" in " ".join(capsys.readouterr().out.split())


def test_a_run_notes_its_photos(finished_run):
    noted = json.loads((finished_run.parent / RECORD).read_text())
    assert set(noted) == {str(place) for place in range(8)} and len(set(noted.values())) == 2  # held out in val
