"""Captures of an object: near, far and box follow from the cameras, and what a user sets stands."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.models.nerfacto import NerfactoModelConfig

from mobiler2l_ns.capture.pose_samplers import look_at_poses
from mobiler2l_ns.teacher.objects import ObjectBounds, for_objects

OWN = SceneBox(aabb=torch.tensor([[-1.5] * 3, [1.5] * 3]))


def cameras(distance: float, centre=(0.0, 0.0, 0.0), count: int = 24) -> Cameras:
    """Around a point, with the field of view of NeRF's Blender scenes."""
    turn = torch.arange(count) * 2.4
    height = 0.2 + 0.6 * torch.arange(count) / count
    level = (1 - height**2).sqrt()
    target = torch.tensor(centre).expand(count, 3)
    eyes = target + distance * torch.stack([level * turn.cos(), level * turn.sin(), height], dim=-1)
    poses = look_at_poses(eyes, target, torch.zeros(count), torch.tensor([0.0, 0.0, 1.0]))
    return Cameras(poses, 1111.1, 1111.1, 400.0, 400.0, width=800, height=800)


def bounds_of(cameras: Cameras) -> ObjectBounds:
    bounds = ObjectBounds.seen_by(cameras)
    assert bounds is not None
    return bounds


def test_blender_scenes_get_what_nerfstudio_gives_them():
    bounds = bounds_of(cameras(4.03))
    assert bounds.near == pytest.approx(2.0, abs=0.03) and bounds.far == pytest.approx(6.0, abs=0.1)
    assert bounds.half_side == pytest.approx(1.5, abs=0.1)
    assert bounds.box(OWN) is OWN


@pytest.mark.parametrize("scale", [0.01, 0.3, 10.0, 1000.0])
def test_scenes_of_another_scale_get_the_same_in_theirs(scale):
    centre = (3.0 * scale, -1.0 * scale, 0.5 * scale)
    bounds = bounds_of(cameras(4.03 * scale, centre))
    assert bounds.near == pytest.approx(2.015 * scale, rel=1e-3)
    assert bounds.far == pytest.approx(6.045 * scale, rel=1e-3)
    box = bounds.box(OWN).aabb
    half = 4.03 * scale * 400 / 1111.1
    torch.testing.assert_close(box.mean(0), torch.tensor(centre), rtol=1e-3, atol=1e-3 * scale)
    torch.testing.assert_close(box[1] - box[0], torch.full((3,), 2 * half), rtol=1e-3, atol=1e-3 * scale)


def test_cameras_that_look_outwards_show_no_object():
    looking_in = cameras(1.0)
    turned = looking_in.camera_to_worlds.clone()
    turned[:, :, 0] *= -1
    turned[:, :, 2] *= -1
    assert ObjectBounds.seen_by(replace_poses(looking_in, turned)) is None


def replace_poses(cameras: Cameras, poses: torch.Tensor) -> Cameras:
    return Cameras(poses, cameras.fx, cameras.fy, cameras.cx, cameras.cy, cameras.width, cameras.height)


def test_what_a_user_sets_stands():
    asked = replace(NerfactoModelConfig(), far_plane=3.5, distortion_loss_mult=0.01)
    settled = for_objects(asked, "black", ObjectBounds(near=1.0, far=9.0))
    assert (settled.near_plane, settled.far_plane, settled.distortion_loss_mult) == (1.0, 3.5, 0.01)
    assert settled.background_color == "black" and settled.disable_scene_contraction
    assert math.isclose(for_objects(settled).far_plane, 3.5)
