"""The network's input: depths, points, contraction, positional encoding."""

import math

import pytest
import torch
from nerfstudio.field_components.spatial_distortions import SceneContraction

from mobiler2l_ns.geometry.encoding import (
    SHORTEST_CHORD,
    contract,
    encode,
    encoding_channels,
    jitter_depths,
    points_in_sphere,
    points_on_rays,
    sample_depths,
)


def test_the_papers_encoding_has_312_channels():
    assert encoding_channels(num_points=8, num_frequencies=6) == 312
    assert encoding_channels(num_points=16, num_frequencies=10) == 1008  # R2L


def test_encoding_is_sines_then_cosines_then_identity_of_each_scalar():
    points = torch.randn(1, 2, 3, 24)
    encoded = encode(points, num_frequencies=6)
    assert encoded.shape == (1, 2, 3, 312)
    for channel in (0, 7, 23):
        value = float(points[0, 1, 2, channel])
        expected = [math.sin(2**i * value) for i in range(6)] + [math.cos(2**i * value) for i in range(6)] + [value]
        got = encoded[0, 1, 2, channel * 13 : (channel + 1) * 13]
        torch.testing.assert_close(got, torch.tensor(expected), atol=1e-5, rtol=0)


def test_depths_are_linear_from_near_to_far():
    depths = sample_depths(torch.tensor(2.0), torch.tensor(6.0), 8, "linear")
    torch.testing.assert_close(depths, torch.linspace(2.0, 6.0, 8))


def test_disparity_depths_are_linear_in_one_over_depth():
    depths = sample_depths(torch.tensor(0.5), torch.tensor(50.0), 8, "disparity")
    steps = (1 / depths).diff()
    torch.testing.assert_close(steps, steps[:1].expand(7), atol=1e-5, rtol=0)
    torch.testing.assert_close(depths[[0, -1]], torch.tensor([0.5, 50.0]))


@pytest.mark.parametrize("jitter", ["batch", "ray"])
def test_jittered_depths_stay_between_the_midpoints(jitter):
    depths = torch.linspace(2.0, 6.0, 8)
    moved = jitter_depths(depths, 5, 16, 16, jitter).reshape(-1, 8)
    middle = (depths[1:] + depths[:-1]) / 2
    lower, upper = torch.cat([depths[:1], middle]), torch.cat([middle, depths[-1:]])
    assert bool((moved >= lower).all() and (moved <= upper).all())
    # Two of many float32 draws may be equal.
    assert (len(torch.unique(moved[:, 3])) == 1) if jitter == "batch" else (len(torch.unique(moved[:, 3])) > 1270)


def test_no_jitter_leaves_the_depths():
    depths = torch.linspace(2.0, 6.0, 8)
    assert jitter_depths(depths, 5, 4, 4, "none") is depths


def test_points_lie_at_their_depth_along_the_axis():
    origins, directions = torch.randn(2, 1, 1, 3), torch.randn(2, 4, 5, 3)
    points = points_on_rays(origins, directions, torch.tensor([1.0, 3.0]))
    assert points.shape == (2, 4, 5, 2, 3)
    torch.testing.assert_close(points[1, 2, 3, 1], origins[1, 0, 0] + 3.0 * directions[1, 2, 3])


def test_points_in_a_sphere_lie_on_the_rays_chord():
    origins = 5.0 * torch.nn.functional.normalize(torch.randn(2, 1, 1, 3), dim=-1)
    centre, radius = torch.tensor([0.5, 0.5, 0.5]), 1.4
    directions = 2.5 * (centre - origins + 0.2 * torch.randn(2, 4, 5, 3))
    points = points_in_sphere(origins, directions, centre, torch.tensor(radius), torch.tensor([-1.0, 0.0, 1.0]))
    world = points * radius + centre
    along = (world[..., 2, :] - world[..., 0, :]).cross(directions, dim=-1)
    torch.testing.assert_close(along, torch.zeros_like(along), atol=1e-4, rtol=0)  # in the ray's direction
    off = (world[..., 1, :] - origins).cross(directions, dim=-1)
    torch.testing.assert_close(off, torch.zeros_like(off), atol=1e-3, rtol=0)  # and on the ray
    torch.testing.assert_close(points[..., [0, 2], :].norm(dim=-1), torch.ones(2, 4, 5, 2), atol=1e-4, rtol=0)
    entered = ((world[..., 0, :] - origins) * directions).sum(-1)
    left = ((world[..., 2, :] - origins) * directions).sum(-1)
    assert bool((entered < left).all())


def test_rays_that_miss_the_sphere_get_a_short_chord_at_its_side():
    points = points_in_sphere(
        torch.tensor([[[[3.0, 0.0, 4.0]]]]),
        torch.tensor([[[[0.0, 0.0, -1.0]]]]),
        torch.zeros(3),
        torch.tensor(1.0),
        torch.tensor([-1.0, 1.0]),
    )
    expected = torch.tensor([[3.0, 0.0, SHORTEST_CHORD], [3.0, 0.0, -SHORTEST_CHORD]])
    torch.testing.assert_close(points[0, 0, 0], expected)


def test_contraction_is_nerfstudios():
    points = torch.cat([torch.randn(500, 3), 20 * torch.randn(500, 3)])
    torch.testing.assert_close(contract(points), SceneContraction(order=float("inf"))(points))
    assert float(contract(1e6 * torch.randn(100, 3)).abs().max()) <= 2.0
