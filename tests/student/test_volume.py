"""The volume composites what its planes hold, and the network sees it."""

# A student with a volume is one of a class that may have none.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalCall=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from dataclasses import replace

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.geometry.chords import Chords, finer_directions
from mobiler2l_ns.run.optimizer import MuonOptimizerConfig
from mobiler2l_ns.student.config import StudentConfig
from mobiler2l_ns.student.cost import measure_cost
from mobiler2l_ns.student.losses import training_losses, training_outputs
from mobiler2l_ns.student.pruning import channel_moments, prune, smallest_macs
from mobiler2l_ns.student.renderer import Student
from mobiler2l_ns.student.volume import Volume

SMALL = {"width": 16, "num_blocks": 2, "sr_channels": (16, 12, 8), "sr_blocks": 1, "norm": False, "density_cells": 16}


def volume_student(**settings):
    """A student that looks at a solid slab in the middle of a sphere."""
    torch.manual_seed(0)
    student = Student(StudentConfig(**{"volume_rays": 4, "volume_cells": (32,), **SMALL, **settings}))
    student.capture.record(
        image_size=torch.tensor([64, 64]),
        intrinsics=torch.tensor([80.0, 80.0, 32.0, 32.0]),
        depth_range=torch.tensor([2.0, 6.0]),
        depth_known=torch.tensor(True),
        scene_radius=torch.tensor(1.5),
    )
    assert student.volume is not None
    student.volume.proposals.density.zero_()
    student.volume.proposals.density[..., 7:9, :, :] = 3.0  # |z| < 0.1
    return student


def camera(width=64, height=64, focal=80.0, z=4.0):
    pose = torch.eye(4)[None, :3].clone()
    pose[0, 2, 3] = z
    return Cameras(pose, focal, focal, width / 2, height / 2, width=width, height=height)


def composite_plainly(volume: Volume, points, optical):
    """One ray's features, point by point: a loop over planes, points and channels."""
    shape, transmittance = volume.shape, 1.0
    total = torch.zeros(shape.volume_features + 1)
    for point, depth in zip(points, optical, strict=True):
        values = []
        for planes in volume.planes:
            cells = planes.shape[-1]
            summed = torch.zeros(planes.shape[1])
            for plane, (a, b) in zip(planes, ((0, 1), (0, 2), (1, 2)), strict=True):
                across, down = ((point[axis].clamp(-1, 1) + 1) / 2 * (cells - 1) for axis in (a, b))
                column, row = min(int(across), cells - 2), min(int(down), cells - 2)
                right, below = across - column, down - row
                for dy, wy in ((0, 1 - below), (1, below)):
                    for dx, wx in ((0, 1 - right), (1, right)):
                        summed = summed + plane[:, row + dy, column + dx] * wx * wy
            values.append(summed)
        hidden = torch.relu(volume.hidden.weight @ torch.cat(values) + volume.hidden.bias)
        density, *features = volume.values.weight @ hidden + volume.values.bias
        alpha = 1.0 - torch.exp(-depth * torch.exp(density))
        total += transmittance * alpha * torch.stack([*features, torch.ones(())])
        transmittance = transmittance * (1.0 - alpha)
    return total


@pytest.mark.parametrize("cells", [(32,), (8, 24)])
@torch.no_grad()
def test_features_are_composited_as_a_plain_loop_does(cells):
    student = volume_student(volume_cells=cells, density_rays=4).eval()
    volume = student.volume
    for planes in volume.planes:
        planes.normal_()
    rays = student.view().rays(camera().camera_to_worlds)
    composited = student.composite(*rays)
    assert composited.features.shape == (1, 9, 32, 32)
    fine = student.chords(rays.origins, finer_directions(rays.directions, 4))
    t, optical = volume.proposals(fine, student.bin_edges(), False)
    for row, column in ((0, 0), (16, 16), (20, 11)):
        points = volume.proposals.places(fine, t, False)[0, row, column]
        expected = composite_plainly(volume, points, optical[0, row, column])
        torch.testing.assert_close(composited.features[0, :, row, column], expected, atol=2e-4, rtol=1e-3)


def test_proposals_are_shared_by_blocks_of_rays():
    student = volume_student().eval()
    rays = student.view().rays(camera().camera_to_worlds)
    edges, volume = student.bin_edges(), student.volume
    fine, coarse = (student.chords(rays.origins, finer_directions(rays.directions, count)) for count in (4, 1))
    t, _ = volume.proposals(coarse, edges, False)
    with torch.no_grad():
        volume.values.weight.zero_()  # nothing is learned: all points weigh the same
        volume.values.bias.zero_()
        place = volume(fine, coarse, edges, False).t
    expected = t.mean(-1).repeat_interleave(4, 1).repeat_interleave(4, 2)
    seen = place.ne(0.0)
    torch.testing.assert_close(place[seen], expected[seen], atol=1e-4, rtol=0)
    assert seen.float().mean() > 0.5


@pytest.mark.parametrize(
    ("size", "pitch", "rays"), [(64, 1.0, 2), (100, 1.0, 1), (100, 2.0, 2), (40, 1.0, 4), (16, 1.0, 4)]
)
def test_points_are_placed_for_rays_about_as_close_as_the_density_s_cells(size, pitch, rays):
    student = volume_student()
    student.capture.record(image_size=torch.tensor([size // 2, size]))
    assert student.density_rays(pitch) == rays


def test_the_network_begins_without_the_volume_s_picture_beside_the_super_resolution():
    student = volume_student().eval()
    assert not student.network.lateral.weight.any()
    assert student.network.patches.weight.shape == (16, 9, 4, 4)


def test_the_volume_moves_the_picture():
    student = volume_student().eval()
    before = student.render(camera())
    with torch.no_grad():
        student.volume.planes[0] += 1.0
    assert not torch.equal(before, student.render(camera()))


@pytest.mark.parametrize("rays", [1, 2, 4, 8])
@pytest.mark.parametrize("alpha", [False, True])
def test_every_part_learns(rays, alpha):
    student = volume_student(volume_rays=rays, alpha=alpha).train()
    lowres = student.view().rays(camera().camera_to_worlds)
    outputs = training_outputs(student, lowres, coarser=False)
    channels = 4 if alpha else 3
    assert outputs["rgb"].shape == (1, 64, 64, channels)
    assert outputs["volume_rgb"].shape == (1, 8 * rays, 8 * rays, channels)
    losses = training_losses(outputs, {"image": torch.rand(1, 64, 64, channels)}, 0.5)
    assert set(losses) == {"student_rgb_loss", "volume_rgb_loss"}
    losses["volume_rgb_loss"].backward()
    without = {name for name, p in student.volume.named_parameters() if p.grad is None or not p.grad.any()}
    assert not without


def test_the_volume_s_picture_is_held_to_the_means_of_its_cells():
    student = volume_student().train()
    image = torch.rand(1, 64, 64, 3)
    means = image.reshape(1, 32, 2, 32, 2, 3).mean((2, 4))
    outputs = {"rgb": image, "volume_rgb": means}
    assert float(training_losses(outputs, {"image": image}, 0.5)["volume_rgb_loss"]) == pytest.approx(0.0, abs=1e-12)
    mask = torch.ones(1, 64, 64)
    mask[:, :, 1] = 0.0
    outputs["volume_rgb"] = means.clone()
    outputs["volume_rgb"][:, :, 0] = 5.0  # half hidden: says nothing
    losses = training_losses(outputs, {"image": image, "mask": mask}, 0.5)
    assert float(losses["volume_rgb_loss"]) == pytest.approx(0.0, abs=1e-12)
    assert student.training


def test_depth_is_that_of_the_slab():
    student = volume_student().eval()
    rendered = student.render_geometry(camera())
    assert rendered.depth.shape == rendered.accumulation.shape == (64, 64, 1)
    middle = (slice(24, 40), slice(24, 40))
    assert float((rendered.depth[middle] - 4.0).abs().max()) < 0.25
    assert float(rendered.accumulation[middle].min()) > 0.8
    half = student.render_geometry(camera(32, 32, 40.0))
    assert half.depth.shape == (32, 32, 1) and float((half.depth[16, 16] - 4.0).abs()) < 0.25


def test_without_a_volume_there_is_no_depth():
    student = Student(StudentConfig(**SMALL))
    assert student.volume is None and not hasattr(student.network, "patches")
    student.capture.record(image_size=torch.tensor([64, 64]), intrinsics=torch.tensor([80.0, 80.0, 32.0, 32.0]))
    rendered = student.eval().render_geometry(camera())
    assert rendered.depth is None and rendered.accumulation is None


def test_planes_are_adam_s_at_a_rate_of_their_own_and_muon_leaves_the_map_alone():
    student = volume_student()
    optimizer = MuonOptimizerConfig(lr=3e-3, planes_lr=0.05).setup(student.parameter_groups())
    rates = {group.get("volume"): group["lr"] for group in optimizer.param_groups}
    assert rates["planes"] == 0.05 and rates["map"] == 3e-3
    held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    assert held == set(student.parameters())
    assert not optimizer.matrices & set(student.volume.parameters())


def test_counted_density_finds_a_sphere():
    """Rays that end on a sphere of radius 0.6: the volume's depth is that sphere's."""
    student = volume_student(density_cells=32, density_rays=4, density_bins=48)
    torch.manual_seed(0)
    poses = []
    for angle in torch.linspace(0, 6.28, 25)[:-1]:
        back = torch.stack([angle.sin(), torch.zeros(()), angle.cos()])
        right = torch.stack([angle.cos(), torch.zeros(()), -angle.sin()])
        poses.append(torch.stack([right, torch.tensor([0.0, 1.0, 0.0]), back, 4.0 * back], dim=1))
    rays = student.view().window(64, 64)
    fine = Cameras(torch.stack(poses), rays.fx, rays.fy, rays.cx, rays.cy, width=64, height=64)
    bundle = fine.generate_rays(camera_indices=torch.arange(24)[:, None])
    origins, directions = (x.reshape(-1, 3) for x in (bundle.origins, bundle.directions))
    b = (origins * directions).sum(-1)
    root = b**2 - origins.square().sum(-1) + 0.36
    distance = -b - root.clamp(min=0).sqrt()
    norm = bundle.metadata["directions_norm"].reshape(-1)
    student.count_density(origins, directions * norm[:, None], distance / norm, (root > 0).float())
    seen = student.eval().render_geometry(camera())
    assert float((seen.depth[32, 32] - 3.4).abs()) < 0.1
    assert float(seen.accumulation[2, 2]) < 0.05 and float(seen.accumulation[32, 32]) > 0.8


def test_chords_are_not_contracted_twice():
    start, along = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 1.0]])
    assert Chords(start, along).at(torch.tensor([4.0]), contracted=True).tolist() == [[[0.0, 0.0, 1.75]]]


def test_a_network_beside_a_volume_is_pruned_by_what_it_does_with_the_features():
    student = volume_student(width=32, num_blocks=4).eval()
    inputs, _ = student.network_inputs(*student.view().rays(camera().camera_to_worlds))
    assert [tuple(given.shape) for given in inputs] == [(1, 312, 8, 8), (1, 9, 32, 32)]
    before = student.network.macs()
    prune(student.network, channel_moments(student.network, *inputs), 0.9 * before)
    assert smallest_macs(student.network) < student.network.macs() <= 0.9 * before
    assert student.render(camera()).isfinite().all()


def test_lookups_count_as_arithmetic():
    """At 64 px: 8 x 8 cells of 4 x 4 rays with 4 points, three planes of 8 channels in two levels; 2 x 2 rays a cell
    are placed for, in 32 bins of eight corners."""
    shape = StudentConfig(volume_rays=4, volume_cells=(16, 32), **SMALL)
    cost, without = (measure_cost(each, 64, 64) for each in (shape, replace(shape, volume_rays=0)))
    rays = 8 * 8 * 16
    lookups = rays * 4 * 3 * 4 * 16 + 8 * 8 * 4 * 32 * 8
    maps = rays * 4 * (16 * 16 + 16 * 9)
    network = 64 * (9 * 16 * 16) + 32 * 32 * 9 * 12  # patches and lateral
    assert cost.lookup_gmac == pytest.approx(lookups / 1e9, rel=1e-12)
    assert cost.gmac - without.gmac == pytest.approx((lookups + maps + network) / 1e9, rel=1e-9)
    student = volume_student(volume_cells=(16, 32))
    assert cost.params == sum(p.numel() for p in student.parameters())
    assert cost.fp16_bytes == 2 * (cost.params + 16**3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"volume_rays": 3}, r"volume_rays 3: with strides \(2, 2, 2\) it is one of 0 1 2 4 8"),
        ({"volume_rays": 4, "density_rays": 3}, "volume_rays 4 is not its multiple"),
        ({"volume_rays": 2, "volume_features": 2}, "the picture alone has 3"),
        ({"volume_rays": 2, "volume_features": 3, "alpha": True}, "the picture alone has 4"),
        ({"volume_rays": 2, "volume_points": 0}, "volume_points 0: it is at least 1"),
        ({"volume_rays": 2, "density_bins": 0}, "density_bins 0: it is at least 1"),
        ({"volume_rays": 2, "density_cells": 2}, "density_cells 2: it is at least 3"),
        ({"volume_rays": 2, "volume_cells": ()}, r"volume_cells \(\): one number a level, at least 2"),
        ({"volume_rays": 2, "volume_cells": (1, 8)}, r"volume_cells \(1, 8\): one number a level, at least 2"),
    ],
)
def test_a_volume_that_does_not_fit_is_refused_in_a_line(settings, said):
    with pytest.raises(UserError, match=said):
        Student(StudentConfig(**{**SMALL, **settings}))
