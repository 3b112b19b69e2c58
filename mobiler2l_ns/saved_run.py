"""A nerfstudio run on disk, opened the same way for whoever wants it: report, export, and teachers of any method."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from nerfstudio.engine.trainer import TrainerConfig

from mobiler2l_ns.checkpoints import allow_nerfstudio_checkpoints
from mobiler2l_ns.errors import UserError


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
        found = sorted(self.config.load_dir.glob("step-*.ckpt"))
        if not found:
            raise UserError(f"No checkpoint in {self.config.load_dir}: has the run saved one yet?")
        return found[-1]

    @cached_property
    def state(self) -> dict[str, Any]:
        """The newest checkpoint, on the CPU.

        Raises:
            UserError: if there is none.
        """
        allow_nerfstudio_checkpoints()
        return torch.load(self.checkpoint, map_location="cpu")

    @property
    def step(self) -> int:
        """The last step that the newest checkpoint was trained for."""
        return self.state["step"]

    def pipeline(self, device: torch.device | str, test_mode: Literal["test", "val", "inference"]) -> Any:
        """The run's pipeline with the weights of its newest checkpoint, in evaluation mode."""
        pipeline: Any = self.config.pipeline.setup(device=device, test_mode=test_mode)
        with torch.no_grad():
            pipeline.load_pipeline(self.state["pipeline"], self.step)
        return pipeline.eval()
