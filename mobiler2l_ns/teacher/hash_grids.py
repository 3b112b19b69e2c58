"""The teacher's hash grids on a CPU: compiled where so much is asked of them that it pays.

Nearly all of nerfacto's time on a CPU goes into nerfstudio's hash encoding, dozens of small operations on a batch that
no cache holds. Compiled it is one loop, several times as fast, with the same result.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from nerfstudio.field_components.encodings import HashEncoding
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException
from torch import Tensor, nn

PAYS_AFTER = 100_000_000
"""Lookups, points times levels, that take longer than compiling does."""

Encode = Callable[[Tensor], Tensor]


class HashGrids:
    """The hash grids of a teacher, each of which asks here how it is computed.

    They are compiled after ``pays_after`` lookups, or at once where it is known that many more are to come.

    Args:
        teacher: a model of any method; its grids that are computed by torch are taken over.
        pays_after: lookups on the CPU after which they are compiled.

    Attributes:
        lookups: on the CPU so far, until they are compiled.
    """

    def __init__(self, teacher: nn.Module, pays_after: int = PAYS_AFTER) -> None:
        self.grids = [
            module for module in teacher.modules() if isinstance(module, HashEncoding) and module.tcnn_encoding is None
        ]
        self.lookups, self.pays_after = 0, pays_after
        self.compiled: dict[HashEncoding, Encode] = {}
        for grid in self.grids:
            grid.forward = self._forward_of(grid)  # type: ignore[method-assign]

    def _forward_of(self, grid: HashEncoding) -> Encode:
        def forward(points: Float[Tensor, "*bs 3"]) -> Float[Tensor, "*bs features"]:
            if points.device.type != "cpu":
                return grid.pytorch_fwd(points)
            if self.lookups < self.pays_after:
                self.lookups += grid.num_levels * points[..., 0].numel()
                if self.lookups >= self.pays_after:
                    self._compile()
            encode = self.compiled.get(grid)
            if encode is None:
                return grid.pytorch_fwd(points)
            # Points in a row, one dimension of them, and in renders without the wish for gradients that nerfacto's have
            # there, too: whatever differs in these would be compiled anew, and from the eighth time on not at all.
            flat = points if torch.is_grad_enabled() else points.detach()
            return encode(flat.reshape(-1, 3).contiguous()).reshape(*points.shape[:-1], -1)

        return forward

    def expect(self, lookups: float) -> bool:
        """Compile the grids now if so many lookups on the CPU are to come that it pays.

        Returns:
            Whether they have been compiled by this.
        """
        if self.lookups >= self.pays_after or lookups < self.pays_after:
            return False
        self.lookups = self.pays_after
        self._compile()
        return bool(self.compiled)

    def _compile(self) -> None:
        with CONSOLE.status("Compiling the teacher's hash grids"):
            try:
                for grid in self.grids:
                    encode = torch.compile(grid.pytorch_fwd, dynamic=True)
                    with torch.no_grad():
                        encode(torch.full((64, 3), 0.5))
                    self.compiled[grid] = encode
            except IOChangeException:
                # nerfstudio's viewer interrupts a render whose camera has moved on: compiled is with the next one.
                self.compiled, self.lookups = {}, self.pays_after - 1
                raise
            except Exception as error:  # whatever a compiler that is missing or unfit ends in
                self.compiled = {}
                reason = str(error).strip().partition("\n")[0]
                CONSOLE.print(
                    f"[yellow]The teacher is slower than it could be, its hash grids do not compile: {reason}"
                )
