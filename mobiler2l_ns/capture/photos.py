"""The capture's photos as the student sees them: its size, its focal length, low-resolution rays with distortion."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track
from torch import Generator, Tensor
from torch.nn import functional

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.geometry.picture import StudentView
from mobiler2l_ns.geometry.rays import camera_rays, is_perspective
from mobiler2l_ns.pool.pseudo_views import quantise

FOCAL_TOLERANCE = 0.01
"""Photos whose focal length is this close to the student's keep their pixels."""


def sized_dataset(
    outputs: DataparserOutputs,
    max_image_size: int | None,
    scale_factor: float = 1.0,
    dataset_type: type[InputDataset] = InputDataset,
) -> InputDataset:
    """A dataset whose longest side is at most ``max_image_size``, with intrinsics exact for the rounded sizes.

    Raises:
        UserError: if the cameras are not perspective ones.
    """
    if not is_perspective(outputs.cameras):
        raise UserError(
            "mobiler2l needs perspective photos, this capture has other cameras: "
            "undistort them first (ns-process-data with --camera-type perspective or pinhole)"
        )
    longest = int(torch.maximum(outputs.cameras.height, outputs.cameras.width).max())
    scale = scale_factor * min(1.0, (max_image_size / longest) if max_image_size else 1.0)
    dataset = dataset_type(dataparser_outputs=outputs, scale_factor=scale)
    old, new = outputs.cameras, dataset.cameras
    if scale != 1.0:
        # nerfstudio scales the intrinsics by the factor but rounds the photo down: up to 1 % off at small sizes.
        new.width = torch.floor(old.width.double() * scale).long()
        new.height = torch.floor(old.height.double() * scale).long()
    for focal, centre, size in (("fx", "cx", "width"), ("fy", "cy", "height")):
        exact = getattr(new, size) / getattr(old, size)
        # Blender data comes with a focal length in double precision, on which ns-render spiral fails.
        setattr(new, focal, (getattr(old, focal) * exact).float())
        setattr(new, centre, (getattr(old, centre) * exact).float())
    return dataset


def fit_photo(
    photo: Float[Tensor, "h w channels"], camera: Cameras, view: StudentView
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


class Photos:
    """Photos at the student's geometry, kept as bytes with their cameras.

    Args:
        dataset: the photos, RGB or RGBA with straight alpha.
        indices: which of them.
        view: what the student renders.
        background: what transparent photos are laid over; None keeps RGBA, the colour premultiplied.
    """

    pictures: UInt8[Tensor, "n ch cw channels"]
    masks: Float[Tensor, "n ch cw"]
    camera_to_worlds: Float[Tensor, "n 3 4"]
    intrinsics: Float[Tensor, "n 4"]
    """fx, fy, cx, cy in pixels."""
    distortion: Float[Tensor, "n 6"]

    def __init__(
        self, dataset: InputDataset, indices: list[int], view: StudentView, background: Float[Tensor, "3"] | None
    ) -> None:
        pictures, masks, cameras = [], [], []
        for index in track(indices, "Preparing photos", console=CONSOLE, transient=True):
            data = dataset.get_data(index)
            if background is None:
                photo = premultiply(photo_with_alpha(dataset, index))
            else:
                photo = over_background(data["image"], background)
            picture, mask, camera = fit_photo(photo, dataset.cameras[index : index + 1].to("cpu"), view)
            if "mask" in data:
                seen = fit_photo(data["mask"].float(), dataset.cameras[index : index + 1], view)
                mask = mask * (seen[0][..., 0] > 0.99)
            pictures.append(quantise(picture))
            masks.append(mask)
            cameras.append(camera)
        self.view = view
        self.pictures, self.masks = torch.stack(pictures), torch.stack(masks)
        self.camera_to_worlds = torch.cat([camera.camera_to_worlds for camera in cameras])
        self.intrinsics = torch.cat([torch.cat([c.fx, c.fy, c.cx, c.cy], dim=-1) for c in cameras])
        undistorted = torch.zeros(1, 6)
        self.distortion = torch.cat(
            [undistorted if c.distortion_params is None else c.distortion_params for c in cameras]
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def take(
        self, chosen: Tensor, device: torch.device | str, beginning_at: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Origins, directions, pictures in 0..1 and masks of the chosen photos on ``device``; all of each, or the part
        that begins so many pixels down and right, see ``StudentView.beginning_at``."""
        down, right = beginning_at or (0, 0)
        part = self.view if beginning_at is None else self.view.beginning_at(down, right)
        height, width = part.covered
        fx, fy, cx, cy = self.intrinsics[chosen].to(device).split(1, dim=-1)
        cameras = Cameras(
            self.camera_to_worlds[chosen].to(device),
            fx,
            fy,
            cx - right,
            cy - down,
            width=width,
            height=height,
            distortion_params=self.distortion[chosen].to(device),
        )
        origins, directions = camera_rays(cameras, self.view.stride)
        rows, columns = slice(down, down + height), slice(right, right + width)
        return (
            origins,
            directions,
            self.pictures[chosen, rows, columns].to(device).float() / 255.0,
            self.masks[chosen, rows, columns].to(device),
        )

    def draw(
        self,
        count: int,
        generator: Generator,
        device: torch.device | str,
        beginning_at: tuple[int, int] | None = None,
    ) -> tuple[Tensor, ...]:
        """Random photos, see ``take``."""
        return self.take(torch.randint(len(self), (count,), generator=generator), device, beginning_at)


def over_background(image: Float[Tensor, "h w channels"], background: Float[Tensor, "3"]) -> Float[Tensor, "h w 3"]:
    """RGB of a photo that may carry straight alpha."""
    if image.shape[-1] == 3:
        return image
    alpha = image[..., 3:]
    return image[..., :3] * alpha + background.to(image) * (1.0 - alpha)


def is_cut_out(dataset: InputDataset) -> bool:
    """Whether the dataset leaves it to others to lay its photos over a background: some of the first, middle and last
    have transparent pixels."""
    if dataset._dataparser_outputs.alpha_color is not None:
        return False
    for index in (0, len(dataset) // 2, len(dataset) - 1):
        photo = dataset.get_numpy_image(index)
        if photo.shape[-1] == 4 and photo[..., 3].min() < 255:
            return True
    return False


def photo_with_alpha(dataset: InputDataset, index: int) -> Float[Tensor, "h w channels"]:
    """A photo as it is on disk, scaled to the dataset's size; ``get_data`` lays those with alpha over a colour."""
    return torch.from_numpy(dataset.get_numpy_image(index).astype("float32") / 255.0)


def premultiply(image: Float[Tensor, "h w 4"]) -> Float[Tensor, "h w 4"]:
    """RGBA with the colour multiplied by alpha, from straight alpha."""
    return torch.cat([image[..., :3] * image[..., 3:], image[..., 3:]], dim=-1)
