"""What is exported, batch norms folded into the convolutions: a graph from a camera's pose to its picture, and the
network alone, from encoded rays to the picture."""

from __future__ import annotations

from copy import deepcopy
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_weights

from mobiler2l_ns.export.contract import DEPTH, IMAGE, POSE_INPUTS, Contract, GraphInput
from mobiler2l_ns.export.ray_graph import RayGraph
from mobiler2l_ns.export.volume_graph import VolumeGraph
from mobiler2l_ns.geometry.picture import PictureGeometry
from mobiler2l_ns.student.network import PointwiseLinear, ResidualBlock, StudentNetwork, SuperResolution
from mobiler2l_ns.student.renderer import Student


def _fold(layer: nn.Module, norm: nn.BatchNorm2d) -> nn.Module:
    if isinstance(layer, nn.Conv2d):
        return fuse_conv_bn_eval(layer, norm)
    folded = cast(PointwiseLinear, deepcopy(layer))
    assert norm.running_mean is not None and norm.running_var is not None
    folded.weight, folded.bias = fuse_linear_bn_weights(
        folded.weight, folded.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    return folded


def fold_batch_norms(network: StudentNetwork) -> StudentNetwork:
    """A copy of a network in evaluation mode without batch norms and pruned blocks, computing the same picture."""
    network = deepcopy(network).eval().cpu().float()
    network.active_blocks = sum(
        cast(ResidualBlock, block).hidden > 0 for block in network.body[: network.active_blocks]
    )
    for stream in (network.body, *(cast(SuperResolution, stage).blocks for stage in network.super_resolution)):
        for index in reversed([i for i, block in enumerate(stream) if cast(ResidualBlock, block).hidden == 0]):
            del stream[index]
    for block in network.modules():
        if not isinstance(block, ResidualBlock):
            continue
        layers: list[nn.Module] = []
        for layer in block.body:
            if isinstance(layer, nn.BatchNorm2d):
                layers[-1] = _fold(layers[-1], layer)
            else:
                layers.append(layer)
        block.body = nn.Sequential(*layers)
    return network.requires_grad_(False)


class PoseToImage(nn.Module):
    """Camera in, picture out: low-resolution rays, sampling, encoding, volume and the folded network in one graph.

    It is written with the operations that phone runtimes share: no indexing (which becomes ``gather``), no branches.
    """

    contract: Contract = "pose"

    t_values: Tensor
    frequencies: Tensor
    log_pitch: Tensor

    def __init__(
        self, student: Student, view: PictureGeometry | None = None, pitch: float = 1.0, depth: bool = False
    ) -> None:
        """Args:
        student: what is exported.
        view: the pictures it is to render; its own if not given.
        pitch: size of their rays' cells in units of the full picture's.
        depth: whether what the volume shows of depth is given, too.
        """
        super().__init__()
        config, view = student.config, view or student.view(pitch)
        self.inputs = POSE_INPUTS
        self.outputs = (IMAGE, DEPTH) if depth else (IMAGE,)
        self.height, self.width = view.height, view.width
        self.contracted = student.is_contracted()
        self.several_pitches, self.alpha = len(config.pitches) > 1, config.alpha
        self.rays = RayGraph(student, view)
        self.volume = None if student.volume is None else VolumeGraph(student, view, pitch)
        self.network = fold_batch_norms(student.network)
        self.register_buffer("t_values", student.t_values().detach().cpu().reshape(1, -1, 1, 1))
        self.register_buffer("frequencies", 2.0 ** torch.arange(config.num_frequencies).float().reshape(1, 1, -1, 1))
        self.register_buffer("log_pitch", torch.full((1, 1, *view.grid), pitch).log2())

    def encode(
        self, camera_to_world: Float[Tensor, "1 3 4"], intrinsics: Float[Tensor, "1 4"]
    ) -> Float[Tensor, "1 channels rows columns"]:
        """The network's input; equal to ``Student.encode_rays`` of the camera's low-resolution rays."""
        start, along = self.rays(camera_to_world, intrinsics)
        points = start[:, None] + self.t_values * along[:, None]
        if self.contracted:
            size = points.abs().amax(dim=2, keepdim=True).clamp(min=1.0)
            points = points * ((2.0 - 1.0 / size) / size)
        points = points.reshape(1, -1, 1, self.rays.rows * self.rays.columns)
        angles = points * self.frequencies
        encoded = torch.cat([angles.sin(), angles.cos(), points], dim=2)
        encoded = encoded.reshape(1, -1, self.rays.rows, self.rays.columns)
        return torch.cat([encoded, self.log_pitch], dim=1) if self.several_pitches else encoded

    def network_inputs(
        self, camera_to_world: Float[Tensor, "1 3 4"], intrinsics: Float[Tensor, "1 4"]
    ) -> dict[str, Tensor]:
        """What a graph that begins at the network is given: ``encoding``, and with a volume ``features``."""
        inputs = {"encoding": self.encode(camera_to_world, intrinsics)}
        if self.volume is not None:
            inputs["features"] = self.volume(camera_to_world, intrinsics)
        return inputs

    def forward(
        self, camera_to_world: Float[Tensor, "1 3 4"], intrinsics: Float[Tensor, "1 4"]
    ) -> Float[Tensor, "1 colours height width"] | tuple[Tensor, Float[Tensor, "1 2 mh mw"]]:
        """Args: an OpenGL camera-to-world matrix in the run's world frame; fx, fy, cx, cy in output pixels.

        Returns:
            RGB in 0..1, or RGBA with the colour premultiplied; with ``depth`` also ``VolumeGraph.with_depth``'s.
        """
        if DEPTH not in self.outputs:
            return self._picture(*self.network_inputs(camera_to_world, intrinsics).values())
        assert self.volume is not None
        features, depth = self.volume.with_depth(camera_to_world, intrinsics)
        return self._picture(self.encode(camera_to_world, intrinsics), features), depth

    def _picture(self, *inputs: Tensor) -> Float[Tensor, "1 colours height width"]:
        return self.network(*inputs).narrow(2, 0, self.height).narrow(3, 0, self.width)


class RaysToImage(nn.Module):
    """The network alone: the client computes rays, encoding and, where there is one, the volume's features; everything
    here may be in half precision.

    Args:
        student, view, pitch: as for ``PoseToImage``.
    """

    def __init__(self, student: Student, view: PictureGeometry | None = None, pitch: float = 1.0) -> None:
        super().__init__()
        config, view = student.config, view or student.view(pitch)
        self.contract: Contract = "features" if student.volume is not None else "encoding"
        self.outputs = (IMAGE,)
        self.height, self.width, self.alpha = view.height, view.width, config.alpha
        channels, features = config.input_channels, config.feature_channels
        inputs = [
            GraphInput(
                "encoding",
                (1, channels, *view.grid),
                f"Encoded low-resolution rays, shape (1, {channels}, rows, columns); manifest.json says how they are "
                "computed.",
            )
        ]
        if features:
            rows, columns = (count * config.volume_rays for count in view.grid)
            inputs.append(
                GraphInput(
                    "features",
                    (1, features, rows, columns),
                    f"What the volume shows, shape (1, {features}, rows, columns): composited features, then the "
                    "accumulation; manifest.json says how they are computed.",
                )
            )
        self.inputs = tuple(inputs)
        self.network = fold_batch_norms(student.network)

    def forward(self, *inputs: Float[Tensor, "1 _channels _rows _columns"]) -> Float[Tensor, "1 colours height width"]:
        """RGB in 0..1, or RGBA with the colour premultiplied, of rays as ``PoseToImage.network_inputs`` gives them."""
        return self.network(*inputs).narrow(2, 0, self.height).narrow(3, 0, self.width)


Graph = PoseToImage | RaysToImage


def graph_of(
    student: Student,
    contract: Contract,
    view: PictureGeometry | None = None,
    pitch: float = 1.0,
    depth: bool = False,
) -> Graph:
    """The graph of a contract, in evaluation mode; depth is given from a pose only."""
    if contract == "pose":
        return PoseToImage(student, view, pitch, depth).eval()
    return RaysToImage(student, view, pitch).eval()
