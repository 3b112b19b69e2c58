"""Four tiny captures of the demo scene, each of a kind of its own, and what is known of their pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from nerfstudio.cameras.camera_utils import get_distortion_params
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image
from short_run import load_script
from torch import Tensor

PORTRAIT = Cameras(
    torch.eye(4)[None, :3],
    56.0,
    56.0,
    23.0,
    29.0,
    width=44,
    height=60,
    distortion_params=get_distortion_params(k1=-0.35, k2=0.1, p1=0.02, p2=-0.015)[None],
)
"""A wide lens whose picture is bent by several pixels, and not symmetric."""
SIZES = [(60, 44), (60, 44), (44, 60), (33, 39)]
"""Height and width of the photos with masks, in turns: the first is the most common, and so the student's."""
HIDDEN = (255, 0, 255)
"""What the photos show under their masks, and the scene nowhere."""


@dataclass(frozen=True)
class Capture:
    """Photos on disk.

    Attributes:
        dataparser: reads them.
        preset: of the teacher, see ``MobileR2LPipelineConfig.teacher_preset``.
        height, width: of the student's pictures.
        test: how many test views there are.
    """

    folder: Path
    dataparser: DataParserConfig
    height: int
    width: int
    test: int
    preset: str = "auto"

    def moved_to(self, folder: Path) -> Capture:
        """A copy of it that lies elsewhere."""
        return replace(self, folder=folder, dataparser=replace(self.dataparser, data=folder))


def trace(cameras: Cameras, index: int, surroundings: bool = False) -> Tensor:
    """What a camera sees of the demo scene, RGBA (height, width, 4) in 0..1 with straight alpha: nerfstudio's own rays,
    one for each pixel.

    Args:
        surroundings: whether the studio around the scene is seen, too, and nothing is transparent.
    """
    scene = load_script("make_demo_scene")
    rays = cameras.generate_rays(camera_indices=index, keep_shape=True)
    height, width = rays.shape
    origins, directions = (values.reshape(-1, 3).T.contiguous() for values in (rays.origins, rays.directions))
    colour, hit = scene.radiance(origins, directions)
    alpha = torch.ones_like(hit).float() if surroundings else hit.float()
    shown = (0.6 * colour).clamp(0.0, 1.0) ** (1 / 2.2) * alpha
    return torch.cat([shown, alpha[None]]).T.reshape(height, width, 4)


def poses(count: int, nearer: float = 1.0) -> Tensor:
    """Camera-to-world matrices all around the scene, at a distance of about 4 or as much nearer."""
    found = load_script("make_demo_scene").sample_cameras("train", count)
    found[:, :, 3] *= nearer
    return found


def over_white(rgba: Tensor) -> Tensor:
    return rgba[..., :3] + 1.0 - rgba[..., 3:]


def save(picture: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((picture * 255).round().byte().numpy()).save(path)


def frame_of(path: str, pose: Tensor, **more) -> dict:
    return {"file_path": path, "transform_matrix": [*pose.tolist(), [0.0, 0.0, 0.0, 1.0]], **more}


def write_transforms(folder: Path, frames: list[dict], test: int, **shared) -> None:
    """transforms.json in nerfstudio's format, whose last frames are the test views."""
    names = [frame["file_path"] for frame in frames]
    splits = {"train_filenames": names[: len(names) - test]}
    splits["val_filenames"] = splits["test_filenames"] = names[len(names) - test :]
    (folder / "transforms.json").write_text(json.dumps({**shared, **splits, "frames": frames}))


def intrinsics(camera: Cameras) -> dict[str, float]:
    """Of one camera, by nerfstudio's names in transforms.json."""
    names = {"fl_x": "fx", "fl_y": "fy", "cx": "cx", "cy": "cy", "w": "width", "h": "height"}
    return {name: getattr(camera, value).flatten()[0].item() for name, value in names.items()}


def as_it_is(folder: Path, **settings) -> NerfstudioDataParserConfig:
    """Reads nerfstudio's format and leaves the world where it is."""
    fixed = {"auto_scale_poses": False, "orientation_method": "none", "center_method": "none"}
    return NerfstudioDataParserConfig(data=folder, **fixed, **settings)  # type: ignore[arg-type]


def blender(folder: Path) -> Capture:
    return Capture(folder, BlenderDataParserConfig(data=folder), 52, 52, test=3)


def write_blender(folder: Path) -> None:
    """The demo scene in Blender's format at 52 pixels, which a stride of 8 does not divide, photos with alpha."""
    load_script("make_demo_scene").write_scene(folder, size=52, train=20, val=2, test=3, supersample=1)


def lens(folder: Path) -> Capture:
    return Capture(folder, as_it_is(folder, scene_scale=1.5), 60, 44, test=3, preset="object")


def write_lens(folder: Path) -> None:
    """Portrait pictures of a lens with OpenCV's distortion k1, k2, p1, p2, over white."""
    frames = []
    for index, pose in enumerate(poses(15, nearer=0.85)):
        camera = replace_pose(PORTRAIT, pose)
        save(over_white(trace(camera, 0)), folder / f"photos/{index:02}.png")
        frames.append(frame_of(f"photos/{index:02}.png", pose))
    k1, k2, _, _, p1, p2 = PORTRAIT.distortion_params[0].tolist()  # type: ignore[index]
    bent = {"k1": k1, "k2": k2, "p1": p1, "p2": p2, "camera_model": "OPENCV"}
    write_transforms(folder, frames, 3, **intrinsics(PORTRAIT), **bent)


def masks(folder: Path) -> Capture:
    return Capture(folder, as_it_is(folder, scene_scale=1.5), *SIZES[0], test=4, preset="object")


def write_masks(folder: Path) -> None:
    """Photos of several sizes and focal lengths, each with a mask, under which they show what is nowhere."""
    frames = []
    for index, pose in enumerate(poses(18)):
        height, width = SIZES[index % len(SIZES)]
        focal = 1.2 * min(height, width) + index % 2
        camera = Cameras(pose[None], focal, focal, width / 2, height / 2, width=width, height=height)
        photo = over_white(trace(camera, 0))
        seen = mask_of(height, width, index)
        photo[~seen] = torch.tensor(HIDDEN) / 255.0
        save(photo, folder / f"photos/{index:02}.png")
        save(seen.float(), folder / f"masks/{index:02}.png")
        frames.append(frame_of(f"photos/{index:02}.png", pose, mask_path=f"masks/{index:02}.png", **intrinsics(camera)))
    write_transforms(folder, frames, 4, camera_model="OPENCV")


def mask_of(height: int, width: int, index: int) -> Tensor:
    """Where a photo is seen, bool (height, width): all but a band, upright or level."""
    seen = torch.ones(height, width, dtype=torch.bool)
    across = seen if index % 2 else seen.T
    begin = 6 + 2 * (index % 5)
    across[begin : begin + len(across) // 4] = False
    return seen


def unbounded(folder: Path) -> Capture:
    return Capture(folder, NerfstudioDataParserConfig(data=folder), 40, 56, test=0)


def write_unbounded(folder: Path) -> None:
    """Photos of the scene and all that is around it, none of which is a test view."""
    camera = Cameras(torch.eye(4)[None, :3], 44.0, 44.0, 28.0, 20.0, width=56, height=40)
    frames = []
    for index, pose in enumerate(poses(14, nearer=0.8)):
        photo = trace(replace_pose(camera, pose), 0, surroundings=True)[..., :3]
        save(photo, folder / f"photos/{index:02}.png")
        frames.append(frame_of(f"photos/{index:02}.png", pose))
    write_transforms(folder, frames, 0, **intrinsics(camera), camera_model="OPENCV")


def replace_pose(camera: Cameras, pose: Tensor) -> Cameras:
    return Cameras(
        pose[None],
        camera.fx,
        camera.fy,
        camera.cx,
        camera.cy,
        width=camera.width,
        height=camera.height,
        distortion_params=camera.distortion_params,
    )


CAPTURES: dict[str, tuple[Callable[[Path], Capture], Callable[[Path], None]]] = {
    "blender": (blender, write_blender),
    "lens": (lens, write_lens),
    "masks": (masks, write_masks),
    "unbounded": (unbounded, write_unbounded),
}
"""Name -> what reads a folder, and what draws it."""


def photo_on_disk(path: Path) -> np.ndarray:
    """A photo as a viewer of pictures would show it over white, (height, width, 3) in 0..1."""
    rgba = np.asarray(Image.open(path).convert("RGBA"), dtype=np.float64) / 255.0
    return rgba[..., :3] * rgba[..., 3:] + 1.0 - rgba[..., 3:]
