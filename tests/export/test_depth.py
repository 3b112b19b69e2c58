"""Depth as a second output of packages: that of the student, by a real runtime."""

from __future__ import annotations

import json
import os

import pytest
import torch
from small_student import VOLUMES, make_student

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export import depth
from mobiler2l_ns.export.depth import relative_error
from mobiler2l_ns.export.formats import all_formats
from mobiler2l_ns.export.graph import PoseToImage
from mobiler2l_ns.export.package import Request, export_packages

FORMATS = all_formats()
TABLE = VOLUMES["sphere"]
long = pytest.mark.skipif(
    "MOBILER2L_TEST_LONG" not in os.environ, reason="half a minute: MOBILER2L_TEST_LONG=1 runs it"
)


def distances(student, pose):
    """The student's depth and accumulation, by its renderer for viewers, at the middle of each block of pixels."""
    camera = student.training_camera(pose)
    shown = student.render_geometry(camera)
    view, rays = student.view(), student.config.volume_rays
    block = view.stride // rays
    rows, columns = (size // block for size in (view.height, view.width))
    middles = (slice(block // 2, rows * block, block), slice(block // 2, columns * block, block))
    y, x = torch.meshgrid(*(torch.arange(n) * block + block / 2 for n in (rows, columns)), indexing="ij")
    fx, fy, cx, cy = view.intrinsics
    slant = (((x - cx) / fx).square() + ((y - cy) / fy).square() + 1.0).sqrt()
    return shown.depth[..., 0][middles] / slant, rows, columns


@pytest.mark.parametrize("name", VOLUMES)
def test_depth_lies_along_the_optical_axis(name):
    student = make_student(**VOLUMES[name])
    graph = PoseToImage(student, depth=True).eval()
    assert graph.outputs == ("image", "depth")
    pose = student.capture.proof_poses[2]
    picture, found = graph(pose[None], student.capture.intrinsics[None])
    (plain,) = (PoseToImage(student).eval()(pose[None], student.capture.intrinsics[None]),)
    torch.testing.assert_close(picture, plain)
    expected, rows, columns = distances(student, pose)
    got, seen = found[0, 0, :rows, :columns], found[0, 1, :rows, :columns] > 0.5
    assert seen.float().mean() > 0.1
    torch.testing.assert_close(got[seen], expected[seen], rtol=2e-3, atol=0)


@pytest.mark.parametrize(
    ("format_name", "precision"),
    [("onnx", "fp32"), ("onnx", "fp16"), pytest.param("coreml", "fp16", marks=long), ("litert", "int8")],
)
def test_packages_give_depth_that_is_proven(format_name, precision, tmp_path):
    form = FORMATS[format_name]
    if missing := form.missing():
        pytest.skip(missing)
    student = make_student(**TABLE, height=20, width=28)
    (file,) = export_packages(student, [Request(format_name, precision=precision, depth=True)], tmp_path)
    assert "depth" in file.path and file.output.endswith("; depth, float32, see views")
    rows, columns = (count * 4 for count in student.view().grid)
    (view,) = file.views
    assert view["depth"]["shape"] == ([1, rows, columns, 2] if form.layout == "NHWC" else [1, 2, rows, columns])
    assert view["depth"]["block"] == 2.0 and 0.0 <= view["depth_error"] < 0.01
    pose = student.capture.proof_poses[1]
    inputs = {"camera_to_world": pose[None].numpy(), "intrinsics": student.capture.intrinsics[None].numpy()}
    runner = form.open(tmp_path / file.path, "main")
    picture, found = map(torch.from_numpy, runner.with_depth(inputs))
    assert picture.shape == (3, 20, 28)
    expected, rows, columns = distances(student, pose)
    seen = found[1, :rows, :columns] > 0.5
    torch.testing.assert_close(found[0, :rows, :columns][seen], expected[seen], rtol=0.02, atol=0)
    assert "second output, `depth`" in (tmp_path / "CLIENT.md").read_text()
    (entry,) = json.loads((tmp_path / "manifest.json").read_text())["files"]
    assert entry["views"][0]["depth"] == view["depth"]


@pytest.mark.parametrize(
    ("settings", "asked", "told"),
    [
        ({}, {"format": "onnx"}, "no volume that could tell depth"),
        (TABLE, {"format": "ncnn"}, "ncnn packages give a picture alone"),
        (TABLE, {"format": "onnx", "contract": "features"}, "from a pose"),
    ],
)
def test_depth_that_is_not_to_be_had_is_refused(settings, asked, told, tmp_path):
    if FORMATS[asked["format"]].missing():
        pytest.skip(asked["format"])
    with pytest.raises(UserError, match=told):
        export_packages(make_student(**settings), [Request(**asked, depth=True)], tmp_path)


def test_a_wrong_depth_is_refused(tmp_path, monkeypatch):
    student = make_student(**TABLE)
    right = depth.expected_depth
    monkeypatch.setattr("mobiler2l_ns.export.proof.expected_depth", lambda *args: 1.02 * right(*args))
    with pytest.raises(UserError, match="does not give the student's depth: it is off by 2.0 % of it"):
        export_packages(student, [Request("onnx", depth=True)], tmp_path)


def test_depth_counts_where_something_is_seen():
    expected = torch.tensor([[[2.0, 4.0, 8.0]], [[1.0, 0.6, 0.4]]])
    got = torch.tensor([[[2.2, 4.0, 80.0]], [[1.0, 0.6, 0.4]]])
    assert relative_error(got, expected) == pytest.approx(0.05)
    assert relative_error(got[:, :, :2], expected) == float("inf")
    assert relative_error(got, expected * torch.tensor([1.0, 0.1])[:, None, None]) == 0.0
