"""Low-resolution rays against nerfstudio's own."""

from copy import deepcopy

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from mobiler2l_ns.geometry.rays import LowResRays, camera_rays, grid_size, pinhole_rays


def poses(count=3):
    torch.manual_seed(1)
    rotation = torch.linalg.qr(torch.randn(count, 3, 3))[0]
    return torch.cat([rotation, torch.randn(count, 3, 1)], dim=-1)


def cameras(width=48, height=32, distortion=None):
    """Off-centre principal point, pixels that are not square."""
    distortion = None if distortion is None else torch.tensor([distortion]).repeat(3, 1)
    return Cameras(poses(), 60.0, 52.0, 21.0, 18.5, width=width, height=height, distortion_params=distortion)


def unnormalised(bundle):
    return bundle.directions * bundle.metadata["directions_norm"]


@pytest.mark.parametrize("size", [(48, 32), (32, 48)], ids=["landscape", "portrait"])
@pytest.mark.parametrize("distortion", [None, [0.06, -0.08, 0.0, 0.0, -0.001, 0.0002]], ids=["pinhole", "distorted"])
def test_they_are_the_rays_of_nerfstudios_rescaled_camera(size, distortion):
    full = cameras(size[0], size[1], distortion)
    origins, directions = camera_rays(full, 8)
    rescaled = deepcopy(full)
    rescaled.rescale_output_resolution(1 / 8)
    for index in range(3):
        bundle = rescaled.generate_rays(camera_indices=index, keep_shape=True)
        torch.testing.assert_close(directions[index], unnormalised(bundle), atol=1e-6, rtol=0)
        torch.testing.assert_close(origins[index].expand_as(bundle.origins), bundle.origins)


@pytest.mark.parametrize("distortion", [None, [0.06, -0.08, 0.0, 0.0, -0.001, 0.0002]], ids=["pinhole", "distorted"])
def test_they_are_the_mean_of_the_full_resolution_rays_of_their_block(distortion):
    full = cameras(distortion=distortion)
    _, directions = camera_rays(full, 8)
    bundle = full.generate_rays(camera_indices=1, keep_shape=True)
    mean = unnormalised(bundle).reshape(4, 8, 6, 8, 3).mean(dim=(1, 3))
    # Exact for a pinhole; within a block the distortion bends the rays by less than a hundredth of a pixel.
    pixel = 1 / 60.0
    torch.testing.assert_close(directions[1], mean, atol=1e-6 if distortion is None else 0.02 * pixel, rtol=0)


@pytest.mark.parametrize("stride", [1, 3, 5, 8, 12])
def test_sizes_the_stride_does_not_divide_are_covered(stride):
    full = cameras(45, 31)
    rows, columns = grid_size(31, 45, stride)
    _, directions = camera_rays(full, stride)
    assert directions.shape == (3, rows, columns, 3)
    assert rows * stride >= 31 > (rows - 1) * stride
    # The first block's centre does not depend on what is left over at the other end.
    first = pinhole_rays(full.camera_to_worlds, (60.0, 52.0, 21.0, 18.5), 1, 1, stride)[1]
    torch.testing.assert_close(directions[:, :1, :1], first)


def test_directions_have_length_one_along_the_optical_axis():
    full = cameras(distortion=[0.06, -0.08, 0.0, 0.0, -0.001, 0.0002])
    _, directions = camera_rays(full, 4)
    along = -(directions * full.camera_to_worlds[:, None, None, :, 2]).sum(-1)
    torch.testing.assert_close(along, torch.ones_like(along))


def test_batches_of_rays_are_joined_one_after_the_other():
    first, second = camera_rays(cameras(), 8), camera_rays(cameras(), 8)
    joined = LowResRays.join([first, second])
    assert joined.count == first.count + second.count == 2 * 3 * 4 * 6
    torch.testing.assert_close(joined.directions[:3], first.directions)
    torch.testing.assert_close(joined.origins[3:], second.origins)
