"""Empty space of a nerfacto: it is not asked about, and nothing that is seen is lost."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import small_teacher
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.models.base_model import Model
from nerfstudio.models.nerfacto import NerfactoModel
from torch import Tensor

from mobiler2l_ns.teacher import empty_space
from mobiler2l_ns.teacher.empty_space import EmptySpace, cube_of, grown, thickness
from mobiler2l_ns.teacher.nerfacto import lazy_lpips
from mobiler2l_ns.teacher.objects import for_objects
from mobiler2l_ns.teacher.render import render_teacher

Density = Callable[[Tensor], Tensor]
CELLS = 32
WHITE = torch.ones(3)


@pytest.fixture(autouse=True)
def _a_small_grid(monkeypatch):
    monkeypatch.setattr(empty_space, "CELLS", CELLS)
    monkeypatch.setattr(empty_space, "POINTS", 4)


class Given:
    """A nerfacto whose density is given and whose colours are its own, and the points that it was asked about."""

    def __init__(
        self, density: Density, contracted: bool = False, proposed: Density | None = None, **settings: Any
    ) -> None:
        torch.manual_seed(0)
        config = replace(small_teacher(), eval_num_rays_per_chunk=1024, num_proposal_samples_per_ray=(96,), **settings)
        config = config if contracted else for_objects(config)
        with lazy_lpips():
            box = SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3]))
            self.teacher = config.setup(scene_box=box, num_train_data=3, metadata={}, device="cpu").eval()
        self.density, self.proposed = density, proposed or density
        self.of_field: list[Tensor] = []
        self.of_proposals: list[Tensor] = []
        field: Any = self.teacher.field
        field.get_density = self._field
        self.teacher.density_fns = [self._proposal]

    def _inside(self, density: Density, positions: Tensor) -> Tensor:
        cube = cube_of(self.teacher)
        assert cube is not None
        unit = cube.unit(positions)
        return density(positions)[..., None] * ((unit > 0.0) & (unit < 1.0)).all(-1, keepdim=True)

    def _field(self, samples: Any) -> tuple[Tensor, Tensor]:
        positions = samples.frustums.get_positions()
        self.of_field.append(positions.reshape(-1, 3))
        embedding = torch.sin(3.0 * positions.repeat_interleave(5, dim=-1) + torch.arange(15.0))
        return self._inside(self.density, positions), embedding

    def _proposal(self, positions: Tensor, times: Any = None) -> Tensor:
        self.of_proposals.append(positions.reshape(-1, 3))
        return self._inside(self.proposed, positions)

    def show(self, camera: Cameras) -> Tensor:
        return render_teacher(self.teacher, camera, WHITE)["rgb"]

    def find(self) -> EmptySpace | None:
        found = EmptySpace.find(self.teacher, [camera(64), camera(48, 0.3)], self.show, rays=math.inf)
        self.of_field.clear()
        self.of_proposals.clear()
        return found


def camera(pixels: int, angle: float = 0.0, zoom: float = 1.4) -> Cameras:
    """On a circle about the y axis, with a look at the middle."""
    sin, cos = math.sin(angle), math.cos(angle)
    pose = torch.tensor([[[cos, 0.0, sin, 4.0 * sin], [0.0, 1.0, 0.0, 0.0], [-sin, 0.0, cos, 4.0 * cos]]])
    return Cameras(pose, zoom * pixels, zoom * pixels, pixels / 2, pixels / 2, width=pixels, height=pixels)


def ball(positions: Tensor) -> Tensor:
    return 40.0 * (positions.norm(dim=-1) < 0.4)


def wire(positions: Tensor) -> Tensor:
    """Upright, a quarter of a cell thick."""
    return 2000.0 * ((positions[..., ::2] - torch.tensor([0.05, 0.02])).norm(dim=-1) < 0.25 / CELLS)


def about_the_wire(positions: Tensor) -> Tensor:
    """What a proposal network of cells three times as coarse can make of it."""
    return 20.0 * ((positions[..., ::2] - torch.tensor([0.05, 0.02])).norm(dim=-1) < 2.0 / CELLS)


def everywhere(positions: Tensor) -> Tensor:
    return torch.full(positions.shape[:-1], 0.8)


def ball_in_fog(positions: Tensor) -> Tensor:
    return ball(positions) + 0.1


def assert_same(outputs: dict[str, Tensor], expected: dict[str, Tensor], seen: bool = True) -> None:
    """The same outputs everywhere, or of depths those of rays that see anything."""
    assert outputs.keys() == expected.keys()
    for name in expected:
        where = expected["accumulation"] > 1e-6 if seen and "depth" in name else torch.ones_like(expected["depth"]) > 0
        where = where.expand_as(expected[name])
        torch.testing.assert_close(outputs[name][where], expected[name][where], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("contracted", [False, True])
def test_where_every_cell_is_occupied_all_outputs_are_the_same(contracted):
    given = Given(ball, contracted)
    cube = cube_of(given.teacher)
    assert cube is not None
    expected = render_teacher(given.teacher, camera(40), WHITE)
    with EmptySpace(given.teacher, cube, torch.ones(CELLS, CELLS, CELLS, dtype=torch.bool)).skipped():
        assert_same(render_teacher(given.teacher, camera(40), WHITE), expected, seen=False)


def test_empty_cells_show_what_density_0_shows():
    given = Given(ball_in_fog)
    cube = cube_of(given.teacher)
    assert cube is not None
    dense = torch.rand(CELLS, CELLS, CELLS, generator=torch.Generator().manual_seed(1)) > 0.995
    occupied = grown(dense, empty_space.GROWN)

    def emptied(positions: Tensor) -> Tensor:
        x, y, z = (cube.unit(positions) * CELLS).long().clamp(0, CELLS - 1).unbind(-1)
        return ball_in_fog(positions) * occupied[x, y, z]

    with EmptySpace(given.teacher, cube, dense).skipped():
        skipped = render_teacher(given.teacher, camera(40), WHITE)
    reference = Given(emptied)
    # Proposals see the scene as it is.
    reference.teacher.density_fns = [lambda positions, times=None: given._inside(ball_in_fog, positions)]
    assert_same(skipped, render_teacher(reference.teacher, camera(40), WHITE))


@pytest.mark.parametrize(("scene", "proposed", "zoom"), [(ball, ball, 1.4), (wire, about_the_wire, 5.0)])
def test_nothing_that_is_seen_is_lost(scene, proposed, zoom):
    given = Given(scene, proposed=proposed)
    found = given.find()
    assert found is not None and found.asked < 0.5 * found.points
    for angle in (0.17, -0.4):
        expected = render_teacher(given.teacher, camera(48, angle, zoom), WHITE)
        assert int((expected["accumulation"] > 0.5).sum()) > 10
        with found.skipped():
            assert_same(render_teacher(given.teacher, camera(48, angle, zoom), WHITE), expected)


def test_the_field_is_asked_about_the_ball_and_the_cells_around_it():
    given = Given(ball)
    found = given.find()
    assert found is not None
    given.show(camera(40))
    of_field, of_proposals = (sum(len(part) for part in asked) for asked in (given.of_field, given.of_proposals))
    assert (of_field, of_proposals) == (1600 * 12, 1600 * 96)
    given.of_field.clear()
    given.of_proposals.clear()
    before = found.asked, found.points
    with found.skipped():
        given.show(camera(40))
    asked = torch.cat(given.of_field)
    assert found.asked - before[0] == len(asked) + sum(len(part) for part in given.of_proposals)
    assert found.points - before[1] == 1600 * (12 + 96)
    reach = 0.4 + (1 + empty_space.GROWN) * math.sqrt(3) * 2 / CELLS
    chunks = -(-1600 // 1024)
    assert int((asked.norm(dim=-1) > reach).sum()) <= 2 * chunks
    assert len(asked) < 0.25 * of_field


def test_proposals_are_asked_about_all_of_the_cube_on_rays_that_meet_something_and_of_no_others():
    given = Given(ball)
    found = given.find()
    assert found is not None
    with found.skipped():
        given.show(camera(40))
    asked = torch.cat(given.of_proposals)
    assert bool((asked[2:].abs() <= 1.0).all(-1).sum() >= len(asked) - 4)
    # The perspective narrows what lies behind.
    sideways = asked[:, :2].norm(dim=-1) * 4.0 / (4.0 - asked[:, 2])
    reach = 0.42 + (1 + empty_space.GROWN + empty_space.NEAR) * math.sqrt(3) * 2 / CELLS * 4.0 / 3.3
    assert int((sideways > reach).sum()) <= 4
    assert float(asked[:, 2].max()) > 0.95 and float(asked[:, 2].min()) < -0.95


def test_thin_fog_that_would_be_missed_stays():
    given = Given(ball_in_fog)
    expected = render_teacher(given.teacher, camera(40), WHITE)
    found = given.find()
    assert found is not None and found.points > found.asked  # outside of the cube there is nothing
    with found.skipped():
        assert_same(render_teacher(given.teacher, camera(40), WHITE), expected)


def test_a_scene_without_empty_space_is_rendered_as_before():
    assert Given(everywhere, contracted=True).find() is None


def test_a_few_pseudo_views_are_not_worth_looking():
    given = Given(ball)
    assert EmptySpace.find(given.teacher, [camera(24), camera(24)], given.show, rays=1000) is None
    assert not given.of_field


class Other(Model):
    def __init__(self) -> None:
        torch.nn.Module.__init__(self)


def test_other_teachers_are_rendered_as_before():
    cameras = [camera(24), camera(24)]
    assert EmptySpace.find(Other(), cameras, lambda camera: torch.zeros(1, 1, 3), rays=math.inf) is None


def test_the_last_sample_of_a_ray_is_its_background_though_it_is_empty():
    given = Given(ball, contracted=True, background_color="last_sample")

    def show(camera: Cameras) -> Tensor:
        return render_teacher(given.teacher, camera)["rgb"]

    expected = show(camera(40))
    found = EmptySpace.find(given.teacher, [camera(24), camera(24)], show, rays=math.inf)
    assert found is not None
    with found.skipped():
        torch.testing.assert_close(show(camera(40)), expected, atol=2e-6, rtol=0.0)


def test_the_teacher_is_itself_again_also_if_a_render_fails():
    given = Given(ball)
    found = given.find()
    assert found is not None
    teacher: Any = given.teacher
    densities, state = teacher.density_fns, dict(vars(teacher.field))
    with pytest.raises(RuntimeError), found.skipped():
        raise RuntimeError
    assert teacher.density_fns is densities and vars(teacher.field) == state


def test_looking_leaves_the_runs_random_numbers_alone():
    given = Given(ball)
    before = torch.get_rng_state()
    given.find()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("contracted", [False, True])
def test_a_cell_is_where_its_points_are_and_as_thick(contracted):
    teacher = Given(everywhere, contracted).teacher
    cube = cube_of(teacher)
    assert cube is not None and isinstance(teacher, NerfactoModel)
    unit = 0.02 + 0.96 * torch.rand(500, 3, dtype=torch.double)
    positions = cube.positions(unit)
    torch.testing.assert_close(cube.unit(positions), unit, atol=1e-6, rtol=0.0)
    # Outwards, a step of the cube is as long as it says.
    outwards = unit - 0.5
    outwards = 1e-6 * outwards / outwards.abs().amax(-1, keepdim=True)
    step = (cube.positions(unit + outwards) - positions).abs().amax(-1, keepdim=True) / 1e-6
    torch.testing.assert_close(cube.length(unit).to(step), step, atol=0.0, rtol=1e-3)
    filled = thickness(teacher, cube)
    assert filled.shape == (CELLS, CELLS, CELLS)
    if not contracted:
        torch.testing.assert_close(filled, torch.full_like(filled, 0.8 * 2.0))
