"""A row of pictures as one small picture that Markdown can hold."""

from __future__ import annotations

import base64
import io

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

GAP = 2
"""Pixels between two pictures."""


def strip(pictures: UInt8[Tensor, "n h w channels"], columns: int, width: int) -> str:
    """Pictures side by side, in rows of ``columns``.

    Args:
        pictures: RGB, or premultiplied RGBA, which is laid over white.
        columns: pictures in a row.
        width: of the whole strip in pixels.

    Returns:
        A data URL of a JPEG.
    """
    _, height, wide, _ = pictures.shape
    tile_width = max(1, (width + GAP) // columns - GAP)
    tile_height = max(1, round(height * tile_width / wide))
    # Twice the wanted size is enough to average: large pictures need not become floats.
    step = max(1, wide // (2 * tile_width))
    chw = pictures[:, ::step, ::step].permute(0, 3, 1, 2).float()
    if chw.shape[1] == 4:
        chw = chw[:, :3] + (255.0 - chw[:, 3:])
    tiles = adaptive_avg_pool2d(chw, (tile_height, tile_width)).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu()
    rows = -(-len(tiles) // columns)
    sheet = torch.full((rows * (tile_height + GAP) - GAP, columns * (tile_width + GAP) - GAP, 3), 255).byte()
    for index, tile in enumerate(tiles):
        top, left = index // columns * (tile_height + GAP), index % columns * (tile_width + GAP)
        sheet[top : top + tile_height, left : left + tile_width] = tile
    file = io.BytesIO()
    Image.fromarray(sheet.numpy()).save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
