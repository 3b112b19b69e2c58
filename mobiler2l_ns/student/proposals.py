"""Where along a ray the volume is looked up: where the teacher's pseudo views end.

A coarse grid holds, cell by cell, how much of the light that reaches it the teacher's scene stops. It is counted once
on pseudo views with their depth, as occupancy maps of range sensors are (Moravec and Elfes 1985), and stays as it is.
Points are drawn from what it stops along a ray, as in the fine pass of NeRF (Mildenhall et al. 2020 §5.2) and the
proposals of mip-NeRF 360 (Barron et al. 2022 §3.1), without a network that would have to learn it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mobiler2l_ns.geometry.chords import Chords
from mobiler2l_ns.student.config import VolumeShape

FAINT = 0.02
"""Weight, of a ray that is stopped with 1, by which points are spread evenly: the grid may have missed something."""
SOLID = 0.98
"""Most of the light that proposals let be stopped: what is learned of a ray's last point counts, too."""
FOG = 2.0
"""Optical depth of a whole ray before anything is counted: of a teacher without depth, points are spread evenly."""
LEAST_ENDS = 100
"""Fewer rays that end on something say nothing of a scene."""
OUTLIERS = 0.001
"""Share of the rays' ends, on each side of an axis, that may lie outside of the box."""
RAYS_AT_ONCE = 1 << 15


class Proposals(nn.Module):
    """A coarse grid of optical depths.

    Args:
        shape: of the grid.

    Buffers:
        box: (2, 3) least and largest coordinates that the grid spans, in those that points are sampled in.
        density: (1, 1, z, y, x) optical depth of one bin of a ray; an even fog until it is counted, and then empty in
            the outermost cells.
    """

    box: Tensor
    density: Tensor

    def __init__(self, shape: VolumeShape) -> None:
        super().__init__()
        self.shape = shape
        cells = shape.density_cells
        self.register_buffer("box", torch.tensor([[-1.0] * 3, [1.0] * 3]))
        fog = torch.full((1, 1, cells, cells, cells), FOG / shape.density_bins)
        self.register_buffer("density", fog)

    def places(
        self, rays: Chords, t: Float[Tensor, "k"] | Float[Tensor, "*rays k"], contracted: bool
    ) -> Float[Tensor, "*rays k 3"]:
        """Points of rays in units of the box, -1..1."""
        if not contracted:
            return rays.within(self.box).at(t, contracted=False)  # a ray has many points
        low, high = self.box
        return (rays.at(t, contracted=True) - low) * (2.0 / (high - low)) - 1.0

    def forward(
        self, rays: Chords, edges: Float[Tensor, "bins1"], contracted: bool
    ) -> tuple[Float[Tensor, "n h w k"], Float[Tensor, "n h w k"]]:
        """Points of rays, jittered in training.

        Args:
            rays: (n, h, w, 3).
            edges: of the bins, increasing.
            contracted: whether points go through the scene contraction.

        Returns:
            Their places t, increasing, between which lie equal shares of the stopped light, and the optical depth each
            stands for: composited with these, all points weigh the same.
        """
        count, steps = self.shape.volume_points, edges.diff()
        places = self.places(rays, (edges[1:] + edges[:-1]) / 2, contracted)
        views = len(places)
        optical = functional.grid_sample(
            self.density.expand(views, -1, -1, -1, -1),  # views are shared out among a CPU's threads
            places.reshape(views, -1, 1, 1, 3),
            mode="bilinear",
            padding_mode="border",
            align_corners=True,
        ).reshape(places.shape[:-1])
        passed = (-optical.cumsum(-1)).exp()
        stopped = 1.0 - passed[..., -1:]
        before = torch.cat([torch.ones_like(stopped), passed[..., :-1]], dim=-1)
        weights = (before - passed + FAINT / len(steps)) / (stopped + FAINT)
        starts = weights.cumsum(-1) - weights
        quantile = (torch.arange(count, device=edges.device) + 0.5) / count
        if self.training:
            shift = torch.rand(*optical.shape[:-1], count, device=edges.device) - 0.5
            quantile = quantile + shift / count
        else:
            quantile = quantile.expand(*optical.shape[:-1], count)
        # Of each bin all lies before the point, or nothing, or in one bin a part.
        parts = (quantile[..., :, None] - starts[..., None, :]) / weights[..., None, :]
        t = edges[0] + parts.clamp(0.0, 1.0) @ steps
        each = stopped.clamp(max=SOLID) / count
        index = torch.arange(count, device=edges.device)
        return t, ((1.0 - index * each) / (1.0 - (index + 1) * each)).log()

    @torch.no_grad()
    def count(
        self,
        rays: Chords,
        t: Float[Tensor, "r"],
        accumulation: Float[Tensor, "r"],
        edges: Float[Tensor, "bins1"],
        contracted: bool,
        keep_box: bool = False,
    ) -> None:
        """Set the box and the grid by rays whose ends are known; where too few end on something, all stays as it is.

        Args:
            rays: (r, 3).
            t: where each ends.
            accumulation: how much of it ends there, 0..1.
            edges, contracted: as for ``forward``.
            keep_box: set the grid alone, in the box that is there.
        """
        cells, bins = self.shape.density_cells, len(edges) - 1
        ended = (accumulation > 0.5) & (t > edges[0]) & (t < edges[-1])
        if int(ended.sum()) < LEAST_ENDS:
            return
        if not keep_box:
            self._enclose(rays.part(ended).at(t[ended, None], contracted)[:, 0])
        stopped, reached = torch.zeros(2, cells**3, device=t.device)
        bin_index = torch.arange(bins, device=t.device)
        for part in torch.arange(len(t), device=t.device).split(RAYS_AT_ONCE):
            places = self.places(rays.part(part), (edges[1:] + edges[:-1]) / 2, contracted)
            inside = (places.abs() <= 1.0).all(-1)
            x, y, z = ((places + 1.0) / 2.0 * (cells - 1)).round().long().unbind(-1)
            cell = ((z * cells + y) * cells + x)[inside]
            last = torch.searchsorted(edges, t[part])[:, None] - 1
            ending = accumulation[part, None]
            stopped += torch.bincount(cell, torch.where(bin_index == last, ending, 0.0)[inside], cells**3)
            reached += torch.bincount(cell, torch.where(bin_index <= last, 1.0, 1.0 - ending)[inside], cells**3)
        share = (stopped / reached.clamp(min=1e-3)).clamp(max=0.99).reshape(self.density.shape)
        inner = functional.pad(torch.ones_like(share)[..., 2:, 2:, 2:], [1] * 6)  # beyond the box there is nothing
        self.density.copy_(-(1.0 - share * inner).log())

    def _enclose(self, ends: Float[Tensor, "e 3"]) -> None:
        ends = ends[:: max(1, len(ends) // 100_000)]
        low, high = ends.quantile(torch.tensor([OUTLIERS, 1.0 - OUTLIERS]).to(ends), dim=0)
        extent = high - low
        # Along an axis on which the scene is flat, too, several bins must lie in the box.
        margin = (0.05 * extent).clamp(min=4.0 / self.shape.density_cells * float(extent.max()))
        self.box.copy_(torch.stack([low - margin, high + margin]))
