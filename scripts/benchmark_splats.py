"""Rays and views a second of splats that teach, rendered as a run asks its teacher for them.

    python scripts/benchmark_splats.py --splats 100000 1000000 --size 800 --json FILE

The splats are drawn at random and show nothing: flat ones on a sphere, so large that neighbours overlap, of all
opacities, with colours of degree 3. How fast trained ones are depends on how large they are and how many lie behind
each other. On CUDA gsplat renders them, where it can be compiled (on first use, which takes minutes), elsewhere the
reference renderer does; gsplat's picture is compared with the reference renderer's.
"""

from __future__ import annotations

import argparse
import math
import time
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

RADIUS = 1.2
"""Of the sphere, in scene units: it covers half of the views, which are the demo scene's."""
OVERLAP = 0.7
"""Standard deviation of a splat, in distances between neighbours."""


def random_splats(count: int) -> Any:
    """``count`` splats on a sphere, the same ones each time."""
    from torch.nn.functional import normalize

    from mobiler2l_ns.teacher.splat_cloud import MOST_DEGREE, SplatCloud

    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    outward = normalize(normal(count, 3), dim=-1)
    # The shortest turn from z to the normal: the thin axis, the last, points outward.
    up = torch.tensor([0.0, 0.0, 1.0]).expand_as(outward)
    quaternions = torch.cat([1.0 + outward[:, 2:], torch.linalg.cross(up, outward)], dim=-1)
    apart = RADIUS * math.sqrt(4.0 * math.pi / count)
    return SplatCloud(
        means=RADIUS * outward,
        quaternions=normalize(quaternions, dim=-1),
        scales=OVERLAP * apart * torch.exp(0.5 * normal(count, 3)) * torch.tensor([1.0, 1.0, 0.1]),
        opacities=torch.sigmoid(2.0 * normal(count)),
        sh=torch.cat([normal(count, 1, 3), 0.1 * normal(count, (MOST_DEGREE + 1) ** 2 - 1, 3)], dim=1),
    )


def rms_to_reference(teacher: Any, camera: Any) -> float:
    """Root mean square difference, in 0..1, between a small view by the device's renderer and by the reference."""
    from mobiler2l_ns.teacher import splat_reference, splat_teacher

    small = deepcopy(camera)
    small.rescale_output_resolution(64 / int(camera.width[0]))
    ours = teacher.get_outputs_for_camera(small)["rgb"]
    with patch.object(splat_teacher, "renderer_for", lambda _: splat_reference.render):
        return float((ours - teacher.get_outputs_for_camera(small)["rgb"]).square().mean().sqrt())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splats", type=int, nargs="+", default=[100_000, 1_000_000], help="how many, each is timed")
    parser.add_argument("--size", type=int, default=800, help="pixels of the square view")
    parser.add_argument("--views", type=int, default=20, help="that are timed, after one to warm up")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = parser.parse_args()

    from make_demo_scene import sample_cameras
    from nerfstudio.cameras.cameras import Cameras
    from nerfstudio.data.scene_box import SceneBox
    from results_file import write_json

    from mobiler2l_ns.devices import device_name
    from mobiler2l_ns.teacher import splat_reference
    from mobiler2l_ns.teacher.render import render_teacher
    from mobiler2l_ns.teacher.splat_teacher import SplatTeacher, SplatTeacherConfig, renderer_for

    device, size = torch.device(arguments.device), arguments.size
    began = time.perf_counter()
    reference = renderer_for(device) is splat_reference.render
    settings = {
        "device": device_name(device),
        "size": size,
        "views": arguments.views,
        "renderer": "reference" if reference else "gsplat",
        "seconds_to_compile": round(time.perf_counter() - began, 1),
    }
    cameras = [
        Cameras(pose[None], 1.39 * size, 1.39 * size, size / 2, size / 2, size, size)
        for pose in sample_cameras("test", arguments.views)
    ]
    box = SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3]))
    results: dict[str, Any] = {}

    def finished() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for count in arguments.splats:
        teacher = SplatTeacher(random_splats(count), SplatTeacherConfig(), box).to(device).eval()
        outputs = render_teacher(teacher, cameras[0])
        finished()
        began = time.perf_counter()
        for camera in cameras:
            outputs = render_teacher(teacher, camera)
        finished()
        seconds = (time.perf_counter() - began) / len(cameras)
        results[str(count)] = {
            "views_per_s": 1.0 / seconds,
            "rays_per_s": size**2 / seconds,
            "covered": float((outputs["accumulation"] > 0.5).float().mean()),
        }
        if not reference:
            results[str(count)]["rms_to_reference"] = rms_to_reference(teacher, cameras[0])
        print(f"{count}: " + ", ".join(f"{key} {value:.4g}" for key, value in results[str(count)].items()), flush=True)
        write_json(arguments.json, {"settings": settings, "splats": results})


if __name__ == "__main__":
    main()
