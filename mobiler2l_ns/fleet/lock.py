"""A run is one process's at a time, its commands included.

The lock is the kernel's on an open file (flock). Commands inherit that file, so a command that outlives its worker
still holds the run, and nobody writes beside it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

FILE = "run.lock"


@contextmanager
def held(folder: Path, waiting: Callable[[], None]) -> Iterator[int]:
    """Hold a run, once whoever holds it lets go.

    Args:
        folder: of the run.
        waiting: called when it is held by another, every second.

    Yields:
        The file descriptor to hand to commands.
    """
    descriptor = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waiting()
                time.sleep(1.0)
        yield descriptor
    finally:
        os.close(descriptor)


def is_held(folder: Path) -> bool:
    """Whether a process holds a run at this moment."""
    try:
        descriptor = os.open(folder / FILE, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
