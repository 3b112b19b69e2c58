"""A finished run, opened to be reported on."""

from __future__ import annotations

from pathlib import Path

import torch

from mobiler2l_ns.run.opening import read_distilled_run
from mobiler2l_ns.run.pipeline import MobileR2LPipeline


def open_run(config_path: Path, device: str) -> tuple[MobileR2LPipeline, int]:
    """The pipeline of a run with its newest checkpoint, in evaluation mode, and the checkpoint's step.

    Raises:
        UserError: if the run is not one of ours or its student has not been trained yet.
    """
    config, state = read_distilled_run(config_path)
    pipeline = config.pipeline.setup(device=device, test_mode="test")
    assert isinstance(pipeline, MobileR2LPipeline)
    with torch.no_grad():
        pipeline.load_pipeline(state["pipeline"], state["step"])
    return pipeline.eval(), state["step"]
