"""config.yml files that were written on another system.

They are pickled Python: a path is written as the class it had there, and Python makes no WindowsPath on Linux. What
such a path names is not where it was; but the run itself is found beside its config.yml, and what is missing is told
by name.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml

from mobiler2l_ns.checkpoints import warning_in_place_of_error

MODULES = ("pathlib", "pathlib._local")
"""Where Python has its paths; the second since 3.13."""


@warning_in_place_of_error("a config.yml that was written on another system may not open")
def allow_foreign_paths() -> None:
    """Let nerfstudio's commands, and all others, read another system's paths as this one's."""
    kind, flavour = ("PosixPath", PurePosixPath) if os.name == "nt" else ("WindowsPath", PureWindowsPath)

    def construct(loader: Any, node: yaml.SequenceNode) -> Path:
        return Path(flavour(*loader.construct_sequence(node)).as_posix())

    for module in MODULES:
        yaml.Loader.add_constructor(f"tag:yaml.org,2002:python/object/apply:{module}.{kind}", construct)
