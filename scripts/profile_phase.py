"""Trace some steps of a phase of a run with torch's profiler, for Chrome's tracing page or perfetto.

    python scripts/profile_phase.py --load-config outputs/.../config.yml --phase finetune --out trace.json

The run is opened with its checkpoint, and its phase is entered as ``ns-train`` does; nothing of it is changed. Printed
are the operations that take longest. (nerfstudio's own ``--logging.profiler pytorch`` traces steps 12 and 17 only.)
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load-config", type=Path, required=True, help="config.yml of a run")
    parser.add_argument("--phase", choices=("teacher", "distil", "finetune"), default="distil")
    parser.add_argument("--steps", type=int, default=5, help="that are traced, after three to warm up")
    parser.add_argument("--views", type=int, default=8, help="pseudo views to draw from")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("trace.json"))
    arguments = parser.parse_args()

    from torch.profiler import ProfilerActivity, profile

    from mobiler2l_ns.progress.phases import Phase
    from mobiler2l_ns.saved_run import SavedRun

    saved = SavedRun.open(arguments.load_config)
    config: Any = saved.config
    config.pipeline.datamanager.pool_views = arguments.views
    pipeline: Any = config.pipeline.setup(device=arguments.device, test_mode="val")
    pipeline.load_pipeline(saved.state["pipeline"], saved.step)
    pipeline.to(arguments.device).train()
    phase = {"teacher": Phase.TEACHER, "distil": Phase.DISTIL, "finetune": Phase.FINETUNE}[arguments.phase]
    step, groups = pipeline.plan.start(phase), pipeline.get_param_groups()
    pipeline.begin_step(step)
    kinds = ["student"] if phase is not Phase.TEACHER else [name for name in groups if name != "student"]
    optimizers = [config.optimizers[kind]["optimizer"].setup(params=groups[kind]) for kind in kinds]

    def train() -> None:
        _, losses, _ = pipeline.get_train_loss_dict(step)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss: Any = sum(losses.values())
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()

    for _ in range(3):
        train()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if arguments.device == "cuda" else [])]
    with profile(activities=activities, record_shapes=True) as traced:
        for _ in range(arguments.steps):
            train()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    traced.export_chrome_trace(str(arguments.out))
    sort = "self_cuda_time_total" if arguments.device == "cuda" else "self_cpu_time_total"
    print(traced.key_averages().table(sort_by=sort, row_limit=20))
    print(f"Trace: {arguments.out}")


if __name__ == "__main__":
    main()
