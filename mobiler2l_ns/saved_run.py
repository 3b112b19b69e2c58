"""A nerfstudio run on disk, opened the same way for whoever wants it: report, export, and teachers of any method."""

from __future__ import annotations

import pickle
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from nerfstudio.engine.trainer import TrainerConfig
from torch import nn

from mobiler2l_ns.checkpoints import allow_nerfstudio_checkpoints
from mobiler2l_ns.errors import UserError
from mobiler2l_ns.foreign_paths import allow_foreign_paths


def check_weights(model: nn.Module, state: Mapping[str, Any], run: Path | str) -> None:
    """See that a checkpoint holds all of a model's weights and no others; it may lack those that a module says were
    ``added_later``.

    nerfstudio 1.1.5 loads what fits and leaves the rest as it was initialised, without a word. Methods that load their
    weights in a way of their own are trusted, and LPIPS, which is no part of what was trained, is left out.

    Args:
        model: not wrapped.
        state: of its pipeline, as the checkpoint has it.
        run: names the run in the message.

    Raises:
        UserError: with the reason.
    """
    if type(model).load_state_dict is not nn.Module.load_state_dict:
        return
    saved = {name.removeprefix("_model.") for name in state if name.startswith("_model.")}
    if all(name.startswith("module.") for name in saved):
        saved = {name.removeprefix("module.") for name in saved}
    saved = {name for name in saved if not name.startswith("lpips.")}
    wanted = {name for name in model.state_dict() if not name.startswith("lpips.")}
    added = {
        f"{prefix}.{name}" for prefix, module in model.named_modules() for name in getattr(module, "added_later", ())
    }
    missing, unexpected = sorted(wanted - saved - added), sorted(saved - wanted)
    if not missing and not unexpected:
        return
    if any("tcnn" in name for name in unexpected):
        reason = "it was trained with tiny-cuda-nn, which is not used here: install it, as where it was trained"
    elif any("tcnn" in name for name in missing):
        reason = "it was trained without tiny-cuda-nn, which is used here: set its implementation to torch"
    else:
        lists = {"lacks": missing, "has in addition": unexpected}
        described = (f"{verb} {len(names)} weights, {names[0]} first" for verb, names in lists.items() if names)
        reason = f"it {' and '.join(described)}: it is another method's, or other settings'"
    raise UserError(f"The checkpoint of {run} does not fit: {reason}")


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the most steps in a folder, or in a run's folder of checkpoints; None if there is none."""
    for place in (folder, folder / "nerfstudio_models"):
        if found := sorted(place.glob("step-*.ckpt")):
            return found[-1]
    return None


def how_to_go_on(*runs: Path | None) -> str:
    """What to do about a run that has ended early, as the end of a sentence: the first of these folders with a
    checkpoint is resumed."""
    for run in runs:
        if run is not None and newest_checkpoint(run) is not None:
            return f"resume with --load-dir {shlex.quote(str(run))}"
    return "start again"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint, on the CPU.

    Raises:
        UserError: if it cannot be read.
    """
    allow_nerfstudio_checkpoints()
    try:
        return torch.load(path, map_location="cpu")
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path} cannot be read ({reason}): it is damaged, or no checkpoint. Delete it if an earlier one is there"
        ) from None


@dataclass
class SavedRun:
    """A run's config and its newest checkpoint, wherever the command is started from."""

    path: Path
    """Of its config.yml."""
    config: TrainerConfig
    """As it was written, with the checkpoint folder beside it."""

    @classmethod
    def open(cls, config_path: Path) -> SavedRun:
        """Read the config.yml of a run of any method.

        Raises:
            UserError: if it is not there or not a run's config.
        """
        if not config_path.is_file():
            raise UserError(f"No run at {config_path}: give the config.yml of a nerfstudio run")
        try:
            allow_foreign_paths()
            config = yaml.load(config_path.read_text(encoding="utf8"), Loader=yaml.Loader)
        except Exception as error:
            raise UserError(
                f"{config_path} cannot be read ({error}): is the plugin of that method installed?"
            ) from None
        if not isinstance(config, TrainerConfig):
            raise UserError(f"{config_path} is not the config of a nerfstudio run")
        config.load_dir = config_path.resolve().parent / config.relative_model_dir
        return cls(config_path, config)

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint.

        Raises:
            UserError: if there is none.
        """
        assert self.config.load_dir is not None
        found = newest_checkpoint(self.config.load_dir)
        if found is None:
            raise UserError(f"No checkpoint in {self.config.load_dir}: has the run saved one yet?")
        return found

    @cached_property
    def state(self) -> dict[str, Any]:
        """The newest checkpoint, on the CPU.

        Raises:
            UserError: if there is none, or it cannot be read.
        """
        return read_checkpoint(self.checkpoint)

    @property
    def step(self) -> int:
        """The last step that the newest checkpoint was trained for."""
        return self.state["step"]

    def pipeline(self, device: torch.device | str, test_mode: Literal["test", "val", "inference"]) -> Any:
        """The run's pipeline with the weights of its newest checkpoint, in evaluation mode."""
        pipeline: Any = self.config.pipeline.setup(device=device, test_mode=test_mode)
        check_weights(pipeline.model, self.state["pipeline"], self.path)
        with torch.no_grad():
            pipeline.load_pipeline(self.state["pipeline"], self.step)
        return pipeline.eval()
