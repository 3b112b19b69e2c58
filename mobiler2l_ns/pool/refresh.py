"""Keeps work that is done now and then to its share of the time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class TimeShare:
    """Counts the seconds that some work takes among all seconds since it was first asked about.

    Args:
        most: share of the time, 0..1, that the work may take.
    """

    def __init__(self, most: float) -> None:
        self.most = most
        self.taken = 0.0
        self._since: float | None = None

    def has_room(self) -> bool:
        """Whether the work has taken no more than its share so far."""
        if self._since is None:
            self._since = time.perf_counter()
        return self.taken <= self.most * (time.perf_counter() - self._since)

    @contextmanager
    def taking(self, device: torch.device | str) -> Iterator[None]:
        """Around the work, on a device whose queue is waited for on both sides."""
        on_gpu = torch.device(device).type == "cuda"
        if on_gpu:
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        yield
        if on_gpu:
            torch.cuda.synchronize(device)
        self.taken += time.perf_counter() - began
