"""Packages that only some formats need, and that are installed only when they are asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mobiler2l_ns.errors import UserError

INSTALL = {
    "ncnn": "pip install 'mobiler2l-ns[ncnn]'",
    # Not an extra of pip's: what LiteRT's packages say they need contradicts what nerfstudio's need, though all run
    # together.
    "litert": "pip install --no-deps -r requirements-litert.txt, a file in this project's repository",
}
"""How what a format needs is installed."""


def load_extra(module: str, extra: str) -> Any:
    """Import ``module``, which one of ``INSTALL`` brings.

    Raises:
        UserError: if it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(f"This format needs the Python package {error.name}: {INSTALL[extra]}") from error
