"""What ns-eval and ns-render make of a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.scripts import render
from PIL import Image
from short_run import load_student, open_run


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
