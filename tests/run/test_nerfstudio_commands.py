"""What ns-eval and ns-render make of a run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.scripts import eval as evaluate
from nerfstudio.scripts import render
from PIL import Image
from short_run import load_student, open_run, train
from tiny_capture import write_capture

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.student import model as render_module
from mobiler2l_ns.teacher.splat_teacher import SplatTeacher


def test_the_command_ns_eval_writes_the_figures_of_the_pipeline(finished_run, tmp_path):
    output = tmp_path / "eval.json"
    command = [str(Path(sys.executable).parent / "ns-eval"), "--load-config", str(finished_run)]
    done = subprocess.run([*command, "--output-path", str(output)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads(output.read_text())["results"]
    expected = open_run(finished_run)[0].get_average_eval_image_metrics()
    figures = {"psnr", "ssim", "psnr_to_teacher", "teacher_psnr", "teacher_ssim"}
    assert figures <= set(expected)
    assert {name: results[name] for name in figures} == pytest.approx({name: expected[name] for name in figures}, 1e-4)


POSE = torch.eye(4)
POSE[2, 3] = 4.0
FLIGHT = {
    "camera_type": "perspective",
    "render_height": 40,
    "render_width": 70,
    "fps": 2,
    "seconds": 1,
    "camera_path": [{"camera_to_world": POSE.flatten().tolist(), "fov": fov, "aspect": 1.75} for fov in (50, 35)],
}


@pytest.mark.parametrize(
    ("kind", "frames", "size"), [("interpolate", 4, (52, 52)), ("spiral", 4, (52, 52)), ("camera-path", 2, (40, 70))]
)
def test_ns_render_shows_the_students_own_pictures_along_a_path(
    finished_run, tmp_path, monkeypatch, kind, frames, size
):
    (tmp_path / "path.json").write_text(json.dumps(FLIGHT))
    common: dict = {
        "load_config": finished_run,
        "output_path": tmp_path / "out",
        "output_format": "images",
        "image_format": "png",
        "rendered_output_names": ["rgb"],
    }
    job = {
        "interpolate": lambda: render.RenderInterpolated(**common, pose_source="eval", interpolation_steps=2),
        "spiral": lambda: render.SpiralRender(**common, seconds=0.2, frame_rate=20),
        "camera-path": lambda: render.RenderCameraPath(**common, camera_path_filename=tmp_path / "path.json"),
    }[kind]()
    paths = []
    show = render._render_trajectory_video

    def seen(pipeline, cameras, *arguments, **settings):
        paths.append(cameras)
        return show(pipeline, cameras, *arguments, **settings)

    monkeypatch.setattr(render, "_render_trajectory_video", seen)
    job.main()
    (cameras,) = paths
    pictures = [np.asarray(Image.open(path)) / 255.0 for path in sorted((tmp_path / "out").rglob("*.png"))]
    assert len(pictures) == len(cameras) == frames
    student = load_student(finished_run)
    for index, picture in enumerate(pictures):
        with torch.no_grad():
            own = student.render(cameras[index : index + 1]).clamp(0.0, 1.0).numpy()
        assert picture.shape == own.shape == (*size, 3)
        assert np.abs(picture - own).max() < 1.01 / 255
    if kind != "interpolate":
        assert np.abs(pictures[0] - pictures[1]).max() > 0.02  # the camera moves, or zooms


def test_ns_render_lays_the_nearest_photo_beside_each_picture(finished_run, make_config, nerfacto_run, tmp_path):
    (tmp_path / "path.json").write_text(json.dumps(FLIGHT))
    loaded = train(make_config(tmp_path / "l", teacher_load_config=nerfacto_run, distill_steps=2, finetune_steps=0))
    for run in (finished_run, loaded):
        render.RenderCameraPath(
            load_config=run,
            output_path=tmp_path / run.parent.parent.name / "out",
            output_format="images",
            image_format="png",
            camera_path_filename=tmp_path / "path.json",
            render_nearest_camera=True,
            check_occlusions=True,
        ).main()
        pictures = sorted((tmp_path / run.parent.parent.name / "out").rglob("*.png"))
        assert [Image.open(path).size for path in pictures] == [(70 + 40, 40)] * 2


def geometry_of(pipeline, points=400):
    """What ns-export pointcloud asks of a run: rays of its photos, and the model's outputs of them."""
    found = []
    while sum(len(each) for each in found) < points:
        rays, _ = pipeline.datamanager.next_train(0)
        outputs = pipeline.model(rays)
        assert {"rgb", "depth", "accumulation"} <= set(outputs)
        found.append((rays.origins + rays.directions * outputs["depth"])[outputs["accumulation"][:, 0] > 0.5])
    return torch.cat(found)


def nearest_distances(points, surface):
    return torch.cat([torch.cdist(part, surface).amin(1) for part in points.split(500)])


def test_ns_export_s_cloud_lies_on_what_the_student_s_pictures_show(finished_run, tmp_path, monkeypatch, capsys):
    """It is asked as on the command line, with nothing but a number; half of its points lie nearer to what a pixel of
    the student's own pictures shows than a hundredth of the cameras' distance, which is 4."""
    import open3d as o3d
    from nerfstudio.scripts import exporter

    monkeypatch.setattr(render_module, "rays_of_teacher", None)
    command = exporter.ExportPointCloud(load_config=finished_run, output_dir=tmp_path, num_points=2000)
    command.main()
    assert capsys.readouterr().out.count("Single rays show the student's volume") == 1
    cloud = o3d.io.read_point_cloud(tmp_path / "point_cloud.ply")
    points, normals, colours = (np.asarray(each) for each in (cloud.points, cloud.normals, cloud.colors))
    assert len(points) > 1800
    pipeline, _ = open_run(finished_run)
    cameras, surface = pipeline.datamanager.train_dataset.cameras, []
    for index in range(len(cameras)):
        camera = cameras[index : index + 1]
        outputs, rays = pipeline.model.render_student(camera), camera.generate_rays(camera_indices=0, keep_shape=True)
        shown = outputs["depth"][..., 0] < 100.0
        surface.append((rays.origins + outputs["depth"] * rays.directions)[shown])
    away = nearest_distances(torch.tensor(points).float(), torch.cat(surface))
    assert float(away.median()) < 0.04
    assert np.abs(np.linalg.norm(normals, axis=1) - 1.0).max() < 1e-3
    assert 0.0 <= colours.min() and colours.std() > 0.05


def test_single_rays_are_the_teachers_where_the_student_has_no_volume(make_config, nerfacto_run, tmp_path, capsys):
    settings = {"teacher_load_config": nerfacto_run, "distill_steps": 2, "finetune_steps": 0}
    config = make_config(tmp_path, **settings)
    config.pipeline.model.volume_rays = 0
    pipeline, _ = open_run(train(config))
    capsys.readouterr()
    with torch.no_grad():
        assert float(geometry_of(pipeline).norm(dim=-1).median()) < 1.25
        camera = pipeline.datamanager.train_dataset.cameras[0:1]
        rays = camera.generate_rays(camera_indices=0, keep_shape=True)
        outputs = pipeline.model.get_outputs_for_camera_ray_bundle(rays)  # as ns-export tsdf does
        expected = pipeline.model.render_teacher(camera)
    torch.testing.assert_close(outputs["depth"], expected["depth"])
    assert capsys.readouterr().out.strip() == "Single rays show the teacher: the student has no volume"
    splats: Any = object.__new__(SplatTeacher)
    for teachers, told in (((), "this student knows nothing of single rays"), ((splats,), "is made of splats, which")):
        pipeline.model._loaded_teacher = teachers
        with pytest.raises(UserError, match=told):
            geometry_of(pipeline)


def test_single_rays_are_the_teachers_until_the_student_has_begun(finished_run, capsys):
    pipeline, _ = open_run(finished_run)
    student, rays = pipeline.model.student, pipeline.datamanager.next_train(0)[0]
    student.capture.record(depth_known=torch.tensor(False))
    capsys.readouterr()
    with torch.no_grad():
        torch.testing.assert_close(pipeline.model(rays)["depth"], pipeline.model.teacher(rays)["depth"])
    assert capsys.readouterr().out == "Single rays show the teacher: the student has not begun\n"


def test_no_way_between_cameras_is_one_line_where_one_photo_is_held_out(make_config, tmp_path, monkeypatch):
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    config = make_config(tmp_path, teacher_steps=2, distill_steps=2, finetune_steps=0)
    folder = write_capture(tmp_path / "c")
    manager = config.pipeline.datamanager
    manager.dataparser, manager.data, config.data = NerfstudioDataParserConfig(data=folder), folder, folder
    run = train(config)
    arguments = ["interpolate", "--load-config", str(run), "--output-path", str(tmp_path / "a.mp4")]
    monkeypatch.setattr(sys, "argv", ["ns-render", *arguments])
    with pytest.raises(UserError, match=r"^There is one camera, and so no way between cameras: give"):
        render.entrypoint()


def test_ns_eval_opens_a_run_from_windows(finished_run, tmp_path, monkeypatch):
    run = shutil.copytree(finished_run.parent, tmp_path / "demo" / "mobiler2l-tiny" / "run") / "config.yml"
    text = run.read_text()
    assert "pathlib.PosixPath" in text
    run.write_text(text.replace("pathlib.PosixPath", "pathlib.WindowsPath"))
    output = tmp_path / "eval.json"
    monkeypatch.setattr(sys, "argv", ["ns-eval", "--load-config", str(run), "--output-path", str(output)])
    evaluate.entrypoint()
    assert "psnr" in json.loads(output.read_text())["results"]
