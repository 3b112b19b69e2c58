"""A package counts as done when a real runtime gives the student's own pictures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track
from torch import Tensor

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.student.student import Student

Runner = Callable[[Tensor, Tensor], Tensor]
"""Camera-to-world (1, 3, 4) and intrinsics (1, 4) to a picture (3, height, width) in 0..1."""


@dataclass
class Proof:
    """How near a package is to the student."""

    psnr: float
    """PSNR in dB between the package and the PyTorch student over all proof cameras; equal pictures count as 200 dB."""
    cameras: int
    """Held-out cameras compared."""


def prove(student: Student, run: Runner, threshold: float, what: str, pitch: float = 1.0) -> Proof:
    """Compare a package with the student on the cameras held out of training.

    Args:
        student: the PyTorch student.
        run: the package in a runtime.
        threshold: least PSNR in dB.
        what: names the package in messages.
        pitch: of the package.

    Raises:
        UserError: if the package falls short.
    """
    student.eval()
    poses = student.capture.proof_poses
    intrinsics = torch.tensor([student.view(pitch).intrinsics])
    squared, count = 0.0, 0
    for pose in track(poses, f"Proving {what}", console=CONSOLE, transient=True):
        with torch.no_grad():
            expected = student.render(student.training_camera(pose, pitch)).permute(2, 0, 1).cpu().double()
        got = run(pose[None].cpu(), intrinsics).double()
        if got.shape != expected.shape:
            raise UserError(f"{what} gives pictures of shape {tuple(got.shape)}, the student {tuple(expected.shape)}")
        squared += float(((got - expected) ** 2).sum())
        count += expected.numel()
    psnr = min(200.0, -10.0 * math.log10(max(squared / count, 1e-20)))
    if math.isnan(squared) or psnr < threshold:
        raise UserError(f"{what} is not the student: {psnr:.1f} dB between them, at least {threshold:.0f} dB needed")
    return Proof(psnr, len(poses))
