"""Photos stand where the teacher has found their cameras to be, as nerfstudio itself moves rays and cameras."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras

from mobiler2l_ns.geometry.rays import camera_rays
from mobiler2l_ns.teacher.corrections import corrected, corrections_of_photos, learned_corrections, same_photos

MODES = ("SO3xR3", "SE3")
COUNT = 5


def teacher(mode: Any, count: int = COUNT) -> Any:
    """Something with a camera optimizer that has moved every camera."""
    optimizer = CameraOptimizerConfig(mode=mode).setup(num_cameras=count, device="cpu")
    if mode != "off":
        torch.nn.init.normal_(optimizer.pose_adjustment, std=0.2)
    return SimpleNamespace(camera_optimizer=optimizer)


def cameras(count: int = COUNT) -> Cameras:
    turned = torch.linalg.qr(torch.randn(count, 3, 3))[0]
    turned = turned * torch.linalg.det(turned)[:, None, None]
    poses = torch.cat([turned, torch.randn(count, 3, 1)], dim=-1)
    return Cameras(poses, 20.0, 21.0, 8.0, 6.0, width=16, height=12)


@pytest.mark.parametrize("mode", MODES)
def test_a_corrected_photos_rays_are_those_that_taught_nerfacto(mode):
    moved, given = teacher(mode), cameras()
    corrections = learned_corrections(moved)
    assert corrections is not None
    shown = Cameras(corrected(given.camera_to_worlds, corrections), 20.0, 21.0, 8.0, 6.0, width=16, height=12)
    expected = given.generate_rays(torch.arange(COUNT)[:, None], coords=torch.tensor([5.5, 9.5]).expand(COUNT, 2))
    with torch.no_grad():
        moved.camera_optimizer.apply_to_raybundle(expected)
    found = shown.generate_rays(torch.arange(COUNT)[:, None], coords=torch.tensor([5.5, 9.5]).expand(COUNT, 2))
    torch.testing.assert_close(found.origins, expected.origins)
    torch.testing.assert_close(found.directions, expected.directions)
    origins, directions = camera_rays(shown, 1)
    torch.testing.assert_close(origins[:, 0, 0], expected.origins)
    ahead = torch.nn.functional.normalize(directions[:, 5, 9], dim=-1)
    torch.testing.assert_close(ahead, expected.directions)


@pytest.mark.parametrize("mode", MODES)
def test_a_corrected_camera_is_the_one_that_taught_splatfacto(mode):
    moved, given = teacher(mode), cameras()
    corrections = learned_corrections(moved)
    assert corrections is not None
    found = corrected(given.camera_to_worlds, corrections)
    for index in range(COUNT):
        camera = given[index : index + 1]
        camera.metadata = {"cam_idx": index}
        with torch.no_grad():
            torch.testing.assert_close(found[index], moved.camera_optimizer.apply_to_camera(camera)[0])


def test_a_teacher_that_moves_no_cameras_has_no_corrections():
    other: Any = SimpleNamespace()
    assert learned_corrections(teacher("off")) is None and learned_corrections(other) is None


def test_corrections_go_to_the_photos_of_the_same_name_wherever_they_lie():
    moved = teacher("SO3xR3", 4)
    learned = learned_corrections(moved)
    assert learned is not None
    of_teacher = [Path(f"/there/{name}.png") for name in ("left/1", "left/2", "right/1", "right/2")]
    photos = [Path(f"/here/capture/{name}.png") for name in ("right/1", "left/2", "middle/9", "left/1")]
    assert same_photos(photos, of_teacher) == [2, 1, None, 0]
    found = corrections_of_photos(moved, of_teacher, photos)
    assert found is not None
    for place, index in {0: 2, 1: 1, 3: 0}.items():
        assert torch.equal(found[place], learned[index])
    assert torch.equal(found[2], torch.eye(4)[:3])


def test_corrections_of_another_number_of_photos_are_nobodys():
    assert corrections_of_photos(teacher("SO3xR3", 4), [Path("1.png")], [Path("1.png")]) is None
