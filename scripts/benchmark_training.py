"""Training images per second of the paper's network, D60-SR3: the plain recipe against this project's.

    python scripts/benchmark_training.py --json FILE

Both train the same network on the same rays and pictures, forward, backward and optimizer. plain is float32,
channels-first, with batch norms and torch's own AdamW, on encodings computed for it beforehand. default is what
``ns-train mobiler2l`` does: poses in, rays and encoding on the device, channels_last, no batch norms (they fold away on
export), a fused optimizer, bfloat16 where the device multiplies it, and on CUDA torch.compile. Its backbone grows
during a run; the last line is the mean over the stages of a run. The peak is what a large matrix product reaches here,
in the numbers that the recipe trains in.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def seconds_per_step(step: Callable[[], None], runs: int, device: str) -> float:
    """Time of a training step, after two to warm up: the median on a CPU; on CUDA, where training does not wait for a
    step before it queues the next, the mean."""
    if device == "cuda":
        for _ in range(2):
            step()
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(runs):
            step()
        torch.cuda.synchronize()
        return (time.perf_counter() - began) / runs
    times = []
    for _ in range(runs + 2):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return statistics.median(times[2:])


def peak_flops(device: str, dtype: torch.dtype) -> float:
    """What the chip reaches on a large matrix product."""
    size = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / seconds_per_step(lambda: (a @ b, None)[1], 5, device)


def plain_step(config: Any, views: int, size: int, device: str) -> Callable[[], None]:
    """The plain recipe: a network, an optimizer, and nothing else."""
    from mobiler2l_ns.student.network import StudentNetwork

    network = StudentNetwork(config).to(device)
    # The convolutions of torch, as published.
    for module in network.modules():
        if type(module).__name__ == "PointwiseConv":
            module.__class__ = torch.nn.Conv2d
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, foreach=False, fused=False)
    rows = size // config.stride
    encoded = torch.randn(views, config.input_channels, rows, rows, device=device)
    pictures = torch.rand(views, 3, size, size, device=device)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(network(encoded), pictures).backward()
        optimizer.step()

    return step


def default_step(method: Any, config: Any, views: int, size: int, device: str, blocks: int) -> Callable[[], None]:
    """This project's training step, from poses and bytes to new weights, with the first ``blocks`` blocks active."""
    from mobiler2l_ns.geometry.picture import PictureGeometry
    from mobiler2l_ns.pool.pseudo_views import PseudoViewPool
    from mobiler2l_ns.student.renderer import Student

    student = Student(config, config)
    student.capture.record(scene_radius=torch.tensor(1.3))
    student = student.to(device).train()
    student.compile_for(torch.device(device))
    student.network.active_blocks = blocks
    optimizer = replace(method.optimizers["student"]["optimizer"], lr=1e-6).setup(student.network.parameter_groups())
    view = PictureGeometry(size, size, 1.39 * size, 1.39 * size, size / 2, size / 2, config.stride)
    pool = PseudoViewPool(2 * views, size, size, 64.0, device)
    pose = torch.eye(4)[:3].clone()
    pose[2, 3] = 4.0
    for _ in range(2 * views):
        pool.add(pose, torch.rand(size, size, 3))

    def step() -> None:
        poses, pictures = pool.draw(views, device)
        rgb: Tensor = student(*view.rays(poses)).permute(0, 2, 3, 1)
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.mse_loss(rgb, pictures).backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=800, help="pixels of the square picture")
    parser.add_argument("--views", type=int, default=0, help="pictures a step; 0: 1 on the CPU, 10 on CUDA")
    parser.add_argument("--runs", type=int, default=5, help="timed steps of each")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", choices=("auto", "on", "off"), default="auto", help="torch.compile, as ns-train's")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = parser.parse_args()

    from results_file import write_json
    from rich.console import Console
    from rich.table import Table

    from mobiler2l_ns.devices import multiplies_bfloat16, peak_memory
    from mobiler2l_ns.plugin import methods
    from mobiler2l_ns.student.config import StudentConfig
    from mobiler2l_ns.student.cost import measure_cost

    device, size = arguments.device, arguments.size
    torch.backends.cudnn.benchmark = True  # as ns-train does
    torch.backends.cudnn.allow_tf32 = (
        False  # float32 is float32, in the plain recipe as in the peak it is compared with
    )
    views = arguments.views or (10 if device == "cuda" else 1)
    paper = StudentConfig()
    method = methods.mobiler2l.config
    shape = {
        "activation": "gelu",
        "num_blocks": 29,
        "sr_channels": (64, 64, 16),
        "sr_blocks": 2,
        "compile": arguments.compile,
    }
    config: Any = replace(method.pipeline.model, **shape)
    growth = replace(method.pipeline.growth(), blocks=config.num_blocks)  # type: ignore[attr-defined]
    dtype = torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
    peaks = {kind: peak_flops(device, kind) for kind in {torch.float32, dtype}}
    rows: dict[str, tuple[float, float, float]] = {}

    def measure(name: str, step: Callable[[], None], gmac: float, dtype: torch.dtype = dtype) -> float:
        seconds = seconds_per_step(step, arguments.runs, device)
        # A backward pass costs two forward passes.
        flops = 6e9 * gmac * views / seconds
        rows[name] = (views / seconds, flops, flops / peaks[dtype])
        print(f"{name}: {views / seconds:.2f} images/s", flush=True)
        write_json(arguments.json, result())
        return seconds

    def result() -> dict[str, Any]:
        found: dict[str, Any] = {
            name: {"images_per_s": speed, "tflops": flops / 1e12, "share_of_peak": share}
            for name, (speed, flops, share) in rows.items()
        }
        name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU threads"
        tflops = {str(kind).removeprefix("torch."): flops / 1e12 for kind, flops in peaks.items()}
        found["settings"] = {"device": name, "size": size, "views": views, "peak_tflops": tflops}
        found["settings"] |= {"compile": arguments.compile, "peak_memory_bytes": peak_memory(device)}
        return found

    gmac = measure_cost(paper, size, size).gmac
    plain = measure("plain", plain_step(paper, views, size, device), gmac, torch.float32)
    default = measure("default", default_step(method, config, views, size, device, 29), gmac)
    spent = 0.0
    for begin, end in zip((0.0, *growth.until), (*growth.until, 1.0), strict=True):
        blocks = growth.active(begin)
        if blocks < config.num_blocks:
            cost = measure_cost(replace(config, num_blocks=blocks), size, size).gmac
            name = f"default, {blocks} of {config.num_blocks} blocks"
            seconds = measure(name, default_step(method, config, views, size, device, blocks), cost)
        else:
            seconds = default
        spent += (end - begin) * seconds
    over_a_run = views / spent

    table = Table(title=f"D60-SR3, {size} x {size}, {views} pictures a step, {device}")
    for column in ("recipe", "images/s", "TFLOP/s", "share of peak", "to plain"):
        table.add_column(column, justify="left" if column == "recipe" else "right")
    for name, (speed, flops, share) in rows.items():
        table.add_row(name, f"{speed:.2f}", f"{flops / 1e12:.3f}", f"{share:.0%}", f"{speed * plain / views:.2f}")
    table.add_row("default, mean over a run", f"{over_a_run:.2f}", "", "", f"{over_a_run * plain / views:.2f}")
    Console().print(table)
    whole = {"default, mean over a run": {"images_per_s": over_a_run}, "speedup": plain / default}
    write_json(arguments.json, {**result(), **whole})


if __name__ == "__main__":
    main()
