"""Fit a small cloud of Gaussian splats to a capture without a GPU, to put it beside a student (compare_splats.py).

    python scripts/fit_splats.py --data ../lego --size 100 --splats 8000 --steps 3000 --output lego.ply

The capture has to be an object in Blender format, on transparent photos. Splats begin at random places in its visual
hull; Adam moves them, by the derivatives of the package's reference renderer. That is the least there is: splats are
neither added, split nor taken away (no densification), photos are small, steps are few. gsplat or 3DGS on a GPU make a
far better cloud of the same photos.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

RATES = {"means": 2e-3, "scales": 1e-2, "quaternions": 5e-3, "opacities": 5e-2, "sh": 2e-2}
"""Adam's learning rates; all fall to a tenth at the end."""
DIRECTIONAL = 0.05
"""Share of the colours' learning rate that coefficients depending on the direction have."""
ALPHA_WEIGHT = 0.5
LEAST_ALPHA = 0.3
"""Alpha from which on a pixel of a photo shows the object."""
CANDIDATES = 400_000


def intrinsics_of(camera: Any) -> Tensor:
    """Focal lengths and principal point of one camera as a matrix (3, 3)."""
    fx, fy, cx, cy = (float(value) for value in (camera.fx, camera.fy, camera.cx, camera.cy))
    return torch.tensor([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def visual_hull(cameras: Any, views: list[Tensor], alphas: list[Tensor]) -> tuple[Tensor, float]:
    """Random points (n, 3) that every photo shows inside the object, and the volume that they lie in.

    Args:
        cameras: of the photos.
        views: world to camera, OpenCV axes.
        alphas: of the photos, (h, w).
    """
    from nerfstudio.cameras.camera_utils import focus_of_attention

    poses = cameras.camera_to_worlds
    middle = focus_of_attention(poses, torch.zeros(3))
    half = (cameras.width / (2 * cameras.fx))[:, 0] * (poses[:, :, 3] - middle).norm(dim=-1)
    reach = float(half.median())
    points = middle + reach * (2 * torch.rand(CANDIDATES, 3) - 1)
    for camera, view, alpha in zip(cameras, views, alphas, strict=True):
        seen = points @ view[:3, :3].T + view[:3, 3]
        places = (seen @ intrinsics_of(camera).T)[:, :2] / seen[:, 2:]
        height, width = alpha.shape
        x, y = places.long().unbind(-1)
        inside = (places >= 0).all(-1) & (x < width) & (y < height) & (seen[:, 2] > 0)
        points = points[inside & (alpha[y.clamp(0, height - 1), x.clamp(0, width - 1)] > LEAST_ALPHA)]
    return points, (2 * reach) ** 3 * len(points) / CANDIDATES


class Cloud(torch.nn.Module):
    """Splats as they are learned: logarithms of scales, logits of opacities."""

    def __init__(self, points: Tensor, spacing: float, degree: int) -> None:
        super().__init__()
        count = len(points)
        self.means = torch.nn.Parameter(points)
        self.scales = torch.nn.Parameter(torch.full((count, 3), math.log(spacing / 2)))
        self.quaternions = torch.nn.Parameter(torch.randn(count, 4))
        self.opacities = torch.nn.Parameter(torch.zeros(count))
        self.sh = torch.nn.Parameter(torch.zeros(count, 1, 3))
        self.directional = torch.nn.Parameter(torch.zeros(count, (degree + 1) ** 2 - 1, 3))

    def forward(self, view: Tensor, intrinsics: Tensor, width: int, height: int) -> Tensor:
        """Premultiplied RGBA (height, width, 4) of a camera."""
        from mobiler2l_ns.teacher.splat_cloud import SplatCloud
        from mobiler2l_ns.teacher.splat_reference import render

        cloud = SplatCloud(
            self.means,
            torch.nn.functional.normalize(self.quaternions, dim=-1),
            self.scales.exp(),
            self.opacities.sigmoid(),
            torch.cat([self.sh, self.directional], dim=1),
        )
        rgb, _, alpha = render(cloud, view, intrinsics, width, height)
        return torch.cat([rgb, alpha], dim=-1)

    def optimizer(self) -> torch.optim.Adam:
        """Adam with a learning rate for each kind of numbers."""
        rates = {**RATES, "directional": DIRECTIONAL * RATES["sh"]}
        return torch.optim.Adam([{"params": [getattr(self, name)], "lr": rate} for name, rate in rates.items()])

    def write(self, path: Path) -> None:
        """The PLY of 3DGS."""
        from nerfstudio.scripts.exporter import ExportGaussianSplat

        columns: OrderedDict[str, Any] = OrderedDict()
        for names, values in (
            ("x y z", self.means),
            ("f_dc_0 f_dc_1 f_dc_2", self.sh[:, 0]),
            (" ".join(f"f_rest_{i}" for i in range(self.directional[0].numel())), self.directional.mT.flatten(1)),
            ("opacity", self.opacities[:, None]),
            ("scale_0 scale_1 scale_2", self.scales),
            ("rot_0 rot_1 rot_2 rot_3", self.quaternions),
        ):
            columns |= zip(names.split(), values.detach().numpy().astype("float32").T, strict=True)
        partial = path.with_name(f"{path.name}.part")
        ExportGaussianSplat.write_ply(str(partial), len(self.means), columns)
        partial.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a capture in Blender format, on transparent photos")
    parser.add_argument("--output", type=Path, required=True, help="the .ply to write")
    parser.add_argument("--size", type=int, default=100, help="longest side of the photos in pixels")
    parser.add_argument("--splats", type=int, default=8000)
    parser.add_argument("--steps", type=int, default=3000, help="of one photo each")
    parser.add_argument("--degree", type=int, default=1, choices=range(4), help="of the spherical harmonics")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig

    from mobiler2l_ns.capture.background import photo_with_alpha, premultiply
    from mobiler2l_ns.capture.photos import sized_dataset
    from mobiler2l_ns.teacher.splat_teacher import world_to_opencv

    if not (arguments.data / "transforms_train.json").exists():
        parser.error(f"{arguments.data} is no capture in Blender format: it has no transforms_train.json")
    torch.manual_seed(arguments.seed)
    parsed = BlenderDataParserConfig(data=arguments.data).setup().get_dataparser_outputs("train")
    dataset = sized_dataset(parsed, arguments.size)
    photos = [photo_with_alpha(dataset, index) for index in range(len(dataset))]
    if any(photo.shape[-1] != 4 for photo in photos):
        parser.error(f"{arguments.data}: all photos must have an alpha channel")
    photos = [premultiply(photo) for photo in photos]
    views = [world_to_opencv(pose) for pose in dataset.cameras.camera_to_worlds]
    points, volume = visual_hull(dataset.cameras, views, [photo[..., 3] for photo in photos])
    if len(points) < arguments.splats:
        parser.error(f"the photos' visual hull has room for {len(points)} of {CANDIDATES} points: give fewer --splats")
    cloud = Cloud(points[: arguments.splats], (volume / arguments.splats) ** (1 / 3), arguments.degree)
    optimizer = cloud.optimizer()
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1 ** (1 / arguments.steps))
    began, squares = time.process_time(), 0.0
    for step in track(range(arguments.steps), "Fitting", update_period=1.0):
        index = int(torch.randint(len(photos), ()))
        photo = photos[index]
        height, width, _ = photo.shape
        shown = cloud(views[index], intrinsics_of(dataset.cameras[index]), width, height)
        error = shown - photo
        loss = error[..., :3].abs().mean() + ALPHA_WEIGHT * error[..., 3].abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step >= arguments.steps - len(photos):
            squares += float(error[..., :3].detach().square().mean()) / min(len(photos), arguments.steps)
    cloud.write(arguments.output)
    print(
        f"{len(cloud.means)} splats, {arguments.steps} steps at {arguments.size} pixels, "
        f"{(time.process_time() - began) / 60:.1f} minutes of processor time, "
        f"{-10 * math.log10(squares):.2f} dB over black on the photos of the last steps: {arguments.output}"
    )


if __name__ == "__main__":
    main()
