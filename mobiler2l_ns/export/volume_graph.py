"""From a camera to what the student's volume shows, in operations that phone runtimes share.

What differs from ``student.volume`` is the form: planes and coarse density are looked up in flat pictures alone (the
density's slices lie side by side in one, each beside the next one in a second channel), maps are 1x1 convolutions, and
the axes are (1, channels, points, rays) throughout.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mobiler2l_ns.export.ray_graph import RayGraph
from mobiler2l_ns.geometry.picture import PictureGeometry
from mobiler2l_ns.student.proposals import FAINT, SOLID
from mobiler2l_ns.student.renderer import Student
from mobiler2l_ns.student.volume import SEEN, STEEPEST, Volume

G = TypeVar("G", bound=nn.Module)


@torch.library.custom_op("mobiler2l::widen", mutates_args=())
def widen(values: Tensor) -> Tensor:
    """float16 as float32: an operation of its own, which no converter folds into a constant of float32."""
    return values.float()


@widen.register_fake
def _(values: Tensor) -> Tensor:
    return torch.empty_like(values, dtype=torch.float32)


class Stored(nn.Module):
    """A table of the volume, as it is stored: in float32, or as float16 that is widened where it is used."""

    values: Tensor

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values.detach().cpu().contiguous())

    def forward(self) -> Tensor:
        return self.values if self.values.dtype == torch.float32 else widen(self.values)


def with_volume_in_half(graph: G) -> G:
    """A copy of a graph that stores the volume's tables as float16."""
    halved = deepcopy(graph)
    for module in halved.modules():
        if isinstance(module, Stored):
            module.values = module.values.half()
    return halved


class Sample(nn.Module):
    """A picture at places (1, points, rays), -1..1 from the middle of its first pixel to that of its last."""

    def forward(self, picture: Float[Tensor, "1 c h w"], x: Tensor, y: Tensor) -> Float[Tensor, "1 c points rays"]:
        places = torch.stack([x, y], dim=3)
        return functional.grid_sample(picture, places, mode="bilinear", padding_mode="border", align_corners=True)


class PointGraph(nn.Module):
    """Points of rays in units of the volume's box."""

    def __init__(self, volume: Volume, contracted: bool) -> None:
        super().__init__()
        low, high = volume.proposals.box.tolist()
        self.contracted = contracted
        self.scales = [2.0 / (b - a) for a, b in zip(low, high, strict=True)]
        self.shifts = [-1.0 - a * scale for a, scale in zip(low, self.scales, strict=True)]

    def forward(
        self, start: Float[Tensor, "1 3 #rays"], along: Float[Tensor, "1 3 rays"], t: Float[Tensor, "1 k #rays"]
    ) -> list[Float[Tensor, "1 k rays"]]:
        """x, y and z at places t of each ray."""
        axes = [begin + t * way for begin, way in zip(start.split(1, dim=1), along.split(1, dim=1), strict=True)]
        if self.contracted:
            x, y, z = (axis.abs() for axis in axes)
            size = torch.maximum(torch.maximum(x, y), z).clamp(min=1.0)
            factor = (2.0 - 1.0 / size) / size
            axes = [axis * factor for axis in axes]
        return [axis * scale + shift for axis, scale, shift in zip(axes, self.scales, self.shifts, strict=True)]


class ProposalGraph(nn.Module):
    """Places along rays and the optical depth each stands for; equal to ``Proposals`` in evaluation mode."""

    middles: Tensor
    steps: Tensor
    quantiles: Tensor
    indices: Tensor

    def __init__(self, student: Student) -> None:
        super().__init__()
        volume = cast(Volume, student.volume)
        shape, edges = volume.shape, student.bin_edges().detach().cpu()
        self.points, self.sample = PointGraph(volume, student.is_contracted()), Sample()
        self.bins, self.count, self.first = shape.density_bins, shape.volume_points, float(edges[0])
        self.cells = shape.density_cells
        self.tiles = math.ceil(math.sqrt(self.cells))
        slices = functional.pad(volume.proposals.density[0, 0], (0, 0, 0, 0, 0, self.tiles**2 - self.cells))
        atlas = slices.unflatten(0, (self.tiles, self.tiles)).transpose(1, 2).flatten(2).flatten(0, 1)
        self.atlas = Stored(atlas[None, None])
        self.register_buffer("middles", ((edges[1:] + edges[:-1]) / 2).reshape(1, -1, 1))
        self.register_buffer("steps", edges.diff().reshape(1, 1, -1, 1))
        index = torch.arange(self.count, dtype=torch.float32)
        self.register_buffer("quantiles", ((index + 0.5) / self.count).reshape(1, -1, 1, 1))
        self.register_buffer("indices", index.reshape(1, -1, 1))

    def pairs(self) -> Float[Tensor, "1 2 h w"]:
        """The slices of the density side by side, row after row, and where each lies in a second channel the next."""
        slices, cells, side = self.atlas(), self.cells, self.cells * (self.tiles - 1)
        if side == 0:
            return torch.cat([slices, slices], dim=1)
        first = slices.narrow(3, 0, cells)
        below = torch.cat([first.narrow(2, cells, side), first.narrow(2, 0, cells)], dim=2)
        return torch.cat([slices, torch.cat([slices.narrow(3, cells, side), below], dim=3)], dim=1)

    def look_up(self, x: Tensor, y: Tensor, z: Tensor) -> Float[Tensor, "1 bins rays"]:
        """The coarse density at places (1, bins, rays), linear between the middles of its cells."""
        last, side = self.cells - 1, self.cells * self.tiles
        x, y, z = ((axis.clamp(-1.0, 1.0) + 1.0) * (last / 2) for axis in (x, y, z))
        slice_ = z.clamp(max=last - 0.5).floor()
        # From the middle of a slice: fast division may show 8 / 4 as a little less than 2.
        row = ((slice_ + 0.5) * (1.0 / self.tiles)).floor()
        across = x + (slice_ - row * self.tiles) * self.cells
        down = y + row * self.cells
        places = across * (2 / (side - 1)) - 1.0, down * (2 / (side - 1)) - 1.0
        near, far = (values.squeeze(1) for values in self.sample(self.pairs(), *places).split(1, dim=1))
        return near + (far - near) * (z - slice_)

    def forward(
        self, start: Float[Tensor, "1 3 #rays"], along: Float[Tensor, "1 3 rays"]
    ) -> tuple[Float[Tensor, "1 k rays"], Float[Tensor, "1 k rays"]]:
        """t and optical depth of each point."""
        optical = self.look_up(*self.points(start, along, self.middles))
        behind = optical.cumsum(dim=1)
        passed, reached = (-behind).exp(), (optical - behind).exp()
        stopped = 1.0 - passed.narrow(1, self.bins - 1, 1)
        weights = (reached - passed + FAINT / self.bins) / (stopped + FAINT)
        starts = weights.cumsum(dim=1) - weights
        rays = weights.shape[2]
        starts, weights = starts.reshape(1, 1, self.bins, rays), weights.reshape(1, 1, self.bins, rays)
        parts = ((self.quantiles - starts) / weights).clamp(0.0, 1.0)
        t = (parts * self.steps).sum(dim=2) + self.first
        each = stopped.clamp(max=SOLID) * (1.0 / self.count)
        return t, ((1.0 - self.indices * each) / (1.0 - (self.indices + 1.0) * each)).log()


class VolumeGraph(nn.Module):
    """Composited features of a view; equal to ``Student.composite`` of its low-resolution rays."""

    def __init__(self, student: Student, view: PictureGeometry, pitch: float = 1.0) -> None:
        super().__init__()
        volume, config = cast(Volume, student.volume), student.config
        rays = student.density_rays(pitch)
        self.coarse = RayGraph(student, view, rays)
        self.fine = RayGraph(student, view, config.volume_rays)
        self.block = config.volume_rays // rays
        self.proposals = ProposalGraph(student)
        self.points, self.sample = PointGraph(volume, student.is_contracted()), Sample()
        self.count = config.volume_points
        self.levels = len(volume.planes)
        for level, planes in enumerate(volume.planes):
            for axis, plane in enumerate(planes.split(1)):
                self.add_module(f"plane_{level}_{axis}", Stored(plane))
        self.hidden, self.values = (self._convolution(layer) for layer in (volume.hidden, volume.values))

    @staticmethod
    def _convolution(layer: nn.Linear) -> nn.Conv2d:
        convolution = nn.Conv2d(layer.in_features, layer.out_features, 1)
        convolution.weight.data = layer.weight.detach().cpu()[..., None, None].clone()
        convolution.bias.data = layer.bias.detach().cpu().clone()  # type: ignore[union-attr]
        return convolution.requires_grad_(False)

    def _finer(self, values: Float[Tensor, "1 k coarse"]) -> Float[Tensor, "1 k fine"]:
        if self.block == 1:
            return values
        grid = values.reshape(1, self.count, self.coarse.rows, self.coarse.columns)
        return functional.interpolate(grid, scale_factor=float(self.block), mode="nearest").flatten(2)

    def planes(self, level: int) -> tuple[Float[Tensor, "1 c h w"], ...]:
        """The planes (x, y), (x, z) and (y, z) of a level."""
        return tuple(getattr(self, f"plane_{level}_{axis}")() for axis in range(3))

    def values_at(self, x: Tensor, y: Tensor, z: Tensor) -> Float[Tensor, "1 values k rays"]:
        """Density and features at places (1, k, rays) in units of the box."""
        levels = []
        for level in range(self.levels):
            front, floor, side = self.planes(level)
            levels.append(self.sample(front, x, y) + self.sample(floor, x, z) + self.sample(side, y, z))
        return self.values(functional.relu(self.hidden(torch.cat(levels, dim=1))))

    def forward(
        self, camera_to_world: Float[Tensor, "1 3 4"], intrinsics: Float[Tensor, "1 4"]
    ) -> Float[Tensor, "1 f mh mw"]:
        """Features and accumulation."""
        return self._composite(camera_to_world, intrinsics)[0]

    def with_depth(
        self, camera_to_world: Float[Tensor, "1 3 4"], intrinsics: Float[Tensor, "1 4"]
    ) -> tuple[Float[Tensor, "1 f mh mw"], Float[Tensor, "1 2 mh mw"]]:
        """What ``forward`` gives; and depth along the optical axis in scene units of what is seen, beside the
        accumulation."""
        features, place = self._composite(camera_to_world, intrinsics)
        depth = self.fine.depth(camera_to_world, intrinsics, place).reshape(1, 1, self.fine.rows, self.fine.columns)
        return features, torch.cat([depth, features.narrow(1, features.shape[1] - 1, 1)], dim=1)

    def _composite(
        self, camera_to_world: Float[Tensor, "1 3 4"], intrinsics: Float[Tensor, "1 4"]
    ) -> tuple[Float[Tensor, "1 f mh mw"], Float[Tensor, "1 1 fine"]]:
        """Features with the accumulation, and mean places along the rays of what is seen."""
        t, optical = self.proposals(*self.coarse(camera_to_world, intrinsics))
        t, optical = self._finer(t), self._finer(optical)
        x, y, z = self.points(*self.fine(camera_to_world, intrinsics), t)
        values = self.values_at(x, y, z)
        density, features = values.split([1, values.shape[1] - 1], dim=1)
        optical = optical[:, None] * density.clamp(-STEEPEST, STEEPEST).exp()
        weights = (optical - optical.cumsum(dim=2)).exp() * (1.0 - (-optical).exp())
        accumulation = weights.sum(dim=2)
        composited = torch.cat([(weights * features).sum(dim=2), accumulation], dim=1)
        place = (weights * t[:, None]).sum(dim=2) / accumulation.clamp(min=SEEN)
        return composited.reshape(1, -1, self.fine.rows, self.fine.columns), place
