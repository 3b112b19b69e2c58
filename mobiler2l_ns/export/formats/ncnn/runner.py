"""Runs ncnn packages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobiler2l_ns.export.formats.ncnn.extra import EXTRA
from mobiler2l_ns.export.formats.ncnn.param import BIN, OUTPUT, PARAM


class NcnnRunner:
    """Runs a package with ncnn on the CPU, computing in float32."""

    def __init__(self, path: Path) -> None:
        """Args: the folder that `convert` wrote."""
        self.net = EXTRA.load("ncnn").Net()
        for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(self.net.opt, f"use_{option}", False)
        if self.net.load_param(str(path / PARAM)) or self.net.load_model(str(path / BIN)):
            raise RuntimeError(f"ncnn cannot load {path}")

    def __call__(self, inputs: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Args: the graph's inputs by name, batch axis included. Returns the picture (C, H, W) in 0..1."""
        return self.run(self.net, inputs, OUTPUT)

    @staticmethod
    def run(net: Any, inputs: Mapping[str, NDArray[np.float32]], blob: str) -> NDArray[np.float32]:
        """Any blob of a loaded net, without the batch axis."""
        return np.array(extract(begin(net, inputs), blob))


def begin(net: Any, inputs: Mapping[str, NDArray[np.float32]]) -> Any:
    """An extractor that was given its inputs, batch axis included."""
    ncnn = EXTRA.load("ncnn")
    extractor = net.create_extractor()
    for name, value in inputs.items():
        # Cloned: a Mat that looks at numpy's memory neither owns it nor aligns its channels as layers rely on.
        if extractor.input(name, ncnn.Mat(np.ascontiguousarray(value[0], dtype=np.float32)).clone()):
            raise RuntimeError(f"this ncnn package has no input {name}")
    return extractor


def extract(extractor: Any, blob: str) -> Any:
    """A blob, computed if it is not there yet."""
    failed, found = extractor.extract(blob)
    if failed:
        raise RuntimeError(f"ncnn could not compute {blob}")
    return found
