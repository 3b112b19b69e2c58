"""The formats of packages, a folder each: one that is added here is found."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from mobiler2l_ns.export.format import Format


@cache
def all_formats() -> dict[str, Format]:
    """Every format there is, by name: the ``FORMAT`` of each folder, in their own order."""
    folders = [module.name for module in iter_modules(__path__) if module.ispkg]
    found: list[Format] = [import_module(f"{__name__}.{folder}").FORMAT for folder in folders]
    return {form.name: form for form in sorted(found, key=lambda form: (form.order, form.name))}
