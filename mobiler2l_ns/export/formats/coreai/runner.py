"""Runs Core AI packages in the interpreter that has their runtime."""

from __future__ import annotations

import subprocess
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobiler2l_ns.export.formats.coreai.interpreter import command, environment
from mobiler2l_ns.export.formats.coreai.worker import SAY


class CoreAIRunner:
    """A package, loaded once, in a process that ends with this object.

    Args:
        path: of the folder.

    Raises:
        UserError: without an interpreter that has the runtime.
        RuntimeError: if the package cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._said = tempfile.TemporaryFile(mode="w+", encoding="utf8")
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command("run", path), stdin=pipe, stdout=pipe, stderr=self._said, text=True, env=environment()
        )
        self._end = weakref.finalize(self, _end, self._process, self._folder)
        self._wait_for("ready")

    def _wait_for(self, word: str) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == f"{SAY}{word}":
                return
        self._said.seek(0)
        lines = [line for line in self._said.read().splitlines() if line.strip()] or ["it ended"]
        raise RuntimeError(f"Core AI cannot run the package: {lines[-1]}")

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Args: the graph's inputs by name, batch axis included. Returns the picture (C, H, W) in 0..1."""
        assert self._process.stdin is not None
        given = Path(self._folder.name) / "frame.npz"
        np.savez(given, **{name: np.ascontiguousarray(value) for name, value in inputs.items()})
        print(given, file=self._process.stdin, flush=True)
        self._wait_for("done")
        return np.load(given.with_suffix(".npy"))[0].astype(np.float32)


def _end(process: subprocess.Popen[str], folder: tempfile.TemporaryDirectory[str]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    folder.cleanup()
