"""Python packages that only one format needs, and that are installed only when they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mobiler2l_ns.errors import UserError


@dataclass(frozen=True)
class Extra:
    """What a format needs besides this package's own dependencies."""

    needs: tuple[str, ...]
    """Modules."""
    install: str
    """How they are installed."""

    def missing(self) -> str | None:
        """What to install, if a module is not there; None if all are."""
        absent = [module for module in self.needs if find_spec(module) is None]
        return f"{self.install}  (missing: {', '.join(absent)})" if absent else None

    def load(self, module: str) -> Any:
        """Import a module that comes with it.

        Raises:
            UserError: if it is not installed.
        """
        try:
            return import_module(module)
        except ModuleNotFoundError as error:
            raise UserError(f"This format needs the Python package {error.name}: {self.install}") from error
