"""Runs trained by two processes on the CPU, as nerfstudio's launcher trains them by one a GPU."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from nerfstudio.scripts.train import _set_random_seed
from torch import Tensor, nn

from mobiler2l_ns.run.distributed import average_batch_norms

RANKS = 2


def train_on_two_ranks(configs: list[Any], folder: Path) -> list[list[dict[str, Any]]]:
    """Train runs one after the other; returns what each rank has to say of each run."""
    for config in configs:
        config.save_config()
    mp.spawn(_rank, nprocs=RANKS, args=(configs, folder))  # pyright: ignore[reportPrivateImportUsage]
    return [[torch.load(_report(folder, run, rank)) for rank in range(RANKS)] for run in range(len(configs))]


def console_file(folder: Path, rank: int) -> Path:
    """What a rank printed."""
    return folder / f"console_{rank}.txt"


def _report(folder: Path, run: int, rank: int) -> Path:
    return folder / f"report_{run}_{rank}.pt"


def _rank(rank: int, configs: list[Any], folder: Path) -> None:
    torch.set_num_threads(1)
    sys.stdout = console_file(folder, rank).open("w")
    store, patience = f"file://{folder}/store", timedelta(seconds=120)
    dist.init_process_group(
        "nccl" if configs[0].machine.device_type == "cuda" else "gloo",
        init_method=store,
        rank=rank,
        world_size=RANKS,
        timeout=patience,
    )
    for run, config in enumerate(configs):
        torch.save(_train(rank, config), _report(folder, run, rank))
        dist.barrier()
    dist.destroy_process_group()
    sys.stdout.close()


def _train(rank: int, config: Any) -> dict[str, Any]:
    # As train_loop does, which keeps the trainer to itself.
    _set_random_seed(config.machine.seed + rank)
    trainer = config.setup(local_rank=rank, world_size=RANKS)
    trainer.setup()
    network, datamanager = trainer.pipeline.model.student.network, trainer.pipeline.datamanager
    states, losses, depths, coarser, first_poses = [], {}, [], [], []
    plan, train_iteration = config.pipeline.plan(), trainer.train_iteration

    def state() -> dict[str, Tensor]:
        return {name: value.clone() for name, value in trainer.pipeline.state_dict().items()}

    def recorded(step: int) -> Any:
        if datamanager.pool is not None and not first_poses:
            first_poses.append(datamanager.pool.poses.clone())
        depths.append(network.active_blocks)
        coarser.append(trainer.pipeline.model.learns_coarser)
        result = train_iteration(step)
        losses[step] = float(result[0])
        if plan.at(step + 1) is not plan.at(step):
            states.append(state())
        return result

    trainer.train_iteration = recorded
    trainer.train()
    norm = nn.BatchNorm2d(1)
    norm.running_mean = torch.full((1,), float(rank))
    average_batch_norms(norm)
    return {
        "states": [*states, state()],
        "has_sphere": trainer.pipeline.model.student.capture.has_sphere,
        "losses": losses,
        "depths": depths,
        "coarser": coarser,
        "first_poses": first_poses[0],
        "last_poses": datamanager.pool.poses,
        "rendered": datamanager.pool.rendered,
        "mean_of_ranks": norm.running_mean,
    }
