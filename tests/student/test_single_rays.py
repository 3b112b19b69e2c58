"""Points along single rays lie on what the student's volume holds."""

# A student with a volume is one of a class that may have none.
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false

import pytest
import torch
from nerfstudio.cameras.rays import RayBundle
from small_student import VOLUMES, make_student

from mobiler2l_ns.student.config import StudentConfig
from mobiler2l_ns.student.renderer import NO_DEPTH, SOLID, Student
from mobiler2l_ns.student.single_rays import look_along

WHITE = torch.ones(3)
RADIUS, CELLS = 0.6, 49
CELL = 2.0 / (CELLS - 1)
"""Side of a cell of the coarse density, whose box has a half side of 1."""


def bundle(origins, directions, **more):
    ones = torch.ones(len(origins), 1)
    return RayBundle(origins, directions, pixel_area=ones, camera_indices=ones.long(), **more)


def ball_student(in_sphere=True, alpha=False) -> Student:
    """A student whose volume is a solid orange ball in the origin."""
    settings = {"volume_rays": 4, "density_cells": CELLS, "density_bins": 96, "volume_points": 4, "alpha": alpha}
    student = Student(StudentConfig(width=16, num_blocks=1, sr_channels=(8, 8, 8), **settings))
    student.capture.record(
        image_size=torch.tensor([64, 64]),
        intrinsics=torch.tensor([80.0, 80.0, 32.0, 32.0]),
        depth_range=torch.tensor([1.0, 4.0]),
        depth_known=torch.tensor(True),
        scene_radius=torch.tensor(1.5 if in_sphere else 0.0),
    )
    volume = student.volume
    half = 1.0 / 1.5 if in_sphere else 1.0  # points in a sphere are in its radii
    volume.proposals.box.copy_(half * torch.tensor([[-1.0] * 3, [1.0] * 3]))
    at = torch.linspace(-1.0, 1.0, CELLS)
    z, y, x = torch.meshgrid(at, at, at, indexing="ij")
    volume.proposals.density.copy_(20.0 * (x * x + y * y + z * z < RADIUS**2))
    with torch.no_grad():
        volume.values.weight.zero_()
        volume.values.bias.zero_()
        volume.values.bias[1:5] = torch.tensor([0.9, 0.5, 0.1, 1.0 if alpha else 0.0])
        volume.values.bias[0] = 4.0
    return student.eval()


def inward_rays(count=400):
    """Rays from a sphere of radius 2.5 to places in the ball, and their angle of arrival's cosine."""
    origins = 2.5 * torch.nn.functional.normalize(torch.randn(count, 3), dim=-1)
    towards = 0.8 * RADIUS * torch.nn.functional.normalize(torch.randn(count, 3), dim=-1) * torch.rand(count, 1)
    return origins, torch.nn.functional.normalize(towards - origins, dim=-1)


def test_points_normals_and_colours_are_the_ball_s_to_a_cell():
    student = ball_student()
    origins, directions = inward_rays()
    outputs = look_along(student, bundle(origins, directions), WHITE)
    points = origins + outputs["depth"] * directions
    distance = points.norm(dim=-1) - RADIUS
    assert float(distance.abs().max()) < 1.5 * CELL and float(distance.abs().mean()) < CELL
    normals = 2.0 * outputs["normals"] - 1.0
    cosines = (normals * torch.nn.functional.normalize(points, dim=-1)).sum(-1)
    assert float(cosines.median()) > 0.9 and float((normals * directions).sum(-1).max()) < 1e-3
    assert float(outputs["accumulation"].min()) > 0.95
    torch.testing.assert_close(outputs["rgba"][:, :3], torch.tensor([0.9, 0.5, 0.1]).expand(400, 3), atol=1e-4, rtol=0)


def test_where_nothing_is_there_is_no_depth():
    student = ball_student()
    origins, _ = inward_rays(50)
    outputs = look_along(student, bundle(origins, torch.nn.functional.normalize(origins, dim=-1).roll(1, -1)), WHITE)
    missed = outputs["accumulation"][:, 0] < SOLID
    assert missed.any() and (outputs["depth"][missed] == NO_DEPTH).all()


@pytest.mark.parametrize("in_sphere", [True, False])
def test_depth_is_in_lengths_of_the_directions(in_sphere):
    student = ball_student(in_sphere)
    origins = torch.tensor([[0.0, 0.0, 2.5], [0.1, 0.0, 2.5]])
    directions = torch.tensor([[0.0, 0.0, -1.0], [0.0, 0.0, -0.5]])
    norm = {"directions_norm": torch.tensor([[1.0], [2.0]])}
    depth = look_along(student, bundle(origins, directions, metadata=norm), WHITE)["depth"][:, 0]
    assert depth.tolist() == pytest.approx([2.5 - RADIUS, 2.0 * (2.5 - (RADIUS**2 - 0.01) ** 0.5)], abs=3.0 * CELL)


@pytest.mark.parametrize("in_sphere", [True, False])
def test_only_what_lies_between_near_and_far_is_seen(in_sphere):
    student = ball_student(in_sphere)
    origins, directions = torch.tensor([[0.0, 0.0, 2.5]] * 3), torch.tensor([[0.0, 0.0, -1.0]] * 3)
    nears, fars = torch.tensor([[1.0], [2.3], [1.0]]), torch.tensor([[4.0], [2.6], [1.6]])
    outputs = look_along(student, bundle(origins, directions, nears=nears, fars=fars), WHITE)
    depth = outputs["depth"][:, 0].tolist()
    assert depth[0] == pytest.approx(2.5 - RADIUS, abs=2.0 * CELL)
    assert 2.3 <= depth[1] <= 2.6  # within the ball
    assert depth[2] == NO_DEPTH


def test_a_student_with_alpha_gives_its_own_colour():
    outputs = look_along(ball_student(alpha=True), bundle(*inward_rays(20)), WHITE)
    torch.testing.assert_close(outputs["rgba"], torch.tensor([0.9, 0.5, 0.1, 1.0]).expand(20, 4), atol=0.05, rtol=0)


@pytest.mark.parametrize("name", VOLUMES)
def test_the_middle_of_a_cell_is_seen_as_in_the_picture(name):
    """One ray a cell, whose points nobody else shares: those of the picture's volume."""
    student = make_student(**{**VOLUMES[name], "volume_rays": 1, "density_rays": 1})
    rays = student.view().rays(student.capture.proof_poses[0][None])
    composited = student.composite(*rays)
    directions = rays.directions.reshape(-1, 3)
    norm = directions.norm(dim=-1, keepdim=True)
    origins = rays.origins.reshape(1, 3).expand_as(directions)
    found = look_along(student, bundle(origins, directions / norm, metadata={"directions_norm": norm}), torch.zeros(3))
    seen = composited.features[0, -1].flatten() > SOLID
    assert seen.any()
    expected = student.surfaces(rays, composited).reshape(-1, 3)
    points = origins + found["depth"] * directions / norm
    torch.testing.assert_close(points[seen], expected[seen], atol=1e-4, rtol=0)
    colours = composited.colours.reshape(len(directions), -1)
    torch.testing.assert_close(found["rgb"][seen], colours[seen, :3].clamp(0, 1), atol=1e-5, rtol=0)
