"""One way to use a package of a format, on one platform."""

from __future__ import annotations

from dataclasses import dataclass

RUN = "Run by this project's tests"
NOT_RUN = "Not run: written from the documentation"


@dataclass(frozen=True)
class ClientKind:
    """The template of a client, and what a developer is to know of it."""

    template: str
    """Its name in ``templates``."""
    platform: str
    """Where it runs, and by what."""
    language: str
    """As Markdown calls it."""
    needs: str
    """What to install."""
    checked: str
    """What of it was run, and by what."""
    documentation: tuple[str, ...] = ()
    """Where the interfaces it uses are described."""
    encoding_checked: str = ""
    """What more was run where rays and encoding are the client's."""


def pip(runtime: str) -> str:
    """How the Python client of a runtime is installed."""
    return f"`pip install {runtime} numpy pillow`"
