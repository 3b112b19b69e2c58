"""Watching a teacher in its first steps: does it learn its photos, or has it settled on one colour?

A radiance field can end where it shows the background everywhere and no gradient leads it away: when the fog that it
begins as takes on the colour of an almost empty picture before there is any shape, a thin object is never found.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

WINDOW = 50
"""Steps that a teacher is judged by."""
LEAST_GAIN = 1.0
"""dB above one colour that it must have by then."""
FLAT = 1e-4
"""Mean squared deviation of photos that show one colour only, of which nothing can be said."""


@dataclass(frozen=True)
class Finding:
    """How a teacher does, over the last steps."""

    psnr: float
    """dB to the photos."""
    one_colour: float
    """dB that the photos' mean colour would have."""
    accumulation: float
    """Mean of its rays' accumulation."""

    @property
    def has_failed(self) -> bool:
        """Whether the teacher is hardly better than one colour, or not a number."""
        return not self.psnr >= self.one_colour + LEAST_GAIN

    def __str__(self) -> str:
        if math.isnan(self.psnr):
            return "its pictures are not numbers"
        where = "empty everywhere" if self.accumulation < 0.1 else "fog" if self.accumulation > 0.9 else "of no shape"
        return f"{self.psnr:.1f} dB where one colour has {self.one_colour:.1f} dB; it is {where}"


class TeacherWatch:
    """Judges a teacher by its batches of rays, over the last ``WINDOW`` steps before a verdict.

    Sums stay on the device; only a verdict waits for it.
    """

    def __init__(self) -> None:
        self._batches: list[Float[Tensor, "8"]] = []

    def see(self, rgb: Float[Tensor, "n 3"], photo: Float[Tensor, "n 3"], accumulation: Float[Tensor, "n 1"]) -> None:
        """Take note of a batch: what the teacher shows, what the photos show there, and its accumulation."""
        rgb, photo = rgb.detach().float(), photo.detach().float()
        squared = ((rgb - photo) ** 2).mean()[None]
        means = torch.cat([photo.mean(0), photo.square().mean(0), accumulation.detach().float().mean()[None]])
        self._batches = [*self._batches[1 - WINDOW :], torch.cat([squared, means])]

    def verdict(self) -> Finding | None:
        """How the teacher does; None if too little was seen, or photos of one colour only."""
        if len(self._batches) < WINDOW:
            return None
        values = torch.stack(self._batches).mean(0).double().cpu()
        squared, mean, of_squares, accumulation = float(values[0]), values[1:4], values[4:7], float(values[7])
        spread = float((of_squares - mean.square()).mean())
        if spread < FLAT:
            return None

        def decibel(error: float) -> float:
            return -10.0 * math.log10(max(error, 1e-16)) if not math.isnan(error) else math.nan

        return Finding(decibel(squared), decibel(spread), accumulation)
