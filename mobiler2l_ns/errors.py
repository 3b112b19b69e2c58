"""Errors a user can cause."""

from __future__ import annotations

from pathlib import Path


class UserError(SystemExit):
    """Ends a command with one line that says what is wrong and what to do, and exit status 1."""


def unwritable(path: Path, error: BaseException, advice: str) -> UserError:
    """The one line for a file or folder that cannot be written, because the disk is full or it may not be.

    Args:
        error: what was raised.
        advice: what to do, besides.
    """
    reason = (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())
    return UserError(f"{path} cannot be written ({reason}): free some space, or make it writable, and {advice}")
