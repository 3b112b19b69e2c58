"""The pool of photos: the capture's photos at the student's size and focal length, with their low-resolution rays."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, UInt8
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track
from torch import Generator, Tensor
from torch.nn import functional

from mobiler2l_ns.capture.background import Background
from mobiler2l_ns.geometry.picture import PictureGeometry
from mobiler2l_ns.pool.batch import StudentBatch
from mobiler2l_ns.pool.photo_rays import PhotoRays
from mobiler2l_ns.pool.pseudo_views import quantise, sent

FOCAL_TOLERANCE = 0.01
"""Photos whose focal length is this close to the student's keep their pixels."""


def fit_photo(
    photo: Float[Tensor, "h w channels"], camera: Cameras, view: PictureGeometry
) -> tuple[Float[Tensor, "ch cw channels"], Float[Tensor, "ch cw"], Cameras]:
    """Bring a photo to the student's focal length and covered size.

    A photo taken at another focal length is resized with antialiasing, one of another size is cropped or padded about
    its middle; lens distortion stays in the photo and in the returned camera.

    Returns:
        The picture, its mask (1 where the photo has pixels) and the camera of the picture.
    """
    height, width = photo.shape[:2]
    fx, fy, cx, cy = (float(value.flatten()[0]) for value in (camera.fx, camera.fy, camera.cx, camera.cy))
    rows, columns = height, width
    if max(abs(view.fx / fx - 1), abs(view.fy / fy - 1)) > FOCAL_TOLERANCE:
        rows, columns = max(1, round(height * view.fy / fy)), max(1, round(width * view.fx / fx))
        chw = functional.interpolate(photo.permute(2, 0, 1)[None], (rows, columns), mode="bilinear", antialias=True)
        photo = chw[0].permute(1, 2, 0)
        fx, cx, fy, cy = fx * columns / width, cx * columns / width, fy * rows / height, cy * rows / height
    top, left = max(0, (rows - view.height) // 2), max(0, (columns - view.width) // 2)
    photo = photo[top : top + view.height, left : left + view.width]
    covered_height, covered_width = view.covered
    picture = torch.zeros(covered_height, covered_width, photo.shape[-1])
    mask = torch.zeros(covered_height, covered_width)
    picture[: photo.shape[0], : photo.shape[1]] = photo
    mask[: photo.shape[0], : photo.shape[1]] = 1.0
    fitted = Cameras(
        camera.camera_to_worlds.reshape(1, 3, 4),
        fx,
        fy,
        cx - left,
        cy - top,
        width=covered_width,
        height=covered_height,
        distortion_params=None if camera.distortion_params is None else camera.distortion_params.reshape(1, -1),
        camera_type=camera.camera_type.reshape(1, 1),
    )
    return picture, mask, fitted


class PhotoPool:
    """Photos at the student's geometry, kept as bytes with their cameras; a mask that all share is kept once.

    Args:
        dataset: the photos, RGB or RGBA with straight alpha.
        indices: which of them.
        view: what the student renders.
        background: of transparent photos.
        poses: where all of the dataset's photos were taken from; None: where its cameras say.
    """

    pictures: UInt8[Tensor, "n ch cw channels"]
    masks: Bool[Tensor, "n ch cw"]
    camera_to_worlds: Float[Tensor, "n 3 4"]
    intrinsics: Float[Tensor, "n 4"]
    """fx, fy, cx, cy in pixels."""
    distortion: Float[Tensor, "n 6"]

    def __init__(
        self,
        dataset: InputDataset,
        indices: list[int],
        view: PictureGeometry,
        background: Background,
        poses: Float[Tensor, "m 3 4"] | None = None,
    ) -> None:
        count, (height, width) = len(indices), view.covered
        self.view = view
        # Filled in place: a small tensor kept of each photo would keep the allocator from giving back what lies before.
        self.pictures = torch.empty(count, height, width, 4 if background.alpha else 3, dtype=torch.uint8)
        self.masks = torch.zeros(0, height, width, dtype=torch.bool)
        self.camera_to_worlds, self.intrinsics = torch.empty(count, 3, 4), torch.empty(count, 4)
        self.distortion = torch.zeros(count, 6)
        self._rays: PhotoRays | None = None
        for place, index in enumerate(track(indices, "Preparing photos", console=CONSOLE, transient=True)):
            data, photo = dataset.get_data(index), background.photo(dataset, index)
            picture, mask, camera = fit_photo(photo, dataset.cameras[index : index + 1].to("cpu"), view)
            if "mask" in data:
                seen = fit_photo(data["mask"].float(), dataset.cameras[index : index + 1], view)
                mask = mask * (seen[0][..., 0] > 0.99)
            self.pictures[place] = quantise(picture)
            self._set_mask(place, mask > 0)
            self.camera_to_worlds[place] = camera.camera_to_worlds[0] if poses is None else poses[index]
            self.intrinsics[place] = torch.cat([camera.fx, camera.fy, camera.cx, camera.cy], dim=-1)[0]
            if camera.distortion_params is not None:
                self.distortion[place] = camera.distortion_params[0]

    def _set_mask(self, place: int, mask: Bool[Tensor, "ch cw"]) -> None:
        if place == 0:
            self.masks = mask.expand(len(self.pictures), -1, -1)
        elif not torch.equal(mask, self.masks[place]):
            if self.masks.stride(0) == 0:
                self.masks = self.masks.clone(memory_format=torch.contiguous_format)
            self.masks[place] = mask

    def __len__(self) -> int:
        return len(self.pictures)

    def take(
        self,
        chosen: Int[Tensor, "count"],
        device: torch.device | str,
        beginning_at: tuple[int, int] | None = None,
    ) -> StudentBatch:
        """The chosen photos on ``device``; all of each, or the part that begins so many pixels down and right, see
        ``PictureGeometry.beginning_at``. Which are chosen is told on the CPU."""
        if self._rays is None or self._rays.device != torch.device(device):
            self._rays = PhotoRays(self.camera_to_worlds, self.intrinsics, self.distortion, self.view, device)
        down, right = beginning_at or (0, 0)
        part = self.view if beginning_at is None else self.view.beginning_at(down, right)
        height, width = part.covered
        rows, columns = slice(down, down + height), slice(right, right + width)
        indices = chosen.tolist()

        def together(values: Tensor) -> Tensor:
            return sent(torch.stack([values[index, rows, columns] for index in indices]), device)

        masks = together(self.masks).float()
        return StudentBatch(self._rays.take(indices, beginning_at), together(self.pictures).float() / 255.0, masks)

    def to(self, device: torch.device | str) -> PhotoPool:
        """Move pictures and masks to a device; a mask that all share is still kept once."""
        shared = self.masks.stride(0) == 0 and len(self.masks) > 0
        self.masks = self.masks[:1].to(device).expand_as(self.masks) if shared else self.masks.to(device)
        self.pictures = self.pictures.to(device)
        return self

    def draw(
        self,
        count: int,
        generator: Generator,
        device: torch.device | str,
        beginning_at: tuple[int, int] | None = None,
    ) -> StudentBatch:
        """Random photos, see ``take``."""
        return self.take(torch.randint(len(self), (count,), generator=generator), device, beginning_at)
