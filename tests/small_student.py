"""Small students for the export tests, the graphs of them, and the variants that packages must hold."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from mobiler2l_ns.export.graph import Contract, Graph, graph_of
from mobiler2l_ns.student.config import StudentConfig
from mobiler2l_ns.student.renderer import Student


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
    return student.eval().requires_grad_(False)


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
    return graph_of(student, "encoding"), [{"encoding": whole.encode(**camera)} for camera in cameras]  # type: ignore


def psnr(graph: nn.Module, run, examples: list[dict[str, Tensor]]) -> float:
    """dB between a graph and its package, whose pictures must have the right shape and layout."""
    squared = []
    for example in examples:
        expected = graph(**example)[0].numpy()
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
