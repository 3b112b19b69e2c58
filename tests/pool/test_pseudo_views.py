"""The pool of pseudo views is bounded, cheap and fresh."""

import torch

from mobiler2l_ns.geometry.bounds import SceneExtent
from mobiler2l_ns.geometry.picture import PictureGeometry
from mobiler2l_ns.geometry.rays import pinhole_rays
from mobiler2l_ns.pool.pseudo_views import PseudoViewPool, quantise


def pool_of(views, wanted=10, size=8, budget=1.0):
    pool = PseudoViewPool(wanted, size, size, budget, "cpu")
    for index in range(views):
        pool.add(torch.full((3, 4), float(index)), torch.full((size, size, 3), index / 255.0))
    return pool


def test_memory_is_bounded_by_the_budget_whatever_is_asked_for():
    pool = PseudoViewPool(10_000, 64, 64, 0.001, "cpu")
    assert pool.pictures.dtype == torch.uint8
    assert pool.pictures.numel() <= 0.001 * 2**30 < (pool.capacity + 1) * 64 * 64 * 3


def test_a_budget_too_small_for_one_view_keeps_one():
    assert PseudoViewPool(10, 512, 512, 1e-9, "cpu").capacity == 1


def test_new_views_replace_the_oldest():
    pool = pool_of(13)
    assert len(pool) == 10
    assert sorted(pool.poses[:, 0, 0].tolist()) == [float(i) for i in range(3, 13)]


def test_views_keep_their_pose_and_colours():
    poses, pictures = pool_of(7).draw(5, "cpu")
    assert poses.shape == (5, 3, 4) and pictures.shape == (5, 8, 8, 3)
    torch.testing.assert_close(pictures[:, 0, 0, 0] * 255, poses[:, 0, 0])
    assert len(set(poses[:, 0, 0].tolist())) == 5  # none twice


def test_drawing_more_than_there_is_repeats():
    poses, _ = pool_of(2).draw(6, "cpu")
    assert len(poses) == 6


def test_quantising_rounds_to_the_nearest_byte():
    values = torch.tensor([-0.5, 0.0, 0.4 / 255, 0.6 / 255, 1.0, 1.5])
    assert quantise(values).tolist() == [0, 0, 0, 1, 255, 255]


def extent_of_a_wall() -> SceneExtent:
    """What one view of a wall, two units away, tells."""
    extent, view = SceneExtent(), PictureGeometry(16, 16, 20.0, 20.0, 8.0, 8.0, 8)
    distances = (
        pinhole_rays(torch.eye(4)[None, :3], view.intrinsics, 16, 16, 1).directions[0].norm(dim=-1, keepdim=True)
    )
    extent.add(torch.eye(4)[:3], view, {"depth": 2.0 * distances, "accumulation": torch.ones(16, 16, 1)})
    return extent


def test_a_cached_pool_comes_back(tmp_path):
    stored = pool_of(7)
    extent = extent_of_a_wall()
    stored.save(tmp_path / "cache" / "pool.pt", extent)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["pool.pt"]
    loaded = PseudoViewPool(5, 8, 8, 1.0, "cpu")
    measured = SceneExtent()
    loaded.load(tmp_path / "cache" / "pool.pt", measured)
    assert len(loaded) == 5 and measured.rays() is not None and measured.planes() == extent.planes()
    for ours, theirs in zip(measured.rays() or (), extent.rays() or (), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(loaded.poses, stored.poses[:5]) and torch.equal(loaded.pictures, stored.pictures[:5])
