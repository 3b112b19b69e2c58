"""Rays and views a second of a nerfacto teacher, as it is and in cheaper ways, and what those cost in dB.

    python scripts/benchmark_teacher.py --load-config outputs/.../config.yml --size 800 --json FILE

Without a run a teacher of ``mobiler2l``'s settings is taken that has learned nothing: its speed says something, its
pictures do not, and no dB is told. Against its own picture each way is compared:

- half: half precision, bfloat16 on a CPU and float16 on CUDA;
- fewer: half of the samples of the last pass; fewest: a quarter;
- fewer proposals: half of the samples of the proposal passes;
- empty space: of a run's teacher, not asked about, as pseudo views are rendered (see empty_space.py);
- compiled: on CUDA, the hash grids by torch.compile (of a run's teacher on a CPU they are in all ways, as in a run).

The ways take turns. On a CPU they are compared by the time that this process has computed, since others may run beside
it; a run's teacher is compared with its test photos, too.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from nerfstudio.cameras.cameras import Cameras

    from mobiler2l_ns.capture.background import Background

AS_IT_IS, EMPTY_SPACE = "as it is", "empty space"


@dataclass
class Scene:
    """A teacher, and what is rendered of it."""

    teacher: Any
    """In evaluation mode."""
    cameras: list[Cameras]
    photos: list[Tensor]
    """Of these cameras; none where the teacher has seen none."""
    background: Background


def scene_of(arguments: argparse.Namespace) -> Scene:
    """The teacher of a run with its test photos, their longer side ``size``, or one that has learned nothing."""
    if arguments.load_config is not None:
        return scene_of_run(arguments.load_config, arguments.device, arguments.size, arguments.views)
    from make_demo_scene import sample_cameras
    from nerfstudio.cameras.cameras import Cameras
    from nerfstudio.data.scene_box import SceneBox

    from mobiler2l_ns.capture.background import Background
    from mobiler2l_ns.plugin import methods
    from mobiler2l_ns.teacher.nerfacto import lazy_lpips

    method: Any = (methods.mobiler2l_tiny if arguments.small else methods.mobiler2l).config
    with lazy_lpips():
        box = SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3]))
        teacher = method.pipeline.teacher.setup(scene_box=box, num_train_data=10, metadata={}, device=arguments.device)
    poses, size = sample_cameras("test", arguments.views), arguments.size
    cameras = [Cameras(pose[None], 1.39 * size, 1.39 * size, size / 2, size / 2, size, size) for pose in poses]
    return Scene(teacher.to(arguments.device).eval(), cameras, [], Background())


def scene_of_run(config: Path, device: str, size: int, views: int) -> Scene:
    """The teacher of a run, and its first test photos in that size."""
    from mobiler2l_ns.capture.background import Background
    from mobiler2l_ns.saved_run import SavedRun

    pipeline: Any = SavedRun.open(config).pipeline(device, "test")  # type: ignore[arg-type]
    model, dataset = pipeline.model, pipeline.datamanager.eval_dataset
    background = getattr(model.config, "background", Background())
    teacher = model.find_teacher() if hasattr(model, "find_teacher") else model
    cameras, photos = [], []
    for place in range(min(views, len(dataset))):
        camera = deepcopy(dataset.cameras[place : place + 1])
        camera.rescale_output_resolution(size / max(int(camera.width), int(camera.height)))
        photo = background.shown(dataset.get_data(place)["image"]).permute(2, 0, 1)[None]
        shape = int(camera.height), int(camera.width)
        photos.append(torch.nn.functional.interpolate(photo, shape, mode="area")[0].permute(1, 2, 0))
        cameras.append(camera)
    return Scene(teacher.eval(), cameras, photos, background)


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
        AS_IT_IS: as_it_is,
        "half": half,
        "fewer": lambda: replaced(sampler, "num_nerf_samples_per_ray", samples // 2),
        "fewest": lambda: replaced(sampler, "num_nerf_samples_per_ray", samples // 4),
        "fewer proposals": lambda: replaced(
            sampler, "num_proposal_samples_per_ray", tuple(count // 2 for count in proposals)
        ),
    }


def empty_space_of(scene: Scene) -> Any:
    """Where the teacher is not asked, found as a run does; None if it is asked everywhere."""
    from mobiler2l_ns.teacher.empty_space import EmptySpace
    from mobiler2l_ns.teacher.render import render_pseudo_view

    cameras = [deepcopy(camera) for camera in (*scene.cameras, *scene.cameras[::-1])]
    for camera in cameras:
        camera.rescale_output_resolution(min(1.0, 96 / max(int(camera.width), int(camera.height))))

    def show(camera: Cameras) -> Tensor:
        return render_pseudo_view(scene.teacher, camera, scene.background)["picture"]

    return EmptySpace.find(scene.teacher, cameras, show, rays=math.inf)


def compiled_grids(teacher: Any) -> None:
    """Let torch compile the hash grids that are computed by torch."""
    from nerfstudio.field_components.encodings import HashEncoding

    for grid in teacher.modules():
        if isinstance(grid, HashEncoding) and grid.tcnn_encoding is None:
            grid.forward = torch.compile(grid.pytorch_fwd, dynamic=True)  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load-config", type=Path, help="config.yml of a run whose teacher is a nerfacto")
    parser.add_argument("--size", type=int, default=800, help="pixels of the view's longer side")
    parser.add_argument("--views", type=int, default=2, help="that are rendered in each way, after one to warm up")
    parser.add_argument("--rounds", type=int, default=1, help="times that all ways take their turn: medians are told")
    parser.add_argument("--ways", nargs="+", help="only these; as it is comes first in any case")
    parser.add_argument("--small", action="store_true", help="without a run: the teacher of mobiler2l-tiny")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = parser.parse_args()

    from results_file import write_json

    from mobiler2l_ns.devices import compiles, device_name
    from mobiler2l_ns.metrics import psnr
    from mobiler2l_ns.teacher.hash_grids import HashGrids
    from mobiler2l_ns.teacher.render import render_like_photo

    device = arguments.device
    scene, trained = scene_of(arguments), arguments.load_config is not None
    if device == "cpu" and trained:
        HashGrids(scene.teacher, pays_after=1)
    settings = {
        "device": device_name(device),
        "size": arguments.size,
        "views": len(scene.cameras),
        "rounds": arguments.rounds,
        "trained": trained,
    }
    if trained:
        # The run's folder is the machine's own business.
        settings["contracted"] = not scene.teacher.config.disable_scene_contraction
    rays = sum(int(camera.height) * int(camera.width) for camera in scene.cameras) / len(scene.cameras)
    taken: dict[str, list[tuple[float, float]]] = {}
    results: dict[str, Any] = {}
    own: list[Tensor] = []

    def measure(name: str, more: dict[str, Any]) -> None:
        if name not in taken:
            render_like_photo(scene.teacher, scene.cameras[0], scene.background.rgb)
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter(), time.process_time()
        outputs = [render_like_photo(scene.teacher, camera, scene.background.rgb) for camera in scene.cameras]
        if device == "cuda":
            torch.cuda.synchronize()
        ended = time.perf_counter(), time.process_time()
        taken.setdefault(name, []).append((ended[0] - began[0], ended[1] - began[1]))
        seconds, busy = (statistics.median(times) / len(outputs) for times in zip(*taken[name], strict=True))
        result: dict[str, Any] = {"views_per_s": 1.0 / seconds, "rays_per_s": rays / seconds}
        if device == "cpu":
            result = {"cpu_s_per_view": busy, "rays_per_cpu_s": rays / busy}
        result.update(more)
        pictures = [output["rgb"].float().cpu() for output in outputs]
        own.extend(pictures if not own else [])
        if name != AS_IT_IS:
            clock = int(device == "cpu")
            pairs = zip(taken[AS_IT_IS], taken[name], strict=False)
            result["times_as_fast"] = statistics.median(before[clock] / after[clock] for before, after in pairs)
        if trained:
            if name != AS_IT_IS:
                result["psnr_to_itself"] = min(float(psnr(a, b)) for a, b in zip(pictures, own, strict=True))
                result["most_error"] = max(float((a - b).abs().max()) for a, b in zip(pictures, own, strict=True))
            found = [float(psnr(a, b)) for a, b in zip(pictures, scene.photos, strict=True)]
            result["psnr_to_photos"] = statistics.mean(found)
        results[name] = result
        print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in result.items()), flush=True)
        write_json(arguments.json, {"settings": settings, "ways": results})

    known, found = ways(scene.teacher, device), {}
    chosen = [AS_IT_IS, *(name for name in known if name != AS_IT_IS and name in (arguments.ways or known))]
    if trained and EMPTY_SPACE in (arguments.ways or [EMPTY_SPACE]):
        render_like_photo(scene.teacher, scene.cameras[0], scene.background.rgb)  # grids are compiled
        began = time.process_time()
        empty = empty_space_of(scene)
        if empty is None:
            print("empty space: there is too little, or none that goes unseen")
        else:
            share, spent = empty.asked / empty.points, time.process_time() - began
            known[EMPTY_SPACE], found[EMPTY_SPACE] = empty.skipped, {"points_left": share, "cpu_s_to_find": spent}
            chosen.append(EMPTY_SPACE)
    for _ in range(arguments.rounds):
        for name in chosen:
            with known[name]():
                measure(name, found.get(name, {}))
    if device == "cuda" and "compiled" in (arguments.ways or ["compiled"]) and compiles(device):
        compiled_grids(scene.teacher)
        for _ in range(arguments.rounds):
            measure("compiled", {})


if __name__ == "__main__":
    main()
