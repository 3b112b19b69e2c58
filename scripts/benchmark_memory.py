"""Peak memory of distillation over the number of pseudo views: bounded by the pool's budget.

    python scripts/benchmark_memory.py --views 1000 10000 --budget-gib 1 --json FILE

Each number of views is streamed through the pool in a process of its own, with training steps in between; a stand-in
paints the pictures, so that the teacher's time does not count.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any


def stream(views: int, size: int, budget_gib: float, device: str) -> dict[str, float]:
    """Fill a pool that wants ``views`` views, stream as many again through it, and train in between."""
    import torch

    from mobiler2l_ns.geometry.picture import PictureGeometry
    from mobiler2l_ns.plugin import methods
    from mobiler2l_ns.pool.pseudo_views import BYTES_PER_GIB, PseudoViewPool
    from mobiler2l_ns.student.renderer import Student

    tiny: Any = methods.mobiler2l_tiny.config.pipeline.model
    student = Student(replace(tiny, width=32, num_blocks=2)).to(device)
    optimizer = torch.optim.AdamW(student.parameters())
    view = PictureGeometry(size, size, 1.4 * size, 1.4 * size, size / 2, size / 2, student.config.stride)
    pool = PseudoViewPool(views, *view.covered, budget_gib, device)
    pose = torch.eye(4)[:3]
    picture = torch.rand(*view.covered, 3)
    for index in range(2 * views):
        pool.add(pose, picture)
        if index % 500 == 499:
            poses, pictures = pool.draw(2, device)
            loss = ((student(*view.rays(poses)).permute(0, 2, 3, 1) - pictures) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    gpu = torch.cuda.max_memory_allocated() / BYTES_PER_GIB if device == "cuda" else 0.0
    return {
        "views": views,
        "kept": len(pool),
        "pool_gib": pool.pictures.numel() / BYTES_PER_GIB,
        "ram_gib": peak,
        "gpu_gib": gpu,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--size", type=int, default=400, help="pixels of the square picture")
    parser.add_argument("--budget-gib", type=float, default=1.0)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(stream(arguments.one, arguments.size, arguments.budget_gib, arguments.device)))
        return

    from results_file import write_json
    from rich.console import Console
    from rich.table import Table

    settings = ["--size", str(arguments.size), "--budget-gib", str(arguments.budget_gib), "--device", arguments.device]
    results = []
    for views in [0, *arguments.views]:
        command = [sys.executable, "-W", "ignore", __file__, "--one", str(views), *settings]
        results.append(
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        )
    table = Table(
        title=f"{arguments.size} x {arguments.size} pixels, budget {arguments.budget_gib} GiB, {arguments.device}"
    )
    for column in results[0]:
        table.add_column(column, justify="right")
    for result in results:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in result.values()))
    Console().print(table)
    write_json(arguments.json, results)


if __name__ == "__main__":
    main()
