"""How far the scene reaches, measured on the teacher's pseudo views: depths along the optical axis, and a sphere."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mobiler2l_ns.geometry.picture import PictureGeometry
from mobiler2l_ns.geometry.rays import pinhole_rays

POINTS_PER_VIEW = 4096
RAYS_PER_VIEW = 8192
"""Of those, solid or not, that are remembered with their ends."""
LEAST_POINTS = 100
"""Views that show less of the scene say nothing of its depth."""
SOLID = 0.5
"""Accumulation of a ray that ends on something."""
FAINTEST = 0.01
"""Accumulation of a ray that meets hardly anything."""
VIEWS = 256
"""As many views are measured; more change nothing."""


class SceneExtent:
    """Collects surface points and their depths view by view.

    Where the teacher is solid counts. If it is so in no view, as after very few steps, what is there counts most where
    there is most of it.
    """

    def __init__(self) -> None:
        self._solid: list[tuple[tuple[float, float], Tensor]] = []
        self._faint: list[tuple[tuple[float, float], Tensor]] = []
        self.has_depth = False
        self._rays: list[tuple[Tensor, ...]] = []

    def rays(self) -> tuple[Float[Tensor, "r 3"], Float[Tensor, "r 3"], Float[Tensor, "r"], Float[Tensor, "r"]] | None:
        """A part of all rays: origins, directions of length 1 along the optical axis, z-depths, and accumulations; None
        without depth."""
        if not self._rays:
            return None
        origins, directions, depths, accumulations = (torch.cat(parts) for parts in zip(*self._rays, strict=True))
        return origins, directions, depths, accumulations

    @property
    def measured(self) -> bool:
        """Whether any view has told something."""
        return bool(self._solid or self._faint)

    def state(self) -> dict[str, Any]:
        """All that has been collected, to be kept."""
        return dict(vars(self))

    def take(self, state: dict[str, Any] | None) -> None:
        """What ``state`` gave; None: nothing."""
        vars(self).update(state or {})

    def add(self, pose: Float[Tensor, "3 4"], view: PictureGeometry, outputs: dict[str, Tensor]) -> None:
        """Measure one pseudo view.

        Args:
            pose: its camera-to-world matrix.
            view: its geometry.
            outputs: the teacher's ``depth`` along each ray and, if it has it, ``accumulation``, both (H, W, 1) of the
                covered size. Pixels the teacher sees through do not count.
        """
        if "depth" not in outputs or len(self._solid) >= VIEWS:
            return
        self.has_depth = True
        origin, directions = pinhole_rays(pose[None].cpu(), view.intrinsics, *view.covered, 1)
        depth = outputs["depth"].cpu().float() / directions[0].norm(dim=-1, keepdim=True)
        accumulation = outputs["accumulation"].cpu().float() if "accumulation" in outputs else torch.ones_like(depth)
        if len(self._rays) < VIEWS:
            chosen = torch.randperm(depth.numel())[:RAYS_PER_VIEW]
            ways = directions[0].reshape(-1, 3)[chosen]
            self._rays.append(
                (origin[0, 0].expand_as(ways), ways, depth.reshape(-1)[chosen], accumulation.reshape(-1)[chosen])
            )
        views, least = self._solid, SOLID
        if int((accumulation > least).sum()) < LEAST_POINTS:
            views, least = self._faint, max(FAINTEST, SOLID * float(accumulation.max()))
        seen = accumulation > least
        count = int(seen.sum())
        if count < LEAST_POINTS or len(views) >= VIEWS:
            return
        every = max(1, count // POINTS_PER_VIEW)
        depth, directions = depth[seen][::every], directions[0][seen[..., 0]][::every]
        near, far = depth.quantile(torch.tensor([0.005, 0.995])).tolist()
        views.append(((near, far), (origin[0, 0] + depth[:, None] * directions)[:: max(1, VIEWS // 64)]))

    def planes(self) -> tuple[float, float] | None:
        """Near and far z-depth with a margin; None if the teacher gave no depth."""
        if not self.measured:
            return None
        values = torch.tensor([quantiles for quantiles, _ in self._solid or self._faint])
        return float(values[:, 0].quantile(0.02)) * 0.95, float(values[:, 1].quantile(0.98)) * 1.05

    def sphere(self) -> tuple[Float[Tensor, "3"], Float[Tensor, ""]] | None:
        """Centre and radius of a sphere that holds all but stray points, with a margin; None without depth."""
        if not self.measured:
            return None
        points = torch.cat([points for _, points in self._solid or self._faint])
        points = points[:: max(1, len(points) // 100_000)]
        low, high = points.quantile(torch.tensor([0.005, 0.995]), dim=0)
        centre = (low + high) / 2
        return centre, (points - centre).norm(dim=-1).quantile(0.995) * 1.05
