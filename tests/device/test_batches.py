"""What a step learns from comes to the GPU without a stall, wherever it is kept."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_gpu import GPU, fake_gpu
from nerfstudio.cameras.cameras import Cameras

from mobiler2l_ns.capture.background import Background
from mobiler2l_ns.geometry.picture import PictureGeometry
from mobiler2l_ns.pool.batch import StudentBatch
from mobiler2l_ns.pool.photos import PhotoPool
from mobiler2l_ns.pool.pseudo_views import PseudoViewPool
from mobiler2l_ns.pool.refresh import TimeShare

VIEW = PictureGeometry(height=64, width=88, fx=90.0, fy=95.0, cx=40.0, cy=31.0, stride=8)


def photos(k1):
    poses = torch.eye(4)[:3].repeat(3, 1, 1)
    distortion = torch.tensor([[k1, 0.0, 0.0, 0.0, 0.0, 0.0]]).repeat(3, 1)
    cameras = Cameras(poses, 90.0, 95.0, 40.0, 31.0, 88, 64, distortion)
    data = {"image": torch.rand(64, 88, 3), "mask": torch.ones(64, 88, 1)}
    dataset: Any = SimpleNamespace(cameras=cameras, get_data=lambda index: data)
    return PhotoPool(dataset, [0, 1, 2], VIEW, Background())


@pytest.mark.parametrize("kept", ["cpu", GPU], ids=["host", "gpu"])
def test_pseudo_views_are_drawn_and_replaced(kept):
    with fake_gpu():
        pool = PseudoViewPool(3, 64, 88, 1.0, kept)
        for _ in range(4):
            pool.add(torch.eye(4)[:3], torch.rand(64, 88, 3, device=GPU))
        for count in (2, 5):
            poses, pictures = pool.draw(count, GPU)
            assert pictures.shape == (count, 64, 88, 3) and pictures.dtype == torch.float32
            assert VIEW.rays(poses).directions.device == poses.device == pictures.device == GPU


@pytest.mark.parametrize("kept", ["cpu", GPU], ids=["host", "gpu"])
@pytest.mark.parametrize("place", [None, (5, 2)])
@pytest.mark.parametrize("k1", [0.0, 0.06])
def test_photos_are_mixed_with_pseudo_views(k1, place, kept):
    pool = photos(k1)
    view = VIEW if place is None else VIEW.beginning_at(*place)
    with fake_gpu():
        taken = pool.to(kept).draw(2, torch.Generator().manual_seed(1), GPU, place)
        pseudo = StudentBatch(view.rays(torch.eye(4)[None, :3].to(GPU)), torch.rand(1, *view.covered, 3, device=GPU))
        rays, batch = StudentBatch.join([pseudo, taken]).as_nerfstudio()
        assert rays.directions.shape == (3, *view.grid, 3) and batch["mask"].shape == (3, *view.covered)
        assert {each.device for each in (*rays, *batch.values())} == {GPU}


class Event:
    """A GPU's, which is over when it is told so."""

    over = False

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self, stream):
        pass

    def query(self):
        return self.over

    def elapsed_time(self, other):
        return 2000.0


def test_a_view_under_way_is_not_waited_for_and_leaves_no_room_for_another(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    share = TimeShare(1.0)
    assert share.has_room()
    with share.taking("cuda"):
        pass
    assert not share.has_room() and share.taken == 0.0
    monkeypatch.setattr(Event, "over", True)
    assert not share.has_room() and share.taken == 2.0  # of hardly any time
