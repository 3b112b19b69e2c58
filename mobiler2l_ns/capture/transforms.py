"""transforms.json as people have it, brought to what nerfstudio 1.1.5's dataparsers take.

They want every number at its place and every file under its name, and end with a KeyError or an AssertionError where
something is missing. What a file says clearly enough is written out here; what it does not is one line.
"""

from __future__ import annotations

import json
import math
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from nerfstudio.cameras.cameras import CAMERA_MODEL_TO_TYPE

from mobiler2l_ns.capture.photos import NO_MASK
from mobiler2l_ns.capture.pictures import Header
from mobiler2l_ns.capture.poses import clean_poses, move_to_zero, stand_at_one_place, stand_far_away
from mobiler2l_ns.errors import UserError

Meta = dict[str, Any]
Frame = dict[str, Any]

_LENS = ("k1", "k2", "k3", "k4", "p1", "p2")
_FRACTION = ("k4", "k5", "k6")
"""COLMAP's FULL_OPENCV: coefficients of a denominator, which nerfstudio does not know."""
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")


def read_json(file: Path) -> Meta:
    """A capture's file, with or without a byte order mark.

    Raises:
        UserError: if it is not there, or no JSON object.
    """
    try:
        meta = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{file} cannot be opened ({error.strerror}): give the capture's folder to --data") from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is not written in UTF-8: save it so") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{file} is no JSON ({error}): write it anew") from None
    if not isinstance(meta, dict):
        raise UserError(f"{file} holds no camera intrinsics and frames: write it anew")
    frames = meta.get("frames")
    if not isinstance(frames, list) or not frames:
        raise UserError(f"{file} lists no photos: its frames are empty. Process the capture again")
    if all(isinstance(frame, dict) and "file_path" not in frame for frame in frames):
        # Cameras without photos.
        for index, frame in enumerate(frames):
            frame["file_path"] = f"camera_{index:05d}"
    for index, frame in enumerate(frames):
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
            raise UserError(f"{file}: frame {index} has no file_path: name its photo, or take it out")
    return meta


def nerfstudio_meta(file: Path, centre: bool) -> tuple[Meta, list[str], bool]:
    """A transforms.json for nerfstudio's own dataparser.

    Args:
        file: the capture's.
        centre: whether the dataparser centres the cameras anyway, so that they may be moved.

    Returns:
        What the dataparser is to read, what was changed in lines for people, and whether all cameras stand at one
        place.

    Raises:
        UserError: if the file does not say enough.
    """
    meta = read_json(file)
    frames: list[Frame] = meta["frames"]
    _find_files(meta, file.parent)
    notes = clean_poses(frames, file)
    _settle_camera_model(meta, file)
    _settle_intrinsics(meta, file)
    _settle_splits(meta)
    if "applied_transform" in meta:
        meta["applied_transform"] = _applied(meta, file).tolist()
    notes += settle_places(meta, file, centre)
    return meta, notes, stand_at_one_place(frames)


def settle_places(meta: Meta, file: Path, centre: bool) -> list[str]:
    """Move cameras that are far from zero, or all at one place, to zero; ``applied_transform`` says so.

    Raises:
        UserError: if they are far away and may not be moved.
    """
    frames: list[Frame] = meta["frames"]
    together, far = stand_at_one_place(frames), stand_far_away(frames)
    if not together and not far:
        return []
    if far and not centre:
        raise UserError(
            f"{file}: the cameras stand too far from zero for single precision: let the dataparser centre them with "
            "--center-method poses"
        )
    if not centre:
        return []
    applied = _applied(meta, file)
    middle = move_to_zero(frames)
    applied[:, 3] -= middle
    meta["applied_transform"] = applied.tolist()
    if together:
        return ["All cameras stand at one place: distances cannot be seen from there, the student can only look around"]
    return [f"The cameras of {file.name} stand around {middle.round(1).tolist()}: they are moved to zero"]


def blender_meta(file: Path) -> tuple[Meta, list[str]]:
    """A transforms_train.json, or that of another split, for nerfstudio's Blender dataparser, which takes
    ``camera_angle_x`` only, and whose photos all end in .png.

    Returns:
        What the dataparser is to read, and what was changed or is not counted in lines for people.

    Raises:
        UserError: if the file does not say enough.
    """
    meta = read_json(file)
    frames: list[Frame] = meta["frames"]
    for frame in frames:
        frame["file_path"] = _WholeName(blender_photo(file.parent, frame["file_path"]))
    first = file.parent / frames[0]["file_path"]
    notes = clean_poses(frames, file)
    if not stand_at_one_place(frames) and stand_far_away(frames):
        raise UserError(
            f"{file}: the cameras stand far from zero, where Blender captures have their object: move both there"
        )
    header = Header.read(first)
    width = _number(meta, "w", file) or (header.size[0] if header else None)
    angle, focal = _number(meta, "camera_angle_x", file), _number(meta, "fl_x", file)
    if angle is None:
        if focal is None or width is None:
            raise UserError(f"{file} has no camera_angle_x: write the horizontal field of view there, in radians")
        angle = 2.0 * math.atan(width / (2.0 * focal))
    if not 0.0 < angle < math.pi:
        raise UserError(f"{file}: a camera_angle_x of {angle:g} is no field of view: it is given in radians, below pi")
    meta["camera_angle_x"] = angle
    if width is not None and focal is not None:
        counts = width / (2.0 * math.tan(angle / 2.0))
        if abs(focal / counts - 1.0) > 0.01:
            notes.append(f"{file.name}: camera_angle_x counts (a focal length of {counts:.1f}), not fl_x {focal:.1f}")
    return meta, notes


# Files


class _WholeName(str):
    """A photo's name that is whole already, for nerfstudio's Blender dataparser, which adds ``.png`` to all names."""

    def replace(self, *args: Any) -> _WholeName:  # type: ignore[override]
        return _WholeName(super().replace(*args))

    def __add__(self, suffix: str) -> str:
        return str(self)


def blender_photo(folder: Path, name: str) -> str:
    """The path in a Blender capture's folder of a photo that its file lists, PNG where it does not say."""
    if (folder / f"{name}.png").is_file():
        return f"{name}.png"
    found = _existing(folder, name)
    return found if (folder / found).is_file() or found.lower().endswith(_SUFFIXES) else f"{found}.png"


def lists_no_photos(file: Path) -> bool:
    """Whether none of the photos that a transforms.json lists is there.

    Raises:
        UserError: if it cannot be read.
    """
    folder = file.parent
    return not any((folder / _existing(folder, frame["file_path"])).is_file() for frame in read_json(file)["frames"])


def _existing(folder: Path, name: str) -> str:
    """The path of a listed file as it lies on disk: with slashes, and with its suffix. As given if there is none."""
    for candidate in (name, PureWindowsPath(name).as_posix()):
        path = folder / candidate
        if path.is_file():
            return candidate
        if not path.suffix or not path.suffix[1:].isalpha():
            for suffixes in (_SUFFIXES, tuple(map(str.upper, _SUFFIXES))):
                found = [suffix for suffix in suffixes if path.with_name(path.name + suffix).is_file()]
                if len(found) == 1:
                    return candidate + found[0]
    return PureWindowsPath(name).as_posix() if "\\" in name and "/" not in name else name


def _find_files(meta: Meta, folder: Path) -> None:
    frames: list[Frame] = meta["frames"]
    renamed = {}
    for frame in frames:
        found = _existing(folder, frame["file_path"])
        renamed[frame["file_path"]] = found
        frame["file_path"] = found
        if frame.get("mask_path"):
            frame["mask_path"] = _existing(folder, str(frame["mask_path"]))
        else:
            frame.pop("mask_path", None)
    if any("mask_path" in frame for frame in frames):
        for frame in frames:
            frame.setdefault("mask_path", NO_MASK)
    for split in ("train", "val", "test"):
        names = meta.get(f"{split}_filenames")
        if isinstance(names, list):
            meta[f"{split}_filenames"] = [renamed.get(name) or _existing(folder, str(name)) for name in names]


def _settle_splits(meta: Meta) -> None:
    """Where some splits are listed, let validation and test stand in for each other, and the rest train."""
    if not any(f"{split}_filenames" in meta for split in ("train", "val", "test")):
        return
    val, test = meta.get("val_filenames") or [], meta.get("test_filenames") or []
    meta["val_filenames"], meta["test_filenames"] = val or test, test or val
    if "train_filenames" not in meta:
        held_out = {*val, *test}
        meta["train_filenames"] = [f["file_path"] for f in meta["frames"] if f["file_path"] not in held_out]


# Cameras


def _number(values: Meta, key: str, file: Path) -> float | None:
    if values.get(key) is None:
        return None
    try:
        number = float(values[key])
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{file}: {key} is {values[key]!r}, which is no number: write it anew")
    return number


def _settle_camera_model(meta: Meta, file: Path) -> None:
    frames: list[Frame] = meta["frames"]
    models = {str(frame.get("camera_model", meta.get("camera_model", "OPENCV"))) for frame in frames}
    if len(models) > 1:
        raise UserError(f"{file} mixes camera models ({', '.join(sorted(models))}): give all photos one")
    model = models.pop()
    if model == "FULL_OPENCV":
        for values in (meta, *frames):
            if any(_number(values, key, file) for key in _FRACTION):
                raise UserError(f"{file}: k4, k5 or k6 of FULL_OPENCV is not zero, which nerfstudio cannot follow: "
                                "estimate the cameras again as OPENCV, or undistort the photos")  # fmt: skip
            for key in _FRACTION:
                values.pop(key, None)
        model = "OPENCV"
    if model not in CAMERA_MODEL_TO_TYPE:
        known = ", ".join(sorted(CAMERA_MODEL_TO_TYPE))
        raise UserError(f"{file}: nerfstudio knows no camera model {model}: give one of {known}")
    meta["camera_model"] = model


def _settle_intrinsics(meta: Meta, file: Path) -> None:
    """Write out size, focal length, principal point and lens: once if all frames have the same, else in each frame.

    A value that stands in a frame counts before one that stands for all; nerfstudio has it the other way round.
    """
    frames: list[Frame] = meta["frames"]
    settled = [_camera(meta, frame, file) for frame in frames]
    if not any("distortion_params" in values for values in (meta, *frames)):
        for camera, frame in zip(settled, frames, strict=True):
            camera |= {key: _number({**meta, **frame}, key, file) or 0.0 for key in _LENS}
    for key in settled[0]:
        values = [camera[key] for camera in settled]
        meta.pop(key, None)
        for frame, value in zip(frames, values, strict=True):
            frame[key] = value
    # All or none: nerfstudio takes whatever stands for all of them from there.
    if all(camera == settled[0] for camera in settled):
        meta |= settled[0]
        if not any(settled[0].get(key) for key in _LENS):
            for key in _LENS:
                meta.pop(key, None)


def _camera(meta: Meta, frame: Frame, file: Path) -> dict[str, float]:
    given = {**meta, **{key: value for key, value in frame.items() if value is not None}}
    of = f"{file}: {frame['file_path']}"
    width, height = _number(given, "w", file), _number(given, "h", file)
    if width is None or height is None:
        header = Header.read(file.parent / frame["file_path"])
        if header is None:
            raise UserError(f"{of} is not there or no picture, and w and h are not given: put it back, or take it out")
        width, height = width or header.size[0], height or header.size[1]
    focals = []
    for focal, angle, size in (("fl_x", "camera_angle_x", width), ("fl_y", "camera_angle_y", height)):
        value, radians = _number(given, focal, file), _number(given, angle, file)
        if value is None and radians is not None and 0.0 < radians < math.pi:
            value = size / (2.0 * math.tan(radians / 2.0))
        focals.append(value)
    fx, fy = focals[0] or focals[1], focals[1] or focals[0]
    if fx is None or fy is None:
        raise UserError(f"{of} has no focal length: give fl_x in pixels, or camera_angle_x in radians")
    if min(fx, fy, width, height) <= 0:
        raise UserError(f"{of}: its size {width:g} x {height:g} and focal length {fx:g}, {fy:g} must be above zero")
    cx, cy = _number(given, "cx", file), _number(given, "cy", file)
    return {
        "w": int(width),
        "h": int(height),
        "fl_x": fx,
        "fl_y": fy,
        "cx": width / 2.0 if cx is None else cx,
        "cy": height / 2.0 if cy is None else cy,
    }


def _applied(meta: Meta, file: Path) -> np.ndarray:
    """``applied_transform`` (3, 4): from the capture's original frame to that of its file."""
    if "applied_transform" not in meta:
        if (file.parent / "colmap/sparse/0").exists():  # nerfstudio's own for files older than the entry
            return np.array([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]])
        return np.eye(4)[:3]
    try:
        applied = np.array(meta["applied_transform"], dtype=np.float64)
    except (TypeError, ValueError):
        applied = np.zeros(0)
    if applied.shape not in ((3, 4), (4, 4)) or not np.isfinite(applied).all():
        raise UserError(f"{file}: its applied_transform does not hold 3 x 4 numbers: write it anew, or leave it out")
    return applied[:3]
