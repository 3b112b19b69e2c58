"""Where what was released under other module names lives now.

A run's config.yml names the classes of its settings by module, and so does the metadata of an installation that has not
been renewed. Those names stay importable for good: ``install``, which the package calls when it is imported, puts a
module in each old place that fetches what it is asked for, and imports nothing before.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

MOVED = {
    "methods": "plugin.methods",
    "trainer": "run.trainer",
    "pipeline": "run.pipeline",
    "schedule": "run.schedule",
    "optimizer": "run.optimizer",
    "console": "run.console",
    "phases": "progress.phases",
    "model": "student.model",
    "data.datamanager": "pool.datamanager",
    "export.commands": "plugin.export_commands",
}
"""Module of version 0.1.0 -> module that has its classes today."""


class _MovedModule(ModuleType):
    def __init__(self, name: str, target: str) -> None:
        super().__init__(name, f"Moved to {target}.")
        self.target = target

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by whoever walks over all modules
            raise AttributeError(name)
        return getattr(import_module(self.target), name)


def install() -> None:
    """Make the old names importable."""
    package = __name__.rpartition(".")[0]
    for old, new in MOVED.items():
        name = f"{package}.{old}"
        sys.modules.setdefault(name, _MovedModule(name, f"{package}.{new}"))
