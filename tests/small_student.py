"""A small student for the export tests, and the variants of it that packages must hold."""

from __future__ import annotations

import torch
from torch import nn

from mobiler2l_ns.student.network import StudentConfig
from mobiler2l_ns.student.student import Student


def make_student(sphere=False, width_of_body=24, **config) -> Student:
    """A small student whose batch norms have seen something."""
    torch.manual_seed(0)
    student = Student(StudentConfig(width=width_of_body, num_blocks=2, sr_channels=(16, 8, 8), **config))
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
        image_size=torch.tensor([44, 60]),
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
