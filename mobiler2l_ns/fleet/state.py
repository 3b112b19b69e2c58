"""How far a run is: ``fleet.json`` in its folder, written whole or not at all, by the process that holds the run."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from mobiler2l_ns.fleet.job import Job, write_whole

FILE = "fleet.json"
SILENT = 90.0
"""Seconds without a sign after which a run is no longer thought to be running; ``run_one`` gives one every few."""
Status = Literal["queued", "running", "done", "failed"]


@dataclass
class RunState:
    """One run."""

    status: Status = "queued"
    doing: str = ""
    """Which of the job's steps: train, evaluate, export ..."""
    finished: list[str] = field(default_factory=list)
    """Steps of the job that are over."""
    attempt: int = 0
    """Trainings that were begun, the first and all resumptions."""
    failures: int = 0
    """Commands that ended badly; kills of whole workers do not count."""
    phase: str = ""
    step: int | None = None
    psnr: float | None = None
    """dB of the newest point of the learning curve."""
    seconds_left: float | None = None
    """Of this phase."""
    host: str = ""
    pid: int = 0
    line: str = ""
    """The newest that the command said."""
    last_lines: list[str] = field(default_factory=list)
    """Of the command that failed last."""
    config: str | None = None
    """config.yml of what was trained, relative to the run's folder."""
    busy: float = 0.0
    """Seconds in which its commands ran, in all attempts."""
    updated: float = 0.0
    result: dict[str, Any] = field(default_factory=dict)
    """See ``results``."""

    @property
    def is_over(self) -> bool:
        """Done, or failed as often as it may."""
        return self.status in ("done", "failed")

    @property
    def is_silent(self) -> bool:
        """Said to be running, without a sign of it for long."""
        return self.status == "running" and time.time() - self.updated > SILENT

    def write(self, folder: Path) -> None:
        """Into the run's folder."""
        self.updated = time.time()
        write_whole(folder / FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> RunState:
        """From the run's folder; queued where nothing has been written, or by a version with other fields."""
        try:
            written = json.loads((folder / FILE).read_text(encoding="utf8"))
        except (OSError, ValueError):
            return cls()
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in written.items() if name in known})


def settled(job: Job, folder: Path) -> RunState:
    """The state of a run as its job now sees it: queued again, if it is done and more is asked of it since."""
    state = RunState.read(folder)
    if state.status == "done" and any(step not in state.finished for step in job.steps):
        state.status = "queued"
    return state
