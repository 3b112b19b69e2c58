"""What a training step of the student is judged by."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import mse_loss

from mobiler2l_ns.geometry.cells import VISIBLE, CoarserCells
from mobiler2l_ns.geometry.rays import LowResRays
from mobiler2l_ns.student.renderer import Student

Pictures = Float[Tensor, "n h w channels"]


def squared_error(pictures: Pictures, targets: Pictures, masks: Float[Tensor, "n h w"] | None) -> Tensor:
    """Mean squared error where the masks are 1, a scalar."""
    if masks is None:
        return mse_loss(pictures, targets)
    values = targets.shape[-1] * masks.sum().clamp(min=1.0)
    return ((pictures - targets) ** 2 * masks[..., None]).sum() / values


def colour_psnr(pictures: Pictures, targets: Pictures, masks: Float[Tensor, "n h w"] | None) -> Tensor:
    """PSNR in dB of the colours where the masks are 1, alpha left out, a scalar."""
    visible = torch.ones_like(targets[..., :1]) if masks is None else masks[..., None]
    error = ((pictures.detach() - targets) ** 2 * visible)[..., :3]
    return -10 * torch.log10((error.sum() / (3 * visible.sum())).clamp(min=1e-16))


def training_outputs(student: Student, rays: LowResRays, coarser: bool) -> dict[str, Tensor | CoarserCells]:
    """Pictures of a batch of rays.

    Args:
        student: in training mode.
        rays: of ``n`` pictures.
        coarser: whether a part of the pictures is also rendered at a coarser pitch, drawn at random.

    Returns:
        ``rgb`` (n, H, W, channels), RGB or premultiplied RGBA in 0..1; with a volume its own picture ``volume_rgb``
        (n, mh, mw, channels), a pixel a ray; and where ``coarser`` the cells that were drawn (``coarser_cells``) and
        their ``coarser_rgb``.
    """
    picture, composited = student.look(*rays)
    outputs: dict[str, Tensor | CoarserCells] = {"rgb": picture.permute(0, 2, 3, 1)}
    if composited is not None:
        outputs["volume_rgb"] = composited.colours
    if coarser:
        pitches, (rows, columns) = student.config.pitches, rays.directions.shape[1:3]
        pitch = pitches[1 + int(torch.randint(len(pitches) - 1, ()))]
        cells = CoarserCells.draw(rows, columns, student.config.stride, pitch)
        pictures = student(rays.origins[:, :1, :1], cells.rays(rays.directions), pitch)
        outputs.update(coarser_rgb=pictures.permute(0, 2, 3, 1), coarser_cells=cells)
    return outputs


def training_losses(outputs: dict, batch: dict[str, Tensor], coarser_weight: float) -> dict[str, Tensor]:
    """Losses of ``training_outputs``.

    Args:
        batch: ``image`` (n, H, W, channels) and where not all of it counts ``mask`` (n, H, W), on the outputs' device.
        coarser_weight: of the error at the coarser pitch.
    """
    image, mask = batch["image"], batch.get("mask")
    losses = {"student_rgb_loss": squared_error(outputs["rgb"], image, mask)}
    if "volume_rgb" in outputs:
        size = outputs["volume_rgb"].shape[1:3]
        shown = functional.adaptive_avg_pool2d(image.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)
        seen = None if mask is None else (functional.adaptive_avg_pool2d(mask, size) > VISIBLE).to(mask)
        losses["volume_rgb_loss"] = squared_error(outputs["volume_rgb"], shown, seen)
    if "coarser_cells" in outputs:
        cells: CoarserCells = outputs["coarser_cells"]
        coarser_mask = None if mask is None else cells.mask(mask)
        error = squared_error(outputs["coarser_rgb"], cells.pictures(image), coarser_mask)
        losses["student_coarser_rgb_loss"] = coarser_weight * error
    return losses
