"""The Python interpreter that has coreai-torch: it needs a newer torch than may be here, and so an environment of its
own."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from mobiler2l_ns.errors import UserError

VARIABLE = "MOBILER2L_COREAI_PYTHON"
INSTALL = (
    "Core AI's converter wants Python 3.11, torch 2.8 or newer: python3 -m venv coreai; coreai/bin/pip install -r "
    f"requirements-coreai.txt, a file in this project's repository; export {VARIABLE}=$PWD/coreai/bin/python"
)
WORKER = Path(__file__).with_name("worker.py")


def interpreter() -> str | None:
    """The interpreter that is named by the environment, or this one if it has the packages; None if neither."""
    return os.environ.get(VARIABLE) or (sys.executable if find_spec("coreai_torch") else None)


def missing() -> str | None:
    """What to install before packages can be written; None if nothing is missing."""
    found = interpreter()
    return INSTALL if found is None else _missing_in(found)


@cache
def _missing_in(python: str) -> str | None:
    code = "from importlib.util import find_spec as f; print(all(map(f, ('torch', 'coreai_torch', 'numpy'))))"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=120, env=environment())
    except OSError as error:
        return f"{VARIABLE}={python} does not start ({error.strerror}). {INSTALL}"
    return None if done.stdout.strip() == "True" else f"{python} has no coreai-torch. {INSTALL}"


def environment() -> dict[str, str]:
    """Of that interpreter: this one's paths are none of its own."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def command(*arguments: str | Path) -> list[str]:
    """The worker's command line.

    Raises:
        UserError: without an interpreter that has the packages.
    """
    found = interpreter()
    if found is None or (lacks := missing()):
        raise UserError(f"coreai packages need more: {INSTALL if found is None else lacks}")
    return [found, str(WORKER), *map(str, arguments)]
