"""How pictures are compared: PSNR, SSIM on NCHW images, and LPIPS when its weights can be had."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure

Image = Float[Tensor, "h w 3"]
Mask = Bool[Tensor, "h w 1"]

SSIM_WINDOW = 11
"""Pixels of the window of a structural similarity, each way."""


def psnr(a: Tensor, b: Tensor, mask: Mask | None = None) -> Tensor:
    """Peak signal-to-noise ratio in dB of two pictures in 0..1, over all pixels or the mask's, a scalar tensor; NaN
    where the mask leaves none."""
    squared = (a.float() - b.float()) ** 2
    if mask is not None:
        squared = squared[mask.to(squared.device)[..., 0]]
    return -10.0 * torch.log10(torch.mean(squared).clamp(min=1e-16))


def behind_mask(picture: Image, reference: Image, mask: Mask | None) -> Image:
    """A picture that shows the reference wherever the mask hides it."""
    return picture if mask is None else torch.where(mask.to(picture.device), picture, reference.to(picture))


def ssim(a: Image, b: Image) -> float:
    """Structural similarity with an 11-pixel Gaussian window, over the picture's rows and columns; along an axis on
    which the picture is smaller than that, with a narrower one."""
    sigma = [_window_sigma(side) for side in a.shape[:2]]
    value = structural_similarity_index_measure(
        a.permute(2, 0, 1)[None].float(), b.permute(2, 0, 1)[None].float(), data_range=1.0, sigma=sigma
    )
    assert isinstance(value, Tensor)
    return float(value)


def _window_sigma(side: int) -> float:
    """Of a window that an axis of so many pixels holds; torchmetrics' reaches for 3.5 sigma to both sides."""
    if side >= SSIM_WINDOW:
        return 1.5
    reach = max(min(1, side - 1), (side - 1) // 2)
    return max(0.4, reach) / 3.5  # 0.4 is rounded to no reach: of a single pixel


class LazyLPIPS(nn.Module):
    """LPIPS (AlexNet) whose weights are fetched at the first call and never enter a state dict.

    torchmetrics' own class downloads them in its constructor, which makes every model that owns one unbuildable without
    a network. Where they cannot be had, one warning is printed and the value is NaN.
    """

    _networks: dict[str, Any] = {}

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def forward(self, a: Float[Tensor, "1 3 h w"], b: Float[Tensor, "1 3 h w"]) -> Tensor:
        if "alex" not in self._networks:
            try:
                from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

                self._networks["alex"] = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
            except Exception as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                CONSOLE.print(f"[yellow]LPIPS is left out: its weights cannot be had ({reason})")
                self._networks["alex"] = None
        network = self._networks["alex"]
        if network is None:
            return torch.tensor(math.nan)
        value = network.to(a.device)(a.float().clamp(0.0, 1.0), b.float().clamp(0.0, 1.0))
        network.reset()
        return value


def image_metrics(picture: Image, reference: Image, lpips: LazyLPIPS, mask: Mask | None = None) -> dict[str, float]:
    """PSNR, SSIM and, if its weights can be had, LPIPS of a picture in 0..1.

    With a mask, PSNR is that of the visible pixels. SSIM and LPIPS look at neighbourhoods: the hidden pixels of both
    pictures are grey there, so they count as equal, whatever the reference shows. Nothing is measured where nothing is
    visible.
    """
    if mask is not None and not bool(mask.any()):
        return {}
    decibel = float(psnr(picture, reference, mask))
    grey = torch.full_like(reference, 0.5)
    picture, reference = (behind_mask(shown, grey, mask) for shown in (picture, reference))
    metrics = {"psnr": decibel, "ssim": ssim(picture, reference)}
    distance = float(lpips(picture.permute(2, 0, 1)[None], reference.permute(2, 0, 1)[None]))
    return metrics if math.isnan(distance) else {**metrics, "lpips": distance}
