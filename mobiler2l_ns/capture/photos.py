"""The capture's photos as nerfstudio's dataset, no larger than the student's pictures may be."""

from __future__ import annotations

import torch
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.geometry.rays import is_perspective


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
