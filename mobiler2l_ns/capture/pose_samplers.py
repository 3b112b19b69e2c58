"""Poses for pseudo views, drawn from where the capture's own cameras stand (paper §3.4 uses one fixed sphere instead).

A sampler is built from the training cameras and draws camera-to-world matrices in the same world frame (nerfstudio's:
z up, OpenGL camera axes). ``make_pose_sampler`` picks one and says why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import viser.transforms as vtf
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import normalize

from mobiler2l_ns.geometry.pose_range import Poses, covered_arc

PoseSamplerName = Literal["auto", "orbit", "forward-facing", "interpolate"]

BOX_MARGIN = 1.1
"""Forward-facing: how far beyond the cameras' box of centres and axes poses are drawn (official release)."""


class PoseSampler(Protocol):
    """Draws poses for pseudo views."""

    def sample(self, count: int, generator: Generator) -> Poses:
        """``count`` camera-to-world matrices, drawn on the CPU from ``generator``."""
        ...


def look_at_point(poses: Poses) -> Float[Tensor, "3"]:
    """Point with the least squared distance to all optical axes; if they are parallel, one unit before the cameras."""
    axes, centres = -poses[:, :, 2], poses[:, :, 3]
    # Each axis contributes the projector onto its normal plane.
    projectors = torch.eye(3) - axes[:, :, None] * axes[:, None, :]
    system = projectors.sum(0)
    if torch.linalg.eigvalsh(system)[0] < 1e-4 * len(poses):
        return (centres + axes).mean(0)
    return torch.linalg.solve(system, (projectors @ centres[:, :, None]).sum(0)[:, 0])


def look_at_poses(
    centres: Float[Tensor, "n 3"], targets: Float[Tensor, "n 3"], roll: Float[Tensor, "n"], up: Float[Tensor, "3"]
) -> Poses:
    """Cameras at ``centres`` that look at ``targets``, turned by ``roll`` radians about their optical axis."""
    back = normalize(centres - targets, dim=-1)
    # Straight up or down the horizon is undefined: any right vector does.
    spare = torch.tensor([1.0, 0.0, 0.0]) if abs(float(up[0])) < 0.9 else torch.tensor([0.0, 1.0, 0.0])
    right = torch.linalg.cross(up.expand_as(back), back)
    right = torch.where(right.norm(dim=-1, keepdim=True) < 1e-4, torch.linalg.cross(spare.expand_as(back), back), right)
    right = normalize(right, dim=-1)
    above = torch.linalg.cross(back, right)
    cos, sin = roll.cos()[:, None], roll.sin()[:, None]
    return torch.stack([cos * right + sin * above, cos * above - sin * right, back, centres], dim=-1)


def _uniform(low: Tensor, high: Tensor, shape: tuple[int, ...], generator: Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def camera_spacing(poses: Poses) -> Float[Tensor, ""]:
    """Median distance from a camera to the next one that stands elsewhere; 0 if none does."""
    distance = torch.cdist(poses[:, :, 3], poses[:, :, 3])
    # Several photos from one place are one camera.
    apart = distance > 1e-6 * distance.max()
    if not bool(apart.any()):
        return torch.zeros(())
    return torch.where(apart, distance, math.inf).amin(1).median()


class OrbitSampler:
    """Inward-facing captures: the cameras' own shell of radii, elevations and azimuths around the point they look at,
    with the same spread of look-at points and the same roll."""

    def __init__(self, poses: Poses) -> None:
        self.centre = look_at_point(poses)
        offset = poses[:, :, 3] - self.centre
        radius = offset.norm(dim=-1)
        self.radius = torch.stack([radius.min(), radius.max()])
        # A camera at the point that all look at has no direction from there: it counts as level.
        sine = (offset[:, 2] / radius.clamp(min=1e-9)).clamp(-1.0, 1.0)
        # Uniform in the sine of the elevation is uniform on the sphere.
        self.elevation_sine = torch.stack([sine.min(), sine.max()])
        self.azimuth = covered_arc(torch.atan2(offset[:, 1], offset[:, 0]))
        axes = -poses[:, :, 2]
        nearest = poses[:, :, 3] + axes * (-offset * axes).sum(-1, keepdim=True)
        self.look_at_spread = (nearest - self.centre).std(0, unbiased=False)
        self.up = torch.tensor([0.0, 0.0, 1.0])
        upright = look_at_poses(poses[:, :, 3], nearest, torch.zeros(len(poses)), self.up)
        # Cameras far above or below have no meaningful horizon.
        level = sine.abs() < 0.95
        roll = torch.atan2((poses[:, :, 0] * upright[:, :, 1]).sum(-1), (poses[:, :, 0] * upright[:, :, 0]).sum(-1))
        self.roll = roll[level] if bool(level.any()) else torch.zeros(1)

    def sample(self, count: int, generator: Generator) -> Poses:
        radius = _uniform(self.radius[0], self.radius[1], (count,), generator)
        sine = _uniform(self.elevation_sine[0], self.elevation_sine[1], (count,), generator)
        azimuth = self.azimuth[0] + self.azimuth[1] * torch.rand(count, generator=generator)
        cosine = (1 - sine**2).clamp(min=0).sqrt()
        direction = torch.stack([cosine * azimuth.cos(), cosine * azimuth.sin(), sine], dim=-1)
        targets = self.centre + self.look_at_spread * torch.randn(count, 3, generator=generator)
        roll = self.roll[torch.randint(len(self.roll), (count,), generator=generator)]
        return look_at_poses(self.centre + radius[:, None] * direction, targets, roll, self.up)


class ForwardFacingSampler:
    """Captures that look one way: centres and viewing axes uniform in the boxes of the cameras' own, with a margin."""

    def __init__(self, poses: Poses) -> None:
        mean = poses.mean(0)
        self.frame = look_at_poses(torch.zeros(1, 3), -mean[None, :, 2], torch.zeros(1), normalize(mean[:, 1], dim=0))
        self.frame = self.frame[0, :, :3]
        self.centres = self._box(poses[:, :, 3] @ self.frame)
        self.axes = self._box(poses[:, :, 2] @ self.frame)

    @staticmethod
    def _box(values: Float[Tensor, "n 3"]) -> tuple[Tensor, Tensor]:
        low, high = values.amin(0), values.amax(0)
        middle, half = (low + high) / 2, (high - low) / 2 * BOX_MARGIN
        return middle - half, middle + half

    def sample(self, count: int, generator: Generator) -> Poses:
        centres = _uniform(*self.centres, (count, 3), generator) @ self.frame.T
        back = _uniform(*self.axes, (count, 3), generator) @ self.frame.T
        return look_at_poses(centres, centres - back, torch.zeros(count), self.frame[:, 1])


class InterpolateSampler:
    """Any capture: between a training camera and one of its neighbours, slightly jittered."""

    def __init__(self, poses: Poses, neighbours: int = 4, jitter: float = 0.15) -> None:
        self.poses = poses
        self.jitter = jitter
        distance = torch.cdist(poses[:, :, 3], poses[:, :, 3])
        turn = (poses[:, :, 2] @ poses[:, :, 2].T).clamp(-1, 1).arccos()
        # Half a radian of turn counts like the usual distance to the next camera.
        order = (distance / camera_spacing(poses).clamp(min=1e-6) + turn / 0.5).argsort(dim=1)
        # Not the camera itself, which several photos from its very pose would let stand anywhere in the order.
        others = order[order != torch.arange(len(poses))[:, None]].reshape(len(poses), -1)
        self.neighbours = others[:, :neighbours] if len(poses) > 1 else order

    def sample(self, count: int, generator: Generator) -> Poses:
        first = torch.randint(len(self.poses), (count,), generator=generator)
        second = self.neighbours[first, torch.randint(self.neighbours.shape[1], (count,), generator=generator)]
        a, b = self.poses[first], self.poses[second]
        t = torch.rand(count, 1, generator=generator)
        step = b[:, :, 3] - a[:, :, 3]
        reach = self.jitter * step.norm(dim=-1, keepdim=True)
        centres = a[:, :, 3] + t * step + reach * torch.randn(count, 3, generator=generator)
        start = vtf.SO3.from_matrix(a[:, :, :3].double().numpy())
        turn = (start.inverse() @ vtf.SO3.from_matrix(b[:, :, :3].double().numpy())).log()
        shake = self.jitter * torch.linalg.norm(torch.as_tensor(turn), dim=-1, keepdim=True)
        turn = (
            t.double().numpy() * turn + (shake * torch.randn(count, 3, generator=generator, dtype=torch.double)).numpy()
        )
        rotation = torch.as_tensor((start @ vtf.SO3.exp(turn)).as_matrix()).to(a)
        return torch.cat([rotation, centres[:, :, None]], dim=-1)


@dataclass
class PoseStatistics:
    """What decides between the samplers."""

    view_spread: float
    """Degrees that hold 90 % of the optical axes around their mean."""
    aim: float
    """Degrees by which 90 % of the cameras at most miss the point they look at together."""
    in_front: bool
    """Whether that point lies before all cameras."""
    shell_gap: float
    """How far a pose on the cameras' shell is from the nearest camera, over the cameras' own spacing (medians). Cameras
    all over their shell give about 1, a walk through it leaves most of the shell unseen and gives more."""


def describe_poses(poses: Poses) -> PoseStatistics:
    """Measure how the cameras look: one way, at one point, or anything else."""
    axes = -poses[:, :, 2]
    mean = normalize(axes.mean(0), dim=0)
    to_centre = look_at_point(poses) - poses[:, :, 3]
    aim = (normalize(to_centre, dim=-1) * axes).sum(-1)

    def degrees(cosine: Tensor) -> float:
        return float(torch.rad2deg(cosine.clamp(-1, 1).arccos()).quantile(0.9))

    centres = poses[:, :, 3]
    shell = OrbitSampler(poses).sample(256, torch.Generator().manual_seed(0))[:, :, 3]
    gap = torch.cdist(shell, centres).amin(1).median() / camera_spacing(poses).clamp(min=1e-9)
    return PoseStatistics(degrees(axes @ mean), degrees(aim), bool((aim > 0).all()), float(gap))


def make_pose_sampler(name: PoseSamplerName, poses: Poses) -> tuple[PoseSampler, str]:
    """Build the sampler of that name, or with ``auto`` the one that fits the cameras.

    Returns:
        The sampler, and one line that says which it is and why.
    """
    poses = poses.detach().cpu().float()
    why = "asked for"
    if name == "auto":
        look = describe_poses(poses)
        if look.view_spread < 40.0:
            name, why = "forward-facing", f"90 % of the cameras look within {look.view_spread:.0f}° of one direction"
        elif not look.in_front or look.aim > 20.0:
            name, why = "interpolate", f"the cameras look neither one way ({look.view_spread:.0f}°) nor at one point"
        elif look.shell_gap > 2.0:
            name, why = (
                "interpolate",
                f"the cameras leave most of their shell empty (gaps {look.shell_gap:.1f} spacings)",
            )
        else:
            name, why = "orbit", f"90 % of the cameras aim within {look.aim:.0f}° of one point, from all over a shell"
    if name == "orbit" and float((poses[:, :, 3] - look_at_point(poses)).norm(dim=-1).max()) < 1e-6:
        name, why = "interpolate", "the cameras stand at the very point they would orbit"
    samplers = {"orbit": OrbitSampler, "forward-facing": ForwardFacingSampler, "interpolate": InterpolateSampler}
    return samplers[name](poses), f"pose sampler {name}: {why}"
