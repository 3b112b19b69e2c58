"""Fine-tuning without overfitting: the best student so far on the selection photos is remembered and kept."""

from __future__ import annotations

import math
from copy import deepcopy

import torch
from torch import Tensor, nn

from mobiler2l_ns.pool.photos import PhotoPool
from mobiler2l_ns.student.renderer import Student


def selection_psnr(student: Student, photos: PhotoPool) -> float | None:
    """Mean PSNR in dB of the student, in evaluation mode, over the masked-in pixels of the selection photos.

    Photos without such a pixel are left out; None if that leaves none. NaN where the student's pictures hold NaN.
    """
    device = student.capture.intrinsics.device
    training = student.training
    student.eval()
    scores = []
    for index in range(len(photos)):
        rays, picture, mask = photos.take(torch.tensor([index]), device)
        assert mask is not None
        visible = mask > 0
        if not bool(visible.any()):
            continue
        with torch.no_grad():
            rgb = student(*rays).permute(0, 2, 3, 1)
        squared = float((rgb - picture)[visible].square().mean())
        scores.append(math.nan if math.isnan(squared) else -10.0 * math.log10(max(squared, 1e-16)))
    student.train(training)
    return sum(scores) / len(scores) if scores else None


class BestStudent(nn.Module):
    """A copy of what the best student so far had learned, part of the checkpoint so that a resumed run still has it."""

    before: Tensor
    best: Tensor

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.network = deepcopy(student.network).requires_grad_(False)
        self.volume = deepcopy(student.volume)
        if self.volume is not None:
            self.volume.requires_grad_(False)
        self.register_buffer("before", torch.tensor(-math.inf))
        self.register_buffer("best", torch.tensor(-math.inf))

    @property
    def is_known(self) -> bool:
        """Whether any student had a score."""
        return math.isfinite(float(self.best))

    def consider(self, student: Student, score: float) -> None:
        """Remember the student if its score is the best, which NaN never is; the first score counts as the one before
        fine-tuning."""
        if math.isinf(float(self.before)):
            self.before.fill_(score)
        if math.isfinite(score) and score > float(self.best):
            self.best.fill_(score)
            self._copy(student, self)

    def restore(self, student: Student) -> None:
        """Give the student back what the best one had learned."""
        self._copy(self, student)

    @staticmethod
    def _copy(source: Student | BestStudent, target: Student | BestStudent) -> None:
        target.network.load_state_dict(source.network.state_dict())
        if source.volume is not None and target.volume is not None:
            target.volume.load_state_dict(source.volume.state_dict())
