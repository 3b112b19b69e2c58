"""Rays between the low-resolution ones are those of a finer grid."""

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from mobiler2l_ns.geometry.chords import Chords, finer_directions
from mobiler2l_ns.geometry.encoding import chords_in_sphere, contract, points_in_sphere
from mobiler2l_ns.geometry.rays import camera_rays

POSE = torch.tensor([[0.36, 0.48, -0.8, 1.0], [-0.8, 0.6, 0.0, 2.0], [0.48, 0.64, 0.6, 3.0]])


def camera(distortion=None):
    return Cameras(POSE[None], 70.0, 72.0, 31.0, 25.0, width=64, height=48, distortion_params=distortion)


@pytest.mark.parametrize("rays", [1, 2, 4, 8])
def test_a_cell_of_a_pinhole_camera_is_divided_exactly(rays):
    finer = finer_directions(camera_rays(camera(), 8).directions, rays)
    torch.testing.assert_close(finer, camera_rays(camera(), 8 // rays).directions)


def test_a_distorted_camera_is_divided_to_well_below_a_pixel():
    lens = torch.tensor([[0.1, -0.05, 0.0, 0.0, 0.001, 0.002]])
    finer = finer_directions(camera_rays(camera(lens), 8).directions, 4)
    error = (finer - camera_rays(camera(lens), 2).directions).norm(dim=-1) * 71.0
    inner = error[:, 4:-4, 4:-4]
    assert 0.0 < inner.max() < 0.05 and error.max() < 0.3


@pytest.mark.parametrize(("width", "height"), [(64, 8), (8, 64)])
def test_cells_of_a_single_row_or_column_are_square(width, height):
    view = Cameras(POSE[None], 90.0, 90.0, width / 2, height / 2, width=width, height=height)
    finer = finer_directions(camera_rays(view, 8).directions, 4)
    torch.testing.assert_close(finer, camera_rays(view, 2).directions, atol=1e-5, rtol=0)


def test_a_single_cell_is_a_point():
    ray = torch.tensor([0.1, 0.2, -1.0])
    assert torch.equal(finer_directions(ray.reshape(1, 1, 1, 3), 2), ray.expand(1, 2, 2, 3))


def test_points_of_chords_are_those_of_the_encoding():
    rays, t = camera_rays(camera(), 8), torch.linspace(-1.0, 1.0, 5)
    centre, radius = torch.tensor([0.5, 1.0, 0.2]), torch.tensor(1.7)
    chords = Chords(*chords_in_sphere(rays.origins, rays.directions, centre, radius))
    expected = points_in_sphere(rays.origins, rays.directions, centre, radius, t)
    torch.testing.assert_close(chords.at(t, contracted=False), expected)
    torch.testing.assert_close(chords.at(3 * t, contracted=True), contract(chords.at(3 * t, contracted=False)))
