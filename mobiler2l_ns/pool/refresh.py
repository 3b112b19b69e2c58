"""Keeps work that is done now and then to its share of the time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class TimeShare:
    """Counts the seconds that some work takes among all seconds since it was first asked about.

    On a GPU the work is timed by events in its queue, and nobody waits for it: how long it took is known later on, and
    until then there is no room for more of it.

    Args:
        most: share of the time, 0..1, that the work may take.
    """

    def __init__(self, most: float) -> None:
        self.most = most
        self.taken = 0.0
        self._since: float | None = None
        self._under_way: tuple[torch.cuda.Event, torch.cuda.Event] | None = None

    def has_room(self) -> bool:
        """Whether the work has taken no more than its share so far, and none is under way."""
        if self._since is None:
            self._since = time.perf_counter()
        if self._under_way is not None:
            began, ended = self._under_way
            if not ended.query():
                return False
            self.taken += began.elapsed_time(ended) / 1000.0
            self._under_way = None
        return self.taken <= self.most * (time.perf_counter() - self._since)

    @contextmanager
    def taking(self, device: torch.device | str) -> Iterator[None]:
        """Around the work, on a device."""
        if torch.device(device).type == "cuda":
            events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            events[0].record(torch.cuda.current_stream(device))
            yield
            events[1].record(torch.cuda.current_stream(device))
            self._under_way = events  # type: ignore[assignment]
            return
        began = time.perf_counter()
        yield
        self.taken += time.perf_counter() - began
