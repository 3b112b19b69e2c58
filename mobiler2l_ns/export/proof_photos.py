"""The photos behind a student's proof cameras, as its own pinhole camera would have taken them."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.nn import functional

from mobiler2l_ns.capture.background import Background, photo_with_alpha
from mobiler2l_ns.capture.parsing import Split, capture_file, of_split
from mobiler2l_ns.capture.photos import CaptureDataset, sized_dataset
from mobiler2l_ns.errors import UserError
from mobiler2l_ns.geometry.picture import PictureGeometry
from mobiler2l_ns.student.renderer import Student

SAME_POSE = 1e-4
RECORD = "proof_photos.json"
"""In a run's folder: which photos stood at its proof cameras when it was trained."""


@dataclass
class ProofPhoto:
    """A photo in the geometry of the student's full picture."""

    picture: Float[Tensor, "channels h w"]
    """RGB, or premultiplied RGBA for a student with alpha, in 0..1."""
    mask: Float[Tensor, "h w"]
    """1 where the photo shows something and may be judged by."""

    def at(
        self, view: PictureGeometry, full: PictureGeometry
    ) -> tuple[Float[Tensor, "channels h w"], Float[Tensor, "h w"]]:
        """The photo and its mask as a picture of another view: coarser, or a window of this one."""
        both = torch.cat([self.picture, self.mask[None]])[None]
        if abs(view.fx / full.fx - 1.0) > 1e-6:
            both = functional.interpolate(both, (view.height, view.width), mode="bilinear", antialias=True)
        else:
            left, top = round(full.cx - view.cx), round(full.cy - view.cy)
            both = functional.pad(both, (-left, view.width - full.width + left, -top, view.height - full.height + top))
        return both[0, :-1], (both[0, -1] > 0.99).float()


def _at_poses(dataset: CaptureDataset, poses: Float[Tensor, "n 3 4"]) -> dict[int, int]:
    """Place of a pose -> index of the photo that was taken there, where there is one."""
    if len(dataset) == 0:
        return {}
    cameras = dataset.cameras.camera_to_worlds.cpu()
    distance = (cameras[None] - poses[:, None]).abs().amax(dim=(-1, -2))
    nearest = zip(*distance.min(dim=1), strict=True)
    return {place: int(index) for place, (off, index) in enumerate(nearest) if float(off) < SAME_POSE}


def _digest(dataset: CaptureDataset, index: int) -> str:
    """Of a photo's file and its mask's."""
    masks = dataset._dataparser_outputs.mask_filenames
    files = [dataset.image_filenames[index], *([] if masks is None else [masks[index]])]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes() if file.is_file() else b"")
    return digest.hexdigest()


def record_proof_photos(folder: Path, dataset: CaptureDataset, poses: Float[Tensor, "n 3 4"]) -> None:
    """Note in a run's folder which photos stand at its proof cameras, so that others are not taken for them later.

    Args:
        folder: of the run.
        dataset: the photos that are held out.
        poses: of the proof cameras.
    """
    digests = {str(place): _digest(dataset, index) for place, index in _at_poses(dataset, poses.cpu()).items()}
    partial = folder / f"{RECORD}.{os.getpid()}.part"
    partial.write_text(json.dumps(digests, indent=1) + "\n", encoding="utf8")
    partial.replace(folder / RECORD)


def _recorded(folder: Path | None) -> dict[int, str] | None:
    """What ``record_proof_photos`` noted; None if it did not."""
    try:
        noted = json.loads((folder / RECORD).read_text(encoding="utf8")) if folder is not None else None
        return None if noted is None else {int(place): str(digest) for place, digest in noted.items()}
    except (OSError, ValueError, AttributeError):
        return None  # of a run of an earlier version


def _warn(warning: str) -> None:
    CONSOLE.print(warning, style="yellow", markup=False, highlight=False, soft_wrap=True)


def load_proof_photos(config: TrainerConfig, student: Student, folder: Path | None = None) -> list[ProofPhoto | None]:
    """One photo for each of the student's proof poses; None for poses whose photo is not to be had.

    A capture that has moved away, or changed since the run was trained, is no error: the console says so.

    Args:
        config: of the run.
        folder: of the run, where its photos are noted; None: whatever is found is taken.
    """
    poses, recorded = student.capture.proof_poses.cpu(), _recorded(folder)
    changed: set[int] = set()
    seen: set[int] = set()
    found: list[ProofPhoto | None] = [None] * len(poses)
    manager = config.pipeline.datamanager
    parser = manager.dataparser  # type: ignore[attr-defined]
    if manager.data is not None:
        parser.data = Path(manager.data)
    splits: tuple[Split, ...] = () if getattr(manager, "cameras_only", False) else ("val", "test")
    for split in splits:
        try:
            if not capture_file(parser).exists():
                raise UserError(f"there is no {capture_file(parser)}")
            outputs = of_split(parser.setup(), split)
        except (UserError, OSError, AssertionError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            _warn(f"The capture is not there ({reason}): nothing is compared with photos")
            return found
        if outputs is None:
            continue
        dataset = sized_dataset(outputs, manager.max_image_size, manager.camera_res_scale_factor)  # type: ignore[attr-defined]
        for place, index in _at_poses(dataset, poses).items():
            if found[place] is not None or place in changed:
                continue
            if recorded is not None and recorded.get(place) != _digest(dataset, index):
                changed.add(place)
                continue
            seen.add(place)
            found[place] = _photo(dataset, index, student, config)
    if recorded is not None and (others := changed | (set(recorded) - seen)):
        _warn(
            f"{len(others)} of the capture's {len(recorded)} photos at the proof cameras are not those that were there "
            "when the run was trained: nothing is compared with them"
        )
    return found


def _photo(dataset: CaptureDataset, index: int, student: Student, config: TrainerConfig) -> ProofPhoto | None:
    background: Background = config.pipeline.model.background  # type: ignore[attr-defined]
    try:
        photo, mask = photo_with_alpha(dataset, index), dataset.get_mask(index)
        if background.alpha and photo.shape[-1] != 4:
            return None
        photo = background.photo(dataset, index)
    except UserError as error:
        _warn(f"Left out: {error}")
        return None
    moved = undistorted(photo, dataset.cameras[index : index + 1], student.view(), mask)
    return moved if moved is not None and bool(moved.mask.any()) else None


def undistorted(
    photo: Float[Tensor, "h w channels"],
    camera: Cameras,
    view: PictureGeometry,
    visible: Bool[Tensor, "h w 1"] | None = None,
) -> ProofPhoto | None:
    """A photo, resampled as the pinhole camera of a view at the same pose sees it.

    Args:
        photo: in 0..1.
        camera: its camera, shape (1,), OpenCV's distortion k1, k2, k3, k4, p1, p2 in nerfstudio's order.
        view: the pinhole camera.
        visible: where the photo shows something; None: everywhere.

    Returns:
        None where the lens has an r^8 term, which OpenCV's polynomial lacks.
    """
    fx, fy, cx, cy = (float(value.flatten()[0]) for value in (camera.fx, camera.fy, camera.cx, camera.cy))
    lens = np.zeros(5)
    if camera.distortion_params is not None:
        k1, k2, k3, k4, p1, p2 = camera.distortion_params.flatten().tolist()
        if abs(k4) > 1e-8:
            return None
        lens = np.array([k1, k2, p1, p2, k3])

    def matrix(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
        # OpenCV counts from the middle of the first pixel, nerfstudio from its corner.
        return np.array([[fx, 0.0, cx - 0.5], [0.0, fy, cy - 0.5], [0.0, 0.0, 1.0]])

    size = (view.width, view.height)
    maps = cv2.initUndistortRectifyMap(
        matrix(fx, fy, cx, cy), lens, np.eye(3), matrix(*view.intrinsics), size, cv2.CV_32FC1
    )
    shows = np.ones((*photo.shape[:2], 1), np.float32) if visible is None else visible.numpy().astype(np.float32)
    image = np.concatenate([photo.numpy(), shows], axis=-1)
    if max(abs(maps[0] - np.arange(view.width)).max(), abs(maps[1] - np.arange(view.height)[:, None]).max()) > 1e-3:
        image = cv2.remap(image, *maps, cv2.INTER_LINEAR)
    else:  # its own pixels already
        image = image[: view.height, : view.width]
        missing = (0, view.height - image.shape[0]), (0, view.width - image.shape[1]), (0, 0)
        image = np.pad(image, missing)
    moved = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    return ProofPhoto(moved[:-1], (moved[-1] > 0.99).float())
