"""The student's geometry, and the same in fewer pixels."""

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from mobiler2l_ns.geometry.picture import PictureGeometry

VIEW = PictureGeometry(height=60, width=84, fx=90.0, fy=95.0, cx=40.0, cy=31.0, stride=8)


def test_the_students_view_is_the_most_common_size_with_median_intrinsics():
    cameras = Cameras(
        torch.eye(4)[None, :3].repeat(4, 1, 1),
        torch.tensor([[100.0], [102.0], [104.0], [50.0]]),
        torch.tensor([[100.0], [102.0], [104.0], [50.0]]),
        torch.full((4, 1), 30.0),
        torch.full((4, 1), 20.0),
        width=torch.tensor([[60], [60], [60], [30]]),
        height=torch.tensor([[41], [41], [41], [30]]),
    )
    view = PictureGeometry.of(cameras, stride=8)
    assert (view.height, view.width, view.fx, view.grid, view.covered) == (41, 60, 102.0, (6, 8), (48, 64))


@pytest.mark.parametrize("pitch", [1.5, 2.0, 4.0])
def test_a_coarser_view_shows_the_same_in_fewer_pixels(pitch):
    coarse = VIEW.at(pitch)
    assert (coarse.height, coarse.width) == (round(60 / pitch), round(84 / pitch))
    # The picture's corners stay where they are.
    assert coarse.cx / coarse.fx == pytest.approx(VIEW.cx / VIEW.fx)
    assert (coarse.height - coarse.cy) / coarse.fy == pytest.approx((60 - 31.0) / 95.0)
