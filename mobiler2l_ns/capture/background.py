"""What transparent photos are laid over: settled here, once, for teacher, student, measuring and export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig, DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from mobiler2l_ns.capture.photos import CaptureDataset
from mobiler2l_ns.errors import UserError

BackgroundColour = Literal["white", "black"]


def lay_over(image: Float[Tensor, "h w channels"], colour: Float[Tensor, "3"]) -> Float[Tensor, "h w 3"]:
    """RGB of a photo that may carry straight alpha, over a colour in 0..1."""
    if image.shape[-1] == 3:
        return image
    alpha = image[..., 3:]
    return image[..., :3] * alpha + colour.to(image) * (1.0 - alpha)


def premultiply(image: Float[Tensor, "h w 4"]) -> Float[Tensor, "h w 4"]:
    """RGBA with the colour multiplied by alpha, from straight alpha."""
    return torch.cat([image[..., :3] * image[..., 3:], image[..., 3:]], dim=-1)


def photo_with_alpha(dataset: InputDataset, index: int) -> Float[Tensor, "h w channels"]:
    """A photo with the channels of its own file, scaled to the dataset's size; ``get_data`` lays those with alpha over
    a colour."""
    read = dataset.get_own_image if isinstance(dataset, CaptureDataset) else dataset.get_numpy_image
    return torch.from_numpy(read(index).astype("float32") / 255.0)


def without_alpha(dataset: CaptureDataset) -> list[Path]:
    """Files of the photos that have no alpha channel, by their headers."""
    found = zip(dataset.image_filenames, dataset.headers, strict=True)
    return [path for path, header in found if header is None or not header.alpha]


def is_cut_out(dataset: InputDataset) -> bool:
    """Whether the dataset leaves it to others to lay its photos over a background: any of them has transparent
    pixels."""
    if dataset._dataparser_outputs.alpha_color is not None:
        return False
    assert isinstance(dataset, CaptureDataset)
    return dataset.cut_out


@dataclass(frozen=True)
class Background:
    """The background of a run's transparent photos."""

    colour: BackgroundColour = "white"
    """What they are laid over."""
    alpha: bool = False
    """Whether the student learns alpha itself, in place of the colour."""

    @property
    def rgb(self) -> Float[Tensor, "3"]:
        """The colour in 0..1, on the CPU."""
        return torch.full((3,), 1.0 if self.colour == "white" else 0.0)

    @property
    def of_teacher(self) -> Literal["white", "black", "random"]:
        """What a nerfacto learns cut-out photos over. Over one colour, empty space may as well be painted in it; over
        random ones only alpha is right."""
        return "random" if self.alpha else self.colour

    def photo(self, dataset: InputDataset, index: int) -> Float[Tensor, "h w channels"]:
        """A photo as the student learns it: RGB over the colour, or premultiplied RGBA.

        Raises:
            UserError: if the student learns alpha and the photo has none.
        """
        if not self.alpha:
            return lay_over(dataset.get_data(index)["image"], self.rgb)
        photo = photo_with_alpha(dataset, index)
        if photo.shape[-1] != 4:
            raise UserError(f"{dataset.image_filenames[index]} has no alpha channel, which the student is to learn")
        return premultiply(photo)

    def shown(self, image: Float[Tensor, "h w channels"]) -> Float[Tensor, "h w 3"]:
        """RGB of a photo with straight alpha, to look at and to measure by."""
        return lay_over(image, self.rgb)

    def check(self, dataparser: DataParserConfig, outputs: DataparserOutputs) -> None:
        """See that the dataparser lays the photos over the same colour, if it lays them over any.

        Raises:
            UserError: if it is another one.
        """
        laid_over = outputs.alpha_color
        if laid_over is not None and not torch.allclose(laid_over.cpu().float(), self.rgb):
            colour = getattr(dataparser, "alpha_color", laid_over)
            raise UserError(
                f"The dataparser lays transparent photos over {colour}, the student another colour: "
                "give the same to the dataparser's --alpha-color and to --pipeline.model.background-color"
            )
