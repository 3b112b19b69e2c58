"""A plain renderer of splats for devices that gsplat does not know: the published formulas, a tile at a time.

Projected as by EWA splatting (Zwicker et al. 2001), blended as by 3D Gaussian splatting (Kerbl et al. 2023), with the
constants of gsplat 1.4, whose pictures these are up to rounding. Autograd differentiates them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mobiler2l_ns.teacher.splat_cloud import SplatCloud, rotation_matrices

NEAR = 0.01
"""Centres nearer to the camera's plane than this are not seen, in units of the frame."""
DILATION = 0.3
"""Variance in square pixels that is added to each splat's picture, so that none falls between pixels."""
REACH = 3.0
"""Standard deviations up to which a splat is drawn, rounded up to pixels and on to whole tiles."""
LEAST_ALPHA = 1 / 255
MOST_ALPHA = 0.999
UNSEEN = 20.0
"""Half a squared distance in standard deviations where alpha is far below the least."""
LEAST_TRANSMITTANCE = 1e-4
"""What would leave less light than this, and all that is behind it, is not drawn."""
BEYOND = 0.3
"""How far outside the picture, in halves of its width, the projection is still linearised where a splat is."""
TILE = 16
"""Pixels a side."""
AT_ONCE = 512
"""Splats of a tile that are blended together."""


@dataclass(frozen=True)
class Footprints:
    """Pictures of the splats that a camera sees, the nearest first."""

    index: Int[Tensor, "n"]
    """Which splats they are."""
    centres: Float[Tensor, "n 2"]
    """x and y in pixels; the first pixel's centre is (0.5, 0.5)."""
    conics: Float[Tensor, "n 3"]
    """Inverse covariance: xx, xy, yy."""
    radii: Float[Tensor, "n"]
    """How far each is drawn, in whole pixels."""
    depths: Float[Tensor, "n"]
    """Along the optical axis."""
    compensation: Float[Tensor, "n"]
    """How much larger the dilation has made each: what its opacity is multiplied by in antialiased pictures."""

    def part(self, chosen: Tensor) -> Footprints:
        """Those of a mask or of indices."""
        fields = (self.index, self.centres, self.conics, self.radii, self.depths, self.compensation)
        return Footprints(*(values[chosen] for values in fields))


def project(
    cloud: SplatCloud,
    world_to_camera: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
    width: int,
    height: int,
) -> Footprints:
    """Splats as a pinhole camera sees them.

    Args:
        cloud: the splats.
        world_to_camera: with x to the right, y down and z ahead (OpenCV).
        intrinsics: focal lengths and principal point in pixels.
        width, height: of the picture in pixels.
    """
    rotation, shift = world_to_camera[:3, :3], world_to_camera[:3, 3]
    points = cloud.means @ rotation.T + shift
    index = torch.nonzero(points[:, 2] > NEAR)[:, 0]
    x, y, z = points[index].unbind(-1)
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]

    # The projection's derivative, taken no further outside the picture than where it is still of use.
    margin_x, margin_y = BEYOND * width / (2 * fx), BEYOND * height / (2 * fy)
    slope_x = (x / z).clamp(-cx / fx - margin_x, (width - cx) / fx + margin_x)
    slope_y = (y / z).clamp(-cy / fy - margin_y, (height - cy) / fy + margin_y)
    none = torch.zeros_like(z)
    jacobian = torch.stack([fx / z, none, -fx * slope_x / z, none, fy / z, -fy * slope_y / z], dim=-1)
    axes = rotation_matrices(cloud.quaternions[index]) * cloud.scales[index, None, :]
    spread = jacobian.reshape(-1, 2, 3) @ (rotation @ axes)
    xx, xy, yy = (spread[:, a] * spread[:, b] for a, b in ((0, 0), (0, 1), (1, 1)))
    xx, xy, yy = xx.sum(-1), xy.sum(-1), yy.sum(-1)
    sharp = xx * yy - xy * xy
    xx, yy = xx + DILATION, yy + DILATION
    determinant = xx * yy - xy * xy

    middle = (xx + yy) / 2
    widest = middle + (middle * middle - determinant).clamp(min=0.01).sqrt()
    found = Footprints(
        index,
        torch.stack([fx * x / z + cx, fy * y / z + cy], dim=-1),
        torch.stack([yy, -xy, xx], dim=-1) / determinant[:, None],
        (REACH * widest.sqrt()).ceil(),
        z,
        (sharp / determinant).clamp(min=0.0).sqrt(),
    )
    size = torch.tensor([width, height], device=z.device)
    seen = ((found.centres + found.radii[:, None] > 0) & (found.centres - found.radii[:, None] < size)).all(-1)
    found = found.part(torch.nonzero(seen & (determinant > 0))[:, 0])
    return found.part(torch.argsort(found.depths, stable=True))


def splats_of_tiles(footprints: Footprints, across: int, down: int) -> list[Int[Tensor, "_"]]:
    """For each tile, row by row, the footprints that may reach it, the nearest first."""
    limit = torch.tensor([across, down], device=footprints.radii.device)
    reach = footprints.radii[:, None]
    first = ((footprints.centres - reach) / TILE).floor().clamp(min=0).minimum(limit).long()
    last = ((footprints.centres + reach) / TILE).ceil().clamp(min=0).minimum(limit).long()
    columns, rows = (last - first).unbind(-1)
    counts = columns * rows
    owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    place = torch.arange(len(owner), device=owner.device) - (counts.cumsum(0) - counts)[owner]
    tile = (first[owner, 1] + place // columns[owner]) * across + first[owner, 0] + place % columns[owner]
    order = torch.argsort(tile, stable=True)
    return list(owner[order].split(torch.bincount(tile, minlength=across * down).tolist()))


def blend(
    pixels: Float[Tensor, "p 2"],
    centres: Float[Tensor, "n 2"],
    conics: Float[Tensor, "n 3"],
    opacities: Float[Tensor, "n"],
    values: Float[Tensor, "n c"],
) -> Float[Tensor, "p c"]:
    """Sums of values, weighted by what light from each footprint reaches a pixel.

    Args:
        pixels: x and y.
        centres, conics, opacities: of footprints, the nearest first.
        values: what they carry.
    """
    sums = values.new_zeros(len(pixels), values.shape[1])
    left = values.new_ones(len(pixels), 1)
    for begin in range(0, len(centres), AT_ONCE):
        some = slice(begin, begin + AT_ONCE)
        dx, dy = (pixels[:, None] - centres[some]).unbind(-1)
        xx, xy, yy = conics[some].unbind(-1)
        falloff = 0.5 * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
        # Far out it would be smaller than floats are normally, which takes a CPU ten times as long.
        alpha = (opacities[some] * torch.exp(-falloff.clamp(max=UNSEEN))).clamp(max=MOST_ALPHA)
        alpha = torch.where((alpha >= LEAST_ALPHA) & (falloff >= 0), alpha, 0.0)
        after = left * torch.cumprod(1.0 - alpha, dim=1)
        before = torch.cat([left, after[:, :-1]], dim=1)
        sums += torch.where(after > LEAST_TRANSMITTANCE, alpha * before, 0.0) @ values[some]
        left = after[:, -1:]
        if float(left.max()) <= LEAST_TRANSMITTANCE:
            break
    return sums


def render(
    cloud: SplatCloud,
    world_to_camera: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
    width: int,
    height: int,
    antialiased: bool = False,
) -> tuple[Float[Tensor, "height width 3"], Float[Tensor, "height width 1"], Float[Tensor, "height width 1"]]:
    """Picture of splats.

    Args:
        cloud, world_to_camera, intrinsics, width, height: see ``project``.
        antialiased: whether splats keep their share of light when they are dilated, as those want that were trained so.

    Returns:
        Colour over black, not limited to 1; mean depth along the optical axis of what is seen, 0 where nothing is; and
        accumulation in 0..1.
    """
    across, down = -(-width // TILE), -(-height // TILE)
    seen = project(cloud, world_to_camera, intrinsics, width, height)
    rotation, shift = world_to_camera[:3, :3], world_to_camera[:3, 3]
    visible = cloud.part(seen.index)
    opacities = visible.opacities * seen.compensation if antialiased else visible.opacities
    depths = seen.depths[:, None]
    values = torch.cat([visible.colours(-rotation.T @ shift), depths, torch.ones_like(depths)], dim=-1)
    picture = values.new_zeros(height, width, 5)
    for tile, chosen in enumerate(splats_of_tiles(seen, across, down)):
        if len(chosen) == 0:
            continue
        top, left = tile // across * TILE, tile % across * TILE
        part = picture[top : top + TILE, left : left + TILE]
        y, x = (torch.arange(count, device=part.device) + 0.5 for count in part.shape[:2])
        pixels = torch.stack([x + left + 0 * y[:, None], y[:, None] + top + 0 * x], dim=-1).reshape(-1, 2)
        sums = blend(pixels, seen.centres[chosen], seen.conics[chosen], opacities[chosen], values[chosen])
        part.copy_(sums.reshape(part.shape))
    rgb, depth, accumulation = picture.split([3, 1, 1], dim=-1)
    return rgb, depth / accumulation.clamp(min=1e-10), accumulation
