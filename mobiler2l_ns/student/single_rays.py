"""What the student's volume shows along single rays: nerfstudio's point clouds and meshes are made of them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor
from torch.nn import functional

from mobiler2l_ns.geometry.chords import Chords
from mobiler2l_ns.student.renderer import NO_DEPTH, SOLID, Student

LEAST = 1e-6
"""Least accumulation, or length, that something is divided by."""


@torch.no_grad()
def look_along(student: Student, rays: RayBundle, background: Float[Tensor, "3"]) -> dict[str, Tensor]:
    """Composite the volume of a student along rays, without its network.

    Each ray has points of its own, where the student's pictures share them within a block of rays. Colours are the
    volume's first composited features, which training holds to the means of the picture over the rays' blocks
    (``losses.training_losses``): those of the picture, as blurred as the blocks are large.

    Args:
        student: with a volume.
        rays: (r,) of any directions. ``nears`` and ``fars``, where it has them, bound what is seen, in lengths of the
            directions. Without a sphere of the scene, points lie at depths along an optical axis: those of the
            camera, where ``metadata`` has ``directions_norm``, otherwise the ray itself.
        background: colour in 0..1 behind a student's alpha.

    Returns:
        All (r, channels): ``rgb`` in 0..1; ``rgba``, colour without the background and accumulation; ``accumulation``;
        ``depth`` in lengths of the directions, ``NO_DEPTH`` where nothing is; ``normals`` of what is seen, turned
        towards where the ray comes from, from -1..1 to 0..1 as nerfstudio's exporters take them.
    """
    volume = student.volume
    assert volume is not None
    directions = rays.directions
    side, up = _across(directions)
    # As far from each other as the rays that the volume has been trained with.
    fx, _, _, _ = student.capture.focals_and_centre()
    step = student.config.stride / student.config.volume_rays / fx
    length = directions.norm(dim=-1, keepdim=True)
    fan = torch.stack([directions, directions + step * length * side, directions + step * length * up])[None]
    chords = _chords(student, rays, fan)
    training = student.training
    student.eval()
    try:
        composited = volume(chords, chords, student.bin_edges(), student.is_contracted())
    finally:
        student.train(training)
    points = student.in_world(chords, composited.t)[0]
    solid = composited.features[0, -1] > SOLID  # (3, r)
    features, seen = composited.features[0, :, 0].T, composited.features[0, -1, 0][:, None]
    rgb = composited.colours[0, 0]
    if student.config.alpha:
        own, accumulation = rgb[:, :3], rgb[:, 3:].clamp(0.0, 1.0)
        rgb = own + (1.0 - accumulation) * background.to(rgb)
    else:
        own, accumulation = features[:, :3], seen
    own = (own / accumulation.clamp(min=LEAST)).clamp(0.0, 1.0)
    depth = ((points[0] - rays.origins) * directions).sum(-1, keepdim=True) / length.square()
    normals = torch.linalg.cross(points[1] - points[0], points[2] - points[0])
    size = normals.norm(dim=-1, keepdim=True)
    flat = solid.all(0)[:, None] & (size > LEAST * LEAST)
    normals = torch.where(flat, normals / size.clamp(min=LEAST * LEAST), -directions / length)
    return {
        "rgb": rgb.clamp(0.0, 1.0),
        "rgba": torch.cat([own, accumulation], dim=-1),
        "accumulation": accumulation,
        "depth": torch.where(solid[0, :, None], depth, NO_DEPTH),
        "normals": (normals + 1.0) / 2.0,
    }


def _across(directions: Float[Tensor, "r 3"]) -> tuple[Float[Tensor, "r 3"], Float[Tensor, "r 3"]]:
    """Two unit vectors that are perpendicular to each direction and to each other; their cross product points back."""
    axes = functional.one_hot(directions.abs().argmin(-1), 3).to(directions)
    side = functional.normalize(torch.linalg.cross(directions, axes), dim=-1)
    return side, functional.normalize(torch.linalg.cross(side, directions), dim=-1)


def _chords(student: Student, rays: RayBundle, directions: Float[Tensor, "1 3 r 3"]) -> Chords:
    """Where points of the rays' origins and of these directions lie."""
    origins = rays.origins.expand_as(directions)
    norm = (rays.metadata or {}).get("directions_norm")
    chords = student.chords(origins, directions if norm is None else directions * norm)
    if rays.nears is None or rays.fars is None:
        return chords
    edges = student.bin_edges()
    begin, end = edges[0], edges[-1]
    squared = directions.square().sum(-1)
    low, high = (
        ((student.in_world(chords, t.expand(squared.shape)) - origins) * directions).sum(-1) / squared
        for t in (begin, end)
    )
    low = torch.maximum(low, rays.nears[:, 0])
    reach = (torch.minimum(high, rays.fars[:, 0]) - low).clamp(min=LEAST) / (end - begin)
    start = origins + (low - begin * reach)[..., None] * directions
    along = reach[..., None] * directions
    if student.in_sphere():
        centre, radius = student.capture.scene_centre, student.capture.scene_radius
        return Chords((start - centre) / radius, along / radius)
    return Chords(start, along)
