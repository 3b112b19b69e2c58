"""manifest.json: what a client must know to ask a package for a picture."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export import volume_file
from mobiler2l_ns.export.contract import DEPTH_MEANS, MANIFEST
from mobiler2l_ns.export.poses import PackagePoses, describe_fence, describe_poses, poses_of_fence
from mobiler2l_ns.export.proof import Proof
from mobiler2l_ns.geometry.encoding import SHORTEST_CHORD
from mobiler2l_ns.geometry.picture import PictureGeometry
from mobiler2l_ns.student.config import StudentConfig
from mobiler2l_ns.student.renderer import Student

_PLANES = "point = origin + place * direction, in the world frame"
_SPHERE = (
    "o = (origin - centre) / radius, d = direction / radius; n = o - (o.d / d.d) d, "
    "h = d sqrt(max(1 - n.n, shortest_half_chord^2) / d.d); point = n + place * h"
)


@dataclass
class PackageFile:
    """One package in the export folder."""

    format: str
    """One of ``formats``."""
    path: str
    """File or folder beside the manifest."""
    contract: str
    """pose: camera_to_world and intrinsics in; encoding: the encoded low-resolution rays in; features: those, and what
    the client composites of the volume."""
    precision: str
    """Of the network's weights; rays and encoding, where they are part of the package, are float32."""
    bytes: int
    """Size of the file, or of all files in the folder, and of the volume's file where the client needs it."""
    psnr_student: float
    """PSNR in dB to the PyTorch student on proof cameras, the least of all sizes."""
    psnr_photos: float | None
    """PSNR in dB to the proof photos, in the first size; None without photos."""
    ms: float | None
    """Milliseconds of a frame of the first size where it was proven; None if that runtime says nothing about time."""
    run_by: str
    """Runtime that gave the compared pictures."""
    inputs: dict[str, str]
    """Name of each input -> its dtype; shapes are in ``views``."""
    layout: str
    """Axes of an encoding and of the picture: NCHW, NHWC, or CHW without the batch axis."""
    output: str
    """What the package gives."""
    views: list[dict[str, Any]]
    """The sizes it renders, see ``describe_view`` and ``describe_proof``."""
    gmac: float | None
    """Billions of multiply-accumulates of a frame of the first size, counted in the finished graph; None where the
    graph is not read."""
    largest_activation_bytes: int | None
    """Bytes of the largest intermediate result of the first size; None where the graph is not read."""
    warnings: list[str]
    """Operations that would leave the processor the package is meant for."""
    sha256: dict[str, str]
    """Digest of each file, the volume's included where the client needs it."""


def describe_view(function: str, view: PictureGeometry, pitch: float) -> dict[str, Any]:
    """One size of a package: the function of the package that renders it ("main" if it has but one), rows and columns
    of low-resolution rays, and the intrinsics it expects in its own pixels."""
    rows, columns = view.grid
    return {
        "function": function,
        "pitch": pitch,
        "height": view.height,
        "width": view.width,
        "rows": rows,
        "columns": columns,
        "intrinsics": dict(zip(("fx", "fy", "cx", "cy"), view.intrinsics, strict=True)),
    }


def describe_proof(proof: Proof, timed: bool) -> dict[str, Any]:
    """What the proof of one size measured."""
    return {
        "psnr_student": round(proof.psnr, 2),
        "psnr_photos": None if proof.psnr_photos is None else round(proof.psnr_photos, 3),
        "ms": round(proof.ms, 1) if timed else None,
        **({} if proof.depth_error is None else {"depth_error": round(proof.depth_error, 5)}),
    }


def describe_depth(student: Student, view: PictureGeometry, layout: str) -> dict[str, Any]:
    """The second output of one size, of a package that gives depth."""
    rows, columns = (count * student.config.volume_rays for count in view.grid)
    shape = [1, 2, rows, columns] if layout == "NCHW" else [1, rows, columns, 2]
    return {"depth": {"shape": shape, "block": view.stride / student.config.volume_rays, "meaning": DEPTH_MEANS}}


def digests(package: Path) -> tuple[int, dict[str, str]]:
    """Bytes and SHA-256 of a file, or of each file of a folder (paths relative to the package's parent)."""
    files = [package] if package.is_file() else sorted(path for path in package.rglob("*") if path.is_file())
    names = {path.relative_to(package.parent).as_posix(): path.read_bytes() for path in files}
    return sum(map(len, names.values())), {name: hashlib.sha256(data).hexdigest() for name, data in names.items()}


def student_digest(student: Student) -> str:
    """SHA-256 of the student's shape and ray sampling, weights and geometry: which student a package holds. How it was
    trained does not count."""
    settings = {field.name: getattr(student.config, field.name) for field in fields(StudentConfig)}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, value in sorted(student.state_dict().items()):
        if name.startswith("capture.fence_"):
            continue  # which runs of earlier versions lack
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _numbers(tensor: torch.Tensor) -> Any:
    return tensor.detach().cpu().tolist()


def describe(student: Student, poses: PackagePoses | None = None) -> dict[str, Any]:
    """Everything but the list of files.

    Args:
        student: in evaluation mode.
        poses: the package brings along; None: those of the student's fence.
    """
    fence = student.capture.fence()
    capture, config = student.capture, student.config
    height, width = capture.size()
    fx, fy, cx, cy = _numbers(capture.intrinsics)
    near, far = _numbers(capture.depth_range)
    volume = {} if student.volume is None else {"volume": volume_file.describe(student)}
    features = {
        "features": {
            "shape": [1, config.feature_channels, f"{config.volume_rays} rows", f"{config.volume_rays} columns"],
            "layout": "what the volume shows of finer rays, composited in float32, and the accumulation: see volume",
        }
    }
    return {
        "format_version": 2,
        "generator": "mobiler2l-ns",
        "student_sha256": student_digest(student),
        "contracts": {
            "pose": {
                "camera_to_world": {
                    "shape": [1, 3, 4],
                    "layout": "rows of a camera-to-world matrix in the world frame of the run; OpenGL camera axes: "
                    "x right, y up, the camera looks along -z",
                },
                "intrinsics": {
                    "shape": [1, 4],
                    "layout": "fx, fy, cx, cy in output pixels, origin at the top left corner of the picture; keep the "
                    "focal length of the view: the student knows rays of that spacing only",
                },
            },
            "encoding": {
                "encoding": {
                    "shape": [1, config.input_channels, "rows", "columns"],
                    "layout": "the encoded points of each low-resolution ray, computed in float32: see rays, points, "
                    "contraction and encoding",
                }
            },
            **({"features": features} if volume else {}),
        },
        "output": "RGBA, premultiplied: over a background b it gives rgb + (1 - alpha) * b" if config.alpha else "RGB",
        "size": {"height": height, "width": width},
        "stride": config.stride,
        "focal": {"fx": fx, "fy": fy},
        "principal_point": {"cx": cx, "cy": cy},
        "rays": "one through the centre of each stride x stride block of pixels: ((u - cx) / fx, (cy - v) / fy, -1) "
        "with u, v = (index + 0.5) * stride, not normalised, so that depths run along the optical axis",
        "near": near,
        "far": far,
        "points": {
            "in": "sphere" if student.in_sphere() else "planes",
            "places": _numbers(student.t_values()),
            "meaning": _SPHERE if student.in_sphere() else _PLANES,
            "centre": _numbers(capture.scene_centre),
            "radius": float(capture.scene_radius),
            "shortest_half_chord": SHORTEST_CHORD,
        },
        "pitches": list(config.pitches),
        "num_points": config.num_points,
        "num_frequencies": config.num_frequencies,
        "encoding": "points depth-major (x, y, z of the first depth, ...); each scalar p becomes sin(2^i p) for i < L, "
        "cos(2^i p) for i < L, p" + ("; one more channel holds log2 of the pitch" if len(config.pitches) > 1 else ""),
        "contracted": student.is_contracted(),
        "contraction": "points beyond the cube of half side 1 move to (2 - 1/m) * p / m, m = max |coordinate|"
        if student.is_contracted()
        else "none",
        "world": {
            "transform": _numbers(capture.world_transform),
            "scale": float(capture.world_scale),
            "meaning": "a point x of the capture's own coordinates is scale * (transform @ [x, 1]) in the world frame",
        },
        "start_pose": _numbers(capture.start_pose),
        "pose_range": {
            "look_at": _numbers(capture.get_buffer("look_at")),
            "distance": _numbers(capture.get_buffer("distance")),
            "elevation_degrees": _numbers(capture.get_buffer("elevation")),
            "azimuth_degrees": dict(zip(("start", "extent"), _numbers(capture.get_buffer("azimuth")), strict=True)),
            "centre_box": _numbers(capture.get_buffer("centre_box")),
        },
        "fence": describe_fence(fence),
        "poses": describe_poses(poses_of_fence(fence) if poses is None else poses),
        "held_out_poses": _numbers(capture.proof_poses),  # of the proof cameras
        **volume,
    }


def write_inside(
    package: Path, student: Student, views: Sequence[dict[str, Any]], poses: PackagePoses | None = None
) -> None:
    """Write the manifest of a package that is used by itself, away from its export folder: without a list of files.

    Args:
        package: a folder.
        student: what it holds.
        views: its sizes, by ``describe_view``.
        poses: as for ``describe``.
    """
    text = json.dumps({**describe(student, poses), "views": list(views)}, indent=2)
    (package / MANIFEST).write_text(text + "\n", encoding="utf8")


def write(
    path: Path,
    student: Student,
    files: Sequence[PackageFile],
    psnr_photos: float | None,
    previous: Path,
    poses: PackagePoses | None = None,
) -> list[str]:
    """Write a manifest, keeping the entries of the previous one's other packages if they are of the same student, whole
    and still there.

    Args:
        path: of the new manifest.
        student: whose packages they are.
        files: the new ones.
        psnr_photos: of the PyTorch student, in dB to the proof photos.
        previous: the manifest that this one will replace; it need not be there.
        poses: as for ``describe``.

    Returns:
        Names of packages in the folder that are listed no more.

    Raises:
        UserError: if the previous file is not a manifest of packages.
    """
    manifest = {**describe(student, poses), "psnr_photos": None if psnr_photos is None else round(psnr_photos, 3)}
    entries, left = {file.path: asdict(file) for file in files}, []
    if previous.exists():
        earlier = read(previous)
        same = all(earlier[key] == manifest[key] for key in ("student_sha256", "format_version"))
        for entry in earlier["files"]:
            name = entry.get("path") if isinstance(entry, dict) else None
            if not isinstance(name, str) or name in entries or not (previous.parent / name).exists():
                continue
            if entry.get("contract") == "features" and not (previous.parent / volume_file.NAME).exists():
                continue
            if same and set(entry) == {field.name for field in fields(PackageFile)}:
                entries[name] = entry
            else:
                left.append(name)
    manifest["files"] = [entries[name] for name in sorted(entries)]
    path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf8")
    return sorted(left)


def read(path: Path) -> dict[str, Any]:
    """A folder's manifest.

    Raises:
        UserError: if the file is something else.
    """
    try:
        manifest = json.loads(path.read_text(encoding="utf8"))
    except ValueError:
        manifest = None
    known = isinstance(manifest, dict) and {"student_sha256", "format_version", "files"} <= set(manifest)
    if not isinstance(manifest, dict) or not known or not isinstance(manifest["files"], list):
        raise UserError(f"{path} is not a manifest of packages: choose another --output-dir, or move that file away")
    return manifest
