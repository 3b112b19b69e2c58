"""A nerfstudio run on disk: its config and its newest checkpoint, wherever the command is started from."""

from __future__ import annotations

from pathlib import Path

import yaml
from nerfstudio.engine.trainer import TrainerConfig

from mobiler2l_ns.errors import UserError


def read_run_config(config_path: Path) -> TrainerConfig:
    """The config.yml of a nerfstudio run, with its checkpoint folder found beside it.

    Raises:
        UserError: if it is not there or not a run's config.
    """
    if not config_path.is_file():
        raise UserError(f"No run at {config_path}: give the config.yml of a nerfstudio run")
    try:
        config = yaml.load(config_path.read_text(encoding="utf8"), Loader=yaml.Loader)
    except Exception as error:
        raise UserError(f"{config_path} cannot be read ({error}): is the plugin of that method installed?") from None
    if not isinstance(config, TrainerConfig):
        raise UserError(f"{config_path} is not the config of a nerfstudio run")
    config.load_dir = config_path.resolve().parent / config.relative_model_dir
    return config


def latest_checkpoint(config: TrainerConfig) -> Path:
    """The newest checkpoint of a run.

    Raises:
        UserError: if there is none.
    """
    assert config.load_dir is not None
    found = sorted(config.load_dir.glob("step-*.ckpt"))
    if not found:
        raise UserError(f"No checkpoint in {config.load_dir}: has the run saved one yet?")
    return found[-1]
