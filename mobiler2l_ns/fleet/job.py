"""What is to be done in one run's folder: ``job.json``, written by the driver, read by whoever does it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE = "job.json"


def write_whole(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf8")
    partial.replace(path)


@dataclass(frozen=True)
class Job:
    """One run: a capture and a method with its settings, the evaluation and the packages of what it trains."""

    key: str
    """CAPTURE/METHOD-IDENTITY: the run's folder within the fleet's."""
    capture: str
    """Name of the capture."""
    data: str
    """Where the capture lies."""
    method: str
    """As ns-train knows it."""
    label: str
    """The method's name in the fleet file."""
    arguments: list[str]
    """Of ns-train, after the method and before the dataparser."""
    dataparser: list[str]
    teacher: str | None
    """Folder of the run that teaches this one; None: it has its own."""
    is_teacher: bool
    pool: str | None
    """Folder of the pseudo views that are shared."""
    evaluate: bool
    exports: list[str]
    gpus: float | None
    """None: it trains as the settings say."""
    commands: dict[str, list[str]]

    @property
    def steps(self) -> list[str]:
        """What is done, in this order: train, evaluate, and "export ..." of each package."""
        return ["train"] + ["evaluate"] * self.evaluate + [f"export {each}" for each in self.exports]

    def write(self, folder: Path) -> None:
        """Into the run's folder."""
        write_whole(folder / FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Job:
        """From the run's folder."""
        return cls(**json.loads((folder / FILE).read_text(encoding="utf8")))
