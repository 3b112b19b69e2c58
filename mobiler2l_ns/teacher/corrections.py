"""What a teacher has learned of its training cameras: nerfacto and others correct the poses they were given."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from nerfstudio.cameras.camera_optimizers import CameraOptimizer
from nerfstudio.models.base_model import Model
from torch import Tensor


def learned_corrections(teacher: Model) -> Float[Tensor, "n 3 4"] | None:
    """Rotation and translation by which a teacher moves each of its training cameras; None if it moves none."""
    optimizer = getattr(teacher, "camera_optimizer", None)
    if not isinstance(optimizer, CameraOptimizer) or optimizer.config.mode == "off":
        return None
    with torch.no_grad():
        return optimizer.get_correction_matrices().cpu()


def corrected(poses: Float[Tensor, "n 3 4"], corrections: Float[Tensor, "n 3 4"]) -> Float[Tensor, "n 3 4"]:
    """Poses where the teacher sees them: turned about their own places, and moved, both along the world's axes, as
    nerfstudio's ``CameraOptimizer`` does with rays and with cameras."""
    rotation = corrections[:, :, :3] @ poses[:, :, :3]
    return torch.cat([rotation, poses[:, :, 3:] + corrections[:, :, 3:]], dim=-1)


def same_photos(photos: Sequence[Path], others: Sequence[Path]) -> list[int | None]:
    """For each photo the place of the same one among others, wherever the two captures lie and at whatever scale: the
    file of the same name whose folders have most in common; None if there is none."""
    named: dict[str, list[int]] = defaultdict(list)
    for place, other in enumerate(others):
        named[other.name].append(place)

    def in_common(photo: Path, other: Path) -> int:
        parts = zip(reversed(photo.parts), reversed(other.parts), strict=False)
        return next((count for count, (a, b) in enumerate(parts) if a != b), len(photo.parts))

    return [
        max(named[photo.name], key=lambda place: in_common(photo, others[place])) if photo.name in named else None
        for photo in photos
    ]


def corrections_of_photos(
    teacher: Model, of_teacher: Sequence[Path], photos: Sequence[Path]
) -> Float[Tensor, "n 3 4"] | None:
    """``learned_corrections`` of a teacher from elsewhere, for each of a capture's photos.

    Args:
        of_teacher: the photos that it was trained on, in their order.
        photos: the capture's; one that it was not trained on stays where it is.
    """
    learned = learned_corrections(teacher)
    if learned is None or len(learned) != len(of_teacher):
        return None
    found = torch.eye(4)[:3].repeat(len(photos), 1, 1)
    for place, same in enumerate(same_photos(photos, of_teacher)):
        if same is not None:
            found[place] = learned[same]
    return found
