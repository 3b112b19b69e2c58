"""Ideas for the student's volume that the race did not keep; ``distillation_ideas.py`` races them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.field_components.encodings import HashEncoding
from torch import Tensor, nn
from torch.nn import functional

from mobiler2l_ns.geometry.chords import Chords, finer_directions
from mobiler2l_ns.student.volume import SEEN, STEEPEST, Composited, Volume


def _with_term(pipeline: Any, term: Callable[[], Tensor]) -> None:
    """Add a term to the loss, asked for once a step and after the student's outputs."""
    losses = pipeline.model.get_loss_dict

    def with_term(*args: Any) -> dict[str, Tensor]:
        return {**losses(*args), "volume_term": term()}

    pipeline.model.get_loss_dict = with_term


def _variation(volume: Volume) -> Tensor:
    """Mean squared difference of neighbouring cells of the planes (K-Planes, Fridovich-Keil et al. 2023 §3.2)."""
    terms = [p.diff(dim=axis).square().mean() for p in volume.planes for axis in (-2, -1)]
    return torch.stack(terms).mean()


def total_variation(pipeline: Any) -> None:
    """Planes that vary little."""
    _with_term(pipeline, lambda: 1e-3 * _variation(pipeline.model.student.volume))


def more_variation(pipeline: Any) -> None:
    """The same, ten times as strong."""
    _with_term(pipeline, lambda: 1e-2 * _variation(pipeline.model.student.volume))


def sparse(pipeline: Any) -> None:
    """Rays that stop all of their light or none: the entropy of the accumulation, times 1e-3."""
    volume, seen = pipeline.model.student.volume, []

    def recorded(_module: nn.Module, _inputs: Any, shown: Composited) -> None:
        seen[:] = [shown.features[:, -1]]

    def entropy() -> Tensor:
        share = seen[0].clamp(1e-4, 1.0 - 1e-4)
        return -1e-3 * (share * share.log() + (1.0 - share) * (1.0 - share).log()).mean()

    volume.register_forward_hook(recorded)
    _with_term(pipeline, entropy)


class LearnedDensity(Volume):
    """Proposals that go on learning what the volume stops, as those of mip-NeRF 360 (Barron et al. 2022 §3.1) do."""

    loss: Tensor

    def forward(self, fine: Chords, coarse: Chords, edges: Float[Tensor, "bins1"], contracted: bool) -> Composited:
        t, optical, points = _proposed(self, fine, coarse, edges, contracted)
        values = self.values(functional.relu(self.hidden(self.look_up(points))))
        optical = optical * values[..., 0].clamp(-STEEPEST, STEEPEST).exp()
        weights = (optical - optical.cumsum(-1)).exp() * (1.0 - (-optical).exp())
        block = fine.along.shape[1] // coarse.along.shape[1]
        self.loss = self._above(coarse, edges, contracted, t, weights.detach(), block)
        return _composited(weights, values[..., 1:], t, self)

    def _above(self, coarse: Chords, edges: Tensor, contracted: bool, t: Tensor, weights: Tensor, block: int) -> Tensor:
        """How far the coarse weights of bins lie below those of the points in them."""
        with torch.no_grad():
            self.proposals.density.clamp_(min=0.0)
        middles = self.proposals.places(coarse, (edges[1:] + edges[:-1]) / 2, contracted)
        views, bins = len(middles), len(edges) - 1
        density = self.proposals.density.expand(views, -1, -1, -1, -1)
        optical = functional.grid_sample(
            density, middles.reshape(views, -1, 1, 1, 3), padding_mode="border", align_corners=True
        ).reshape(middles.shape[:-1])
        passed = (-optical.cumsum(-1)).exp()
        bounds = torch.cat([torch.ones_like(passed[..., :1]), passed[..., :-1]], -1) - passed
        bin_of = (torch.searchsorted(edges, t.contiguous()) - 1).clamp(0, bins - 1)
        held = torch.zeros(*t.shape[:-1], bins).scatter_add_(-1, bin_of, weights)
        held = held.unflatten(1, (-1, block)).mean(2).unflatten(2, (-1, block)).mean(3)
        return ((held - bounds).clamp(min=0.0).square() / (bounds + 1e-2)).sum(-1).mean() + 0.01 * (
            (bounds - held).clamp(min=0.0).square().sum(-1).mean()
        )


def learned_density(pipeline: Any) -> None:
    """The coarse density, counted from the teacher, learns on."""
    volume = pipeline.model.student.volume
    volume.__class__ = LearnedDensity
    counted = volume.proposals.density
    del volume.proposals.density
    volume.proposals.density = nn.Parameter(counted.clone())
    volume.planes.append(volume.proposals.density)  # learns at the planes' rate
    look_up_levels = list(volume.planes)[:-1]
    volume.look_up = lambda points: _look_up(look_up_levels, points)
    _with_term(pipeline, lambda: volume.loss)


def deferred(pipeline: Any) -> None:
    """Density by planes of two channels at each point, and features looked up once, where the ray ends."""
    volume = pipeline.model.student.volume
    cells = volume.shape.volume_cells[0]
    density = nn.Parameter(0.1 * torch.randn(3, 2, cells, cells))
    features = list(volume.planes)
    volume.planes.append(density)
    of_density = nn.Linear(2, 1)
    volume.planes.extend(of_density.parameters())  # which learn at the planes' rate

    def forward(fine: Chords, coarse: Chords, edges: Tensor, contracted: bool) -> Composited:
        t, optical, points = _proposed(volume, fine, coarse, edges, contracted)
        factor = of_density(_look_up([density], points))[..., 0]
        optical = optical * factor.clamp(-STEEPEST, STEEPEST).exp()
        weights = (optical - optical.cumsum(-1)).exp() * (1.0 - (-optical).exp())
        end = (weights * t).sum(-1, keepdim=True) / weights.sum(-1, keepdim=True).clamp(min=SEEN)
        values = volume.values(
            functional.relu(volume.hidden(_look_up(features, volume.proposals.places(fine, end, contracted))))
        )
        return _composited(weights, values[..., 1:].expand(*weights.shape, -1), t, volume)

    volume.forward = forward


def calm(pipeline: Any) -> None:
    """Points stay in their places from the middle of distillation on, where packages have them, too."""
    proposals = pipeline.model.student.volume.proposals
    place, set_progress, settled = proposals.forward, pipeline.phase.set_progress, False

    def with_progress(progress: float) -> None:
        nonlocal settled
        settled = progress >= 0.5
        set_progress(progress)

    def placed(*rays: Any) -> tuple[Tensor, Tensor]:
        training = proposals.training
        proposals.training = training and not settled
        try:
            return place(*rays)
        finally:
            proposals.training = training

    pipeline.phase.set_progress, proposals.forward = with_progress, placed


def fading(pipeline: Any) -> None:
    """The volume's own picture counts less and less: by the end of distillation not at all."""
    losses, set_progress, left = pipeline.model.get_loss_dict, pipeline.phase.set_progress, 1.0

    def with_progress(progress: float) -> None:
        nonlocal left
        left = 1.0 - progress
        set_progress(progress)

    def weighted(*args: Any) -> dict[str, Tensor]:
        found = losses(*args)
        return {**found, "volume_rgb_loss": left * found["volume_rgb_loss"]}

    pipeline.phase.set_progress, pipeline.model.get_loss_dict = with_progress, weighted


def hash_grids(pipeline: Any) -> None:
    """Seven levels of hashed cells in place of the planes, 4 % larger (instant-ngp, Müller et al. 2022 §3)."""
    volume = pipeline.model.student.volume
    grids = HashEncoding(
        num_levels=7, min_res=16, max_res=256, log2_hashmap_size=15, features_per_level=4, implementation="torch"
    )
    grids.hash_table = nn.Parameter(0.1 * torch.randn_like(grids.hash_table))
    volume.planes = nn.ParameterList([grids.hash_table])
    volume.hidden = nn.Linear(grids.get_out_dim(), volume.hidden.out_features)
    volume.look_up = lambda points: grids(((points + 1.0) / 2.0).clamp(0.0, 1.0))


def light_slab(pipeline: Any) -> None:
    """Rays look up six planes of ray space by where they cross two planes, and nothing is composited; as large as the
    three (LightSpeed, Gupta et al. 2023 §3). For captures whose cameras look one way."""
    student, volume = pipeline.model.student, pipeline.model.student.volume
    batches = [pipeline.datamanager.pseudo_batch()[0] for _ in range(10)]
    seen = [(rays, student.chords(rays.origins, rays.directions)) for rays in batches]
    ahead = functional.normalize(torch.cat([rays.directions.reshape(-1, 3) for rays in batches]).mean(0), dim=0)
    right = functional.normalize(torch.linalg.cross(ahead, torch.eye(3)[int(ahead.abs().argmin())]), dim=0)
    sides = torch.stack([right, torch.linalg.cross(ahead, right)])

    def middle(chords: Chords) -> Tensor:
        t, _, _ = _proposed(volume, chords, chords, student.bin_edges(), student.is_contracted())
        return chords.start + t[..., t.shape[-1] // 2, None] * chords.along

    ends = torch.cat([(middle(chords) @ ahead).flatten() for _, chords in seen]).quantile(torch.tensor([0.02, 0.98]))

    def crossed(chords: Chords) -> Tensor:
        t = (ends - chords.start @ ahead[:, None]) / (chords.along @ ahead)[..., None].clamp(min=1e-3)
        points = chords.start[..., None, :] + t[..., None] * chords.along[..., None, :]
        return (points @ sides.T).flatten(-2)

    places = torch.cat([crossed(chords).reshape(-1, 4) for _, chords in seen])
    low, high = places.amin(0), places.amax(0)
    pairs, shape = torch.combinations(torch.arange(4)), volume.shape
    channels, cells = shape.volume_channels // 2, shape.volume_cells[0]
    volume.planes = nn.ParameterList([nn.Parameter(0.1 * torch.randn(len(pairs), channels, cells, cells))])
    volume.hidden = nn.Linear(len(pairs) * channels, shape.volume_hidden)

    def forward(fine: Chords, coarse: Chords, edges: Tensor, contracted: bool) -> Composited:
        t, _, _ = _proposed(volume, fine, coarse, edges, contracted)
        at = (2.0 * (crossed(fine) - low) / (high - low) - 1.0).reshape(-1, 4)[:, pairs].permute(1, 0, 2)[:, None]
        found = functional.grid_sample(volume.planes[0], at, padding_mode="border", align_corners=True)
        encoded = found[:, :, 0].flatten(0, 1).T.unflatten(0, fine.along.shape[:-1])
        values = volume.values(functional.relu(volume.hidden(encoded)))[..., None, :]
        return _composited(torch.ones_like(values[..., 0]), values[..., 1:], t.mean(-1, keepdim=True), volume)

    volume.forward = forward


@torch.no_grad()
def teachers_colours(pipeline: Any) -> None:
    """Planes that begin with the teacher's colours, and a map that shows them: what its views show where their rays
    end is shared out among the three planes by turns, each taking the mean of what the other two leave."""
    student, volume = pipeline.model.student, pipeline.model.student.volume
    count, (planes, *_) = volume.colours, volume.planes
    points, shown = [], []
    student.eval()
    for _ in range(40):
        rays, pictures, _ = pipeline.datamanager.pseudo_batch()
        fine = student.chords(rays.origins, finer_directions(rays.directions, volume.shape.volume_rays))
        coarse = student.chords(rays.origins, finer_directions(rays.directions, student.density_rays()))
        edges, contracted = student.bin_edges(), student.is_contracted()
        t, optical, places = _proposed(volume, fine, coarse, edges, contracted)
        ends = 1.0 - (-optical.sum(-1)).exp() > 0.9
        size = fine.along.shape[1:3]
        colours = functional.adaptive_avg_pool2d(pictures.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)
        points.append(places[..., places.shape[-2] // 2, :][ends])
        shown.append(colours[ends])
    student.train()
    at, colour = torch.cat(points), torch.cat(shown)
    cells = planes.shape[-1]
    x, y, z = ((at + 1.0) / 2.0 * (cells - 1)).round().long().clamp(0, cells - 1).unbind(-1)
    index = torch.stack([y * cells + x, z * cells + x, z * cells + y])
    means = (colour.mean(0) / 3.0).repeat(3, cells * cells, 1)
    for _ in range(5):
        for plane in range(3):
            others = sum(means[other][index[other]] for other in range(3) if other != plane)
            total, seen = torch.zeros_like(means[plane]), torch.ones(cells * cells, 1)
            total.index_add_(0, index[plane], colour - others - colour.mean(0) / 3.0)
            seen.index_add_(0, index[plane], torch.ones(len(at), 1))
            means[plane] = colour.mean(0) / 3.0 + total / seen
    planes[:, :count] = means.permute(0, 2, 1).reshape(3, count, cells, cells)
    hidden, values, identity = volume.hidden, volume.values, torch.eye(count)
    hidden.weight[:count], hidden.bias[:count] = 0.0, 0.0
    hidden.weight[:count, :count] = identity
    values.weight[:, :count], values.weight[1 : count + 1], values.bias[1 : count + 1] = 0.0, 0.0, 0.0
    values.weight[1 : count + 1, :count] = identity


@torch.no_grad()
def _proposed(
    volume: Volume, fine: Chords, coarse: Chords, edges: Tensor, contracted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Places along fine rays, the optical depth that each stands for, and points in units of the box."""
    block = fine.along.shape[1] // coarse.along.shape[1]
    t, optical = (
        x.repeat_interleave(block, 1).repeat_interleave(block, 2) for x in volume.proposals(coarse, edges, contracted)
    )
    return t, optical, volume.proposals.places(fine, t, contracted)


def _look_up(levels: list[Tensor], points: Tensor) -> Tensor:
    """Volume.look_up in other planes."""
    x, y, z = points.reshape(1, -1, 3).unbind(-1)
    places = torch.stack([torch.stack(pair, -1) for pair in ((x, y), (x, z), (y, z))])
    found = [functional.grid_sample(level, places, padding_mode="border", align_corners=True) for level in levels]
    return torch.cat(found, 1).sum(0)[:, 0].T.unflatten(0, points.shape[:-1])


def _composited(weights: Tensor, features: Tensor, t: Tensor, volume: Volume) -> Composited:
    accumulation = weights.sum(-1, keepdim=True)
    shown = (weights[..., None] * features).sum(-2)
    colours = shown[..., : volume.colours] + (1.0 - accumulation) * volume.background
    place = ((weights * t).sum(-1) / accumulation[..., 0].clamp(min=SEEN)).detach()
    return Composited(torch.cat([shown, accumulation], dim=-1).permute(0, 3, 1, 2), colours, place)


VOLUME_IDEAS = {
    idea.__name__: idea
    for idea in (
        total_variation, more_variation, sparse, learned_density, deferred, calm, fading, teachers_colours,
        hash_grids, light_slab,
    )
}  # fmt: skip
