"""Runs that are gone on with: is it this capture, and which plan had they?"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from nerfstudio.engine.trainer import TrainerConfig

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.saved_run import newest_checkpoint
from mobiler2l_ns.student.capture_record import CaptureRecord
from mobiler2l_ns.student.config import StudentConfig
from mobiler2l_ns.student.model import MobileR2LModelConfig

OF_TRAINING_ALONE = ("jitter", "initialisation")
"""Settings that trained weights do not depend on."""


def is_resumed(config: TrainerConfig) -> bool:
    """Whether a run goes on from a checkpoint."""
    return config.load_dir is not None or config.load_checkpoint is not None


def config_of_resumed(config: TrainerConfig) -> Path | None:
    """config.yml of the run that is gone on with; None if it is not there."""
    if config.load_dir is not None:
        found = newest_checkpoint(config.load_dir) if config.load_step is None else None
        folder = config.load_dir if found is None else found.parent
    else:
        assert config.load_checkpoint is not None
        folder = config.load_checkpoint.parent
    path = folder.resolve().parent / "config.yml"
    return path if path.is_file() else None


def check_same_pictures(capture: CaptureRecord, loaded_state: Mapping[str, Any]) -> None:
    """See that what is resumed was trained on this capture, in this size.

    Raises:
        UserError: if it was not.
    """
    prefix = next(name for name in loaded_state if name.endswith("student.capture.start_pose"))
    prefix = prefix.removesuffix("start_pose")
    recorded = ("image_size", "world_transform", "start_pose")
    saved = {name: loaded_state[prefix + name].cpu() for name in recorded}
    now = {name: capture.get_buffer(name).cpu() for name in saved}
    if not torch.equal(saved["image_size"], now["image_size"]):
        (height, width), (was_high, was_wide) = now["image_size"].tolist(), saved["image_size"].tolist()
        raise UserError(
            f"The checkpoint is of pictures of {was_wide} x {was_high} pixels, these are {width} x {height}: "
            "resume with the same --pipeline.datamanager.max-image-size and the same photos"
        )
    if any(not torch.allclose(saved[name], now[name], atol=1e-3) for name in saved):
        raise UserError("The checkpoint is of another capture, whose cameras are not these: give the same --data")


def check_same_student(
    now: MobileR2LModelConfig, earlier: MobileR2LModelConfig, loaded_state: Mapping[str, Any]
) -> None:
    """See that a student that has begun to learn is gone on with as what it was: its weights say nothing of where rays
    are sampled, nor its volume's density of how long the pieces of a ray are.

    Raises:
        UserError: if it is not, with the settings it had.
    """
    begun = next((value for name, value in loaded_state.items() if name.endswith("capture.depth_known")), None)
    if begun is None or not bool(begun):
        return
    names = [each.name for each in fields(StudentConfig) if each.name not in OF_TRAINING_ALONE]
    # How far the scene reaches was measured, if it was not given, and is not asked for again.
    names += [name for name in ("near", "far") if getattr(now, name) is not None]
    pairs = {name: (_plain(getattr(earlier, name)), _plain(getattr(now, name))) for name in names}
    options = [_option(name, had) for name, (had, has) in pairs.items() if had != has]
    if options:
        raise UserError(f"The student that is resumed was trained with other settings: give {' '.join(options)}")


@contextmanager
def refusing_other_sizes() -> Iterator[None]:
    """Weights are loaded in it.

    Raises:
        UserError: if they have other sizes than those that are there.
    """
    try:
        yield
    except RuntimeError as error:
        names = re.findall(r"size mismatch for ([^:]+):", str(error))
        if not names:
            raise
        raise UserError(
            f"The checkpoint of this run does not fit: {len(names)} weights have other sizes, {names[0]} first: resume "
            "with the same --pipeline.model settings"
        ) from None


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _option(name: str, value: Any) -> str:
    values = value if isinstance(value, list | tuple) else [value]
    return " ".join([f"--pipeline.model.{name.replace('_', '-')}", *(shlex.quote(str(each)) for each in values)])
