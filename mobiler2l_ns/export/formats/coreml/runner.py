"""Runs Core ML packages: with Core ML itself on a Mac, operation by operation elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mobiler2l_ns.export.contract import DEPTH
from mobiler2l_ns.export.formats.coreml.convert import ALPHA, OUTPUT
from mobiler2l_ns.export.formats.coreml.evaluator import MILProgram


class CoreMLRunner:
    """Runs a function of a package."""

    def __init__(self, path: Path, function: str = "main") -> None:
        self._package = open_package(path, function)

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """One array for each input; picture (channels, height, width) in 0..1 out."""
        return _picture(self._package(inputs))

    def with_depth(self, inputs: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The picture, and depth and accumulation (2, rows, columns), of a package that gives them."""
        outputs = self._package(inputs)
        return _picture(outputs), np.asarray(outputs[DEPTH], dtype=np.float32)[0]


def _picture(outputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    return np.concatenate([outputs[name] for name in (OUTPUT, ALPHA) if name in outputs]) / 255.0


def open_package(
    path: Path, function: str = "main"
) -> Callable[[Mapping[str, NDArray[Any] | Tensor]], dict[str, NDArray[Any]]]:
    """Open a package with Core ML itself on macOS, with `MILProgram` elsewhere.

    The macOS branch has never been run by its authors, who had no Mac.

    Args:
        path: a saved `.mlpackage` folder.
        function: which of the package's functions.

    Returns:
        A function from one float array per input, of its shape, to name -> array. Image outputs are (3, H, W) float32,
        0..255; on macOS whole numbers, having been bytes.
    """
    if sys.platform != "darwin":
        program = MILProgram.load(path, function)

        def evaluate(inputs: Mapping[str, NDArray[Any] | Tensor]) -> dict[str, NDArray[Any]]:
            outputs = program.run(inputs)
            return {name: value[0] if name in program.image_outputs else value for name, value in outputs.items()}

        return evaluate

    import coremltools as ct

    model = ct.models.MLModel(str(path), function_name=None if function == "main" else function)

    def predict(inputs: Mapping[str, NDArray[Any] | Tensor]) -> dict[str, NDArray[Any]]:
        outputs = model.predict({name: np.asarray(value) for name, value in inputs.items()})
        return {
            name: image_to_array(v) if np.asarray(v).dtype == np.uint8 else np.asarray(v) for name, v in outputs.items()
        }

    return predict


def image_to_array(image: Any) -> NDArray[np.float32]:
    """A PIL image or uint8 array (H, W, 3 or 4) as (3, H, W) float32, 0..255; a grey one as (1, H, W)."""
    if hasattr(image, "convert") and image.mode != "L":
        image = image.convert("RGB")
    array = np.asarray(image)
    channels = array[..., None] if array.ndim == 2 else array[..., :3]
    return np.ascontiguousarray(channels.transpose(2, 0, 1), dtype=np.float32)
