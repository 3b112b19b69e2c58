"""Small students and their two graphs, for the tests of package formats; what a format must keep of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mobiler2l_ns.export.graph import PoseToImage
from mobiler2l_ns.student.network import StudentConfig
from mobiler2l_ns.student.student import Student

VARIANTS = {
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


@dataclass
class Input:
    name: str
    shape: tuple[int, ...]
    description: str = ""


class Network(nn.Module):
    """Encoding in, picture out."""

    def __init__(self, graph: PoseToImage) -> None:
        super().__init__()
        self.network, self.height, self.width = graph.network, graph.height, graph.width

    def forward(self, encoding: Tensor) -> Tensor:
        return self.network(encoding).narrow(2, 0, self.height).narrow(3, 0, self.width)


def make_graph(sphere: bool = False, height: int = 43, width: int = 61, **config) -> PoseToImage:
    """A small student's graph, its picture of a size that no stride divides; the picture is not near grey."""
    torch.manual_seed(0)
    # Not the identity, which would leave half of the layers without a say.
    config = {"initialisation": "torch", **config}
    student = Student(StudentConfig(width=24, num_blocks=1, sr_channels=(16, 8, 8), sr_blocks=1, **config))
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.weight, 1.0, 0.2)
            nn.init.normal_(module.bias, std=0.2)
    nn.init.normal_(student.network.out[0].weight, std=2.0)  # type: ignore[union-attr,arg-type]
    student.capture.record(
        image_size=torch.tensor([height, width]),
        intrinsics=torch.tensor([70.0, 72.0, 31.0, 20.0]),
        depth_range=torch.tensor([2.0, 6.0]),
        proof_poses=torch.eye(4)[:3].repeat(8, 1, 1),
        start_pose=torch.eye(4)[:3],
        scene_centre=torch.tensor([0.2, -0.1, 0.3]),
        scene_radius=torch.tensor(1.3 if sphere else 0.0),
    )
    return PoseToImage(student.eval().requires_grad_(False)).eval()


def contract(graph: PoseToImage, name: str) -> tuple[nn.Module, list[Input], list[dict[str, Tensor]]]:
    """The graph of a contract, what it takes, and two examples of that."""
    torch.manual_seed(1)
    cameras = []
    for position in torch.randn(2, 3) * 0.5 + torch.tensor([0.0, 0.0, 4.0]):
        pose = torch.cat([torch.eye(3), position[:, None]], dim=1)[None]
        cameras.append({"camera_to_world": pose, "intrinsics": torch.tensor([[70.0, 72.0, 31.0, 20.0]])})
    if name == "pose":
        return graph, [Input("camera_to_world", (1, 3, 4)), Input("intrinsics", (1, 4))], cameras
    encodings = [{"encoding": graph.encode(**camera)} for camera in cameras]
    return Network(graph).eval(), [Input("encoding", tuple(encodings[0]["encoding"].shape))], encodings


def psnr(graph: nn.Module, run, examples: list[dict[str, Tensor]]) -> float:
    """dB between a graph and its package, whose pictures must have the right shape and layout."""
    squared = []
    for example in examples:
        expected = graph(**example)[0].numpy()
        got = run({name: value.numpy() for name, value in example.items()})
        assert got.shape == expected.shape and got.dtype == np.float32
        squared.append(np.square(got.astype(np.float64) - expected).mean())
    return -10 * math.log10(max(float(np.mean(squared)), 1e-20))


def wrong_weight(graph: PoseToImage) -> None:
    graph.network.head[0].weight[3] += 0.5  # type: ignore[operator]


def wrong_activation(graph: PoseToImage) -> None:
    graph.network.head[1] = nn.ReLU()


def swapped_channels(graph: PoseToImage) -> None:
    out = graph.network.out[0]
    out.weight.copy_(out.weight.flip(0))  # type: ignore[operator,union-attr]


MISTAKES = [wrong_weight, wrong_activation, swapped_channels]
