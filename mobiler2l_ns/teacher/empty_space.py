"""Empty space of a nerfacto: pseudo views are rendered without asking its networks about it.

Nearly all of nerfacto's time goes into hash grids, and so into the number of points they are asked about. Most of a
scene is empty, and the networks are asked about it all the same. Here it is found once, cell by cell, and left out. No
other place on a ray is looked at than without it: proposals stay what they are wherever a ray meets anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RaySamples
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.field_components.spatial_distortions import SceneContraction
from nerfstudio.fields.nerfacto_field import NerfactoField
from nerfstudio.model_components.ray_samplers import ProposalNetworkSampler
from nerfstudio.models.base_model import Model
from nerfstudio.models.nerfacto import NerfactoModel
from torch import Tensor
from torch.nn.functional import max_pool3d

CELLS = 96
"""Of the grid, along each side."""
POINTS = 2
"""At random in each cell, of which the density is asked."""
PROPOSED = 0.01
"""Share of a proposal's density that counts: it is wider and coarser than what it stands for, and finds what is thinner
than the points of a cell lie apart."""
CHUNK = 1 << 16
"""Cells at a time."""
GROWN = 1
"""Cells around one with density that count as occupied: what is thin may pass between the points of a cell."""
NEAR = 1
"""Cells around those by which a ray that meets something is found: its first samples may be further apart than a cell
is wide."""
LIMITS = (0.3, 0.03, 0.0)
"""Optical thickness of the whole cube, were it filled as a cell is, up to which the cell is empty. The first one is
taken that is not seen in pictures; at the last, nothing is left out but what lies outside of the cube."""
LEAST_PSNR = 50.0
"""dB between pictures with and without empty space."""
MOST_ERROR = 0.1
"""Difference of a single pixel's channel: a wire that is lost is only a few pixels."""
MOST_ASKED = 0.75
"""Share of points that are asked about above which nothing is gained."""
PAYS_FROM = 10
"""Times as many points must be rendered as are asked about to find what is empty, or it is not looked for."""


@dataclass(frozen=True)
class Cube:
    """What a nerfacto's networks see of space, as coordinates from 0 to 1: its box, or all of space, contracted."""

    aabb: Float[Tensor, "2 3"]
    contraction: SceneContraction | None

    def unit(self, positions: Float[Tensor, "*bs 3"]) -> Float[Tensor, "*bs 3"]:
        """Coordinates in the cube of positions in the scene, computed as the networks do."""
        if self.contraction is None:
            return SceneBox.get_normalized_positions(positions, self.aabb)
        return (self.contraction(positions) + 2.0) / 4.0

    def positions(self, unit: Float[Tensor, "*bs 3"]) -> Float[Tensor, "*bs 3"]:
        """The inverse."""
        if self.contraction is None:
            return self.aabb[0] + unit * (self.aabb[1] - self.aabb[0])
        contracted = 4.0 * unit - 2.0
        return contracted * self._distance(contracted) / self._norm(contracted)

    def cell(self, positions: Float[Tensor, "*bs 3"], cells: int) -> tuple[Bool[Tensor, "*bs"], Int[Tensor, "*bs"]]:
        """Whether positions are inside the cube, and in which of so many cells a side, x the slowest."""
        unit = self.unit(positions)
        # As the networks have it, whose density is 0 elsewhere.
        inside = ((unit > 0.0) & (unit < 1.0)).all(dim=-1)
        x, y, z = (unit * cells).long().clamp(0, cells - 1).unbind(dim=-1)
        return inside, (x * cells + y) * cells + z

    def length(self, unit: Float[Tensor, "*bs 3"]) -> Float[Tensor, "*bs 1"]:
        """How long the cube's side is in scene units if measured as around a point: along its longest side, or, where
        space is contracted, outwards, where a piece of the cube is longest."""
        if self.contraction is None:
            return (self.aabb[1] - self.aabb[0]).max().expand(*unit.shape[:-1], 1)
        # Of a point at distance m > 1 the contraction keeps 2 - 1 / m, whose derivative is 1 / m².
        return 4.0 * self._distance(4.0 * unit - 2.0).clamp(min=1.0) ** 2

    def _norm(self, contracted: Float[Tensor, "*bs 3"]) -> Float[Tensor, "*bs 1"]:
        assert self.contraction is not None
        return torch.linalg.norm(contracted, ord=self.contraction.order, dim=-1, keepdim=True).clamp(min=1e-6)

    def _distance(self, contracted: Float[Tensor, "*bs 3"]) -> Float[Tensor, "*bs 1"]:
        norm = self._norm(contracted)
        return torch.where(norm < 1.0, norm, 1.0 / (2.0 - norm).clamp(min=1e-3))


def cube_of(teacher: Model) -> Cube | None:
    """What the networks of a teacher see; None if it is no nerfacto, or not rendered as nerfstudio's is."""
    if not isinstance(teacher, NerfactoModel):
        return None
    field, contraction = teacher.field, teacher.field.spatial_distortion
    if not isinstance(field, NerfactoField) or not isinstance(teacher.proposal_sampler, ProposalNetworkSampler):
        return None
    if contraction is not None and not isinstance(contraction, SceneContraction):
        return None
    return Cube(field.aabb, contraction)


@torch.no_grad()
def thickness(teacher: NerfactoModel, cube: Cube) -> Float[Tensor, "x y z"]:
    """Most optical thickness of each cell's points, were the whole cube filled as they are, by the field and, to a
    share, by the last proposal network. The random numbers of the run are left alone."""
    device = teacher.device
    generator = torch.Generator(device).manual_seed(0)
    axis = torch.arange(CELLS, device=device)
    corners = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
    found = torch.zeros(len(corners), device=device)
    with torch.autocast(device.type, enabled=False):
        for corner, most in zip(corners.split(CHUNK), found.split(CHUNK), strict=True):
            for _ in range(POINTS):
                inside = torch.rand(corner.shape, generator=generator, device=device)
                unit = (corner + inside) / CELLS
                positions = cube.positions(unit)
                density = teacher.field.density_fn(positions).float()
                proposed = PROPOSED * teacher.density_fns[-1](positions).float()
                torch.maximum(most, (density.maximum(proposed) * cube.length(unit))[:, 0], out=most)
    return found.reshape(CELLS, CELLS, CELLS)


@contextmanager
def forward_replaced(field: Any, forward: Callable[..., dict[Any, Tensor]]) -> Iterator[None]:
    """A field's outputs are another function's."""
    own = vars(field).get("forward")
    field.forward = forward
    try:
        yield
    finally:
        del field.forward
        if own is not None:
            field.forward = own


@contextmanager
def watched(teacher: NerfactoModel, cube: Cube, filled: Float[Tensor, "x y z"]) -> Iterator[None]:
    """Within it what the teacher's rays meet counts as well, as ``thickness`` does: they find what is thinner than the
    points of a cell lie apart."""
    forward, flat = teacher.field.forward, filled.view(-1)

    def watching(samples: RaySamples, compute_normals: bool = False) -> dict[Any, Tensor]:
        outputs = forward(samples, compute_normals=compute_normals)
        positions = samples.frustums.get_positions()
        inside, cell = cube.cell(positions, len(filled))
        met = outputs[FieldHeadNames.DENSITY].float() * cube.length(cube.unit(positions)) * inside[..., None]
        flat.scatter_reduce_(0, cell.reshape(-1), met.reshape(-1), "amax")
        return outputs

    with forward_replaced(teacher.field, watching):
        yield


def grown(cells: Bool[Tensor, "x y z"], by: int) -> Bool[Tensor, "x y z"]:
    """Cells and those around them, ``by`` of them each way."""
    return max_pool3d(cells[None, None].float(), 2 * by + 1, stride=1, padding=by)[0, 0] > 0.0


class EmptySpace:
    """Where a teacher has nothing to show.

    Args:
        teacher: a nerfacto that learns no more.
        cube: what its networks see.
        dense: the cells that have density; those around them count as occupied as well.

    Attributes:
        asked, points: those that the networks were asked about while empty space was skipped, and all.
    """

    def __init__(self, teacher: NerfactoModel, cube: Cube, dense: Bool[Tensor, "x y z"]) -> None:
        self.teacher, self.cube, self.cells = teacher, cube, dense.shape[0]
        occupied = grown(dense, GROWN)
        self._occupied, self._near = occupied.flatten(), grown(occupied, NEAR).flatten()
        self.asked = self.points = 0

    @classmethod
    def find(
        cls,
        teacher: Model,
        cameras: Sequence[Cameras],
        show: Callable[[Cameras], Float[Tensor, "h w channels"]],
        rays: float,
    ) -> EmptySpace | None:
        """Empty space of a teacher, checked by pictures of it; None where there is too little, it would be seen, it
        does not pay, or the teacher is of another kind.

        Args:
            teacher: of any method.
            cameras: of a few small pictures, two at least: what every other one sees is found, the rest are to tell
                whether anything was missed.
            show: renders one of them as the student will see it.
            rays: that are to be rendered.
        """
        cube = cube_of(teacher)
        if cube is None:
            return None
        assert isinstance(teacher, NerfactoModel)
        sampler = teacher.proposal_sampler
        samples = sampler.num_nerf_samples_per_ray + sum(sampler.num_proposal_samples_per_ray)
        tried = 2 * sum(int(camera.height) * int(camera.width) for camera in cameras)
        if rays * samples < PAYS_FROM * (2 * POINTS * CELLS**3 + tried * samples):
            return None
        filled = thickness(teacher, cube)
        with watched(teacher, cube, filled):
            for camera in cameras[::2]:
                show(camera)
        judged = cameras[1::2]
        with_all = torch.cat([show(camera).flatten() for camera in judged])
        for limit in LIMITS:
            dense = filled > limit if limit > 0.0 else torch.ones_like(filled, dtype=torch.bool)
            if limit > 0.0 and float(dense.float().mean()) > MOST_ASKED:
                continue
            space = cls(teacher, cube, dense)
            with space.skipped():
                error = (torch.cat([show(camera).flatten() for camera in judged]) - with_all).abs()
            if space.asked > MOST_ASKED * space.points:
                return None
            if float(error.square().mean()) < 10 ** (-LEAST_PSNR / 10) and float(error.max()) < MOST_ERROR:
                return space
        return None

    @contextmanager
    def skipped(self) -> Iterator[None]:
        """Within it the teacher's networks are not asked about empty space; its density there is 0."""
        teacher: Any = self.teacher
        densities = teacher.density_fns
        teacher.density_fns = [self._proposal(density) for density in densities]
        # The colour of a ray's last sample is its background then, however empty the place is.
        field = self._field(teacher.field.forward, teacher.renderer_rgb.background_color == "last_sample")
        try:
            with forward_replaced(teacher.field, field):
                yield
        finally:
            teacher.density_fns = densities

    def _proposal(self, density: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def of_rays_that_meet_something(positions: Float[Tensor, "rays samples 3"], times: Any = None) -> Tensor:
            inside, cell = self.cube.cell(positions, self.cells)
            meets = (inside & self._near[cell]).any(dim=-1, keepdim=True)
            places = self._places(inside & meets)
            return _spread(density(positions[places]), places, inside.shape)

        return of_rays_that_meet_something

    def _field(self, forward: Callable[..., dict[Any, Tensor]], keep_last: bool) -> Callable[..., dict[Any, Tensor]]:
        def of_occupied_cells(samples: RaySamples, compute_normals: bool = False) -> dict[Any, Tensor]:
            inside, cell = self.cube.cell(samples.frustums.get_positions(), self.cells)
            asked = inside & self._occupied[cell]
            if keep_last:
                asked[..., -1] = True
            places = self._places(asked)
            outputs = forward(samples[places], compute_normals=compute_normals)
            return {name: _spread(values, places, asked.shape) for name, values in outputs.items()}

        return of_occupied_cells

    def _places(self, asked: Bool[Tensor, "rays samples"]) -> tuple[Tensor, Tensor]:
        """Rays and samples that are asked about: two at least, since the networks bear no empty batch, and compiled
        grids would be compiled anew for a single point.

        The host waits here for the GPU, which alone knows how many there are: once for each network and chunk of rays.
        """
        asked[0, :2] = True
        rays, samples = asked.nonzero(as_tuple=True)
        self.asked += len(rays)
        self.points += asked.numel()
        return rays, samples


def _spread(values: Float[Tensor, "n channels"], places: tuple[Tensor, Tensor], shape: torch.Size) -> Tensor:
    """Values where they belong, and 0 everywhere else."""
    spread = values.new_zeros(*shape, values.shape[-1])
    spread[places] = values
    return spread
