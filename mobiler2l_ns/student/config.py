"""What can be set of a student, by what it decides: its network, where rays are sampled, how it runs, how it is pruned.

Source of the network: MobileR2L (Cao et al., CVPR 2023) §3.2-3.3 and its official release. Every row of the paper's
Tables 4 and 5, and R2L itself (no super-resolution), is a setting of ``NetworkShape``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.geometry.encoding import DepthSpacing, Jitter, encoding_channels

CLOSE = 0.75
"""Rays across a picture, for each cell across the coarse density, that are close enough to place points by."""
LEAST = {"volume_points": 1, "volume_channels": 1, "volume_hidden": 1, "density_cells": 3, "density_bins": 1}
"""Smallest sizes of a volume; the outermost cells of the density are empty."""
Activation = Literal["gelu", "relu", "none"]


@dataclass
class VolumeShape:
    """Shape of the volume in front of the network."""

    volume_rays: int = 0
    """Rays through the volume in the cell of a low-resolution ray, each way: 1, or the product of the first strides. 0:
    no volume, a pure light field."""
    volume_points: int = 4
    """Points of each of those rays that are looked up in the volume."""
    volume_cells: tuple[int, ...] = (128,)
    """Cells of the volume's three planes each way, one entry a level."""
    volume_channels: int = 8
    """Channels of each plane."""
    volume_hidden: int = 16
    """Hidden channels of the map from planes to density and features."""
    volume_features: int = 8
    """Features that are composited along a ray; the first are its colours."""
    density_rays: int | None = None
    """Rays that points are placed for in the cell of a low-resolution ray, each way; volume_rays is a multiple. None:
    so many that they lie about as close as the cells of the density."""
    density_cells: int = 64
    """Cells each way of the coarse density that places them."""
    density_bins: int = 32
    """Pieces of a ray in which it is looked up."""

    @property
    def feature_channels(self) -> int:
        """Channels that the volume gives the network at each of its rays: features and accumulation; 0 without one."""
        return self.volume_features + 1 if self.volume_rays else 0

    def placing_rays(self, blocks: float) -> int:
        """Rays that points are placed for in the cell of a low-resolution ray, each way, where a picture is so many
        cells wide or high."""
        if self.density_rays is not None:
            return self.density_rays
        divisors = [rays for rays in range(1, self.volume_rays + 1) if self.volume_rays % rays == 0]
        close = [rays for rays in divisors if blocks * rays >= CLOSE * self.density_cells]
        return min(close, default=self.volume_rays)


@dataclass
class NetworkShape(VolumeShape):
    """Shape of the network. The defaults are the paper's D60-SR3."""

    num_points: int = 8
    """K: points sampled along each ray."""
    num_frequencies: int = 6
    """L: frequencies of the positional encoding."""
    width: int = 256
    """Channels of the backbone."""
    num_blocks: int = 29
    """Residual blocks of the backbone, two layers each."""
    layer: Literal["conv1x1", "mlp"] = "conv1x1"
    """The backbone's layers: 1x1 convolutions, or the same linear maps as an MLP over the rays (R2L)."""
    activation: Activation = "gelu"
    """Activation of all layers."""
    norm: bool = True
    """Batch norm after every convolution of a residual block; export folds it away."""
    strides: tuple[int, ...] = (2, 2, 2)
    """Upsampling of each super-resolution module, 2 or 3; their product, from 1 to 16, is the side of a ray's block of
    pixels. Empty: no super-resolution, one ray a pixel."""
    sr_channels: tuple[int, ...] = (64, 64, 16)
    """Channels of the super-resolution modules, aligned at the end; with more modules the first entry is repeated."""
    sr_blocks: int = 2
    """Residual blocks in each super-resolution module."""
    initialisation: Literal["identity", "torch"] = "identity"
    """identity: residual blocks begin as the identity, high frequencies of the encoding with small weights, and the
    picture as the mean colour; torch: torch's own defaults."""
    alpha: bool = False
    """Predict alpha too: pictures become RGBA, the colour premultiplied, to be laid over any background."""
    pitches: tuple[float, ...] = (1.0,)
    """Sizes of a ray's cell the student learns, in units of the full picture's; with 1 1.5 2 4 one student renders 800,
    533, 400 and 200 pixels. More than one adds an input channel, log2 of the pitch."""

    @property
    def input_channels(self) -> int:
        """Channels of the encoded rays: the encoding, and the pitch if there are several."""
        return encoding_channels(self.num_points, self.num_frequencies) + (len(self.pitches) > 1)

    @property
    def output_channels(self) -> int:
        """3, or 4 with alpha."""
        return 4 if self.alpha else 3

    @property
    def stride(self) -> int:
        """Output pixels per low-resolution ray and side."""
        return math.prod(self.strides)

    def check(self) -> None:
        """See that these settings make a network, with its volume.

        Raises:
            UserError: if they do not.
        """
        try:
            self.stage_channels()
            self.check_volume()
        except ValueError as error:
            raise UserError(f"--pipeline.model: {error}") from None

    def check_volume(self) -> None:
        """See that the volume fits the network.

        Raises:
            ValueError: if it is empty, its rays are not those of a map in the network, or its features do not hold a
                picture.
        """
        if not self.volume_rays:
            return
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} {value}: it is at least {least}")
        if min(self.volume_cells, default=0) < 2:
            raise ValueError(f"volume_cells {self.volume_cells}: one number a level, at least 2")
        scales = [math.prod(self.strides[:count]) for count in range(len(self.strides) + 1)]
        if self.volume_rays not in scales:
            given = " ".join(map(str, scales))
            raise ValueError(f"volume_rays {self.volume_rays}: with strides {self.strides} it is one of 0 {given}")
        if self.density_rays is not None and (self.density_rays < 1 or self.volume_rays % self.density_rays):
            raise ValueError(f"density_rays {self.density_rays}: volume_rays {self.volume_rays} is not its multiple")
        if self.volume_features < self.output_channels:
            raise ValueError(f"volume_features {self.volume_features}: the picture alone has {self.output_channels}")

    def stage_channels(self) -> tuple[int, ...]:
        """Channels of each super-resolution module.

        Raises:
            ValueError: if the strides or channels cannot make a network.
        """
        if any(stride not in (2, 3) for stride in self.strides) or self.stride > 16:
            raise ValueError(f"strides {self.strides}: each must be 2 or 3 and their product at most 16")
        if not self.strides:
            return ()
        if not self.sr_channels:
            raise ValueError("sr_channels is empty: give at least one entry, or no strides")
        missing = len(self.strides) - len(self.sr_channels)
        channels = (self.sr_channels[0],) * max(missing, 0) + tuple(self.sr_channels)
        return channels[len(channels) - len(self.strides) :]


@dataclass
class RaySampling:
    """Where the K points of a ray lie."""

    jitter: Jitter = "none"
    """Random shift of the points along the ray while training: none, one draw a batch, or one draw a ray."""
    depth_spacing: DepthSpacing | Literal["auto"] = "auto"
    """Spacing of the K depths; auto is linear for bounded scenes and disparity with scene contraction."""
    contraction: Literal["auto", "on", "off"] = "auto"
    """Contract the sampled points like nerfstudio does for unbounded scenes; auto follows the teacher."""
    ray_bounds: Literal["auto", "planes"] = "auto"
    """Where the K points of a ray lie. planes: between near and far, the same for every ray; auto: on the chord through
    the sphere that holds the scene, where the scene is bounded, the cameras stand outside of that sphere, and neither
    near nor far is given."""


@dataclass
class StudentConfig(NetworkShape, RaySampling):
    """All that decides which picture a student with given weights shows."""


@dataclass
class Execution:
    """How the network is computed while it is trained; the student is the same."""

    precision: Literal["auto", "gpu", "float32"] = "auto"
    """What the network trains in. auto: bfloat16 where the device has instructions that multiply it, GPUs and newer
    CPUs; gpu: bfloat16 on such GPUs only; else float32. Weights, rays and encoding are float32 throughout."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Train through torch.compile; auto: on CUDA, where its compiler (triton) is installed."""


@dataclass
class PruningSchedule:
    """How much of the network goes while it is distilled, and when."""

    prune: tuple[float, ...] = ()
    """Share of the network's multiply-accumulates to prune away during distillation, in four even rounds; or several
    increasing shares, one a round. None: the network keeps its size."""
    prune_between: tuple[float, float] = (0.65, 0.85)
    """The first and the last round of pruning, in shares of distillation. The backbone has then grown to its full
    depth: growth_until is scaled to end before the first."""
