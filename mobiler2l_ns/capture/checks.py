"""One look at all files of a capture, before anything is trained from them."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from nerfstudio.cameras.camera_utils import radial_and_tangential_undistort
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import Progress

from mobiler2l_ns.capture.photos import CaptureDataset
from mobiler2l_ns.capture.pictures import Header, Size, read_mask, read_photo, same_shape, shown_size
from mobiler2l_ns.errors import UserError

PATIENCE = 2.0
"""Seconds after which the look at the files shows how far it is."""
LENS_PIXELS = 1.0
"""Most by which a pixel may miss itself when its lens distortion is undone and done again."""


@dataclass
class Findings:
    """What a capture holds, and what is wrong with it."""

    problems: list[str] = field(default_factory=list)
    """Each one line: a file, and what to do."""
    notes: list[str] = field(default_factory=list)
    """What is understood, but not what one would expect."""
    facts: dict[str, str] = field(default_factory=dict)
    """Name -> what was found, for a table."""

    def refuse(self) -> None:
        """
        Raises:
            UserError: with the first problem, if there is any.
        """
        if self.problems:
            more = len(self.problems) - 1
            others = f" (and {more} more such lines: mobiler2l-check lists them)" if more else ""
            raise UserError(self.problems[0] + others)


@dataclass(frozen=True)
class _Look:
    """What one photo and its mask turned out to be."""

    problem: str | None = None
    note: str | None = None
    cut_out: bool = False
    hidden: bool = False


def look_at(splits: Mapping[str, CaptureDataset]) -> Findings:
    """Read every photo and mask of a capture to its end, and see that they fit their cameras.

    Args:
        splits: train and what else there is. Their datasets then know whether their photos are cut out.
    """
    found = Findings()
    jobs = [(name, index) for name, dataset in splits.items() for index in range(len(dataset))]
    looks = _with_progress(splits, jobs)
    for look in looks:
        found.problems += [look.problem] if look.problem else []
    notes = Counter(look.note for look in looks if look.note)
    found.notes += [f"{note} ({count} of {len(looks)})" for note, count in notes.items()]
    for name, dataset in splits.items():
        of_split = [look for (split, _), look in zip(jobs, looks, strict=True) if split == name]
        dataset.cut_out = any(look.cut_out for look in of_split)  # type: ignore[misc]  settles the cached property
        hidden = [dataset.image_filenames[index].name for index, look in enumerate(of_split) if look.hidden]
        if hidden and len(hidden) == len(of_split) and name == "train":
            mask = dataset._dataparser_outputs.mask_filenames[0]  # type: ignore[index]
            found.problems.append(f"{mask} and all other masks hide their whole photos: paint what is to be seen white")
        elif hidden:
            found.notes.append(f"Wholly hidden by their masks, and so left out: {', '.join(hidden)}")
        found.problems += _lens_problems(dataset)
        found.problems += _pose_problems(dataset)
        found.problems += _doubles(dataset)
    found.problems = list(dict.fromkeys(found.problems))
    found.notes += _overlaps(splits)
    found.facts = _facts(splits)
    return found


def look_at_cameras(cameras: CaptureDataset) -> Findings:
    """See that the cameras of a capture without photos can be seen through."""
    return Findings(_lens_problems(cameras) + _pose_problems(cameras))


def _with_progress(splits: Mapping[str, CaptureDataset], jobs: list[tuple[str, int]]) -> list[_Look]:
    began = time.perf_counter()
    looks: list[_Look] = []
    with (
        ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool,
        Progress(console=CONSOLE, transient=True, disable=False, auto_refresh=False) as progress,
    ):
        task = progress.add_task("Looking at the photos", total=len(jobs), visible=False)
        for look in pool.map(lambda job: _look_at_photo(splits[job[0]], job[1]), jobs):
            looks.append(look)
            if time.perf_counter() - began > PATIENCE:
                progress.update(task, completed=len(looks), visible=True)
                progress.refresh()
    return looks


def _look_at_photo(dataset: CaptureDataset, index: int) -> _Look:
    path, header = dataset.image_filenames[index], dataset.headers[index]
    stated = dataset._dataparser_outputs.cameras[index]
    camera: Size = int(stated.width), int(stated.height)
    try:
        if header is None:
            read_photo(path, camera)  # says why
            return _Look()
        size = shown_size(header, camera)
        if size is None:
            return _Look(
                f"{path} has {header.upright[0]} x {header.upright[1]} pixels, its camera {camera[0]} x {camera[1]}: "
                "give the photo that the camera was estimated from, or correct w and h"
            )
        photo = read_photo(path, size)
        hidden, problem = _look_at_mask(dataset, index, size)
    except UserError as error:
        return _Look(str(error))
    cut_out = photo.shape[-1] == 4 and int(photo[..., 3].min()) < 255
    return _Look(problem, _size_note(header, size, camera), cut_out, hidden)


def _size_note(header: Header, size: Size, camera: Size) -> str | None:
    if max(abs(size[0] - camera[0]), abs(size[1] - camera[1])) > 1:
        return f"Photos have {size[0]} x {size[1]} pixels, their cameras {camera[0]} x {camera[1]}: the photos count"
    if size != camera:
        return "Photos whose size is a pixel off their camera's are scaled to it"
    if size == header.size and header.upright != header.size:
        return "Photos whose EXIF orientation would turn them are taken as they lie, as their cameras do"
    return None


def _look_at_mask(dataset: CaptureDataset, index: int, size: Size) -> tuple[bool, str | None]:
    """Whether the photo is wholly hidden, and what is wrong with its mask."""
    masks = dataset._dataparser_outputs.mask_filenames
    if masks is None:
        return False, None
    path: Path = masks[index]
    header = Header.read(path)
    if header is not None and not (same_shape(header.size, size) or same_shape(header.upright, size)):
        return False, (
            f"{path} has {header.size[0]} x {header.size[1]} pixels, its photo {size[0]} x {size[1]}: "
            "give a mask of the same shape"
        )
    mask = dataset.get_mask(index) if header is None else read_mask(path, size)
    return mask is not None and not bool(mask.any()), None


def lens_error(cameras: Cameras) -> float:
    """Most pixels by which nerfstudio's undistortion misses what it undoes, over the whole of one camera's picture.

    Args:
        cameras: one camera, shape (1,).
    """
    lens = cameras.distortion_params
    if lens is None or not bool((lens != 0).any()):
        return 0.0
    fx, fy, cx, cy, width, height = (
        float(value.flatten()[0])
        for value in (cameras.fx, cameras.fy, cameras.cx, cameras.cy, cameras.width, cameras.height)
    )
    x = (torch.linspace(0.0, width, 33) - cx) / fx
    y = (torch.linspace(0.0, height, 33) - cy) / fy
    bent = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)
    u, v = radial_and_tangential_undistort(bent, lens.reshape(1, -1).cpu().float()).T
    k1, k2, k3, k4, p1, p2 = lens.flatten().tolist()
    r = u * u + v * v
    radial = 1.0 + r * (k1 + r * (k2 + r * (k3 + r * k4)))
    again = torch.stack(
        [u * radial + 2 * p1 * u * v + p2 * (r + 2 * u * u), v * radial + 2 * p2 * u * v + p1 * (r + 2 * v * v)], dim=-1
    )
    error = ((again - bent) * torch.tensor([fx, fy])).norm(dim=-1)
    # Beyond the fold of a polynomial its slope is negative: pixels there would show another place as well.
    slope = 1.0 + r * (3 * k1 + r * (5 * k2 + r * (7 * k3 + r * 9 * k4)))
    return float("inf") if bool((slope <= 0).any()) or not bool(error.isfinite().all()) else float(error.max())


def _lens_problems(dataset: CaptureDataset) -> list[str]:
    seen, cameras = set(), dataset.cameras.to("cpu")
    for index in range(len(dataset)):
        camera = cameras[index : index + 1]
        lens = camera.distortion_params
        key = (None if lens is None else tuple(lens.flatten().tolist()), float(camera.fx), int(camera.width))
        if key in seen:
            continue
        seen.add(key)
        if not lens_error(camera) <= LENS_PIXELS:
            return [
                f"{dataset.image_filenames[index]}: the lens distortion of its camera cannot be undone towards the "
                "edges of the picture: undistort the photos (colmap image_undistorter), or calibrate the lens again"
            ]
    return []


def _pose_problems(dataset: CaptureDataset) -> list[str]:
    """Of dataparsers whose file is not read by ``transforms``."""
    poses = dataset.cameras.camera_to_worlds[: len(dataset)].cpu().double()
    rotation = poses[:, :, :3]
    error = (rotation.transpose(1, 2) @ rotation - torch.eye(3)).abs().amax(dim=(1, 2))
    fine = poses.isfinite().all(dim=2).all(dim=1) & (error < 0.02) & (torch.linalg.det(rotation) > 0)
    return [
        f"{path}: its pose is no finite, right-handed rotation and place: estimate it again"
        for path, good in zip(dataset.image_filenames, fine.tolist(), strict=False)
        if not good
    ]


def _doubles(dataset: CaptureDataset) -> list[str]:
    """The same file with two different poses, as where two cameras' folders were shrunk into one."""
    first: dict[Path, np.ndarray] = {}
    poses = dataset.cameras.camera_to_worlds.cpu().numpy()
    for path, pose in zip(dataset.image_filenames, poses, strict=False):
        if np.abs(first.setdefault(path, pose) - pose).max() > 1e-4:
            return [f"{path} is listed with two different poses: give each photo a name of its own"]
    return []


def _overlaps(splits: Mapping[str, CaptureDataset]) -> list[str]:
    """What is trained on and held out as well, by a list or because a file is listed twice."""
    trained = set(splits["train"].image_filenames)
    both = {path.name for name in splits if name != "train" for path in splits[name].image_filenames if path in trained}
    return [f"Trained on and held out as well, so measured too well: {', '.join(sorted(both))}"] if both else []


def _counted(values: list[str]) -> str:
    counts = Counter(values).most_common()
    shown = [value if len(counts) == 1 else f"{value} ({count})" for value, count in counts[:4]]
    return ", ".join(shown) + (f", and {len(counts) - 4} more" if len(counts) > 4 else "")


def _facts(splits: Mapping[str, CaptureDataset]) -> dict[str, str]:
    everything = [(dataset, index) for dataset in splits.values() for index in range(len(dataset))]
    headers = [header for dataset, index in everything if (header := dataset.headers[index]) is not None]
    cameras = [dataset.cameras[index] for dataset, index in everything]
    distorted = sum(c.distortion_params is not None and bool((c.distortion_params != 0).any()) for c in cameras)
    masks = sum(dataset._dataparser_outputs.mask_filenames is not None for dataset in splits.values())
    train = splits["train"].cameras.camera_to_worlds[:, :, 3].cpu()
    extent = (train.amax(0) - train.amin(0)).tolist() if len(train) else [0.0] * 3
    return {
        "photos": ", ".join(f"{len(dataset)} {name}" for name, dataset in splits.items()),
        "files": _counted([f"{header.size[0]} x {header.size[1]}" for header in headers]) or "none can be read",
        "colours": _counted([header.mode for header in headers]) or "none can be read",
        "transparency": "cut out" if any(dataset.cut_out for dataset in splits.values()) else "none",
        "learned at": _counted([f"{int(c.width)} x {int(c.height)}" for c in cameras]),
        "focal lengths": _counted([f"{float(c.fx):.1f}, {float(c.fy):.1f}" for c in cameras]),
        "lens distortion": f"{distorted} of {len(cameras)} photos",
        "masks": "yes" if masks else "none",
        "cameras' extent": " x ".join(f"{value:.3g}" for value in extent),
    }
