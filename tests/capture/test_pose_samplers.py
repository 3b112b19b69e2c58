"""Pose samplers: pseudo views come from where the capture's cameras stand."""

import math

import pytest
import torch

from mobiler2l_ns.capture.pose_samplers import (
    ForwardFacingSampler,
    InterpolateSampler,
    OrbitSampler,
    describe_poses,
    look_at_point,
    look_at_poses,
    make_pose_sampler,
)
from mobiler2l_ns.geometry.pose_range import covered_arc, pose_range

UP = torch.tensor([0.0, 0.0, 1.0])
CENTRE = torch.tensor([0.5, -0.3, 0.2])


def generator():
    return torch.Generator().manual_seed(0)


def orbit_cameras(count=200, arc=2 * math.pi, roll=0.0):
    g = generator()
    azimuth = arc * torch.rand(count, generator=g)
    sine = 0.1 + 0.7 * torch.rand(count, generator=g)
    radius = 3.0 + torch.rand(count, generator=g)
    cosine = (1 - sine**2).sqrt()
    direction = torch.stack([cosine * azimuth.cos(), cosine * azimuth.sin(), sine], dim=-1)
    return look_at_poses(CENTRE + radius[:, None] * direction, CENTRE.expand(count, 3), torch.full((count,), roll), UP)


def forward_cameras(count=60):
    g = generator()
    centres = torch.rand(count, 3, generator=g) * torch.tensor([2.0, 0.2, 1.0])
    targets = centres + torch.tensor([0.0, 1.0, 0.0]) + 0.1 * torch.randn(count, 3, generator=g)
    return look_at_poses(centres, targets, torch.zeros(count), UP)


def walk_cameras(count=60):
    """A walk along a line, looking everywhere."""
    centres = torch.stack([torch.linspace(0, 10, count), torch.zeros(count), torch.zeros(count)], dim=-1)
    targets = centres + torch.randn(count, 3, generator=generator())
    return look_at_poses(centres, targets, torch.zeros(count), UP)


@pytest.mark.parametrize("sampler", [OrbitSampler, ForwardFacingSampler, InterpolateSampler])
@pytest.mark.parametrize("cameras", [orbit_cameras, forward_cameras, walk_cameras])
def test_every_pose_is_a_rotation_and_repeats_with_its_seed(sampler, cameras):
    drawn = sampler(cameras()).sample(100, generator())
    rotation = drawn[:, :, :3]
    torch.testing.assert_close(rotation.transpose(1, 2) @ rotation, torch.eye(3).expand(100, 3, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(100), atol=1e-4, rtol=0)
    assert torch.equal(drawn, sampler(cameras()).sample(100, generator()))


def test_look_at_point_is_where_the_axes_meet():
    torch.testing.assert_close(look_at_point(orbit_cameras()), CENTRE, atol=1e-4, rtol=0)


def test_orbit_stays_on_the_cameras_own_shell():
    cameras = orbit_cameras(arc=math.pi / 2)
    drawn = OrbitSampler(cameras).sample(500, generator())
    theirs, ours = pose_range(cameras, CENTRE), pose_range(drawn, CENTRE)
    for name in ("distance", "elevation"):
        low, high = getattr(theirs, name)
        assert getattr(ours, name)[0] >= low - 1e-3 and getattr(ours, name)[1] <= high + 1e-3
        assert getattr(ours, name).diff() > 0.9 * (high - low)
    assert float(ours.azimuth[1]) == pytest.approx(90.0, abs=5.0)
    torch.testing.assert_close(look_at_point(drawn), CENTRE, atol=1e-3, rtol=0)


def test_orbit_keeps_the_cameras_roll():
    drawn = OrbitSampler(orbit_cameras(roll=0.3)).sample(50, generator())
    upright = look_at_poses(drawn[:, :, 3], CENTRE.expand(50, 3), torch.zeros(50), UP)
    cosine = (drawn[:, :, 0] * upright[:, :, 0]).sum(-1)
    torch.testing.assert_close(cosine, torch.full((50,), math.cos(0.3)), atol=1e-3, rtol=0)


def test_orbit_spreads_its_look_at_points_like_the_cameras():
    g = generator()
    base = orbit_cameras()
    targets = CENTRE + 0.2 * torch.randn(len(base), 3, generator=g)
    cameras = look_at_poses(base[:, :, 3], targets, torch.zeros(len(base)), UP)
    theirs, ours = describe_poses(cameras).aim, describe_poses(OrbitSampler(cameras).sample(500, g)).aim
    assert ours == pytest.approx(theirs, rel=0.4)


def test_forward_facing_fills_the_boxes_with_a_margin():
    cameras = forward_cameras()
    drawn = ForwardFacingSampler(cameras).sample(4000, generator())
    low, high = cameras[:, :, 3].amin(0), cameras[:, :, 3].amax(0)
    margin = 0.08 * (high - low).max()
    assert bool((drawn[:, :, 3] >= low - margin).all() and (drawn[:, :, 3] <= high + margin).all())
    assert bool((drawn[:, 0, 3].max() > high[0]) and (drawn[:, 0, 3].min() < low[0]))
    assert describe_poses(drawn).view_spread < 1.6 * describe_poses(cameras).view_spread


def test_interpolate_stays_beside_the_cameras():
    cameras = walk_cameras()
    drawn = InterpolateSampler(cameras).sample(400, generator())
    nearest = torch.cdist(drawn[:, :, 3], cameras[:, :, 3]).amin(1)
    assert float(nearest.max()) < 1.0
    assert float(nearest.median()) > 1e-3


@pytest.mark.parametrize(
    ("cameras", "name"),
    [
        (orbit_cameras(), "orbit"),
        (forward_cameras(), "forward-facing"),
        (walk_cameras(), "interpolate"),
        (orbit_cameras(arc=math.pi)[torch.arange(200) < 100], "orbit"),
    ],
)
def test_auto_decides_and_says_why(cameras, name):
    sampler, reason = make_pose_sampler("auto", cameras)
    expected = {"orbit": OrbitSampler, "forward-facing": ForwardFacingSampler, "interpolate": InterpolateSampler}
    assert isinstance(sampler, expected[name])
    assert reason.startswith(f"pose sampler {name}: ") and len(reason) > 40


def test_a_walk_through_the_shell_is_interpolated():
    angle = torch.linspace(0, 1.5, 60)
    radius = 2.0 + 0.6 * (4 * angle).sin()
    height = 0.8 * (3 * angle).cos()
    centres = torch.stack([radius * angle.cos(), radius * angle.sin(), height], dim=-1)
    cameras = look_at_poses(centres, torch.zeros(60, 3), torch.zeros(60), UP)
    _, reason = make_pose_sampler("auto", cameras)
    assert reason.startswith("pose sampler interpolate: the cameras leave most of their shell empty")


def test_one_camera_is_enough():
    single = orbit_cameras()[:1]
    for name in ("auto", "orbit", "forward-facing", "interpolate"):
        drawn = make_pose_sampler(name, single)[0].sample(5, generator())
        assert bool(drawn.isfinite().all())


def test_covered_arc_is_the_circle_less_its_largest_gap():
    start, extent = covered_arc(torch.deg2rad(torch.tensor([350.0, 355.0, 0.0, 5.0, 10.0, 20.0])))
    assert math.degrees(start) == pytest.approx(350.0, abs=0.1) and math.degrees(extent) == pytest.approx(30.0, abs=0.1)
    assert covered_arc(torch.linspace(0, 2 * math.pi, 50)) == (0.0, 2 * math.pi)


def test_looking_straight_down_has_a_finite_pose():
    pose = look_at_poses(torch.tensor([[0.0, 0.0, 3.0]]), torch.zeros(1, 3), torch.zeros(1), UP)
    assert bool(pose.isfinite().all())
    torch.testing.assert_close(pose[0, :, 2], UP)
