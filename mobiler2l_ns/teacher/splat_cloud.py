"""Gaussian splats as tensors: what they are, their colour seen from a direction, and how they move to another frame."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

COLOUR_AT_ZERO = 0.5
"""Colour of a splat all of whose coefficients are 0."""
SH_DC = 0.28209479177387814
"""The spherical harmonic of degree 0, sqrt(1 / 4 pi)."""
MOST_DEGREE = 3


def sh_basis(directions: Float[Tensor, "*n 3"], degree: int) -> Float[Tensor, "*n bases"]:
    """Real spherical harmonics with the order and the signs that splats are stored in, those of 3DGS and gsplat: y, z,
    x for degree 1, Condon and Shortley's phase included.

    Args:
        directions: of length 1.
        degree: 0..3; there are (degree + 1)² bases.
    """
    x, y, z = directions.unbind(-1)
    bases = [torch.full_like(x, SH_DC)]
    if degree > 0:
        c = 0.4886025119029199  # sqrt(3 / 4 pi)
        bases += [-c * y, c * z, -c * x]
    if degree > 1:
        c = 1.0925484305920792  # sqrt(15 / 4 pi)
        bases += [
            c * x * y,
            -c * y * z,
            0.31539156525252005 * (3 * z * z - 1),  # sqrt(5 / 16 pi)
            -c * x * z,
            c / 2 * (x * x - y * y),
        ]
    if degree > 2:
        a = 0.5900435899266435  # sqrt(35 / 32 pi)
        b = 2.890611442640554  # sqrt(105 / 4 pi)
        c = 0.4570457994644658  # sqrt(21 / 32 pi)
        bases += [
            -a * y * (3 * x * x - y * y),
            b * x * y * z,
            -c * y * (5 * z * z - 1),
            0.3731763325901154 * z * (5 * z * z - 3),  # sqrt(7 / 16 pi)
            -c * x * (5 * z * z - 1),
            b / 2 * z * (x * x - y * y),
            -a * x * (x * x - 3 * y * y),
        ]
    return torch.stack(bases, dim=-1)


def sh_rotation(rotation: Float[Tensor, "3 3"], degree: int) -> Float[Tensor, "bases bases"]:
    """What turns coefficients along with the world: colour seen along ``rotation @ d`` is then what was seen along
    ``d``. A reflection is as good as a rotation. Found, exactly, from values in more directions than there are bases;
    degrees do not mix.

    Args:
        rotation: orthogonal, in float64.
        degree: 0..3.
    """
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(64, 3, generator=generator, dtype=torch.float64), dim=-1)
    after, before = sh_basis(directions, degree), sh_basis(directions @ rotation, degree)
    turned = torch.zeros((degree + 1) ** 2, (degree + 1) ** 2, dtype=torch.float64)
    for band in range(degree + 1):
        part = slice(band**2, (band + 1) ** 2)
        turned[part, part] = torch.linalg.lstsq(after[:, part], before[:, part]).solution
    return turned


def quaternion_product(a: Float[Tensor, "*n 4"], b: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """Of quaternions w, x, y, z: the rotation ``b``, then ``a``."""
    (aw, ax, ay, az), (bw, bx, by, bz) = a.unbind(-1), b.unbind(-1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        dim=-1,
    )


def rotation_matrices(quaternions: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 3 3"]:
    """Of quaternions w, x, y, z of length 1."""
    w, x, y, z = quaternions.unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


@dataclass(frozen=True)
class SplatCloud:
    """Gaussians, each with a colour that depends on the direction it is seen along."""

    means: Float[Tensor, "n 3"]
    """Centres, in units of the frame."""
    quaternions: Float[Tensor, "n 4"]
    """Rotations of the axes, w, x, y, z, of length 1."""
    scales: Float[Tensor, "n 3"]
    """Standard deviations along the axes, in units of the frame."""
    opacities: Float[Tensor, "n"]
    """Opacity of the centres, in 0..1."""
    sh: Float[Tensor, "n bases 3"]
    """Coefficients of red, green and blue, see ``sh_basis``; the colour is their sum and ``COLOUR_AT_ZERO``."""

    def __len__(self) -> int:
        return len(self.means)

    @property
    def degree(self) -> int:
        """Of the spherical harmonics."""
        return round(self.sh.shape[1] ** 0.5) - 1

    def part(self, chosen: Tensor) -> SplatCloud:
        """The splats of a mask or of indices."""
        fields = (self.means, self.quaternions, self.scales, self.opacities, self.sh)
        return SplatCloud(*(values[chosen] for values in fields))

    def colours(self, eye: Float[Tensor, "3"]) -> Float[Tensor, "n 3"]:
        """RGB as seen from a point, from 0 up."""
        directions = torch.nn.functional.normalize(self.means - eye, dim=-1)
        bases = sh_basis(directions, self.degree)
        return (torch.einsum("nk,nkc->nc", bases, self.sh) + COLOUR_AT_ZERO).clamp(min=0.0)

    def moved(self, transform: Float[Tensor, "rows 4"], scale: float = 1.0) -> SplatCloud:
        """The same splats in another frame, where they look the same to whoever moves along.

        Args:
            transform: 3 or 4 rows, applied to points first: a rotation (or reflection), perhaps a scale, and a shift.
            scale: of points after that, as nerfstudio's dataparsers have it.
        """
        from viser.transforms import SO3

        transform = transform.to("cpu", torch.float64)
        matrix = transform[:3, :3]
        determinant = torch.linalg.det(matrix)
        own_scale = determinant.abs() ** (1 / 3)
        orthogonal = matrix / own_scale
        # A Gaussian is its own mirror image: a reflection leaves it as the rotation does that is its opposite.
        rotation = orthogonal * determinant.sign()
        quaternion = torch.from_numpy(SO3.from_matrix(rotation.numpy()).wxyz).to(self.means)
        points = (self.means.double() @ matrix.T.to(self.means.device) + transform[:3, 3].to(self.means.device)) * scale
        turned = sh_rotation(orthogonal, self.degree).to(self.sh)
        return replace(
            self,
            means=points.to(self.means),
            quaternions=quaternion_product(quaternion.expand_as(self.quaternions), self.quaternions),
            scales=self.scales * (float(own_scale) * scale),
            sh=torch.einsum("jk,nkc->njc", turned, self.sh),
        )
