"""The weights file of an ncnn package, at each precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mobiler2l_ns.export.formats.ncnn.param import ParamLayer

FP16_TAG = 0x01306B47
CODEBOOK_TAG = 1  # any tag that ncnn does not know otherwise


def store(layers: Sequence[ParamLayer], weights: bytes, tables: Mapping[str, Tensor], precision: str) -> bytes:
    """The weights file at a precision, from the float32 one, which knows nothing of the volume's tables.

    Args:
        layers, weights: of the whole network.
        tables: by the names of the layers that hold them.
        precision: of the weights.
    """
    stored, position = bytearray(), 0
    for layer in layers:
        if layer.name in tables:
            values = tables[layer.name].numpy().reshape(-1)
            stored += values.tobytes() if precision == "fp32" else _encode(values, "fp16")
            continue
        for i, (count, tagged) in enumerate(layer.stored()):
            if tagged:
                if weights[position : position + 4] != bytes(4):
                    raise RuntimeError(f"pnnx stored the weights of {layer.name} in an unexpected way")
                position += 4
            values = np.frombuffer(weights, np.float32, count, position)
            position += 4 * count
            if tagged:
                stored += _encode(values, precision if i == 0 else "fp32")
            else:
                stored += values.tobytes()
    if position != len(weights):
        raise RuntimeError("pnnx stored weights of a layer that is not known here")
    return bytes(stored)


def _encode(values: NDArray[np.float32], precision: str) -> bytes:
    """A tag and an array, padded to four bytes, as ncnn's ModelBin reads them."""
    if precision == "fp16":
        tag, data = FP16_TAG, values.astype(np.float16).tobytes()
    elif precision == "int8":
        codebook = codebook_of(values)
        indices = np.searchsorted((codebook[1:] + codebook[:-1]) / 2, values).astype(np.uint8)
        tag, data = CODEBOOK_TAG, codebook.tobytes() + indices.tobytes()
    else:
        tag, data = 0, values.tobytes()
    return tag.to_bytes(4, "little") + data + bytes(-len(data) % 4)


def codebook_of(values: NDArray[np.float32], rounds: int = 50) -> NDArray[np.float32]:
    """256 ascending values that represent an array with little squared error (Lloyd's algorithm, from an even grid)."""
    ordered = np.sort(values.astype(np.float64))
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    centres = np.linspace(ordered[0], ordered[-1], 256)
    for _ in range(rounds):
        edges = np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2)
        starts, ends = np.concatenate([[0], edges]), np.concatenate([edges, [len(ordered)]])
        filled = ends > starts
        centres[filled] = ((sums[ends] - sums[starts]) / np.maximum(ends - starts, 1))[filled]
    return np.sort(centres).astype(np.float32)
