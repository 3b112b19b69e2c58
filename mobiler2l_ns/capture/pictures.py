"""Picture files as people have them: any colour mode, any orientation, sizes that are not quite the camera's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps

from mobiler2l_ns.errors import UserError

Size = tuple[int, int]
"""Width and height in pixels."""

READ_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises for files that it cannot read."""

_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)


@dataclass(frozen=True)
class Header:
    """What the beginning of a picture file says."""

    size: Size
    """Of the pixels as they are stored."""
    upright: Size
    """Of the picture as its EXIF orientation turns it."""
    mode: str
    """Pillow's name of its colours."""
    alpha: bool
    """Whether its pixels may be transparent."""

    @classmethod
    def read(cls, path: Path) -> Header | None:
        """The header of a file; None if it is not there or no picture."""
        try:
            with Image.open(path) as image:
                return cls(image.size, _upright_size(image), image.mode, _has_alpha(image))
        except READ_ERRORS:
            return None


def _upright_size(image: Image.Image) -> Size:
    width, height = image.size
    return (height, width) if image.getexif().get(_ORIENTATION) in _SIDEWAYS else (width, height)


def _has_alpha(image: Image.Image) -> bool:
    return "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La")


def same_shape(size: Size, other: Size) -> bool:
    """Whether two sizes are one picture at two scales, each rounded to whole pixels."""
    across, down = size[0] / other[0], size[1] / other[1]
    return abs(across - down) <= 1.0 / other[0] + 1.0 / other[1]


def shown_size(header: Header, camera: Size) -> Size | None:
    """The size of a photo in the orientation in which its camera describes it; None if that is no picture of the
    camera's.

    Where the stored pixels fit the camera they are taken as they lie, as nerfstudio and COLMAP take them; otherwise the
    EXIF orientation counts.
    """
    return next((size for size in (header.size, header.upright) if same_shape(size, camera)), None)


def as_viewers_show(image: Image.Image) -> Image.Image:
    """A picture in 8-bit RGB, or RGBA if its pixels may be transparent.

    Raises:
        ValueError: if its numbers are no colours.
    """
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow gives in one of several modes
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("its grey values go beyond 16 bits")
        return Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        values = np.asarray(image)
        if not np.isfinite(values).all() or values.min() < 0.0 or values.max() > 1.0:
            raise ValueError("its floating-point values are not all between 0 and 1")
        return Image.fromarray((values * 255.0 + 0.5).astype(np.uint8)).convert("RGB")
    return image.convert("RGBA" if _has_alpha(image) else "RGB")


def _placed(image: Image.Image, size: Size, resample: Image.Resampling) -> Image.Image:
    """Turned upright if only that fits, and of exactly a size."""
    if not same_shape(image.size, size) and same_shape(_upright_size(image), size):
        image = ImageOps.exif_transpose(image)
    return image if image.size == size else image.resize(size, resample)


def read_photo(path: Path, size: Size) -> UInt8[np.ndarray, "h w channels"]:
    """A photo as a picture viewer shows it, scaled to a size: RGB, or straight RGBA if its file knows transparency.

    Raises:
        UserError: if the file cannot be read to its end, or holds no colours.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return np.array(_placed(as_viewers_show(image), size, Image.Resampling.BILINEAR))
    except READ_ERRORS as error:
        raise _unreadable(path, error) from error


def read_mask(path: Path, size: Size) -> Bool[np.ndarray, "h w 1"]:
    """A mask, scaled to a size: true where a pixel is neither black nor transparent, in whatever colours.

    Raises:
        UserError: if the file cannot be read to its end.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode in ("P", "PA") or _has_alpha(image):
                image = image.convert("RGBA")
            placed = np.array(_placed(image, size, Image.Resampling.NEAREST))
    except READ_ERRORS as error:
        raise _unreadable(path, error) from error
    if placed.ndim == 3:
        seen = (placed[..., :3] > 0).any(-1)
        return (seen & (placed[..., 3] > 0) if placed.shape[-1] == 4 else seen)[..., None]
    return placed[..., None] > 0


def _unreadable(path: Path, error: Exception) -> UserError:
    if not path.is_file():
        return UserError(f"{path} is not there: put it back, or take it out of the capture's list of photos")
    if isinstance(error, Image.UnidentifiedImageError):
        return UserError(f"{path} is no picture that can be read: convert it to PNG or JPEG")
    reason = " ".join(str(error).split())
    return UserError(f"{path} cannot be read ({reason}): put a whole file there, or convert it to an 8-bit PNG")
