"""Rays and views a second of a nerfacto teacher, as it is and in cheaper ways, and what those cost in dB.

    python scripts/benchmark_teacher.py --load-config outputs/.../config.yml --size 800 --json FILE

Without a run a teacher of ``mobiler2l``'s settings is taken that has learned nothing: its speed says something, its
pictures do not, and no dB is told. Against its own picture each way is compared:

- half: half precision, bfloat16 on a CPU and float16 on CUDA;
- fewer: half of the samples of the last pass; fewest: a quarter;
- fewer proposals: half of the samples of the proposal passes;
- compiled: on CUDA, the hash grids by torch.compile (a CPU's are, see hash_grids.py).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def teacher_of(arguments: argparse.Namespace) -> tuple[Any, Tensor]:
    """A nerfacto in evaluation mode, and poses to look at it from."""
    if arguments.load_config is not None:
        from mobiler2l_ns.saved_run import SavedRun

        pipeline: Any = SavedRun.open(arguments.load_config).pipeline(arguments.device, "test")
        model = pipeline.model
        teacher = model.find_teacher() if hasattr(model, "find_teacher") else model
        return teacher.eval(), pipeline.datamanager.eval_dataset.cameras.camera_to_worlds[: arguments.views]
    from make_demo_scene import sample_cameras
    from nerfstudio.data.scene_box import SceneBox

    from mobiler2l_ns.plugin import methods
    from mobiler2l_ns.teacher.nerfacto import lazy_lpips

    method: Any = (methods.mobiler2l_tiny if arguments.small else methods.mobiler2l).config
    with lazy_lpips():
        box = SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3]))
        teacher = method.pipeline.teacher.setup(scene_box=box, num_train_data=10, metadata={}, device=arguments.device)
    return teacher.to(arguments.device).eval(), sample_cameras("test", arguments.views)


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute has another value."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def ways(teacher: Any, device: str) -> dict[str, Any]:
    """Context managers, by name, within which the teacher renders in another way."""
    sampler = teacher.proposal_sampler
    samples, proposals = sampler.num_nerf_samples_per_ray, sampler.num_proposal_samples_per_ray

    @contextmanager
    def half() -> Iterator[None]:
        from mobiler2l_ns.teacher import render

        def enabled(kind: str, **_: Any) -> Any:
            return torch.amp.autocast_mode.autocast(kind, torch.float16 if kind == "cuda" else torch.bfloat16)

        with replaced(render.torch, "autocast", enabled):
            yield

    @contextmanager
    def as_it_is() -> Iterator[None]:
        yield

    return {
        "as it is": as_it_is,
        "half": half,
        "fewer": lambda: replaced(sampler, "num_nerf_samples_per_ray", samples // 2),
        "fewest": lambda: replaced(sampler, "num_nerf_samples_per_ray", samples // 4),
        "fewer proposals": lambda: replaced(
            sampler, "num_proposal_samples_per_ray", tuple(count // 2 for count in proposals)
        ),
    }


def compiled_grids(teacher: Any) -> None:
    """Let torch compile the hash grids that are computed by torch."""
    from nerfstudio.field_components.encodings import HashEncoding

    for grid in teacher.modules():
        if isinstance(grid, HashEncoding) and grid.tcnn_encoding is None:
            grid.forward = torch.compile(grid.pytorch_fwd, dynamic=True)  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load-config", type=Path, help="config.yml of a run whose teacher is a nerfacto")
    parser.add_argument("--size", type=int, default=800, help="pixels of the square view")
    parser.add_argument("--views", type=int, default=2, help="that are timed, after one to warm up")
    parser.add_argument("--small", action="store_true", help="without a run: the teacher of mobiler2l-tiny")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = parser.parse_args()

    from nerfstudio.cameras.cameras import Cameras
    from results_file import write_json

    from mobiler2l_ns.devices import compiles, device_name
    from mobiler2l_ns.metrics import psnr
    from mobiler2l_ns.teacher.render import render_teacher

    device, size = arguments.device, arguments.size
    teacher, poses = teacher_of(arguments)
    trained = arguments.load_config is not None
    cameras = [Cameras(pose[None], 1.39 * size, 1.39 * size, size / 2, size / 2, size, size) for pose in poses]
    settings = {"device": device_name(device), "size": size, "views": len(cameras), "trained": trained}
    results: dict[str, Any] = {}

    def timed(render: Callable[[Any], dict[str, Tensor]]) -> tuple[float, list[Tensor]]:
        render(cameras[0])
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        pictures = [render(camera)["rgb"] for camera in cameras]
        if device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / len(cameras), [picture.float().cpu() for picture in pictures]

    own: list[Tensor] = []

    def measure(name: str) -> None:
        seconds, pictures = timed(lambda camera: render_teacher(teacher, camera))
        own.extend(pictures if not own else [])
        result = {"views_per_s": 1.0 / seconds, "rays_per_s": size**2 / seconds}
        if trained and name != "as it is":
            result["psnr_to_itself"] = min(float(psnr(a, b)) for a, b in zip(pictures, own, strict=True))
        results[name] = result
        print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in result.items()), flush=True)
        write_json(arguments.json, {"settings": settings, "ways": results})

    for name, way in ways(teacher, device).items():
        with way():
            measure(name)
    if device == "cuda" and compiles(device):
        compiled_grids(teacher)
        measure("compiled")


if __name__ == "__main__":
    main()
