"""Packages that only some formats need, and that pip installs only when they are asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mobiler2l_ns.errors import UserError


def load_extra(module: str, extra: str) -> Any:
    """Import ``module``, which the extra ``extra`` of this package installs.

    Raises:
        UserError: if it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"This format needs the Python package {error.name}: pip install 'mobiler2l-ns[{extra}]'"
        ) from error
