"""The student of a run, from its config and checkpoint alone: no capture, no teacher, no GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from nerfstudio.engine.trainer import TrainerConfig

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.progress.phases import Phase
from mobiler2l_ns.run.pipeline import MobileR2LPipelineConfig
from mobiler2l_ns.saved_run import latest_checkpoint, read_run_config
from mobiler2l_ns.student.renderer import Student

PREFIXES = ("_model.student.", "_model.module.student.")


def read_distilled_run(config_path: Path) -> tuple[TrainerConfig, dict[str, Any]]:
    """The config of a mobiler2l run and its newest checkpoint, on the CPU.

    Raises:
        UserError: if the run is not one of ours or its student has not been trained yet.
    """
    config = read_run_config(config_path)
    if not isinstance(config.pipeline, MobileR2LPipelineConfig):
        raise UserError(f"{config_path} is a run of {config.method_name}: only mobiler2l runs have a student to export")
    state = torch.load(latest_checkpoint(config), map_location="cpu")
    plan, step = config.pipeline.plan(), state["step"]
    if plan.at(step) is Phase.TEACHER:
        raise UserError(
            f"The student is not trained yet: the checkpoint is at step {step}, "
            f"distillation begins at step {plan.start(Phase.DISTIL)}"
        )
    return config, state


def load_student(config_path: Path) -> Student:
    """Load a student on the CPU, in evaluation mode.

    Raises:
        UserError: if the run is not one of ours or its student has not been trained yet.
    """
    config, state = read_distilled_run(config_path)
    assert isinstance(config.pipeline, MobileR2LPipelineConfig)
    student = Student(config.pipeline.model)
    weights = {
        name.removeprefix(prefix): value
        for name, value in state["pipeline"].items()
        for prefix in PREFIXES
        if name.startswith(prefix)
    }
    student.load_state_dict(weights)
    return student.eval().requires_grad_(False)
