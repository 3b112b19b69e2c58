"""How fast this machine is: a few real steps and pseudo views, of which nothing is left behind."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.engine.trainer import Trainer
from nerfstudio.utils import writer
from torch import nn

from mobiler2l_ns.progress.phases import Phase
from mobiler2l_ns.run.budget import Speeds, shares
from mobiler2l_ns.run.pipeline import MobileR2LPipeline

MEASURED = 0.005
"""Share of a run's time that each measurement may take."""
WARM_UP = 2
"""Times that are not counted: kernels are compiled, photos are read."""
LEAST, MOST = 3, 20
"""Times that are."""
VIEWS = 2
"""Pseudo views that the student's steps draw from."""
PLAIN = (bool, int, float, str, type(None))


@contextmanager
def undone(trainer: Trainer) -> Iterator[None]:
    """After it weights, gradients, random numbers and what is to be logged are as they were before, and so is every
    number and switch of a module, such as the steps that nerfacto's sampler counts. Optimizers are not looked after."""
    pipeline = cast(MobileR2LPipeline, trainer.pipeline)
    on_gpu = torch.device(trainer.device).type == "cuda"
    weights = {name: value.detach().clone() for name, value in pipeline.model.state_dict().items()}
    plain = [(m, {k: v for k, v in vars(m).items() if isinstance(v, PLAIN)}) for m in pipeline.model.modules()]
    drawn = random.getstate(), np.random.get_state(), torch.get_rng_state()
    drawn_on_gpu = torch.cuda.get_rng_state(trainer.device) if on_gpu else None
    phase, scaler, events = pipeline.phase, trainer.grad_scaler, len(writer.EVENT_STORAGE)
    trainer.grad_scaler = type(scaler)(enabled=scaler.is_enabled())
    try:
        yield
    finally:
        pipeline.model.load_state_dict(weights)
        pipeline.model.zero_grad(set_to_none=True)
        for module, values in plain:
            vars(module).update(values)
        pipeline.phase, trainer.grad_scaler = phase, scaler
        del writer.EVENT_STORAGE[events:]
        random.setstate(drawn[0])
        np.random.set_state(drawn[1])
        torch.set_rng_state(drawn[2])
        if drawn_on_gpu is not None:
            torch.cuda.set_rng_state(drawn_on_gpu, trainer.device)


def seconds_of(
    work: Callable[[], object], device: torch.device | str, most: float, clock: Callable[[], float] = time.monotonic
) -> float:
    """Median seconds that some work takes.

    Args:
        work: done several times.
        device: whose queue is waited for.
        most: seconds after which it is not done again.
        clock: tells the time.
    """
    for _ in range(WARM_UP):
        work()
    taken: list[float] = []
    while len(taken) < LEAST or (len(taken) < MOST and sum(taken) < most):
        _wait_for(device)
        began = clock()
        work()
        _wait_for(device)
        taken.append(clock() - began)
    return statistics.median(taken)


def _wait_for(device: torch.device | str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def measure(trainer: Trainer, optimizers: Optimizers, seconds: float) -> Speeds:
    """How fast teacher and student learn here, and pseudo views are rendered.

    Where so much is asked of the teacher's hash grids in that time that it pays, they are compiled for good.

    Args:
        trainer: with its pipeline.
        optimizers: are moved on, and of no use afterwards.
        seconds: of the run. Each of four measurements may take a small share of them, unless three times take longer.
    """
    pipeline = cast(MobileR2LPipeline, trainer.pipeline)
    manager, model, most = pipeline.datamanager, pipeline.model, MEASURED * seconds

    def step() -> None:
        Trainer.train_iteration(trainer, 0)

    def view() -> None:
        manager.render_view(manager.sample_poses(1)[0])

    with undone(trainer), manager.rehearsing(VIEWS):
        trainer.optimizers = optimizers
        pipeline.train()
        if pipeline.plan.teacher:
            pipeline.phase = pipeline.phases[Phase.TEACHER]
            teacher = _compiled_if_it_pays(step, trainer, seconds)
            model.zero_grad(set_to_none=True)
            pseudo_view = seconds_of(view, trainer.device, most)
        else:
            teacher, pseudo_view = 0.0, _compiled_if_it_pays(view, trainer, seconds)
        pipeline.phase = pipeline.phases[Phase.DISTIL]
        first = full = _student_step(model.student.network, pipeline.growth.active(0.0), step, trainer, most)
        if pipeline.growth.active(0.0) < pipeline.growth.blocks or len(model.config.pitches) > 1:
            model.learns_coarser = len(model.config.pitches) > 1
            full = _student_step(model.student.network, pipeline.growth.blocks, step, trainer, most)
    return Speeds(teacher, pseudo_view, first, full)


def _compiled_if_it_pays(work: Callable[[], None], trainer: Trainer, seconds: float) -> float:
    """Seconds that the teacher's work takes, after its hash grids have been compiled if that pays in such a run."""
    pipeline, most = cast(MobileR2LPipeline, trainer.pipeline), MEASURED * seconds
    grids, of_teacher = pipeline.model.hash_grids, sum(shares(pipeline.plan.teacher > 0))
    before, began = grids.lookups if grids else 0, time.monotonic()
    taken = seconds_of(work, trainer.device, most)
    if grids and grids.expect((grids.lookups - before) / (time.monotonic() - began) * of_teacher * seconds):
        taken = seconds_of(work, trainer.device, most)
    return taken


def _student_step(network: nn.Module, blocks: int, step: Callable[[], None], trainer: Trainer, most: float) -> float:
    network.active_blocks = blocks  # type: ignore[assignment]
    return seconds_of(step, trainer.device, most)
