"""Small students for the export tests, the graphs of them, and the variants that packages must hold."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from mobiler2l_ns.capture.fence import Fence, measure_fence
from mobiler2l_ns.capture.pose_samplers import look_at_poses
from mobiler2l_ns.export.graph import Contract, Graph, PoseToImage, graph_of
from mobiler2l_ns.student.config import StudentConfig
from mobiler2l_ns.student.renderer import Student
from mobiler2l_ns.student.volume import Volume


def make_student(sphere=False, width_of_body=24, height=44, width=60, **config) -> Student:
    """A small student whose batch norms have seen something."""
    torch.manual_seed(0)
    config = {"num_blocks": 2, "sr_channels": (16, 8, 8), **config}
    student = Student(StudentConfig(width=width_of_body, **config))
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.weight, 1.0, 0.2)
            nn.init.normal_(module.bias, std=0.2)
    # Strong colours, so that a wrong picture is far away.
    nn.init.normal_(student.network.out[0].weight, std=2.0)  # type: ignore[union-attr,arg-type]
    if student.config.volume_rays > 1:
        nn.init.normal_(student.network.lateral.weight, std=0.2)
    poses = torch.eye(4)[:3].repeat(8, 1, 1)
    poses[:, :, 3] = torch.randn(8, 3) + torch.tensor([0.0, 0.0, 4.0])
    student.capture.record(
        image_size=torch.tensor([height, width]),
        intrinsics=torch.tensor([70.0, 72.0, 31.0, 20.0]),
        depth_range=torch.tensor([2.0, 6.0]),
        proof_poses=poses,
        start_pose=poses[0],
        scene_centre=torch.tensor([0.2, -0.1, 0.3]),
        scene_radius=torch.tensor(1.3 if sphere else 0.0),
    )
    if student.volume is not None:
        _fill(student.volume, 1.0 if student.in_sphere() else 2.0 if student.is_contracted() else 2.5)
    return student.eval().requires_grad_(False)


def _fill(volume: Volume, size: float) -> None:
    """Something to see: a density with soft edges, features that differ from cell to cell, and a box off the centre."""
    proposals = volume.proposals
    noise = nn.functional.avg_pool3d(torch.rand_like(proposals.density), 3, stride=1, padding=1)
    inner = nn.functional.pad(torch.ones_like(noise)[..., 2:, 2:, 2:], [1] * 6)
    proposals.density.copy_(12.0 * (noise - 0.5).clamp(min=0.0) * inner)
    proposals.box.copy_(size * torch.tensor([[-0.9, -1.0, -0.8], [1.0, 0.9, 0.7]]))
    for planes in volume.planes:
        nn.init.normal_(planes, std=0.5)


def make_fence(inward: bool = True, extent: float = 90.0) -> Fence:
    """Cameras 3 to 4 units around a point, or standing there and looking elsewhere."""
    g = torch.Generator().manual_seed(0)
    azimuth, elevation, far = (
        low + high * torch.rand(120, generator=g) for low, high in ((0, extent), (10, 40), (3, 1))
    )
    azimuth, elevation = azimuth.deg2rad(), elevation.deg2rad()
    direction = torch.stack([elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin(), elevation.sin()], dim=-1)
    middle = torch.tensor([0.2, -0.1, 0.3])
    centres = middle + (far if inward else far - 3.0)[:, None] * direction
    targets = middle.expand_as(centres) if inward else centres + direction
    cameras = look_at_poses(centres, targets, torch.zeros(120), torch.tensor([0.0, 0.0, 1.0]))
    return measure_fence(cameras[:60], cameras[60:])


VOLUME = {
    "volume_rays": 4,
    "density_rays": 2,
    "volume_points": 3,
    "volume_cells": (12, 24),
    "volume_channels": 6,
    "density_cells": 10,
    "density_bins": 12,
}
"""Settings of a student with a small volume."""

VOLUMES = {
    "sphere": {**VOLUME, "sphere": True},
    "unbounded": {**VOLUME, "contraction": "on", "density_rays": 4},
    "planes": {**VOLUME, "volume_rays": 2},
    "alpha, several pitches": {**VOLUME, "alpha": True, "pitches": (1.0, 2.0), "sphere": True},
}
"""Students with a volume, wherever their points may lie."""

VARIANTS = {
    "paper": {},
    "stride 12": {"strides": (2, 2, 3)},
    "relu, no norm": {"activation": "relu", "norm": False},
    "mlp": {"layer": "mlp"},
    "unbounded": {"contraction": "on"},
    "no super-resolution": {"strides": ()},
    "sphere": {"sphere": True},
    "alpha, several pitches": {"alpha": True, "pitches": (1.0, 1.5, 2.0), "sphere": True},
}

COMBINED_VARIANTS = {
    "gelu": {},
    "relu, stride 12, alpha, several pitches, sphere": {
        "activation": "relu",
        "strides": (2, 2, 3),
        "alpha": True,
        "pitches": (1.0, 1.5),
        "sphere": True,
    },
    "mlp, unbounded": {"layer": "mlp", "contraction": "on"},
}
"""Most of the same in three students, for formats that take seconds to convert."""


def make_graph(start: Contract, **settings) -> tuple[Graph, list[dict[str, Tensor]]]:
    """The graph of a smaller student, its picture of a size that no stride divides, and two examples of what it takes.

    Args:
        start: what the graph begins at.
        settings: of ``make_student``.
    """
    # Not the identity, which would leave half of the layers without a say.
    smaller = {"height": 43, "width": 61, "num_blocks": 1, "sr_blocks": 1, "initialisation": "torch"}
    student = make_student(**{**smaller, **settings})
    torch.manual_seed(1)
    cameras = []
    for position in torch.randn(2, 3) * 0.5 + torch.tensor([0.0, 0.0, 4.0]):
        pose = torch.cat([torch.eye(3), position[:, None]], dim=1)[None]
        cameras.append({"camera_to_world": pose, "intrinsics": student.capture.intrinsics[None]})
    whole = graph_of(student, "pose")
    if start == "pose":
        return whole, cameras
    assert isinstance(whole, PoseToImage)
    return graph_of(student, start), [whole.network_inputs(**camera) for camera in cameras]


def psnr(graph: nn.Module, run, examples: list[dict[str, Tensor]]) -> float:
    """dB between a graph and its package, whose pictures must have the right shape and layout."""
    squared = []
    for example in examples:
        expected = graph(*example.values())[0].numpy()
        got = run({name: value.numpy() for name, value in example.items()})
        assert got.shape == expected.shape and got.dtype == np.float32
        squared.append(np.square(got.astype(np.float64) - expected).mean())
    return -10 * math.log10(max(float(np.mean(squared)), 1e-20))


def wrong_weight(graph: Graph) -> None:
    graph.network.head[0].weight[3] += 0.5  # type: ignore[operator]


def wrong_activation(graph: Graph) -> None:
    graph.network.head[1] = nn.ReLU()


def swapped_channels(graph: Graph) -> None:
    out = graph.network.out[0]
    out.weight.copy_(out.weight.flip(0))  # type: ignore[operator,union-attr]


MISTAKES = [wrong_weight, wrong_activation, swapped_channels]
"""Each changes a graph in place."""
