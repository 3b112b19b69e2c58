"""Points of the volume lie where the teacher's rays end."""

import math

import pytest
import torch

from mobiler2l_ns.geometry.chords import Chords
from mobiler2l_ns.student.config import VolumeShape
from mobiler2l_ns.student.proposals import FAINT, FOG, SOLID, Proposals

EDGES = torch.linspace(0.0, 4.0, 49)
SHAPE = VolumeShape(volume_rays=1, volume_points=8, density_cells=32)


def rays_to(x, y):
    """Rays along +z from z = 0 through these places."""
    start = torch.stack([x, y, torch.zeros_like(x)], -1)
    return Chords(start, torch.tensor([0.0, 0.0, 1.0]).expand_as(start))


def counted(t, accumulation, shape=SHAPE, seed=0):
    """Proposals of rays that end at ``t(x, y)``."""
    torch.manual_seed(seed)
    x, y = torch.rand(2, 20_000) * 2 - 1
    proposals = Proposals(shape).eval()
    ends = t(x, y)
    proposals.count(rays_to(x, y), ends, torch.full_like(x, accumulation), EDGES, contracted=False)
    return proposals


def grid(side=10):
    places = torch.linspace(-0.8, 0.8, side)
    y, x = torch.meshgrid(places, places, indexing="ij")
    return rays_to(x[None], y[None])


def test_points_lie_around_a_tilted_wall():
    proposals = counted(lambda x, y: 2.0 + 0.5 * x, 1.0)
    rays = grid()
    t, optical = proposals(rays, EDGES, False)
    assert t.shape == optical.shape == (1, 10, 10, 8)
    assert (t.diff(dim=-1) > 0).all()
    distance = (t - (2.0 + 0.5 * rays.start[..., :1])).abs()
    cell = 4.0 / 32
    assert float(distance.median()) < cell and float((distance > 3 * cell).float().mean()) < 0.1


def test_composited_with_their_own_optical_depth_all_points_weigh_the_same():
    proposals = counted(lambda x, y: 2.0 + 0.5 * x, 0.6)
    t, optical = proposals(grid(), EDGES, False)
    weights = (optical - optical.cumsum(-1)).exp() * (1.0 - (-optical).exp())
    torch.testing.assert_close(weights, weights[..., :1].expand_as(weights), atol=1e-5, rtol=1e-4)
    # What the wall lets through is let through, as well as cells and bins of about the same size can say.
    assert (weights.sum(-1) - 0.6).abs().mean() < 0.15


def test_a_solid_wall_leaves_a_little_for_what_is_behind():
    _, optical = counted(lambda x, y: torch.full_like(x, 2.0), 1.0)(grid(), EDGES, False)
    stopped = 1.0 - (-optical.sum(-1)).exp()
    assert (stopped <= SOLID + 1e-5).all() and (stopped > 0.9).all()


def test_where_nothing_is_points_are_spread_evenly_and_count_nothing():
    # The wall is there for x > 0 only, other rays go on.
    torch.manual_seed(0)
    x, y = torch.rand(2, 40_000) * 2 - 1
    proposals = Proposals(SHAPE).eval()
    proposals.count(rays_to(x, y), torch.full_like(x, 2.0), (x > 0).float(), EDGES, contracted=False)
    empty = rays_to(torch.full((1, 1, 1), -0.9), torch.zeros(1, 1, 1))
    t, optical = proposals(empty, EDGES, False)
    torch.testing.assert_close(t[0, 0, 0], (torch.arange(8) + 0.5) / 2.0)
    assert float(optical.abs().max()) < 1e-6


def test_a_faint_share_of_points_looks_elsewhere():
    """Of 100 points a share of FAINT lies evenly along the ray, in front of the wall and behind it."""
    shape = VolumeShape(volume_rays=1, volume_points=100, density_cells=32)
    proposals = counted(lambda x, y: torch.full_like(x, 2.0), 1.0, shape)
    t, _ = proposals(rays_to(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1)), EDGES, False)
    far = ((t - 2.0).abs() > 0.5).float().mean()
    assert float(far) == pytest.approx(FAINT / (1.0 + FAINT) * 0.75, abs=0.01)


def test_points_are_jittered_in_training_within_their_shares():
    proposals = counted(lambda x, y: 2.0 + 0.5 * x, 1.0)
    still, _ = proposals(grid(), EDGES, False)
    proposals.train()
    torch.manual_seed(1)
    moved, again = (proposals(grid(), EDGES, False)[0] for _ in range(2))
    assert not torch.equal(moved, again)
    assert (moved.diff(dim=-1) >= 0).all()
    assert float((torch.stack([moved, again]).mean(0) - still).abs().median()) < 0.1


def test_rays_that_show_nothing_change_nothing():
    proposals = counted(lambda x, y: torch.full_like(x, 2.0), 0.0)
    assert torch.equal(proposals.box, torch.tensor([[-1.0] * 3, [1.0] * 3]))
    assert torch.equal(proposals.density, Proposals(SHAPE).density)


def test_of_a_teacher_without_depth_points_are_spread_over_an_even_fog():
    t, optical = Proposals(SHAPE).eval()(grid(), EDGES, False)
    weights = (optical - optical.cumsum(-1)).exp() * (1.0 - (-optical).exp())
    torch.testing.assert_close(weights.sum(-1), torch.full((1, 10, 10), 1.0 - math.exp(-FOG * 48 / 32)))
    assert float(t[..., 0].min()) > 0.0 and float(t[..., -1].min()) > 2.0  # all along, and denser in front


def test_the_box_holds_what_is_there_with_a_margin_and_no_stray_points():
    torch.manual_seed(0)
    x, y = torch.rand(2, 50_000) * 2 - 1
    ends = torch.where(torch.arange(50_000) < 20, 0.1, 2.0 + 0.5 * x)  # 20 floaters
    proposals = Proposals(SHAPE)
    proposals.count(rays_to(x, y), ends, torch.ones_like(x), EDGES, contracted=False)
    low, high = proposals.box
    # 4 of the 32 cells, of an extent of 2.
    torch.testing.assert_close(low, torch.tensor([-1.25, -1.25, 1.25]), atol=0.01, rtol=0)
    torch.testing.assert_close(high, torch.tensor([1.25, 1.25, 2.75]), atol=0.01, rtol=0)


def test_what_is_counted_again_lies_in_the_same_box():
    proposals = counted(lambda x, y: torch.full_like(x, 2.0), 1.0)
    box = proposals.box.clone()
    torch.manual_seed(0)
    x, y = torch.rand(2, 50_000) * 2 - 1
    middle, width = box[:, 2].mean(), box[1, 2] - box[0, 2]
    ends = (middle + width / 4).expand_as(x)
    proposals.count(rays_to(x, y), ends, torch.ones_like(x), EDGES, contracted=False, keep_box=True)
    assert torch.equal(proposals.box, box)
    t, _ = proposals(grid(), EDGES, False)
    assert float((t - ends[0]).abs().median()) < 0.1


def test_counting_is_the_share_of_rays_that_end_among_those_that_arrive():
    """Half of the light ends at 1, the other half of the rays at 3: cells at 1 stop a half, cells at 3 all the rest."""
    torch.manual_seed(0)
    x, y = torch.rand(2, 100_000) * 2 - 1
    ends = torch.where(torch.rand(100_000) < 0.5, 1.04, 3.04)
    proposals = Proposals(SHAPE).eval()
    proposals.count(rays_to(x, y), ends, torch.ones_like(x), EDGES, contracted=False)
    t, _ = proposals(grid(), EDGES, False)
    near, far = (t < 2.0).float().mean(), (t > 2.0).float().mean()
    assert float(near) == pytest.approx(0.5, abs=0.08) and float(far) == pytest.approx(0.5, abs=0.08)
