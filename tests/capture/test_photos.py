"""Photos at the student's geometry: every pixel keeps its ray."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from torch.nn import functional

from mobiler2l_ns.capture.background import Background, lay_over, premultiply
from mobiler2l_ns.geometry.picture import PictureGeometry
from mobiler2l_ns.geometry.rays import camera_rays
from mobiler2l_ns.pool.photos import PhotoPool, fit_photo

VIEW = PictureGeometry(height=60, width=84, fx=90.0, fy=95.0, cx=40.0, cy=31.0, stride=8)


def camera(width, height, fx, fy, cx, cy, distortion=None):
    pose = torch.eye(4)[None, :3]
    return Cameras(pose, fx, fy, cx, cy, width=width, height=height, distortion_params=distortion)


def direction_photo(view):
    """A photo whose colours are its pixels' x and y at depth 1."""
    bundle = view.generate_rays(camera_indices=0, keep_shape=True)
    return bundle.directions * bundle.metadata["directions_norm"]


PHOTOS = {
    "the student's own": camera(84, 60, 90.0, 95.0, 40.0, 31.0),
    "longer focal, larger": camera(200, 150, 180.0, 190.0, 95.0, 80.0),
    "shorter focal, smaller": camera(50, 30, 50.0, 50.0, 26.0, 14.0),
    "portrait": camera(60, 100, 90.0, 95.0, 31.0, 52.0),
}


@pytest.mark.parametrize("name", PHOTOS)
def test_every_visible_pixel_keeps_its_ray(name):
    photo = PHOTOS[name]
    picture, mask, fitted = fit_photo(direction_photo(photo), photo, VIEW)
    assert picture.shape == (64, 88, 3) and mask.shape == (64, 88)
    assert float(fitted.fx) == pytest.approx(90.0, rel=0.02) and float(fitted.fy) == pytest.approx(95.0, rel=0.02)
    expected = direction_photo(fitted)
    error = (picture - expected).abs().amax(-1)[mask > 0]
    # Resized photos are blurred at their border.
    assert float(error.quantile(0.9)) < 2e-3 and float(error.max()) < 0.02
    assert 0.2 < float(mask[:60, :84].mean()) <= 1.0
    assert float(mask[60:].max()) == float(mask[:, 84:].max()) == 0.0


def test_lens_distortion_stays_in_photo_and_rays():
    photo = camera(84, 60, 90.0, 95.0, 40.0, 31.0, torch.tensor([[0.06, -0.08, 0.0, 0.0, -0.001, 0.0002]]))
    picture, _, fitted = fit_photo(direction_photo(photo), photo, VIEW)
    _, directions = camera_rays(fitted, VIEW.stride)
    block = picture[8:16, 16:24].mean((0, 1))
    torch.testing.assert_close(directions[0, 1, 2], block, atol=2e-4, rtol=0)


@pytest.mark.parametrize("place", [None, (0, 0), (5, 2), (7, 7)])
@pytest.mark.parametrize("k1", [0.0, 0.06])
def test_the_grid_may_begin_anywhere_within_a_block(k1, place):
    whole = PictureGeometry(height=64, width=88, fx=90.0, fy=95.0, cx=40.0, cy=31.0, stride=8)
    taken = camera(88, 64, 90.0, 95.0, 40.0, 31.0, torch.tensor([[k1, -0.08, 0.0, 0.0, -0.001, 0.0002]]) * (k1 != 0))
    data = {"image": direction_photo(taken) / 4 + 0.5, "mask": torch.ones(64, 88, 1)}
    data["mask"][20:, 30:] = 0.0
    dataset: Any = SimpleNamespace(cameras=taken, get_data=lambda index: data)
    photos = PhotoPool(dataset, [0], whole, Background())
    (origins, directions), pictures, masks = photos.take(torch.tensor([0, 0]), "cpu", place)
    rows, columns = (8, 11) if place is None else (7, 10)
    assert pictures.shape == (2, 8 * rows, 8 * columns, 3) and origins.shape == (2, 1, 1, 3)
    blocks = functional.avg_pool2d(pictures.permute(0, 3, 1, 2), 8).permute(0, 2, 3, 1)
    torch.testing.assert_close(directions, 4 * (blocks - 0.5), atol=6e-3, rtol=0)
    down, right = place or (0, 0)
    assert masks is not None
    assert torch.equal(masks[1], data["mask"][down : down + 8 * rows, right : right + 8 * columns, 0])


def test_transparent_photos_are_laid_over_the_background():
    rgba = torch.tensor([[[0.2, 0.4, 0.6, 0.25]]])
    torch.testing.assert_close(lay_over(rgba, torch.ones(3))[0, 0], torch.tensor([0.8, 0.85, 0.9]))
    torch.testing.assert_close(premultiply(rgba)[0, 0], torch.tensor([0.05, 0.1, 0.15, 0.25]))
    rgb = torch.rand(2, 2, 3)
    assert lay_over(rgb, torch.ones(3)) is rgb
