"""Coarser cells of a batch: their pictures and rays against those of a camera with fewer pixels."""

from __future__ import annotations

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from torch.nn import functional

from mobiler2l_ns.geometry.cells import CoarserCells
from mobiler2l_ns.geometry.picture import PictureGeometry
from mobiler2l_ns.geometry.rays import camera_rays

VIEW = PictureGeometry(height=96, width=120, fx=90.0, fy=95.0, cx=50.0, cy=41.0, stride=8)
POSES = torch.eye(4)[None, :3].repeat(2, 1, 1)
POSES[1, :, :3] = torch.tensor([[0.0, 0.6, 0.8], [1.0, 0.0, 0.0], [0.0, 0.8, -0.6]])
PITCHES = [1.5, 2.0, 2.7, 4.0]


def draw(pitch: float, seed: int = 0) -> CoarserCells:
    return CoarserCells.draw(*VIEW.grid, VIEW.stride, pitch, torch.Generator().manual_seed(seed))


def coarser_camera(cells: CoarserCells, camera: Cameras) -> Cameras:
    """The camera that sees the part of the picture in the cells' pixels."""
    height, width = cells.rows * cells.stride, cells.columns * cells.stride
    down, across = height / cells.height, width / cells.width
    return Cameras(
        camera.camera_to_worlds,
        camera.fx * across,
        camera.fy * down,
        (camera.cx - cells.left) * across,
        (camera.cy - cells.top) * down,
        width=width,
        height=height,
        distortion_params=camera.distortion_params,
    )


@pytest.mark.parametrize("pitch", PITCHES)
def test_as_many_cells_as_fit_lie_at_any_place(pitch):
    drawn = [draw(pitch, seed) for seed in range(60)]
    for cells in drawn:
        assert (cells.rows, cells.columns) == (int(12 / pitch), int(15 / pitch))
        assert 0 <= cells.top <= 96 - cells.height and 0 <= cells.left <= 120 - cells.width
        assert cells.height == pytest.approx(cells.rows * 8 * pitch, abs=0.5)  # whole pixels
    room = 120 - drawn[0].width
    assert len({cells.left for cells in drawn}) >= min(20, room + 1)


@pytest.mark.parametrize("pitch", PITCHES)
def test_rays_are_those_of_a_camera_with_fewer_pixels(pitch):
    cells = draw(pitch)
    expected = camera_rays(coarser_camera(cells, VIEW.cameras(POSES)), 8)[1]
    torch.testing.assert_close(cells.rays(VIEW.rays(POSES)[1]), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pitch", PITCHES)
def test_rays_of_distorted_photos_are_right_to_well_below_a_pixel(pitch):
    cameras = VIEW.cameras(POSES)
    cameras.distortion_params = torch.tensor([0.08, -0.03, 0.0, 0.0, 0.002, -0.001]).repeat(2, 1)
    cells = draw(pitch)
    expected = camera_rays(coarser_camera(cells, cameras), 8)[1]
    straight = cells.rays(VIEW.rays(POSES)[1])
    pixels = 90.0 * (cells.rays(camera_rays(cameras, 8)[1]) - expected).norm(dim=-1)
    assert float(pixels.max()) < 0.2 < 90.0 * float((straight - expected).norm(dim=-1).max())


@pytest.mark.parametrize("pitch", PITCHES)
def test_pictures_show_what_the_rays_see(pitch):
    rays = VIEW.cameras(POSES).generate_rays(camera_indices=torch.arange(2)[:, None])
    painted = (rays.directions * rays.metadata["directions_norm"]).reshape(96, 120, 2, 3).permute(2, 0, 1, 3)
    cells = draw(pitch)
    pictures = cells.pictures(painted)
    assert pictures.shape == (2, cells.rows * 8, cells.columns * 8, 3)
    middle = functional.avg_pool2d(pictures.permute(0, 3, 1, 2), 8).permute(0, 2, 3, 1)
    torch.testing.assert_close(middle, cells.rays(VIEW.rays(POSES)[1]), atol=2e-3, rtol=0)


def test_a_coarser_pixel_counts_if_all_of_it_is_seen():
    cells = CoarserCells(2.0, 8, rows=4, columns=4, top=5, left=3, height=64, width=64)
    mask = torch.ones(1, 96, 120)
    mask[0, 40:, :] = 0.0
    coarser = cells.mask(mask)
    assert coarser.shape == (1, 32, 32) and set(coarser.unique().tolist()) == {0.0, 1.0}
    # Antialiasing looks one pixel of the coarser picture beyond each of its pixels.
    first_hidden = int((40 - 5) / 2) - 1
    assert float(coarser[0, :first_hidden].min()) == 1.0 and float(coarser[0, first_hidden + 1 :].max()) == 0.0
