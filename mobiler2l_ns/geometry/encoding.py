"""From rays to the network's input: points along each ray, then their positional encoding.

All functions keep the layout of the official network: points are ordered depth-major (x, y, z of the first depth, then
of the second, ...) and each scalar becomes ``[sin(2^0 p) .. sin(2^(L-1) p), cos(2^0 p) .. cos(2^(L-1) p), p]``.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Jitter = Literal["none", "batch", "ray"]
DepthSpacing = Literal["linear", "disparity"]

SHORTEST_CHORD = 0.15
"""Least half length of a ray's piece inside the scene's sphere, in radii."""


def encoding_channels(num_points: int, num_frequencies: int) -> int:
    """Channels of the encoded input: 3 coordinates of K points, each with L sines, L cosines and itself."""
    return 3 * num_points * (2 * num_frequencies + 1)


def sample_depths(near: Tensor, far: Tensor, num_points: int, spacing: DepthSpacing) -> Float[Tensor, "k"]:
    """Depths of the K points of every ray (paper §3.2), in scene units along the optical axis.

    Args:
        near: depth of the first point, a scalar tensor > 0.
        far: depth of the last point, a scalar tensor.
        spacing: ``linear`` in depth, or linear in 1 / depth for scenes that reach far behind their subject.
    """
    t = torch.linspace(0.0, 1.0, num_points, device=near.device, dtype=near.dtype)
    if spacing == "disparity":
        return 1.0 / ((1.0 - t) / near + t / far)
    return near * (1.0 - t) + far * t


def jitter_depths(
    depths: Float[Tensor, "k"], views: int, height: int, width: int, jitter: Jitter
) -> Float[Tensor, "k"] | Float[Tensor, "n h w k"]:
    """Move each depth to a uniform place between the midpoints to its neighbours (stratified sampling).

    Args:
        depths: increasing depths, or t_values along a chord.
        views, height, width: size of the batch of low-resolution rays.
        jitter: ``none`` returns ``depths``; ``batch`` draws one set for all rays; ``ray`` draws one set a ray.
    """
    if jitter == "none" or depths.numel() < 2:
        return depths
    middle = 0.5 * (depths[1:] + depths[:-1])
    lower = torch.cat([depths[:1], middle])
    upper = torch.cat([middle, depths[-1:]])
    shape = depths.shape if jitter == "batch" else (views, height, width, depths.shape[0])
    return lower + (upper - lower) * torch.rand(shape, device=depths.device, dtype=depths.dtype)


def points_on_rays(
    origins: Float[Tensor, "*#rays 3"],
    directions: Float[Tensor, "*rays 3"],
    depths: Float[Tensor, "k"] | Float[Tensor, "*rays k"],
) -> Float[Tensor, "*rays k 3"]:
    """Points ``origin + depth * direction``; directions have length 1 *along the optical axis*, so depth is z-depth."""
    return origins[..., None, :] + depths[..., :, None] * directions[..., None, :]


def chords_in_sphere(
    origins: Float[Tensor, "*#rays 3"],
    directions: Float[Tensor, "*rays 3"],
    centre: Float[Tensor, "3"],
    radius: Float[Tensor, ""],
) -> tuple[Float[Tensor, "*rays 3"], Float[Tensor, "*rays 3"]]:
    """The chord that a sphere cuts out of each ray: its middle and half of it, in radii from the sphere's centre.

    Points of a ray then lie where the scene is, from whichever distance it is seen: ``middle + t * half``, with t from
    -1 where the ray enters to 1 where it leaves. Rays that pass by the sphere, or graze it, get a chord of half length
    ``SHORTEST_CHORD`` around their point nearest to the centre.

    Args:
        origins, directions: rays in world units, directions of any length.
        centre, radius: the sphere, world units.
    """
    start, along = (origins - centre) / radius, directions / radius
    squared = (along * along).sum(-1, keepdim=True)
    nearest = start - ((start * along).sum(-1, keepdim=True) / squared) * along
    inside = (1.0 - (nearest * nearest).sum(-1, keepdim=True)).clamp(min=SHORTEST_CHORD**2)
    return nearest, along * (inside / squared).sqrt()


def points_in_sphere(
    origins: Float[Tensor, "*#rays 3"],
    directions: Float[Tensor, "*rays 3"],
    centre: Float[Tensor, "3"],
    radius: Float[Tensor, ""],
    t_values: Float[Tensor, "k"] | Float[Tensor, "*rays k"],
) -> Float[Tensor, "*rays k 3"]:
    """Points on the chords of ``chords_in_sphere``, t_values from -1 to 1."""
    return points_on_rays(*chords_in_sphere(origins, directions, centre, radius), t_values)


def contract(points: Float[Tensor, "*any 3"]) -> Float[Tensor, "*any 3"]:
    """Scene contraction of unbounded captures into the cube [-2, 2]^3, nerfstudio's L-infinity form of MERF / mip-NeRF
    360 eq. 10. Written without branches, so that exported graphs need no ``where``."""
    size = points.abs().amax(dim=-1, keepdim=True).clamp(min=1.0)
    return points * ((2.0 - 1.0 / size) / size)


def encode(points: Float[Tensor, "n h w channels"], num_frequencies: int) -> Float[Tensor, "n h w encoded"]:
    """Positional encoding with frequencies 1, 2, 4, ... (no pi), ``2L + 1`` channels a scalar."""
    frequencies = 2.0 ** torch.arange(num_frequencies, device=points.device, dtype=points.dtype)
    angles = points[..., None] * frequencies
    return torch.cat([angles.sin(), angles.cos(), points[..., None]], dim=-1).flatten(-2)
