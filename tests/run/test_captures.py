"""Runs on four captures, measured, rendered and exported: what is found is what the files themselves tell.

The captures are an object in Blender's format, portraits of a lens that distorts, photos of several sizes with masks,
and an unbounded scene without test views.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from captures import CAPTURES, HIDDEN, Capture, over_white, photo_on_disk, trace
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.scripts.eval import ComputePSNR
from nerfstudio.scripts.render import DatasetRender
from PIL import Image
from short_run import load_student, open_run

from mobiler2l_ns.export.proof_photos import load_proof_photos
from mobiler2l_ns.metrics import ssim
from mobiler2l_ns.plugin.export_commands import NS_EXPORT_COMMANDS
from mobiler2l_ns.saved_run import SavedRun

HELD_OUT = [name for name in CAPTURES if name != "unbounded"]


def decibel(a: Any, b: Any, seen: Any = ...) -> float:
    """PSNR of pictures in 0..1 (height, width, 3), over the pixels that are seen."""
    return -10 * math.log10(float(np.square(np.asarray(a)[seen] - np.asarray(b)[seen]).mean()))


def views_of(capture: Capture, split: str) -> tuple[Cameras, list[Path], list[np.ndarray]]:
    """Cameras of a split, its photos, and where they are seen, bool (height, width)."""
    outputs = capture.dataparser.setup().get_dataparser_outputs(split=split)
    cameras = outputs.cameras
    if outputs.mask_filenames is not None:
        seen = [np.asarray(Image.open(path).convert("L")) > 0 for path in outputs.mask_filenames]
    else:
        seen = [np.ones((int(camera.height), int(camera.width)), bool) for camera in cameras]
    return cameras, outputs.image_filenames, seen


def evaluate(config_path: Path, folder: Path) -> tuple[dict[str, float], list[np.ndarray]]:
    """What ns-eval finds, and the pictures that it renders."""
    command = ComputePSNR(config_path, folder / "eval.json", folder / "pictures")
    command.main()
    pictures = [np.asarray(Image.open(path)) / 255.0 for path in sorted((folder / "pictures").glob("*_img_*.png"))]
    return json.loads((folder / "eval.json").read_text())["results"], pictures


@pytest.fixture(scope="module")
def evaluated(run_of, tmp_path_factory):
    """``evaluate`` of the run on a capture, once for all tests."""
    known = {}

    def get(name: str) -> tuple[dict[str, float], list[np.ndarray]]:
        if name not in known:
            known[name] = evaluate(run_of(name), tmp_path_factory.mktemp(name))
        return known[name]

    return get


# Measuring


@pytest.mark.parametrize("name", HELD_OUT)
def test_ns_eval_gives_the_mean_over_the_test_views_of_what_the_pictures_show(name, capture_of, evaluated):
    capture = capture_of(name)
    results, pictures = evaluated(name)
    _, photos, seen = views_of(capture, "test")
    assert len(pictures) == len(photos) == capture.test
    found = {"psnr": [], "teacher_psnr": [], "ssim": [], "teacher_ssim": []}
    for path, where, sheet in zip(photos, seen, pictures, strict=True):
        photo = photo_on_disk(path)
        width = photo.shape[1]
        assert sheet.shape == (photo.shape[0], 4 * width, 3)
        teacher, student = sheet[:, width : 2 * width], sheet[:, 2 * width : 3 * width]
        assert np.abs(sheet[:, :width] - photo)[where].max() < 1.1 / 255
        for prefix, picture in (("", student), ("teacher_", teacher)):
            found[f"{prefix}psnr"].append(decibel(picture, photo, where))
            if where.all():
                a, b = (torch.from_numpy(values.copy()).float() for values in (picture, photo))
                found[f"{prefix}ssim"].append(ssim(a, b))
    for figure, values in found.items():
        if values:
            assert results[figure] == pytest.approx(np.mean(values), abs=0.02 if "psnr" in figure else 2e-3)
            assert results[f"{figure}_std"] == pytest.approx(np.std(values, ddof=1), abs=0.02)
    assert {"psnr", "ssim", "psnr_to_teacher", "teacher_psnr", "teacher_ssim"} <= set(results)


@pytest.mark.parametrize("name", HELD_OUT)
def test_the_student_shows_the_scene_and_not_only_its_mean_colour(name, capture_of, evaluated):
    _, photos, seen = views_of(capture_of(name), "test")
    flat = []
    for path, where in zip(photos, seen, strict=True):
        photo = photo_on_disk(path)
        flat.append(decibel(photo, np.broadcast_to(photo[where].mean(0), photo.shape), where))
    assert evaluated(name)[0]["psnr"] > np.mean(flat) + 1.0


def test_what_a_mask_hides_counts_nowhere(run_of, capture_of, evaluated, tmp_path):
    capture = capture_of("masks").moved_to(shutil.copytree(capture_of("masks").folder, tmp_path / "capture"))
    _, photos, seen = views_of(capture, "test")
    for path, where in zip(photos, seen, strict=True):
        photo = np.array(Image.open(path))
        assert (photo[~where] == HIDDEN).all() and (~where).mean() > 0.15
        photo[~where] = 255 - np.array(HIDDEN)
        Image.fromarray(photo).save(path)
    run = shutil.copytree(run_of("masks").parent, tmp_path / "run") / "config.yml"
    config = yaml.load(run.read_text(), Loader=yaml.Loader)
    config.data = config.pipeline.datamanager.data = capture.folder
    config.pipeline.datamanager.dataparser = capture.dataparser
    run.write_text(yaml.dump(config))
    results, _ = evaluate(run, tmp_path)
    expected, _ = evaluated("masks")
    timed = {name for name in expected if name.startswith(("fps", "num_rays"))}
    assert {name: results[name] for name in expected.keys() - timed} == {
        name: expected[name] for name in expected.keys() - timed
    }


def test_what_a_mask_hides_is_not_learned(run_of):
    pipeline, _ = open_run(run_of("masks"))
    magenta = torch.tensor(HIDDEN) / 255.0
    cameras = pipeline.datamanager.train_dataset.cameras
    for index in range(4):
        for render in (pipeline.model.render_student, pipeline.model.render_teacher):
            rgb = render(cameras[index : index + 1])["rgb"]
            assert float((rgb - magenta).norm(dim=-1).min()) > 0.5


def test_without_test_views_ns_eval_leaves_out_what_they_would_have_shown(evaluated):
    results, pictures = evaluated("unbounded")
    assert pictures == []
    assert not [name for name in results if "psnr" in name or "ssim" in name or "lpips" in name]
    assert all(math.isfinite(value) for value in results.values())


# The student's camera


@pytest.mark.parametrize("name", CAPTURES)
def test_the_student_has_the_captures_size_and_knows_whether_it_is_bounded(name, run_of, capture_of):
    capture, student = capture_of(name), load_student(run_of(name))
    record = student.capture
    assert record.size() == (capture.height, capture.width)
    cameras, _, _ = views_of(capture, "train")
    same = (cameras.height[:, 0] == capture.height) & (cameras.width[:, 0] == capture.width)
    expected = [float(values[same].median()) for values in (cameras.fx, cameras.fy, cameras.cx, cameras.cy)]
    assert record.intrinsics.tolist() == pytest.approx(expected, rel=1e-6)
    assert record.is_unbounded == student.is_contracted() == (name == "unbounded")
    near, far = record.depth_range.tolist()
    if name == "unbounded":
        assert 0.0 < near < far and not student.in_sphere()
    else:
        distance = cameras.camera_to_worlds[:, :, 3].norm(dim=-1)
        assert float(distance.min()) - 2.2 < near < float(distance.max()) < far + 1.0


# Rendering


@pytest.mark.parametrize("name", CAPTURES)
def test_ns_render_shows_the_students_own_pictures_at_the_photos_sizes(name, run_of, capture_of, tmp_path):
    split = "test" if capture_of(name).test else "train"
    DatasetRender(
        load_config=run_of(name),
        output_path=tmp_path,
        split=split,
        rendered_output_names=["rgb", "gt-rgb"],
        image_format="png",
    ).main()
    cameras, photos, seen = views_of(capture_of(name), split)
    student = load_student(run_of(name))
    shown, given = (sorted((tmp_path / split / kind).rglob("*.png")) for kind in ("rgb", "gt-rgb"))
    assert [path.name for path in shown] == [path.name for path in given] == [path.name for path in photos]
    for index, (path, truth, photo) in enumerate(zip(shown, given, photos, strict=True)):
        with torch.no_grad():
            own = student.render(cameras[index : index + 1]).clamp(0.0, 1.0).numpy()
        picture = np.asarray(Image.open(path)) / 255.0
        assert picture.shape == own.shape == (int(cameras.height[index]), int(cameras.width[index]), 3)
        assert np.abs(picture - own).max() < 1.01 / 255
        assert np.abs(np.asarray(Image.open(truth)) / 255.0 - photo_on_disk(photo))[seen[index]].max() < 1.01 / 255


# Exporting


@pytest.mark.parametrize("name", CAPTURES)
def test_the_exported_package_is_the_student_and_is_judged_by_the_photos(name, run_of, capture_of, tmp_path):
    import onnxruntime

    capture = capture_of(name)
    run = shutil.copytree(run_of(name).parent, tmp_path / "run") / "config.yml"
    NS_EXPORT_COMMANDS["mobiler2l-onnx"][0](load_config=run, output_dir=tmp_path / "package").main()
    described = json.loads((tmp_path / "package" / "manifest.json").read_text())
    (entry,) = described["files"]
    (view,) = entry["views"]
    assert entry["psnr_student"] >= 80
    assert described["size"] == {"height": capture.height, "width": capture.width}
    fx, fy, cx, cy = (view["intrinsics"][name] for name in ("fx", "fy", "cx", "cy"))
    student = load_student(run)
    assert [fx, fy, cx, cy] == pytest.approx(student.capture.intrinsics.tolist(), abs=1e-4)

    session = onnxruntime.InferenceSession(str(tmp_path / "package" / entry["path"]))
    known, scores = load_proof_photos(SavedRun.open(run).config, student), []
    for pose, photo in zip(student.capture.proof_poses, known, strict=True):
        camera = Cameras(pose[None], fx, fy, cx, cy, width=capture.width, height=capture.height)
        inputs = {"camera_to_world": pose[None].numpy(), "intrinsics": np.array([[fx, fy, cx, cy]], np.float32)}
        picture = session.run(None, inputs)[0][0].transpose(1, 2, 0)  # type: ignore[index]
        with torch.no_grad():
            assert decibel(picture, student.render(camera).numpy()) > 80
        if photo is not None:
            scores.append(decibel(picture, photo.picture.permute(1, 2, 0), photo.mask > 0))
    if capture.test == 0:  # no photo is left to judge by
        assert scores == [] and entry["psnr_photos"] is None and described["psnr_photos"] is None
    else:
        assert len(scores) == 8 and entry["psnr_photos"] == pytest.approx(np.mean(scores), abs=2e-3)


@pytest.mark.parametrize("name", ["lens", "masks"])
def test_packages_are_judged_by_what_the_students_own_camera_would_have_photographed(name, run_of, capture_of):
    capture, student = capture_of(name), load_student(run_of(name))
    fx, fy, cx, cy = student.capture.intrinsics.tolist()
    _, photos, _ = views_of(capture, "test")
    found = load_proof_photos(SavedRun.open(run_of(name)).config, student)
    for index in (0, -1):  # the first and the last test view
        proof = found[index]
        assert proof is not None and 0.4 < float(proof.mask.mean())
        seen = proof.mask.numpy() > 0
        camera = Cameras(student.capture.proof_poses[index][None], fx, fy, cx, cy, capture.width, capture.height)
        truth = over_white(trace(camera, 0)).numpy()
        picture = proof.picture.permute(1, 2, 0).numpy()
        assert decibel(picture, truth, seen) > 20
        if name == "lens":
            assert decibel(picture, truth, seen) > decibel(photo_on_disk(photos[index]), truth, seen) + 1
        else:
            assert np.abs(picture[seen] - np.array(HIDDEN) / 255).sum(-1).min() > 0.5
