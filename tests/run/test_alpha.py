"""A student with alpha: premultiplied RGBA, right over any background, from the teacher to the package."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.models.nerfacto import NerfactoModelConfig
from short_run import load_script, load_student, open_run, train

from mobiler2l_ns.capture.background import Background, premultiply
from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export.formats import all_formats
from mobiler2l_ns.export.package import Request, export_packages
from mobiler2l_ns.export.proof import Reference
from mobiler2l_ns.export.proof_photos import load_proof_photos
from mobiler2l_ns.geometry.picture import PictureGeometry
from mobiler2l_ns.metrics import psnr
from mobiler2l_ns.saved_run import SavedRun
from mobiler2l_ns.student.config import StudentConfig
from mobiler2l_ns.student.renderer import Student
from mobiler2l_ns.teacher.nerfacto import lazy_lpips
from mobiler2l_ns.teacher.objects import for_objects
from mobiler2l_ns.teacher.render import render_pseudo_view, render_teacher


def nerfacto():
    box = SceneBox(aabb=torch.tensor([[-1.0] * 3, [1.0] * 3]))
    config = NerfactoModelConfig(implementation="torch", num_levels=2, log2_hashmap_size=6, average_init_density=0.3)
    with lazy_lpips():
        return for_objects(config).setup(scene_box=box, num_train_data=2, device="cpu")


def camera() -> Cameras:
    pose = torch.eye(4)[None, :3].clone()
    pose[0, 2, 3] = 4.0
    return Cameras(pose, 20.0, 20.0, 6.0, 5.0, width=12, height=10)


def test_the_teachers_picture_over_white_is_its_own():
    teacher = nerfacto()  # renders over white
    rgba = render_pseudo_view(teacher, camera(), background=Background(alpha=True))["picture"]
    rgb = render_teacher(teacher, camera())["rgb"]
    assert rgba.shape == (10, 12, 4) and 0.0 < float(rgba[..., 3].mean()) < 0.99
    torch.testing.assert_close(rgba[..., :3] + 1.0 - rgba[..., 3:], rgb, atol=1e-5, rtol=0)
    assert torch.equal(render_pseudo_view(teacher, camera(), background=Background())["picture"], rgb)


def test_a_teacher_that_cannot_tell_is_refused():
    teacher = nerfacto()
    full = teacher.get_outputs_for_camera
    teacher.get_outputs_for_camera = lambda c, obb_box=None: {"rgb": full(c)["rgb"]}  # type: ignore[method-assign]
    with pytest.raises(UserError, match="gives no accumulation"):
        render_pseudo_view(teacher, camera(), background=Background(alpha=True))


def test_ns_renders_rgba_is_the_students_own(finished_run, make_config, tmp_path):
    model = replace(make_config(tmp_path).pipeline.model, alpha=True)
    pipeline, _ = open_run(
        train(make_config(tmp_path, model=model, teacher_steps=2, distill_steps=2, finetune_steps=0))
    )
    student = pipeline.model.student
    seen = student.training_camera(student.capture.start_pose)
    outputs = pipeline.model.get_outputs_for_camera(seen)
    rgba = pipeline.model.get_rgba_image(outputs)
    with torch.no_grad():
        expected = student.render(seen)
    assert rgba.shape == (52, 52, 4) and torch.equal(rgba[..., 3:], expected[..., 3:])
    torch.testing.assert_close(
        premultiply(rgba), expected[..., :4].minimum(expected[..., 3:]).clamp(0, 1), atol=2e-5, rtol=0
    )
    opaque = open_run(finished_run)[0].model
    outputs = opaque.get_outputs_for_camera(seen)
    rgba = opaque.get_rgba_image(outputs)
    assert torch.equal(rgba[..., :3], outputs["rgb"]) and bool((rgba[..., 3] == 1).all())


def test_its_colours_are_right_over_black_white_and_a_photo():
    scene = load_script("make_demo_scene")
    poses = scene.sample_cameras("train", 12)
    view = PictureGeometry(48, 48, 66.0, 66.0, 24.0, 24.0, 8)
    exact = torch.stack([premultiply(scene.render(pose, 48, 48, 66.0, supersample=1)) for pose in poses])
    config = StudentConfig(width=64, num_blocks=3, sr_channels=(24, 16, 8), norm=False, alpha=True)
    student = Student(config)
    student.capture.record(scene_radius=torch.tensor(1.35))
    student.network.begin_with(exact.mean((0, 1, 2)))
    optimizer = torch.optim.Adam(student.parameters(), lr=4e-3)
    origins, directions = view.rays(poses)
    for step in range(150):
        chosen = [step % 12, (5 * step + 3) % 12]
        rgba = student(origins[chosen], directions[chosen]).permute(0, 2, 3, 1)
        optimizer.zero_grad()
        ((rgba - exact[chosen]) ** 2).mean().backward()
        optimizer.step()
    student.eval()
    with torch.no_grad():
        rgba = student(origins, directions).permute(0, 2, 3, 1)
    backgrounds = {"black": torch.zeros(3), "white": torch.ones(3), "photo": exact[7, ..., :3].flip(0)}
    scores = {}
    for name, background in backgrounds.items():
        over = [picture[..., :3] + (1.0 - picture[..., 3:]) * background for picture in (rgba, exact)]
        scores[name] = float(psnr(*over))
    assert all(score > 16.0 for score in scores.values()), scores
    assert max(scores.values()) - min(scores.values()) < 3.0, scores  # no background is favoured


@pytest.fixture(scope="module")
def alpha_run(make_config, tmp_path_factory):
    config = make_config(tmp_path_factory.mktemp("alpha"))
    config.pipeline.model = replace(config.pipeline.model, alpha=True, pitches=(1.0, 2.0))
    return train(config)


def test_a_run_with_alpha_goes_through_all_phases(alpha_run):
    pipeline, _ = open_run(alpha_run)
    model = pipeline.model
    view = model.student.training_camera(model.student.capture.start_pose)
    outputs = model.get_outputs_for_camera(view)
    assert outputs["rgb"].shape == (52, 52, 3) and outputs["accumulation"].shape == (52, 52, 1)
    assert 0.0 < float(outputs["accumulation"].min()) < float(outputs["accumulation"].max()) <= 1.0
    premultiplied = model.student.render(view)
    expected = premultiplied[..., :3] + 1.0 - premultiplied[..., 3:]
    torch.testing.assert_close(outputs["rgb"], expected.clamp(0.0, 1.0))
    # Half the size is one of its own.
    half = model.student.training_camera(model.student.capture.start_pose, pitch=2.0)
    assert model.get_outputs_for_camera(half)["rgb"].shape == (26, 26, 3)


@pytest.mark.parametrize("format_name", ["onnx", "coreml"])
def test_packages_carry_alpha(alpha_run, format_name, tmp_path):
    student = load_student(alpha_run)
    (file,) = export_packages(student, [Request(format_name)], tmp_path)
    assert file.psnr_student >= all_formats()[format_name].thresholds[file.precision]
    described = json.loads((tmp_path / "manifest.json").read_text())
    assert described["output"].startswith("RGBA, premultiplied")
    assert described["pitches"] == [1.0, 2.0]


def test_the_same_student_is_packaged_at_half_its_size(alpha_run, tmp_path):
    student = load_student(alpha_run)
    full, half = export_packages(student, [Request("onnx", sizes=((52, 52), (26, 26)))], tmp_path)
    assert (full.path, half.path) == ("mobiler2l-52x52.onnx", "mobiler2l-26x26.onnx")
    (large,), (small,) = full.views, half.views
    assert (large["pitch"], small["pitch"], small["width"]) == (1.0, 2.0, 26)
    assert small["intrinsics"]["fx"] == pytest.approx(large["intrinsics"]["fx"] / 2)
    assert min(full.psnr_student, half.psnr_student) >= 80


def test_packages_are_compared_with_photos_over_white(alpha_run, tmp_path):
    student = load_student(alpha_run)
    photos = load_proof_photos(SavedRun.open(alpha_run).config, student)
    assert all(photo is not None and photo.picture.shape == (4, 52, 52) for photo in photos)
    reference = Reference(student, photos)
    (file,) = export_packages(student, [Request("onnx", sizes=((26, 26),))], tmp_path, reference)
    assert file.psnr_photos is not None and 5.0 < file.psnr_photos < 60.0
    own = reference.psnr_photos()
    assert own is not None and 5.0 < own < 60.0
