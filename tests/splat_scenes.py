"""Splats for the tests: a few that show something, written as 3DGS writes them, and photographed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image
from torch import Tensor

from mobiler2l_ns.teacher import splat_reference
from mobiler2l_ns.teacher.splat_cloud import SplatCloud
from mobiler2l_ns.teacher.splat_teacher import world_to_opencv

SIZE, FOCAL = 32, 40.0


def cloud(count: int = 60, degree: int = 3, seed: int = 0) -> SplatCloud:
    """Splats of all shapes around zero, within a unit or so, with colours that change with the direction."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    sh = torch.cat([normal(count, 1, 3), 0.3 * normal(count, (degree + 1) ** 2 - 1, 3)], dim=1)
    return SplatCloud(
        means=normal(count, 3) * torch.tensor([0.6, 0.45, 0.3]),
        quaternions=torch.nn.functional.normalize(normal(count, 4), dim=-1),
        scales=torch.exp(0.4 * normal(count, 3) - 2.0),
        opacities=torch.sigmoid(normal(count) + 2.0),
        sh=sh,
    )


def poses(count: int, distance: float = 3.0) -> Tensor:
    """Camera-to-world matrices in nerfstudio's axes on a spiral around zero, looking at it, with z up."""
    found = []
    for index in range(count):
        turn, height = 2.4 * index, math.sin(1.3 * index) * 0.6
        back = torch.tensor([math.cos(turn) * math.cos(height), math.sin(turn) * math.cos(height), math.sin(height)])
        right = torch.nn.functional.normalize(torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]), back), dim=0)
        rotation = torch.stack([right, torch.linalg.cross(back, right), back], dim=1)
        found.append(torch.cat([rotation, distance * back[:, None]], dim=1))
    return torch.stack(found)


def camera(pose: Tensor, size: int = SIZE, focal: float = FOCAL) -> Cameras:
    return Cameras(pose[None], focal, focal, size / 2, size / 2, width=size, height=size)


def photograph(splats: SplatCloud, pose: Tensor, size: int = SIZE, focal: float = FOCAL) -> Tensor:
    """RGB over white (size, size, 3)."""
    intrinsics = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]])
    rgb, _, accumulation = splat_reference.render(splats, world_to_opencv(pose), intrinsics, size, size)
    return (rgb + 1.0 - accumulation).clamp(0.0, 1.0)


def fields(splats: SplatCloud) -> dict[str, np.ndarray]:
    """The columns of a 3DGS file."""
    found = {name: splats.means[:, axis] for axis, name in enumerate("xyz")}
    found |= {f"n{name}": torch.zeros(len(splats)) for name in "xyz"}
    found |= {f"f_dc_{channel}": splats.sh[:, 0, channel] for channel in range(3)}
    rest = splats.sh[:, 1:].transpose(1, 2).flatten(1)
    found |= {f"f_rest_{index}": rest[:, index] for index in range(rest.shape[1])}
    found["opacity"] = splats.opacities.logit()
    found |= {f"scale_{axis}": splats.scales[:, axis].log() for axis in range(3)}
    found |= {f"rot_{index}": splats.quaternions[:, index] for index in range(4)}
    return {name: value.numpy().astype("<f4") for name, value in found.items()}


def write_ply(path: Path, columns: dict[str, np.ndarray], before: str = "") -> Path:
    """A binary PLY of float columns; ``before`` are lines of the header before its vertices."""
    count = len(next(iter(columns.values())))
    properties = "".join(f"property float {name}\n" for name in columns)
    header = f"ply\nformat binary_little_endian 1.0\n{before}element vertex {count}\n{properties}end_header\n"
    path.write_bytes(header.encode() + np.stack(list(columns.values()), axis=-1).astype("<f4").tobytes())
    return path


def write_capture(folder: Path, splats: SplatCloud, count: int = 16, applied: Tensor | None = None) -> Path:
    """Photos of splats in nerfstudio's format, RGB over white.

    Args:
        applied: what was done to the world after the splats were made, (3, 4): transforms.json says so.
    """
    frames = []
    (folder / "photos").mkdir(parents=True)
    for index, pose in enumerate(poses(count)):
        picture = (photograph(splats, pose) * 255).round().byte().numpy()
        Image.fromarray(picture).save(folder / f"photos/{index:02}.png")
        matrix = torch.eye(4)
        matrix[:3] = pose
        if applied is not None:
            whole = torch.eye(4)
            whole[:3] = applied
            matrix = whole @ matrix
        frames.append({"file_path": f"photos/{index:02}.png", "transform_matrix": matrix.tolist()})
    meta = {"fl_x": FOCAL, "fl_y": FOCAL, "cx": SIZE / 2, "cy": SIZE / 2, "w": SIZE, "h": SIZE, "frames": frames}
    if applied is not None:
        meta["applied_transform"] = applied.tolist()
    (folder / "transforms.json").write_text(json.dumps(meta))
    return folder


def as_it_is(folder: Path) -> NerfstudioDataParserConfig:
    """Reads a capture and leaves the world where it is."""
    return NerfstudioDataParserConfig(
        data=folder, auto_scale_poses=False, orientation_method="none", center_method="none"
    )
