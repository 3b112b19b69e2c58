"""Where the student's pseudo views are taken from, against the capture's own cameras."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mobiler2l_ns.pool.datamanager import MobileR2LDataManager
from mobiler2l_ns.report import charts

MOST_CAMERAS = 300
"""Of each kind on a map: more would hide each other."""
MAPS = {"seen from above": (0, 1), "seen from the side": (0, 2)}
"""Title -> the world's coordinates to the right and up."""


@dataclass
class Coverage:
    """Camera-to-world matrices of each kind, in the world frame of the run."""

    pseudo: Float[Tensor, "n 3 4"]
    photos: Float[Tensor, "n 3 4"]
    test: Float[Tensor, "n 3 4"]
    sampler: str
    """Which pose sampler, and why."""
    pool: str
    """What the pseudo views are: those in the pool, or newly drawn ones."""


def coverage_of(datamanager: MobileR2LDataManager, test: Float[Tensor, "n 3 4"]) -> Coverage:
    """The pool's poses, or where there is no pool (the run was opened, not trained) newly drawn ones."""
    pool = datamanager.pool
    if pool is not None and len(pool) > 0:
        poses, what = pool.poses[: len(pool)].cpu(), f"{len(pool)} pseudo views in the pool at the end"
    else:
        poses, what = datamanager.sample_poses(MOST_CAMERAS), f"{MOST_CAMERAS} poses drawn as for pseudo views"
    return Coverage(poses.float(), datamanager.train_poses.float(), test, datamanager.sampler_reason, what)


def _cameras(name: str, poses: Float[Tensor, "n 3 4"], plane: tuple[int, int], style: str) -> charts.Cameras:
    if len(poses) > MOST_CAMERAS:
        poses = poses[torch.linspace(0, len(poses) - 1, MOST_CAMERAS).round().long()]
    across = list(plane)
    centres, axes = poses[:, across, 3].tolist(), (-poses[:, across, 2]).tolist()
    return charts.Cameras(name, [(a, b) for a, b in centres], [(a, b) for a, b in axes], style)


def draw(coverage: Coverage) -> str:
    """Two maps and their legend, as HTML."""
    kinds = {"pseudo": coverage.pseudo, "photos": coverage.photos, "test": coverage.test}
    names = {"pseudo": "pseudo views", "photos": "photos", "test": "test views"}
    maps = []
    for title, plane in MAPS.items():
        groups = [_cameras(names[kind], poses, plane, kind) for kind, poses in kinds.items() if len(poses) > 0]
        axes = ("xyz"[plane[0]], "xyz"[plane[1]])
        drawn = charts.camera_map(f"Cameras {title}", groups, axes, 420, "map")
        maps.append(f"<figure>{drawn}<figcaption>{title}</figcaption></figure>")
    keys = {f"key-{kind}": f"{len(poses)} {names[kind]}" for kind, poses in kinds.items() if len(poses) > 0}
    return f'<div class="maps">{"".join(maps)}</div>{charts.legend(keys)}'
