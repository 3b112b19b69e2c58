"""Where runs are done, and when: the schedulers of others, behind what the driver needs of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

EngineName = Literal["ray", "slurm", "slurm-local"]


class Handle(Protocol):
    """A run that was handed over."""

    name: str
    """By which the engine knows it; empty where it knows it only as long as this process lives."""

    def ended(self) -> bool:
        """Whether it is no longer waiting or running, for whatever reason."""
        ...

    def reason(self) -> str:
        """Of an end without a result, in a line; empty if there is none."""
        ...


class Engine(Protocol):
    """Does runs. It retries what it loses by its own means; what it gives up on, the driver hands over again."""

    gpus: float
    """Of a run whose fleet file does not say: 1 where there are GPUs, otherwise 0."""

    orders: bool
    """Whether it lets runs wait for others itself; otherwise they are handed over when those have ended."""

    def submit(self, folders: Sequence[Path], after: Handle | None) -> list[Any]:
        """Hand runs over.

        Args:
            folders: of the runs, each with its job.json.
            after: what must have ended first.
        """
        ...

    def find(self, name: str) -> Any | None:
        """A run that an earlier driver has handed over and that has not ended; None if there is none."""
        ...

    def close(self) -> None:
        """The driver goes."""
        ...
