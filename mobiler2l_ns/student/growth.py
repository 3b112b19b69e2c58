"""Growing the backbone: distillation begins with few residual blocks and adds the others as it goes.

A shallow student takes several times as many steps in the same time and learns where things are; every block it gains
begins as the identity, so nothing is lost when it comes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mobiler2l_ns.errors import UserError


@dataclass(frozen=True)
class Growth:
    """How many of the backbone's blocks are trained when.

    Args:
        blocks: residual blocks of the full backbone.
        shares: shares of them, increasing, in the stages before the full one; none: all from the start.
        until: where each stage ends, in shares of distillation.

    Raises:
        UserError: if they do not make stages.
    """

    blocks: int
    shares: tuple[float, ...] = ()
    until: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        rising = all(list(values) == sorted(values) for values in (self.shares, self.until))
        if len(self.shares) != len(self.until) or not rising:
            raise UserError(
                f"--pipeline.growth-shares {self.shares} and --pipeline.growth-until {self.until}: "
                "both must increase and be equally long"
            )

    def active(self, progress: float) -> int:
        """Blocks trained when ``progress`` (0..1) of distillation is done."""
        for share, end in zip(self.shares, self.until, strict=True):
            if progress < end:
                return min(self.blocks, max(1, math.ceil(share * self.blocks)))
        return self.blocks

    def born(self, block: int) -> float:
        """Progress at which a block joins; 0 for those that are there from the start."""
        for begin in (0.0, *self.until):
            if self.active(begin) > block:
                return begin
        return 1.0
