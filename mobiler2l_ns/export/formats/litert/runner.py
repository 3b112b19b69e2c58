"""Runs LiteRT files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export.contract import DEPTH, IMAGE
from mobiler2l_ns.export.formats.litert.extra import EXTRA
from mobiler2l_ns.export.formats.litert.quiet import quiet

SIGNATURE = "main"
"""Of a file of one graph."""


class LiteRTRunner:
    """Runs a file with the LiteRT interpreter (XNNPACK) on the CPU."""

    def __init__(self, path: Path, signature: str = SIGNATURE) -> None:
        """Args: the file, and which of its graphs."""
        with quiet():
            interpreter = EXTRA.load("ai_edge_litert.interpreter")
            self._interpreter = interpreter.Interpreter(model_path=str(path), num_threads=os.cpu_count())
            known = list(self._interpreter.get_signature_list())
            if signature not in known:
                raise UserError(f"{path} has no signature {signature}, only {', '.join(known)}")
            self._run = self._interpreter.get_signature_runner(signature)

    def __call__(self, inputs: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Args: the graph's inputs by name, NCHW as the graph took them. Returns the picture (C, H, W) in 0..1."""
        return _planar(self._outputs(inputs)[IMAGE])

    def with_depth(self, inputs: Mapping[str, NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The picture, and depth and accumulation (2, rows, columns), of a file that gives them."""
        outputs = self._outputs(inputs)
        return _planar(outputs[IMAGE]), _planar(outputs[DEPTH])

    def _outputs(self, inputs: Mapping[str, NDArray[np.float32]]) -> Mapping[str, NDArray[np.float32]]:
        arrays = {
            name: np.ascontiguousarray(np.moveaxis(value, 1, 3) if value.ndim == 4 else value, dtype=np.float32)
            for name, value in inputs.items()
        }
        return self._run(**arrays)


def _planar(found: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(np.moveaxis(found[0], 2, 0))
