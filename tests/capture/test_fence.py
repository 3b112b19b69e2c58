"""The fence tells where a capture is good: ranges as seen from a point, and how far a pose is from trained ones."""

from __future__ import annotations

import math

import pytest
import torch

from mobiler2l_ns.capture.fence import ANCHORS, Fence, measure_fence, strangeness
from mobiler2l_ns.capture.pose_samplers import look_at_poses, make_pose_sampler

UP = torch.tensor([0.0, 0.0, 1.0])
CENTRE = torch.tensor([0.5, -0.3, 0.2])


def cameras_around(azimuth, elevation, distance, outward=False):
    """Cameras at degrees around a point, looking at it, or away from it."""
    azimuth, elevation = torch.deg2rad(torch.as_tensor(azimuth)), torch.deg2rad(torch.as_tensor(elevation))
    flat = elevation.cos()
    direction = torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), elevation.sin()], -1)
    centres = CENTRE + torch.as_tensor(distance)[:, None] * direction
    targets = centres + direction if outward else CENTRE.expand_as(centres)
    return look_at_poses(centres, targets, torch.zeros(len(centres)), UP)


def uniform(low, high, count=150, seed=0):
    return low + (high - low) * torch.rand(count, generator=torch.Generator().manual_seed(seed))


def orbit():
    return cameras_around(uniform(0, 360), uniform(10, 60, seed=1), uniform(3, 4, seed=2))


def forward():
    return cameras_around(uniform(-20, 20), uniform(-10, 10, seed=1), uniform(3, 3.5, seed=2))


def room():
    return cameras_around(uniform(0, 360), uniform(-20, 30, seed=1), uniform(0, 0.5, seed=2), outward=True)


def walk():
    """Once around, rising: a path through the shell."""
    share = torch.linspace(0, 1, 150)
    return cameras_around(-120 + 240 * share, 10 + 50 * share, torch.full((150,), 3.0))


def fence_of(cameras) -> Fence:
    sampler, _ = make_pose_sampler("auto", cameras)
    return measure_fence(cameras, sampler.sample(1000, torch.Generator().manual_seed(3)))


def how_strange(fence: Fence, poses):
    return strangeness(poses, fence.anchors, fence.reach)


@pytest.mark.parametrize(
    ("cameras", "distance", "elevation", "extent"),
    [(orbit, (3, 4), (10, 60), 360), (forward, (3, 3.5), (-10, 10), 40), (walk, (3, 3), (10, 60), 240)],
)
def test_inward_captures_are_fenced_as_seen_from_where_they_look(cameras, distance, elevation, extent):
    fence = fence_of(cameras())
    assert fence.inward and fence.known
    torch.testing.assert_close(fence.middle, CENTRE, atol=0.02, rtol=0)
    torch.testing.assert_close(fence.distance, torch.tensor(distance).float(), atol=0.3, rtol=0)
    torch.testing.assert_close(fence.elevation, torch.tensor(elevation).float(), atol=6, rtol=0)
    assert float(fence.azimuth[1]) == pytest.approx(extent, abs=15)


def test_a_room_is_fenced_by_where_its_cameras_stand_and_look():
    fence = fence_of(room())
    assert not fence.inward
    torch.testing.assert_close(fence.middle, CENTRE, atol=0.1, rtol=0)
    assert fence.distance[0] == 0 and 0.3 < fence.distance[1] < 0.8
    torch.testing.assert_close(fence.elevation, torch.tensor([-20.0, 30.0]), atol=10, rtol=0)
    assert fence.azimuth[1] == 360


@pytest.mark.parametrize("cameras", [orbit, forward, room, walk])
def test_trained_poses_are_not_strange_and_others_are(cameras):
    trained = cameras()
    fence = fence_of(trained)
    assert float((how_strange(fence, trained) <= 1).float().mean()) > 0.97
    assert (how_strange(fence, trained + torch.tensor([0.0, 0.0, 0.0, 9.0])) > 1.5).all()
    turned = trained * torch.tensor([-1.0, 1.0, -1.0, 1.0])  # the other way round, about the cameras' own up
    if cameras is not room:
        assert (how_strange(fence, turned) > 1.5).all()


def test_within_the_ranges_of_a_walk_a_pose_off_the_path_is_strange():
    fence = fence_of(walk())
    on, off = cameras_around([-110.0], [12.0], [3.0]), cameras_around([-110.0], [58.0], [3.0])
    assert how_strange(fence, on) < 1 < how_strange(fence, off)


@pytest.mark.parametrize("count", [1, 2])
def test_a_capture_of_few_photos_has_a_fence_with_some_room(count):
    cameras = orbit()[:count]
    fence = fence_of(cameras)
    assert fence.anchors.shape == (ANCHORS, 2, 3) and all(value.isfinite().all() for value in vars(fence).values())
    assert (how_strange(fence, cameras) <= 1).all()


def test_strangeness_is_a_distance_over_the_reach_and_an_angle_over_its_own():
    anchors = torch.tensor([[[0.0, 0, 0], [0, 0, -1]]])
    poses = torch.eye(4)[:3].repeat(3, 1, 1)
    poses[1, 0, 3] = 2.0
    tilt = math.radians(30)
    poses[2, :, :3] = torch.tensor(
        [[1, 0, 0], [0, math.cos(tilt), -math.sin(tilt)], [0, math.sin(tilt), math.cos(tilt)]]
    )
    found = strangeness(poses, anchors, torch.tensor([4.0, 60.0]))
    torch.testing.assert_close(found, torch.tensor([0.0, 0.5, 0.5]), atol=1e-3, rtol=0)
