"""The capture's photos as nerfstudio's dataset, no larger than the student's pictures may be."""

from __future__ import annotations

from copy import deepcopy
from functools import cached_property

import numpy as np
import torch
from jaxtyping import UInt8
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset

from mobiler2l_ns.capture.pictures import Header, Size, read_mask, read_photo, shown_size
from mobiler2l_ns.errors import UserError
from mobiler2l_ns.geometry.rays import is_perspective

NO_MASK = "(no mask)"
"""Name of the mask of a photo that has none, in a capture where others do: all of it is visible."""


class CaptureDataset(InputDataset):
    """Photos and masks of exactly their cameras' sizes, in the colours that a picture viewer shows, all with an alpha
    channel or all without.

    nerfstudio 1.1.5's own dataset reads pixels by their bytes: palettes, 16 bits and grey with alpha fail or come out
    as noise, EXIF orientation is ignored, and a photo or mask whose size is not its camera's ends the run.
    """

    def __init__(self, dataparser_outputs: DataparserOutputs, scale_factor: float = 1.0) -> None:
        super().__init__(dataparser_outputs, scale_factor)
        self.headers = [Header.read(path) for path in dataparser_outputs.image_filenames]

    def size(self, index: int) -> Size:
        """Width and height that a photo and its mask have here."""
        camera = self.cameras[index]
        return int(camera.width), int(camera.height)

    @cached_property
    def alpha(self) -> bool:
        """Whether any of the photos knows transparency; all are RGBA then."""
        return any(header is not None and header.alpha for header in self.headers)

    def get_own_image(self, index: int) -> UInt8[np.ndarray, "h w channels"]:
        """A photo with the channels that its own file has: RGB or straight RGBA.

        Raises:
            UserError: if the file cannot be read.
        """
        return read_photo(self.image_filenames[index], self.size(index))

    def get_numpy_image(self, image_idx: int) -> UInt8[np.ndarray, "h w channels"]:
        """A photo as RGB, or as straight RGBA if any photo has alpha.

        Raises:
            UserError: if the file cannot be read.
        """
        photo = self.get_own_image(image_idx)
        if self.alpha and photo.shape[-1] == 3:
            photo = np.concatenate([photo, np.full_like(photo[..., :1], 255)], axis=-1)
        return photo

    def get_image_uint8(self, image_idx: int) -> UInt8[torch.Tensor, "h w channels"]:
        """``get_image_float32`` in bytes, to the nearest."""
        if self._dataparser_outputs.alpha_color is None:
            return torch.from_numpy(self.get_numpy_image(image_idx))
        return (self.get_image_float32(image_idx) * 255.0).round().to(torch.uint8)

    def get_mask(self, index: int) -> torch.Tensor | None:
        """Where a photo is visible, (H, W, 1) bool; None in a capture without masks.

        Raises:
            UserError: if the file cannot be read.
        """
        if self._dataparser_outputs.mask_filenames is None:
            return None
        path, (width, height) = self._dataparser_outputs.mask_filenames[index], self.size(index)
        if path.name == NO_MASK:
            return torch.ones(height, width, 1, dtype=torch.bool)
        return torch.from_numpy(read_mask(path, (width, height)))

    @cached_property
    def visible(self) -> list[int]:
        """Indices of the photos of which the masks leave something; reads all masks once."""
        masks = ((index, self.get_mask(index)) for index in range(len(self)))
        return [index for index, mask in masks if mask is None or bool(mask.any())]

    @cached_property
    def cut_out(self) -> bool:
        """Whether any photo has transparent pixels; reads those with an alpha channel until one has."""
        known = (index for index, header in enumerate(self.headers) if header is not None and header.alpha)
        return any(self.get_own_image(index)[..., 3].min() < 255 for index in known)

    def get_data(self, image_idx: int, image_type: str = "float32") -> dict:
        """A photo as nerfstudio passes it on: ``image`` (H, W, 3 or 4) and, if the capture has masks, ``mask``
        (H, W, 1) bool.

        Raises:
            UserError: if a file cannot be read.
        """
        image = (self.get_image_float32 if image_type == "float32" else self.get_image_uint8)(image_idx)
        data = {"image_idx": image_idx, "image": image}
        mask = self.get_mask(image_idx)
        if mask is not None:
            data["mask"] = mask
            if self.mask_color:
                colour = torch.tensor([*self.mask_color, 1.0][: image.shape[-1]])
                colour = colour if image_type == "float32" else (colour * 255).to(torch.uint8)
                data["image"] = torch.where(mask, image, colour)
        data.update(self.get_metadata(data))
        return data


class NoneHeldOut(CaptureDataset):
    """The evaluation split of a capture that holds no photo out: it has no photos, but the training photos' cameras,
    for renderers that begin at the first evaluation camera."""

    def __len__(self) -> int:
        return 0


class CamerasOnly(CaptureDataset):
    """Cameras of which there are no photos: what is looked at in their place is grey."""

    def get_own_image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """A grey picture of a camera's size."""
        width, height = self.size(index)
        return np.full((height, width, 3), 128, dtype=np.uint8)

    def get_mask(self, index: int) -> None:
        """There are no masks either."""


class NoCamerasHeldOut(NoneHeldOut, CamerasOnly):
    """The evaluation split of cameras without photos."""


def as_large_as_photos(cameras: Cameras, headers: list[Header | None]) -> Cameras:
    """Cameras whose size is that of their photos' files, up to one pixel of rounding each way.

    Photos that were scaled after their cameras were written down are the same pictures: the intrinsics are scaled by as
    much. Photos that are no picture of their camera's leave it as it is.
    """
    sizes = []
    for index, header in enumerate(headers):
        camera = int(cameras.width[index]), int(cameras.height[index])
        shown = None if header is None else shown_size(header, camera)
        rounded = shown is None or max(abs(shown[0] - camera[0]), abs(shown[1] - camera[1])) <= 1
        sizes.append(camera if rounded else shown)
    width, height = torch.tensor(sizes, dtype=torch.long).reshape(-1, 2).to(cameras.width.device).T
    return resized(cameras, width[:, None], height[:, None])


def resized(cameras: Cameras, width: torch.Tensor, height: torch.Tensor) -> Cameras:
    """Cameras (n,) with pictures of other sizes (n, 1), and intrinsics exact for those."""
    scaled = deepcopy(cameras)
    for focal, centre, size, new in (("fx", "cx", "width", width), ("fy", "cy", "height", height)):
        exact = new / getattr(cameras, size)
        # Blender data comes with a focal length in double precision, on which ns-render spiral fails.
        setattr(scaled, focal, (getattr(cameras, focal) * exact).float())
        setattr(scaled, centre, (getattr(cameras, centre) * exact).float())
        setattr(scaled, size, new)
    return scaled


def sized_dataset(
    outputs: DataparserOutputs,
    max_image_size: int | None,
    scale_factor: float = 1.0,
    dataset_type: type[CaptureDataset] = CaptureDataset,
) -> CaptureDataset:
    """A dataset whose longest side is at most ``max_image_size``, with intrinsics exact for the rounded sizes.

    Raises:
        UserError: if the cameras are not perspective ones.
    """
    if not is_perspective(outputs.cameras):
        raise UserError(
            f"mobiler2l needs perspective photos, {outputs.image_filenames[0]} and this capture have other cameras: "
            "undistort them first (ns-process-data with --camera-type perspective or pinhole)"
        )
    dataset = dataset_type(outputs)
    cameras = as_large_as_photos(outputs.cameras, dataset.headers)
    longest = int(torch.maximum(cameras.height, cameras.width).max())
    scale = scale_factor * min(1.0, (max_image_size / longest) if max_image_size else 1.0)
    dataset.scale_factor = scale
    # nerfstudio scales the intrinsics by the factor but rounds the photo down: up to 1 % off at small sizes.
    width, height = (torch.floor(size.double() * scale).long().clamp(min=1) for size in (cameras.width, cameras.height))
    dataset.cameras = resized(cameras, width, height)
    return dataset
