"""A run of this plugin, opened again: its student alone, or all of it."""

from __future__ import annotations

from pathlib import Path

import torch

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.progress.phases import Phase
from mobiler2l_ns.run.pipeline import MobileR2LPipeline, MobileR2LPipelineConfig
from mobiler2l_ns.saved_run import SavedRun
from mobiler2l_ns.student.renderer import Student

PREFIXES = ("_model.student.", "_model.module.student.")
"""Of the student's weights in a checkpoint, of one device and of several."""


def open_distilled(config_path: Path) -> SavedRun:
    """A run whose student has begun to learn.

    Raises:
        UserError: if the run is not one of ours or its student has not been trained yet.
    """
    run = SavedRun.open(config_path)
    if not isinstance(run.config.pipeline, MobileR2LPipelineConfig):
        raise UserError(f"{config_path} is a run of {run.config.method_name}: only mobiler2l runs have a student")
    plan = run.config.pipeline.plan()
    if plan.at(run.step) is Phase.TEACHER:
        raise UserError(
            f"The student is not trained yet: the checkpoint is at step {run.step}, "
            f"distillation begins at step {plan.start(Phase.DISTIL)}"
        )
    return run


def student_of(run: SavedRun) -> Student:
    """The student of a distilled run on the CPU, in evaluation mode: no capture, no teacher, no GPU is needed."""
    assert isinstance(run.config.pipeline, MobileR2LPipelineConfig)
    student = Student(run.config.pipeline.model)
    weights = {
        name.removeprefix(prefix): value
        for name, value in run.state["pipeline"].items()
        for prefix in PREFIXES
        if name.startswith(prefix)
    }
    student.load_state_dict(weights)
    return student.eval().requires_grad_(False)


def pipeline_of(run: SavedRun, device: torch.device | str) -> MobileR2LPipeline:
    """The whole of a distilled run, capture and teacher included, in evaluation mode."""
    pipeline = run.pipeline(device, "test")
    assert isinstance(pipeline, MobileR2LPipeline)
    return pipeline
