"""Short runs for the tests, trained and opened by nerfstudio's own functions."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import cast

from mobiler2l_ns.run.opening import open_distilled, student_of
from mobiler2l_ns.run.pipeline import MobileR2LPipeline
from mobiler2l_ns.student.renderer import Student

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
PHASES = {"teacher": 40, "distil": 30, "finetune": 15}
TOTAL = sum(PHASES.values())


def load_script(name: str) -> ModuleType:
    """A script of scripts/ as a module."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def train(config) -> Path:
    """Run ns-train's own main function; returns the run's config.yml."""
    from nerfstudio.scripts.train import main
    from nerfstudio.utils import writer

    # nerfstudio's writers are the process's: what was left unwritten before is not of this run, nor is what comes
    # after.
    writer.EVENT_STORAGE.clear()
    writer.EVENT_WRITERS.clear()
    main(config)
    writer.EVENT_WRITERS.clear()
    return config.get_base_dir() / "config.yml"


def checkpoint_of(config_path: Path) -> Path:
    """The only checkpoint of a run."""
    (found,) = (config_path.parent / "nerfstudio_models").glob("*.ckpt")
    return found


def load_student(config_path: Path) -> Student:
    """A run's student, as export opens it."""
    return student_of(open_distilled(config_path))


def open_run(config_path: Path) -> tuple[MobileR2LPipeline, int]:
    """A run as ns-viewer and ns-eval open it, and the step of its checkpoint."""
    from nerfstudio.utils.eval_utils import eval_setup

    _, pipeline, _, step = eval_setup(config_path)
    return cast(MobileR2LPipeline, pipeline), step
