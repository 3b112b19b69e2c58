"""nerfstudio's checkpoints, made readable for torch.

nerfstudio's schedulers leave `np.float64` learning rates in the state that the trainer saves, and since torch 2.6 a
plain `torch.load` accepts no such object: ns-viewer, ns-eval, ns-render, ns-export and resuming all fail on checkpoints
that nerfstudio wrote itself. `allow_nerfstudio_checkpoints` tells torch that the numpy names involved are safe. It may
go when nerfstudio saves Python floats or says `weights_only=False`, and nobody holds older checkpoints.

This is loaded with the plugin, where an exception would end every ns-* command.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def warning_in_place_of_error(consequence: str) -> Iterator[None]:
    """Turns an exception into one line on stderr: what does not work now, and why."""
    try:
        yield
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"mobiler2l: warning: {consequence} ({reason})", file=sys.stderr)


@warning_in_place_of_error("torch.load may refuse nerfstudio's checkpoints")
def allow_nerfstudio_checkpoints() -> None:
    """Lets a plain `torch.load` read the `np.float64` in the scheduler state of nerfstudio's checkpoints.

    Does nothing before torch 2.6, whose `torch.load` is not strict and whose allow-list, where there is one, takes no
    explicit names.
    """
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        return
    make_scalar: Any = np.float64(0).__reduce__()[0]  # multiarray.scalar, wherever this numpy keeps it
    torch.serialization.add_safe_globals(
        [
            (make_scalar, "numpy.core.multiarray.scalar"),  # its name in checkpoints written with numpy 1
            (make_scalar, "numpy._core.multiarray.scalar"),  # and with numpy 2
            np.dtype,
            type(np.dtype(np.float64)),  # numpy.dtypes.Float64DType
        ]
    )
