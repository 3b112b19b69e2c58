"""How far the scene reaches, measured on a scene known exactly."""

import pytest
import torch

from mobiler2l_ns.capture.pose_samplers import look_at_poses
from mobiler2l_ns.geometry.bounds import SceneExtent
from mobiler2l_ns.geometry.picture import PictureGeometry

VIEW = PictureGeometry(height=40, width=44, fx=60.0, fy=60.0, cx=22.0, cy=20.0, stride=8)
CENTRE, RADIUS = torch.tensor([0.3, -0.2, 0.1]), 0.8


def see_a_ball(pose, accumulation=True):
    """Depth along each ray to a ball; nothing is hit beside it."""
    rays = VIEW.cameras(pose[None]).generate_rays(camera_indices=0, keep_shape=True)
    offset = rays.origins - CENTRE
    half = (offset * rays.directions).sum(-1, keepdim=True)
    inside = half**2 - (offset**2).sum(-1, keepdim=True) + RADIUS**2
    hit = (inside > 0).float()
    depth = torch.where(inside > 0, -half - inside.clamp(min=0).sqrt(), torch.tensor(1000.0))
    return {"depth": depth, "accumulation": hit} if accumulation else {"accumulation": hit}


@pytest.fixture
def poses():
    directions = torch.nn.functional.normalize(torch.randn(24, 3), dim=-1)
    return look_at_poses(
        CENTRE + 4.0 * directions, CENTRE.expand(24, 3), torch.zeros(24), torch.tensor([0.0, 0.0, 1.0])
    )


def test_a_ball_is_found_where_it_is(poses):
    extent = SceneExtent()
    for pose in poses:
        extent.add(pose, VIEW, see_a_ball(pose))
    sphere, planes = extent.sphere(), extent.planes()
    assert sphere is not None and planes is not None
    centre, radius = sphere
    torch.testing.assert_close(centre, CENTRE, atol=0.03, rtol=0)
    assert RADIUS < float(radius) < 1.1 * RADIUS
    near, far = planes
    assert 3.0 < near < 3.2 and 3.8 < far < 4.3  # the ball's front and its rim


def test_a_teacher_without_depth_says_nothing(poses):
    extent = SceneExtent()
    extent.add(poses[0], VIEW, see_a_ball(poses[0], accumulation=False))
    assert extent.planes() is None and extent.sphere() is None


def test_of_a_teacher_that_is_nowhere_solid_yet_counts_where_there_is_most(poses):
    extent = SceneExtent()
    for pose in poses:
        seen = see_a_ball(pose)
        extent.add(pose, VIEW, {**seen, "accumulation": 0.02 + 0.3 * seen["accumulation"]})
    faint = extent.sphere()
    assert faint is not None
    torch.testing.assert_close(faint[0], CENTRE, atol=0.03, rtol=0)
    # As soon as anything is solid, only that does.
    small = see_a_ball(poses[0])
    extent.add(poses[0], VIEW, small)
    alone = SceneExtent()
    alone.add(poses[0], VIEW, small)
    assert extent.planes() == alone.planes()


def test_a_teacher_that_shows_nothing_has_depth_but_no_extent(poses):
    extent = SceneExtent()
    extent.add(
        poses[0], VIEW, {**see_a_ball(poses[0]), "accumulation": torch.full_like(see_a_ball(poses[0])["depth"], 1e-3)}
    )
    assert extent.has_depth and not extent.measured and extent.planes() is None and extent.sphere() is None
