"""The plain renderer of splats holds to the published formulas, and to gsplat's."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from splat_scenes import FOCAL, SIZE, camera, cloud, poses
from torch import Tensor

from mobiler2l_ns.teacher import splat_reference
from mobiler2l_ns.teacher.splat_cloud import SH_DC, SplatCloud, rotation_matrices, sh_basis, sh_rotation
from mobiler2l_ns.teacher.splat_reference import project, render, splats_of_tiles
from mobiler2l_ns.teacher.splat_teacher import world_to_opencv

K = torch.tensor([[40.0, 0, 16], [0, 50.0, 16], [0, 0, 1]])
AHEAD = torch.eye(4)
"""A camera at zero that looks along z."""


def some(means, colours, opacities, scale: float = 0.1) -> SplatCloud:
    """Round splats of one colour from everywhere."""
    count = len(means)
    return SplatCloud(
        torch.tensor(means),
        torch.tensor([[1.0, 0, 0, 0]]).expand(count, 4),
        torch.full((count, 3), scale),
        torch.tensor(opacities),
        ((torch.tensor(colours) - 0.5) / SH_DC)[:, None],
    )


# Spherical harmonics


def test_harmonics_are_those_of_the_books():
    scipy = pytest.importorskip("scipy.special")
    directions = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64), dim=-1)
    x, y, z = directions.unbind(-1)
    polar, azimuth = torch.acos(z).numpy(), torch.atan2(y, x).numpy()
    found = sh_basis(directions, 3)
    for degree in range(4):
        for order in range(-degree, degree + 1):
            value = scipy.sph_harm_y(degree, abs(order), polar, azimuth)
            # Real harmonics: the real part for orders above 0 and the imaginary part below, both with its phase.
            real = {1: math.sqrt(2) * value.real, 0: value.real, -1: math.sqrt(2) * value.imag}
            sign = (order > 0) - (order < 0)
            torch.testing.assert_close(found[:, degree * (degree + 1) + order], torch.from_numpy(real[sign]))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_turned_harmonics_are_harmonics_of_turned_directions(sign):
    rotation = rotation_matrices(torch.nn.functional.normalize(torch.randn(4, dtype=torch.float64), dim=-1)) * sign
    directions = torch.nn.functional.normalize(torch.randn(40, 3, dtype=torch.float64), dim=-1)
    coefficients = torch.randn(16, dtype=torch.float64)
    turned = sh_basis(directions @ rotation.T, 3) @ sh_rotation(rotation, 3) @ coefficients
    torch.testing.assert_close(turned, sh_basis(directions, 3) @ coefficients)
    matrix = sh_rotation(rotation, 3)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(16, dtype=torch.float64))


def test_colour_is_that_of_the_direction_and_never_below_black():
    splats = some([[0.0, 0.0, 2.0]], [[0.25, 0.5, -1.0]], [1.0])
    torch.testing.assert_close(splats.colours(torch.zeros(3)), torch.tensor([[0.25, 0.5, 0.0]]))
    sh = torch.zeros(1, 4, 3)
    sh[0, 2] = 1.0  # along z
    tilted = SplatCloud(splats.means, splats.quaternions, splats.scales, splats.opacities, sh)
    brighter = 0.5 + math.sqrt(3 / (4 * math.pi))
    torch.testing.assert_close(tilted.colours(torch.zeros(3)), torch.full((1, 3), brighter))
    torch.testing.assert_close(tilted.colours(torch.tensor([5.0, 0.0, 2.0])), torch.full((1, 3), 0.5))


# One splat


def test_one_splat_in_the_middle_is_a_gaussian_of_the_published_size():
    # In the middle between four pixels the peak lies half a pixel away from each, across and down.
    splats = some([[0.0, 0.0, 2.0]], [[1.0, 0.5, 0.0]], [0.8], scale=0.1)
    rgb, depth, accumulation = render(splats, AHEAD, K, 32, 32)
    across, down = (0.1 * 40 / 2) ** 2 + 0.3, (0.1 * 50 / 2) ** 2 + 0.3
    for column, row in ((16, 16), (15, 16), (18, 14), (13, 19)):
        dx, dy = column + 0.5 - 16, row + 0.5 - 16
        alpha = 0.8 * math.exp(-0.5 * (dx * dx / across + dy * dy / down))
        assert float(accumulation[row, column]) == pytest.approx(alpha, rel=1e-5)
        torch.testing.assert_close(rgb[row, column], alpha * torch.tensor([1.0, 0.5, 0.0]))
        assert float(depth[row, column]) == pytest.approx(2.0)


def test_the_peak_is_the_opacity():
    rgb, _, accumulation = render(some([[0.5 / 40 * 2, 0.5 / 50 * 2, 2.0]], [[1.0, 1, 1]], [0.7]), AHEAD, K, 32, 32)
    assert float(accumulation[16, 16]) == pytest.approx(0.7) and float(rgb.max()) == pytest.approx(0.7)
    assert float(render(some([[0.025, 0.02, 2.0]], [[1.0] * 3], [1.0]), AHEAD, K, 32, 32)[2].max()) == pytest.approx(
        0.999
    )


def test_a_turned_splat_off_the_axis_has_the_covariance_of_the_linearised_projection():
    splats = cloud(20, seed=1)
    splats = SplatCloud(
        splats.means + torch.tensor([0.3, -0.2, 4.0]),
        splats.quaternions,
        splats.scales,
        splats.opacities,
        splats.sh,
    )
    found = project(splats, AHEAD, K, 32, 32)
    for number, index in enumerate(found.index.tolist()):
        point = splats.means[index].double().requires_grad_(True)

        def pixel(p: Tensor) -> Tensor:
            return (K.double() @ p)[:2] / p[2]

        jacobian = torch.autograd.functional.jacobian(pixel, point)
        axes = rotation_matrices(splats.quaternions[index].double()) @ splats.scales[index].double().diag()
        covariance = jacobian @ axes @ axes.T @ jacobian.T + 0.3 * torch.eye(2)
        xx, xy, yy = found.conics[number].double()
        torch.testing.assert_close(
            torch.stack([torch.stack([xx, xy]), torch.stack([xy, yy])]),
            torch.linalg.inv(covariance),
            rtol=1e-3,
            atol=1e-4,
        )
        torch.testing.assert_close(found.centres[number].double(), pixel(point.detach()), rtol=1e-4, atol=1e-4)
    assert len(found.index) == 20 and (found.depths.diff() >= 0).all()


def test_faint_parts_are_not_drawn():
    _, _, accumulation = render(some([[0.0, 0.0, 2.0]], [[1.0] * 3], [0.02], scale=0.3), AHEAD, K, 32, 32)
    drawn = accumulation[accumulation > 0]
    assert 0 < len(drawn) < 32 * 32 and float(drawn.min()) >= 1 / 255


def test_antialiased_splats_keep_their_light():
    splats = some([[0.0, 0.0, 2.0]], [[1.0] * 3], [0.9], scale=0.005)
    plain, sharp = (render(splats, AHEAD, K, 32, 32, antialiased)[2] for antialiased in (False, True))
    variances = [(0.005 * focal / 2) ** 2 for focal in (40, 50)]
    share = math.sqrt(math.prod(variances) / math.prod(value + 0.3 for value in variances))
    assert float(sharp[16, 16] / plain[16, 16]) == pytest.approx(share, rel=1e-3)


# Several


def test_the_nearer_one_hides_the_farther_whatever_their_order_in_the_file():
    nearer, farther = ([0.025, 0.02, 2.0], [1.0, 0.0, 0.0], 0.6), ([0.05, 0.04, 4.0], [0.0, 1.0, 0.0], 0.5)
    for order in ((nearer, farther), (farther, nearer)):
        means, colours, opacities = zip(*order, strict=True)
        rgb, depth, accumulation = render(some(list(means), list(colours), list(opacities)), AHEAD, K, 32, 32)
        first, second = 0.6, 0.4 * 0.5
        torch.testing.assert_close(rgb[16, 16], torch.tensor([first, second, 0.0]))
        assert float(accumulation[16, 16]) == pytest.approx(first + second)
        assert float(depth[16, 16]) == pytest.approx((2 * first + 4 * second) / (first + second))


def test_what_no_light_reaches_is_not_drawn():
    # Each lets a tenth through; the fourth would leave 1e-4, and is not drawn, nor is the fifth.
    means = [[0.025 * z / 2, 0.02 * z / 2, z] for z in (2.0, 2.1, 2.2, 2.3, 2.4)]
    _, _, accumulation = render(some(means, [[1.0] * 3] * 5, [0.9, 0.9, 0.9, 0.9001, 0.1]), AHEAD, K, 32, 32)
    assert float(accumulation[16, 16]) == pytest.approx(0.999, abs=1e-6)


@pytest.mark.parametrize("at_once", [1, 7, 10_000])
def test_it_does_not_matter_how_many_are_blended_together(monkeypatch, at_once):
    splats = cloud(200)
    pose = world_to_opencv(poses(1)[0])
    expected = render(splats, pose, K, 32, 32)
    monkeypatch.setattr(splat_reference, "AT_ONCE", at_once)
    for value, reference in zip(render(splats, pose, K, 32, 32), expected, strict=True):
        torch.testing.assert_close(value, reference, atol=1e-5, rtol=1e-4)


def test_what_is_behind_the_camera_or_outside_the_picture_is_not_seen():
    splats = some([[0.0, 0, -2], [0.0, 0, 0.005], [9.0, 0, 2], [0.0, -9, 2], [0.0, 0, 2]], [[1.0] * 3] * 5, [0.9] * 5)
    found = project(splats, AHEAD, K, 32, 32)
    assert found.index.tolist() == [4]
    rgb, depth, accumulation = render(splats.part(torch.arange(4)), AHEAD, K, 32, 32)
    assert not rgb.any() and not depth.any() and not accumulation.any()


def test_tiles_list_what_reaches_them():
    splats = cloud(50)
    found = project(splats, world_to_opencv(poses(1)[0]), K, 40, 30)
    tiles = splats_of_tiles(found, 3, 2)
    assert len(tiles) == 6
    for tile, chosen in enumerate(tiles):
        left, top = tile % 3 * 16, tile // 3 * 16
        near = (found.centres - found.radii[:, None] < torch.tensor([left + 16, top + 16])).all(-1)
        near &= (found.centres + found.radii[:, None] > torch.tensor([left, top])).all(-1)
        assert chosen.tolist() == torch.nonzero(near)[:, 0].tolist()


def test_a_picture_need_not_be_whole_tiles_and_is_the_same_at_every_size(monkeypatch):
    monkeypatch.setattr(splat_reference, "BEYOND", 100.0)  # which else depends on the picture's size
    splats, pose = cloud(100), world_to_opencv(poses(1)[0])
    whole = render(splats, pose, K, 48, 48)[0]
    part = render(splats, pose, K, 37, 21)[0]
    assert part.shape == (21, 37, 3)
    torch.testing.assert_close(part, whole[:21, :37], atol=1e-5, rtol=0.0)


# gsplat


def test_projection_and_harmonics_are_those_of_gsplats_own_reference():
    torch_impl = pytest.importorskip("gsplat.cuda._torch_impl")
    splats, pose = cloud(100), world_to_opencv(poses(2)[1])
    axes = rotation_matrices(splats.quaternions) * splats.scales[:, None]
    radii, centres, depths, conics, compensations = torch_impl._fully_fused_projection(
        splats.means, axes @ axes.mT, pose[None], K[None], 32, 32, calc_compensations=True
    )
    found = project(splats, pose, K, 32, 32)
    assert sorted(found.index.tolist()) == torch.nonzero(radii[0])[:, 0].tolist()
    for name, reference in (("centres", centres), ("depths", depths), ("conics", conics)):
        torch.testing.assert_close(getattr(found, name), reference[0, found.index], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.radii, radii[0, found.index].float())
    torch.testing.assert_close(found.compensation, compensations[0, found.index], rtol=1e-3, atol=1e-4)
    eye = torch.linalg.inv(pose)[:3, 3]
    colours = torch_impl._spherical_harmonics(3, splats.means - eye, splats.sh) + 0.5
    torch.testing.assert_close(splats.colours(eye), colours.clamp(min=0.0))


# Frames


@pytest.mark.parametrize("mirrored", [False, True])
def test_moved_splats_look_the_same_to_a_camera_that_moves_along(mirrored):
    splats = cloud(80)
    rotation = rotation_matrices(torch.nn.functional.normalize(torch.tensor([0.3, -0.8, 0.5, 0.4]), dim=-1))
    transform = torch.cat([rotation, torch.tensor([[0.4], [-1.0], [2.0]])], dim=1)
    scale = 0.37
    moved = splats.moved(transform, scale)
    intrinsics = torch.tensor([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1.0]])
    for pose in poses(3):
        expected = render(splats, world_to_opencv(pose), intrinsics, SIZE, SIZE)
        there = torch.cat([rotation @ pose[:, :3], scale * (rotation @ pose[:, 3:] + transform[:, 3:])], dim=1)
        rgb, depth, accumulation = render(moved, world_to_opencv(there), intrinsics, SIZE, SIZE)
        torch.testing.assert_close(rgb, expected[0], atol=2e-4, rtol=0.0)
        torch.testing.assert_close(depth, scale * expected[1], atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(accumulation, expected[2], atol=2e-4, rtol=0.0)
        assert float(accumulation.mean()) > 0.1
        if mirrored:
            # A mirrored world in a mirrored picture.
            mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0]))
            flipped = splats.moved(torch.cat([mirror, torch.zeros(3, 1)], dim=1))
            view = world_to_opencv(pose)
            across = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
            rgb, _, _ = render(flipped, across @ view @ across, intrinsics, SIZE, SIZE)
            torch.testing.assert_close(rgb.flip(1), expected[0], atol=2e-4, rtol=0.0)


def test_a_transform_may_scale_too():
    splats = cloud(10)
    a, b = splats.moved(2.0 * torch.eye(4)[:3], 0.5), splats
    torch.testing.assert_close(a.means, b.means)
    torch.testing.assert_close(a.scales, b.scales)
    torch.testing.assert_close(a.sh, b.sh)


def test_nerfstudios_camera_and_ours_see_the_same_point():
    view = camera(poses(4)[3])
    rays = view.generate_rays(camera_indices=0, keep_shape=True)
    point = rays.origins[9, 20] + 2.0 * rays.directions[9, 20]
    seen = world_to_opencv(view.camera_to_worlds[0])[:3] @ torch.cat([point, torch.ones(1)])
    pixel = (view.get_intrinsics_matrices()[0] @ seen)[:2] / seen[2]
    torch.testing.assert_close(pixel, torch.tensor([20.5, 9.5]), atol=1e-3, rtol=0.0)


@pytest.mark.parametrize("field", ["means", "quaternions", "scales", "opacities", "sh"])
def test_its_derivatives_are_those_of_its_pictures(field):
    splats = cloud(count=20, degree=1)
    view = world_to_opencv(poses(1)[0])
    intrinsics = torch.tensor([[FOCAL, 0, 10], [0, FOCAL, 10], [0, 0, 1.0]])

    def brightness(values: Tensor) -> Tensor:
        return render(replace(splats, **{field: values}), view, intrinsics, 20, 20)[0].double().mean()

    values = getattr(splats, field).clone().requires_grad_()
    (slope,) = torch.autograd.grad(brightness(values), values)
    step = 1e-3 * slope / slope.norm()
    with torch.no_grad():
        change = float(brightness(values + step) - brightness(values - step)) / 2
    # What is fainter than the least alpha is cut off, which no derivative knows.
    assert change == pytest.approx(float((slope * step).sum()), rel=0.1)
