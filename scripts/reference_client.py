"""What a client does, in plain NumPy, from manifest.json alone: rays, points and encoding, then one frame.

    python scripts/reference_client.py EXPORT_FOLDER [--file mobiler2l-encoding.onnx] [--pose 0] [--png frame.png]

Nothing of mobiler2l_ns is imported, but to stand in for Core ML where there is no Mac. Read this file to write a client
in another language; ``encode`` is all that the contract "encoding" asks of it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Package = Callable[[Mapping[str, Array]], Array]


def intrinsics_of(view: Mapping[str, Any]) -> Array:
    """fx, fy, cx, cy in pixels of a view's picture, shape (1, 4)."""
    return np.array([[view["intrinsics"][name] for name in ("fx", "fy", "cx", "cy")]], np.float32)


def low_res_rays(manifest: Mapping[str, Any], view: Mapping[str, Any], camera_to_world: Array) -> tuple[Array, Array]:
    """One ray through the centre of each block of pixels.

    Returns:
        Origin (3,) and directions (rows, columns, 3) in the world frame, of length 1 along the optical axis.
    """
    fx, fy, cx, cy = intrinsics_of(view)[0]
    u = (np.arange(view["columns"], dtype=np.float32) + 0.5) * manifest["stride"]
    v = (np.arange(view["rows"], dtype=np.float32) + 0.5) * manifest["stride"]
    x, y = np.meshgrid((u - cx) / fx, (cy - v) / fy)
    in_camera = np.stack([x, y, -np.ones_like(x)], axis=-1)
    return camera_to_world[:, 3], in_camera @ camera_to_world[:, :3].T


def points_on_rays(manifest: Mapping[str, Any], origin: Array, directions: Array) -> Array:
    """The K points of each ray, (rows, columns, K, 3)."""
    points = manifest["points"]
    places = np.array(points["places"], np.float32)[:, None]
    if points["in"] == "planes":
        sampled = origin + places * directions[..., None, :]
    else:
        start = (origin - np.array(points["centre"], np.float32)) / np.float32(points["radius"])
        along = directions / np.float32(points["radius"])
        squared = (along**2).sum(-1, keepdims=True)
        nearest = start - (start * along).sum(-1, keepdims=True) / squared * along
        inside = np.maximum(1.0 - (nearest**2).sum(-1, keepdims=True), points["shortest_half_chord"] ** 2)
        half = along * np.sqrt(inside / squared)
        sampled = nearest[..., None, :] + places * half[..., None, :]
    if manifest["contracted"]:
        size = np.maximum(np.abs(sampled).max(-1, keepdims=True), 1.0)
        sampled = sampled * (2.0 - 1.0 / size) / size
    return sampled.astype(np.float32)


def encode(manifest: Mapping[str, Any], view: Mapping[str, Any], camera_to_world: Array) -> Array:
    """The input of the contract "encoding", (1, channels, rows, columns) float32.

    Args:
        manifest: manifest.json.
        view: one of a file's ``views``.
        camera_to_world: (3, 4), OpenGL camera axes, in the manifest's world frame.
    """
    points = points_on_rays(manifest, *low_res_rays(manifest, view, camera_to_world.astype(np.float32)))
    scalars = points.reshape(*points.shape[:2], -1, 1)  # depth-major: x, y, z of the first point, then of the second
    angles = scalars * 2.0 ** np.arange(manifest["num_frequencies"], dtype=np.float32)
    channels = np.concatenate([np.sin(angles), np.cos(angles), scalars], axis=-1).reshape(*points.shape[:2], -1)
    if len(manifest["pitches"]) > 1:
        pitch = np.full((*channels.shape[:2], 1), np.log2(view["pitch"]), np.float32)
        channels = np.concatenate([channels, pitch], axis=-1)
    return channels.transpose(2, 0, 1)[None]


def inputs_of(
    manifest: Mapping[str, Any], file: Mapping[str, Any], view: Mapping[str, Any], camera_to_world: Array
) -> dict[str, Array]:
    """All inputs of a package, by name, in the dtypes it wants."""
    if file["contract"] == "pose":
        given = {"camera_to_world": camera_to_world[None], "intrinsics": intrinsics_of(view)}
    else:
        given = {"encoding": encode(manifest, view, camera_to_world)}
    if file["layout"] == "NHWC":
        given = {name: value.transpose(0, 2, 3, 1) if value.ndim == 4 else value for name, value in given.items()}
    if file["layout"] == "CHW":
        given = {name: value[0] for name, value in given.items()}
    return {name: np.ascontiguousarray(given[name], dtype=dtype) for name, dtype in file["inputs"].items()}


def open_onnx(path: Path, function: str) -> Package:
    """An ONNX file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda inputs: np.asarray(session.run(["image"], dict(inputs))[0])[0]


def open_snapml(path: Path, function: str) -> Package:
    """A file for Lens Studio; elsewhere its own operator has to be given its meaning."""
    from mobiler2l_ns.export.formats import all_formats

    return all_formats()["snapml"].open(path, function)


def open_coreml(path: Path, function: str) -> Package:
    """A Core ML package: by Core ML on a Mac, elsewhere by an evaluation of its operations."""
    from mobiler2l_ns.export.formats import all_formats

    return all_formats()["coreml"].open(path, function)


def open_litert(path: Path, function: str) -> Package:
    """A LiteRT file; its picture has the channels last."""
    from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-not-found]

    render = Interpreter(model_path=str(path)).get_signature_runner(function)
    return lambda inputs: render(**inputs)["image"][0].transpose(2, 0, 1)


def open_ncnn(path: Path, function: str) -> Package:
    """An ncnn folder, computed in float32."""
    import ncnn  # type: ignore[import-not-found]

    net = ncnn.Net()
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic"):
        setattr(net.opt, f"use_{option}", False)
    net.load_param(str(path / "model.param"))
    net.load_model(str(path / "model.bin"))

    def render(inputs: Mapping[str, Array]) -> Array:
        extractor = net.create_extractor()
        for name, value in inputs.items():
            extractor.input(name, ncnn.Mat(value).clone())  # a copy with the alignment that layers rely on
        return np.array(extractor.extract("image")[1])

    return render


OPEN: dict[str, Callable[[Path, str], Package]] = {
    "onnx": open_onnx,
    "snapml": open_snapml,
    "coreml": open_coreml,
    "litert": open_litert,
    "ncnn": open_ncnn,
}


def render(folder: Path, name: str, camera_to_world: Array, size: int = 0) -> Array:
    """One frame of a package.

    Args:
        folder: the export folder.
        name: ``path`` of one of the manifest's files.
        camera_to_world: (3, 4).
        size: which of the file's views.

    Returns:
        (height, width, channels) in 0..1: RGB, or RGBA with the colour premultiplied.
    """
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf8"))
    (file,) = (file for file in manifest["files"] if file["path"] == name)
    view = file["views"][size]
    package = OPEN[file["format"]](folder / name, view["function"])
    picture = package(inputs_of(manifest, file, view, camera_to_world))
    return np.asarray(picture, np.float32).transpose(1, 2, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what mobiler2l-export wrote")
    parser.add_argument("--file", help="one of the manifest's files; the first one if not given")
    parser.add_argument("--pose", type=int, help="index of a held-out pose; the start pose if not given")
    parser.add_argument("--png", type=Path, default=Path("frame.png"), help="the picture to write")
    arguments = parser.parse_args()
    manifest = json.loads((arguments.folder / "manifest.json").read_text(encoding="utf8"))
    pose = manifest["start_pose"] if arguments.pose is None else manifest["held_out_poses"][arguments.pose]
    name = arguments.file or manifest["files"][0]["path"]
    picture = render(arguments.folder, name, np.array(pose, np.float32))

    from PIL import Image

    Image.fromarray((picture.clip(0.0, 1.0) * 255.0).round().astype(np.uint8)).save(arguments.png)
    print(f"{name}: {picture.shape[1]} x {picture.shape[0]} pixels in {arguments.png}")


if __name__ == "__main__":
    main()
