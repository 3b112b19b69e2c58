"""The lines of a run's log, read without torch: by whoever watches runs from outside."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

FILE = "progress.jsonl"
SELECTION = "selection"
RELEASED_SELECTION = "held-out"
"""What version 0.1.0 called it in its logs."""


def duration(seconds: float) -> str:
    """Such as 0:00:07, 12:34:56 or 3 d 4:05:06."""
    days, rest = divmod(round(seconds), 86400)
    clock = f"{rest // 3600}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days} d {clock}" if days else clock


def parsed(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Lines of a log, without any that a kill has left half-written."""
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record["event"] == RELEASED_SELECTION:
            record.update(event=SELECTION, curve=SELECTION)
        yield record


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, without one that a kill has left half-written; none if there is no log."""
    return list(parsed(path.read_text(encoding="utf8").splitlines())) if path.is_file() else []
