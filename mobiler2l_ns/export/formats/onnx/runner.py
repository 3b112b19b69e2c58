"""Runs ONNX files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobiler2l_ns.export.contract import DEPTH, IMAGE


class OnnxRunner:
    """Runs a file with onnxruntime on the CPU."""

    def __init__(self, model: Path | bytes) -> None:
        import onnxruntime

        source = model if isinstance(model, bytes) else str(model)
        self.session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
        halves = "tensor(float16)"
        self.dtypes = {i.name: np.float16 if i.type == halves else np.float32 for i in self.session.get_inputs()}

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """One array for each input; picture (channels, height, width) in 0..1 out."""
        return self._run([IMAGE], inputs)[0]

    def with_depth(self, inputs: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The picture, and depth and accumulation (2, rows, columns), of a file that gives them."""
        picture, depth = self._run([IMAGE, DEPTH], inputs)
        return picture, depth

    def _run(self, outputs: list[str], inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
        given = {name: np.asarray(value, dtype=self.dtypes[name]) for name, value in inputs.items()}
        return [np.asarray(found, dtype=np.float32)[0] for found in self.session.run(outputs, given)]
