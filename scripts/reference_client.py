"""What a client does, in plain NumPy, from manifest.json alone: rays, points and encoding, then one frame; and from
volume.bin, where the student has a volume, what that shows.

    python scripts/reference_client.py EXPORT_FOLDER [--file mobiler2l-encoding.onnx] [--pose front] [--png frame.png]

Nothing of mobiler2l_ns is imported, but to stand in for Core ML where there is no Mac. Read this file to write a client
in another language; ``encode`` is all that the contract "encoding" asks of it, "features" asks for ``composite`` too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Package = Callable[[Mapping[str, Array]], Array]


def intrinsics_of(view: Mapping[str, Any]) -> Array:
    """fx, fy, cx, cy in pixels of a view's picture, shape (1, 4)."""
    return np.array([[view["intrinsics"][name] for name in ("fx", "fy", "cx", "cy")]], np.float32)


def rays_of(
    manifest: Mapping[str, Any], view: Mapping[str, Any], camera_to_world: Array, finer: int = 1
) -> tuple[Array, Array]:
    """Rays through the centres of ``finer`` x ``finer`` squares of each block of pixels.

    Returns:
        Origin (3,) and directions (rows, columns, 3) in the world frame, of length 1 along the optical axis.
    """
    fx, fy, cx, cy = intrinsics_of(view)[0]
    u = (np.arange(view["columns"] * finer, dtype=np.float32) + 0.5) * (manifest["stride"] / finer)
    v = (np.arange(view["rows"] * finer, dtype=np.float32) + 0.5) * (manifest["stride"] / finer)
    x, y = np.meshgrid((u - cx) / fx, (cy - v) / fy)
    in_camera = np.stack([x, y, -np.ones_like(x)], axis=-1)
    return camera_to_world[:, 3], in_camera @ camera_to_world[:, :3].T


def points_on_rays(manifest: Mapping[str, Any], origin: Array, directions: Array, places: Array) -> Array:
    """Points of each ray, (rows, columns, K, 3), at places (K,) or (rows, columns, K)."""
    points, places = manifest["points"], places[..., None]
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
    rays = rays_of(manifest, view, camera_to_world.astype(np.float32))
    points = points_on_rays(manifest, *rays, np.array(manifest["points"]["places"], np.float32))
    scalars = points.reshape(*points.shape[:2], -1, 1)  # depth-major: x, y, z of the first point, then of the second
    angles = scalars * 2.0 ** np.arange(manifest["num_frequencies"], dtype=np.float32)
    channels = np.concatenate([np.sin(angles), np.cos(angles), scalars], axis=-1).reshape(*points.shape[:2], -1)
    if len(manifest["pitches"]) > 1:
        pitch = np.full((*channels.shape[:2], 1), np.log2(view["pitch"]), np.float32)
        channels = np.concatenate([channels, pitch], axis=-1)
    return channels.transpose(2, 0, 1)[None]


GIVE = np.deg2rad(8.0)  # how far a camera may go beyond its ranges


def soft(value: float, low: float, high: float, give: float) -> float:
    """A value in its range; beyond it goes less and less far, at most by ``give``."""
    over = value - min(max(value, low), high)
    return value - over + give * over / (abs(over) + give)


def frame_of(azimuth: float, elevation: float) -> Array:
    """A direction, and the two axes across it, as columns."""
    (ca, sa), (ce, se) = ((np.cos(angle), np.sin(angle)) for angle in (azimuth, elevation))
    return np.array([[ce * ca, -sa, -se * ca], [ce * sa, ca, -se * sa], [se, 0.0, ce]])


def fenced(manifest: Mapping[str, Any], camera_to_world: Array) -> Array:
    """A camera (3, 4), softly kept where the student is good: what is beyond the manifest's ``fence`` is turned and
    moved towards it about the fence's middle."""
    fence = manifest["fence"]
    middle, inward = np.array(fence["middle"]), fence["cameras"] == "inward"
    offset = camera_to_world[:, 3] - middle
    way = offset if inward else -camera_to_world[:, 2]
    azimuth, elevation = np.arctan2(way[1], way[0]), np.arcsin(np.clip(way[2] / max(np.linalg.norm(way), 1e-9), -1, 1))
    kept, arc = azimuth, {name: np.deg2rad(value) for name, value in fence["azimuth_degrees"].items()}
    if fence["azimuth_degrees"]["extent"] < 359.9:
        aside = azimuth - arc["start"] - arc["extent"] / 2
        aside -= 2 * np.pi * np.round(aside / (2 * np.pi))
        kept = arc["start"] + arc["extent"] / 2 + soft(aside, -arc["extent"] / 2, arc["extent"] / 2, GIVE)
    lowest, highest = np.deg2rad(fence["elevation_degrees"])
    turn = frame_of(kept, soft(elevation, lowest, highest, GIVE)) @ frame_of(azimuth, elevation).T
    distance, (nearest, farthest) = float(np.linalg.norm(offset)), fence["distance"]
    held = soft(distance, nearest, farthest, 0.1 * (nearest or farthest)) / max(distance, 1e-9)
    centre = middle + held * (turn @ offset if inward else offset)
    return np.concatenate([turn @ camera_to_world[:, :3], centre[:, None]], axis=1).astype(np.float32)


def strangeness(manifest: Mapping[str, Any], camera_to_world: Array) -> float:
    """How far a camera is from those that the student was trained on: 1 at the edge of what was trained."""
    anchors, reach = manifest["fence"]["anchors"], manifest["fence"]["reach"]
    away = np.linalg.norm(np.array(anchors["centres"]) - camera_to_world[:, 3], axis=1)
    turned = np.arccos(np.clip(np.array(anchors["directions"]) @ -camera_to_world[:, 2], -1.0, 1.0))
    return float((away / reach["distance"] + np.rad2deg(turned) / reach["degrees"]).min())


def pose_of(manifest: Mapping[str, Any], asked: str | None) -> Array:
    """A camera by name: none: the start pose; a number: a held-out pose; a named view; turntable:SHARE, a pose after a
    share of the turntable's way (the nearest of its keyframes; between them a client would pass smoothly).

    Raises:
        SystemExit: if there is none of that name.
    """
    poses = manifest.get("poses") or {"views": {}, "turntable": None}
    if asked is None:
        return np.array(manifest["start_pose"], np.float32)
    if asked in poses["views"]:
        return np.array(poses["views"][asked], np.float32)
    if asked.isdigit() and int(asked) < len(manifest["held_out_poses"]):
        return np.array(manifest["held_out_poses"][int(asked)], np.float32)
    if poses["turntable"] and asked.startswith("turntable:"):
        frames = poses["turntable"]["poses"]
        return np.array(frames[round(float(asked.split(":")[1]) * len(frames)) % len(frames)], np.float32)
    known = ", ".join([*poses["views"], *(["turntable:SHARE"] if poses["turntable"] else [])]) or "none"
    raise SystemExit(f"There is no pose {asked}: give the number of a held-out pose, or one of: {known}")


def read_volume(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Array]:
    """The arrays of the volume's file, by name."""
    values = np.fromfile(folder / manifest["volume"]["file"], "<f2").astype(np.float32)
    arrays = {}
    for name, about in manifest["volume"]["arrays"].items():
        first = about["offset"] // 2
        arrays[name] = values[first : first + int(np.prod(about["shape"]))].reshape(about["shape"])
    return arrays


def look_up(table: Array, axes: Sequence[Array], index: tuple[Array, ...] = ()) -> Array:
    """A table, linear between its entries.

    Args:
        table: its last axes may hold channels.
        axes: places -1..1 on its first axes, the first axis last, as in x, y, z.
        index: on the axes after those, whole numbers.
    """
    if not axes:
        return table[index]
    count = table.shape[len(axes) - 1]
    place = (np.clip(axes[0], -1.0, 1.0) + 1.0) * np.float32((count - 1) / 2)
    before = np.minimum(place.astype(int), count - 2)
    near, far = (look_up(table, axes[1:], (at, *index)) for at in (before, before + 1))
    return near + (far - near) * (place - before).reshape(*place.shape, *[1] * (near.ndim - place.ndim))


def in_box(manifest: Mapping[str, Any], points: Array) -> Array:
    """Points in units of the volume's box."""
    low, high = (np.array(manifest["volume"]["box"][name], np.float32) for name in ("low", "high"))
    return (points - low) * (2.0 / (high - low)) - 1.0


def place_points(
    manifest: Mapping[str, Any], view: Mapping[str, Any], camera_to_world: Array, density: Array
) -> tuple[Array, Array]:
    """Places and optical depths (rows, columns, points) of the rays that the volume's points are placed for."""
    volume = manifest["volume"]
    edges = np.array(volume["edges"], np.float32)
    rays = rays_of(manifest, view, camera_to_world, volume["density_rays"][manifest["pitches"].index(view["pitch"])])
    points = in_box(manifest, points_on_rays(manifest, *rays, (edges[1:] + edges[:-1]) / 2))
    optical = look_up(density, tuple(np.moveaxis(points, -1, 0)))
    sums = optical.cumsum(-1)
    stopped = 1.0 - np.exp(-sums[..., -1:])
    weights = np.exp(optical - sums) - np.exp(-sums) + volume["faint"] / (len(edges) - 1)
    weights = weights / (stopped + volume["faint"])
    before, index = weights.cumsum(-1) - weights, np.arange(volume["points"], dtype=np.float32)
    shares = ((index[:, None] + 0.5) / volume["points"] - before[..., None, :]) / weights[..., None, :]
    each = np.minimum(stopped, volume["solid"]) / volume["points"]
    depths = np.log((1.0 - index * each) / (1.0 - (index + 1.0) * each))
    return edges[0] + np.clip(shares, 0.0, 1.0) @ np.diff(edges), depths


def composite(
    manifest: Mapping[str, Any], view: Mapping[str, Any], camera_to_world: Array, arrays: Mapping[str, Array]
) -> Array:
    """What the volume shows of a view, the second input of the contract "features", (1, channels, rows, columns)
    float32.

    Args:
        manifest, view, camera_to_world: as for ``encode``.
        arrays: of the volume's file.
    """
    volume, camera_to_world = manifest["volume"], camera_to_world.astype(np.float32)
    places, depths = place_points(manifest, view, camera_to_world, arrays["density"])
    origin, directions = rays_of(manifest, view, camera_to_world, volume["rays"])
    block = len(directions) // len(places)
    places, depths = (values.repeat(block, 0).repeat(block, 1) for values in (places, depths))
    x, y, z = np.moveaxis(in_box(manifest, points_on_rays(manifest, origin, directions, places)), -1, 0)
    levels = [
        look_up(front, (x, y)) + look_up(floor, (x, z)) + look_up(side, (y, z))
        for front, floor, side in (array for name, array in arrays.items() if name != "density")
    ]
    hidden, values = (
        (np.array(volume[name]["weight"], np.float32).T, np.array(volume[name]["bias"], np.float32))
        for name in ("hidden", "values")
    )
    seen = np.maximum(np.concatenate(levels, -1) @ hidden[0] + hidden[1], 0.0) @ values[0] + values[1]
    steepest = float(volume["steepest"])
    optical: Array = depths * np.exp(np.clip(seen[..., 0], -steepest, steepest))
    weights = np.exp(optical - optical.cumsum(-1)) * (1.0 - np.exp(-optical))
    features = (weights[..., None] * seen[..., 1:]).sum(-2)
    features = np.concatenate([features, weights.sum(-1, keepdims=True)], axis=-1)
    return features.transpose(2, 0, 1)[None].astype(np.float32)


def inputs_of(
    manifest: Mapping[str, Any],
    file: Mapping[str, Any],
    view: Mapping[str, Any],
    camera_to_world: Array,
    arrays: Mapping[str, Array] | None = None,
) -> dict[str, Array]:
    """All inputs of a package, by name, in the dtypes it wants; ``arrays`` are the volume's, if it wants features."""
    if file["contract"] == "pose":
        given = {"camera_to_world": camera_to_world[None], "intrinsics": intrinsics_of(view)}
    else:
        given = {"encoding": encode(manifest, view, camera_to_world)}
    if arrays is not None:
        given["features"] = composite(manifest, view, camera_to_world, arrays)
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
    ncnn: Any = import_module("ncnn")  # its classes are compiled: no types

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
    arrays = read_volume(folder, manifest) if file["contract"] == "features" else None
    picture = package(inputs_of(manifest, file, view, camera_to_world, arrays))
    return np.asarray(picture, np.float32).transpose(1, 2, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what mobiler2l-export wrote")
    parser.add_argument("--file", help="one of the manifest's files; the first one if not given")
    parser.add_argument(
        "--pose", help="a held-out pose's number, a named view, or turntable:SHARE; else the start pose"
    )
    parser.add_argument("--png", type=Path, default=Path("frame.png"), help="the picture to write")
    arguments = parser.parse_args()
    manifest = json.loads((arguments.folder / "manifest.json").read_text(encoding="utf8"))
    pose = pose_of(manifest, arguments.pose)
    if manifest.get("fence"):
        print(f"{strangeness(manifest, pose):.2f} from trained poses, where 1 is their edge")
        pose = fenced(manifest, pose)
    name = arguments.file or manifest["files"][0]["path"]
    picture = render(arguments.folder, name, pose)

    from PIL import Image

    Image.fromarray((picture.clip(0.0, 1.0) * 255.0).round().astype(np.uint8)).save(arguments.png)
    print(f"{name}: {picture.shape[1]} x {picture.shape[0]} pixels in {arguments.png}")


if __name__ == "__main__":
    main()
