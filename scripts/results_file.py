"""How the benchmarks keep what they measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_json(path: Path | None, results: Any) -> None:
    """Write results to a file, whole or not at all; None writes nothing."""
    write_text(path, json.dumps(results, indent=1) + "\n")


def write_text(path: Path | None, text: str) -> None:
    """The same with text."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    partial.write_text(text, encoding="utf8")
    partial.replace(path)
