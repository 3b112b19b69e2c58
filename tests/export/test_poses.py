"""Packages bring along where they are good, named views and a turntable."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from small_student import make_fence, make_student

from mobiler2l_ns.capture.fence import strangeness
from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export.package import Request, export_packages
from mobiler2l_ns.export.poses import PackagePoses, poses_of_fence, poses_of_file, read_poses

SMALL: dict[str, Any] = {"width_of_body": 8, "num_blocks": 1, "height": 16, "width": 16}


def described(folder, student, poses=None):
    export_packages(student, [Request("onnx")], folder, poses=poses)
    return json.loads((folder / "manifest.json").read_text())


def fenced_student(inward=True):
    student = make_student(**SMALL)
    student.capture.record_fence(make_fence(inward))
    return student


@pytest.mark.parametrize(("inward", "extent"), [(True, 360), (True, 90), (False, 360), (False, 90)])
def test_views_and_turntable_stay_in_the_fence(inward, extent):
    fence = make_fence(inward, extent)
    poses = poses_of_fence(fence)
    assert set(poses.views) >= {"front", "left", "right", "above"} and poses.turntable is not None and poses.closed
    every = torch.cat([torch.stack(list(poses.views.values())), poses.turntable])
    # Those of a room stand in its middle, where hardly one of these few cameras does.
    assert (strangeness(every, fence.anchors, fence.reach) < (1.1 if inward else 1.6)).all()
    step = (poses.turntable - poses.turntable.roll(1, 0)).norm(dim=(1, 2))
    assert step.max() < 4 * step.median() + 1e-6 and ("back" in poses.views) == (extent == 360)


@pytest.mark.parametrize("inward", [True, False])
def test_the_manifest_tells_the_fence_and_how_far_a_pose_is_from_trained_ones(inward, tmp_path):
    student = fenced_student(inward)
    fence, told = student.capture.fence(), described(tmp_path, student)["fence"]
    assert told["cameras"] == ("inward" if inward else "outward")
    anchors = torch.tensor([told["anchors"]["centres"], told["anchors"]["directions"]]).transpose(0, 1)
    reach = torch.tensor([told["reach"]["distance"], told["reach"]["degrees"]])
    poses = student.capture.proof_poses
    expected = strangeness(poses, fence.anchors, fence.reach)
    torch.testing.assert_close(strangeness(poses, anchors, reach), expected, atol=1e-2, rtol=1e-2)


def test_a_student_without_a_fence_has_no_poses_either(tmp_path):
    told = described(tmp_path, make_student(**SMALL))
    assert told["fence"] is None and told["poses"] == {"views": {}, "turntable": None}


def test_a_fence_is_no_part_of_which_student_it_is(tmp_path):
    with_fence, without = described(tmp_path / "a", fenced_student()), described(tmp_path / "b", make_student(**SMALL))
    assert with_fence["student_sha256"] == without["student_sha256"]


def camera_path(tmp_path, **changes):
    matrix = [1, 0, 0, 1, 0, 1, 0, 2, 0, 0, 1, 3, 0, 0, 0, 1]
    keyframes = [{"matrix": matrix}, {"matrix": matrix, "name": "door"}]
    path = {"keyframes": keyframes, "camera_path": [{"camera_to_world": matrix}] * 100, "seconds": 4, "is_cycle": False}
    file = tmp_path / "path.json"
    file.write_text(json.dumps({**path, **changes}))
    return file


def test_a_camera_path_of_the_viewer_gives_views_and_turntable(tmp_path):
    poses = poses_of_file(camera_path(tmp_path))
    told = described(tmp_path, make_student(**SMALL), poses)["poses"]
    assert list(told["views"]) == ["view-1", "door"] and told["views"]["door"][1] == [0, 1, 0, 2]
    assert (told["turntable"]["seconds"], told["turntable"]["closed"]) == (4, False)
    assert 40 < len(told["turntable"]["poses"]) <= 60


@pytest.mark.parametrize("changes", [{"camera_path": 3}, {"keyframes": [{}]}, {"seconds": "long"}])
def test_any_other_file_is_refused_in_one_line(changes, tmp_path):
    with pytest.raises(UserError, match="no camera path of nerfstudio's viewer"):
        read_poses(str(camera_path(tmp_path, **changes)))


def test_none_and_auto_need_no_file():
    assert read_poses("none") == PackagePoses() and read_poses("auto") is None
