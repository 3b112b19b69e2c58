"""What a device computes is what the plain reference on the CPU says, in float32 to rounding, in bfloat16 to 1 %."""

from copy import deepcopy

import pytest
import torch
from conftest import small_teacher
from nerfstudio.data.scene_box import SceneBox
from short_run import load_script
from small_student import VARIANTS, VOLUMES, make_student
from torch.nn import functional

from mobiler2l_ns.geometry.picture import PictureGeometry
from mobiler2l_ns.geometry.rays import LowResRays
from mobiler2l_ns.pool.photo_rays import PhotoRays
from mobiler2l_ns.pool.pseudo_views import PseudoViewPool
from mobiler2l_ns.run.optimizer import AdamWOptimizerConfig, orthogonalised
from mobiler2l_ns.student.config import Execution
from mobiler2l_ns.teacher.empty_space import EmptySpace, cube_of
from mobiler2l_ns.teacher.nerfacto import lazy_lpips
from mobiler2l_ns.teacher.objects import for_objects
from mobiler2l_ns.teacher.render import render_teacher

FLOAT32 = 2e-4
BFLOAT16 = 0.01
"""Most root mean square error, of pictures in 0..1."""
VIEW = PictureGeometry(height=64, width=88, fx=90.0, fy=95.0, cx=40.0, cy=31.0, stride=8)


def rays_of(student) -> LowResRays:
    return student.view().rays(student.capture.proof_poses[:2].cpu())


def off(a, b) -> float:
    return float((a.detach().float().cpu() - b.detach().float().cpu()).square().mean().sqrt())


@pytest.mark.parametrize("name", [*VARIANTS, *VOLUMES])
def test_a_students_picture_is_that_of_the_cpu(device, name):
    student = make_student(**{**VARIANTS, **VOLUMES}[name])
    student.execution = Execution(precision="float32")
    expected = student(*rays_of(student))
    moved = deepcopy(student).to(device)
    assert off(moved(*(each.to(device) for each in rays_of(student))), expected) < FLOAT32


@pytest.mark.parametrize("name", [*VARIANTS, *VOLUMES])
def test_in_half_precision_it_is_nearly(device, name):
    student = make_student(**{**VARIANTS, **VOLUMES}[name], jitter="none").to(device)
    if student.volume is not None:
        student.volume.proposals.eval()
    rays = [each.to(device) for each in rays_of(student)]
    student.execution = Execution(precision="float32")
    expected = student(*rays)
    student.execution = Execution(precision="auto")
    assert off(student(*rays), expected) < BFLOAT16


@pytest.mark.parametrize("name", VOLUMES)
def test_a_step_has_the_gradients_of_the_cpu(device, name):
    def gradients(where):
        student = make_student(**VOLUMES[name]).requires_grad_(True)
        student.execution = Execution(precision="float32")
        student.to(where)  # in evaluation mode: the volume's points are not jittered
        student(*(each.to(where) for each in rays_of(student))).square().mean().backward()
        return [p.grad.cpu() for p in student.parameters() if p.grad is not None]

    for ours, reference in zip(gradients(device), gradients("cpu"), strict=True):
        assert off(ours, reference) < 1e-3 * float(reference.abs().max()) + 1e-7


def test_the_density_that_is_counted_is_that_of_the_cpu(device):
    torch.manual_seed(1)
    origins = torch.tensor([0.2, -0.1, 4.3]).expand(20_000, 3)
    ways = torch.cat([0.3 * torch.randn(20_000, 2), -torch.ones(20_000, 1)], dim=1)
    ends = (origins, ways, 3.0 + torch.rand(20_000), torch.rand(20_000))
    counted = []
    for where in ("cpu", device):
        student = make_student(**VOLUMES["sphere"]).to(where)
        origins, ways, depths, accumulations = (each.to(where) for each in ends)
        student.count_density(origins, ways, depths, accumulations)
        assert student.volume is not None
        counted.append(student.volume.proposals)
    torch.testing.assert_close(counted[1].box.cpu(), counted[0].box, atol=1e-4, rtol=0)
    # A place at the border of two cells may round to either.
    assert off(counted[1].density, counted[0].density) < 0.02


def test_matrices_are_made_orthogonal_as_in_float64(device):
    matrices = torch.randn(3, 48, 32, device=device)
    values = torch.linalg.svdvals(orthogonalised(matrices).cpu().double())
    assert 0.6 < float(values.min()) and float(values.max()) < 1.3


def test_a_fused_step_is_that_of_plain_adamw(device):
    stepped = []
    for where in ("cpu", device):
        torch.manual_seed(2)
        parameter = torch.nn.Parameter(torch.randn(20, 30).to(where))
        settings = AdamWOptimizerConfig(lr=1e-2)
        fused = where == device
        optimizer = settings.setup([{"params": [parameter]}]) if fused else torch.optim.AdamW([parameter], lr=1e-2)
        for _ in range(3):
            parameter.grad = torch.randn(20, 30).to(where)
            optimizer.step()
        stepped.append(parameter)
    assert off(*stepped) < 1e-5


@pytest.mark.parametrize("k1", [0.0, 0.06])
@pytest.mark.parametrize("place", [None, (5, 2)])
def test_rays_of_photos_are_those_of_the_cpu(device, k1, place):
    poses = torch.eye(4)[:3].repeat(3, 1, 1)
    poses[:, :, 3] = torch.randn(3, 3)
    intrinsics = torch.tensor([90.0, 95.0, 40.0, 31.0]).repeat(3, 1)
    distortion = torch.tensor([k1, -k1, 0.0, 0.0, 0.0, 0.0]).repeat(3, 1)
    ours, reference = (PhotoRays(poses, intrinsics, distortion, VIEW, d).take([2, 0], place) for d in (device, "cpu"))
    assert off(ours.origins, reference.origins) == 0.0 and off(ours.directions, reference.directions) < 1e-6


@pytest.mark.parametrize("host", [True, False])
def test_the_pool_gives_the_pictures_of_its_poses(device, host):
    pool = PseudoViewPool(9, 16, 24, 1.0, "cpu" if host else device)
    for place in range(9):
        pool.add(torch.full((3, 4), float(place)), torch.full((16, 24, 3), place / 255.0, device=device))
    poses, pictures = pool.draw(6, device)
    assert pictures.device.type == poses.device.type == device
    shown = (255.0 * pictures[:, 3, 3, 0]).round()
    assert torch.equal(shown, poses[:, 0, 0]) and len(set(shown.tolist())) == 6


def test_the_demo_scene_looks_the_same_from_every_device(device):
    scene = load_script("make_demo_scene")
    pose = scene.sample_cameras("test", 1)[0]
    ours, reference = (scene.render(pose, 64, 64, 90.0, 2, device=where).cpu() for where in (device, "cpu"))
    # A ray that grazes an edge may hit or miss.
    assert float(((ours - reference).abs() > 0.01).float().mean()) < 0.01


def test_masks_and_coarser_pictures_are_those_of_the_cpu(device):
    from mobiler2l_ns.geometry.cells import CoarserCells

    cells = CoarserCells.draw(8, 11, 8, 1.5, torch.Generator().manual_seed(3))
    pictures, mask = torch.rand(2, 64, 88, 3), (torch.rand(2, 64, 88) > 0.1).float()
    assert off(cells.pictures(pictures.to(device)), cells.pictures(pictures)) < 1e-5
    hidden = functional.avg_pool2d(mask[:, None], 4).repeat_interleave(4, 2).repeat_interleave(4, 3)[:, 0].round()
    assert torch.equal(cells.mask(hidden.to(device)).cpu(), cells.mask(hidden))


def test_a_teacher_without_its_empty_space_is_that_of_the_cpu(device):
    with lazy_lpips():
        box = SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3]))
        teacher = for_objects(small_teacher()).setup(scene_box=box, num_train_data=3, metadata={}, device="cpu")
    dense = torch.rand(16, 16, 16, generator=torch.Generator().manual_seed(1)) > 0.98
    pose = torch.eye(4)[None, :3].clone()
    pose[0, 2, 3] = 4.0
    camera = VIEW.cameras(pose)
    shown, asked = [], []
    for where in ("cpu", device):
        teacher.to(where)
        cube = cube_of(teacher)
        assert cube is not None
        empty = EmptySpace(teacher, cube, dense.to(where))
        with empty.skipped():
            shown.append(render_teacher(teacher, camera, torch.ones(3))["rgb"])
        asked.append(empty.asked)
    # A place at the border of two cells may round to either.
    assert off(shown[1], shown[0]) < 1e-3 and abs(asked[1] / asked[0] - 1.0) < 1e-3
