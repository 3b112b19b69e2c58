"""The operations of a finished package: what each gives, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

BYTES = {"fp16": 2, "fp32": 4, "float16": 2, "float32": 4, "int8": 1, "uint8": 1, "int32": 4, "int64": 8, "bool": 1}


@dataclass(frozen=True)
class Layer:
    """One operation of a package."""

    op: str
    """By the format's own name."""
    name: str
    """Of what it gives."""
    shape: tuple[int, ...]
    """Of what it gives."""
    dtype: str
    """Of what it gives."""
    macs: int
    """Multiply-accumulates; 0 for all but convolutions, matrix products and lookups of pictures."""
    on_cpu: bool = False
    """Whether the package itself keeps it on the CPU."""
    stride: int = 1
    """Of a convolution."""
    palette: bool = False
    """Whether its weights are a palette: stored as places in a list of few values."""

    @property
    def activation_bytes(self) -> int:
        """Bytes of what it gives."""
        return math.prod(self.shape) * BYTES.get(self.dtype, 4)


LOOKUP = 4
"""Multiply-accumulates of a value that is looked up between four pixels."""


def convolution_macs(op: str, given: Sequence[int], weight: Sequence[int], out: Sequence[int]) -> int:
    """Multiply-accumulates of a convolution.

    Args:
        op: its name, with "transpose" in it for a transposed one.
        given: shape of its input.
        weight: shape of its weights, (out, in, ...), or (in, out, ...) for a transposed one.
        out: shape of its output.
    """
    if "transpose" in op.lower():
        return math.prod(given) * math.prod(weight[1:])
    return math.prod(out) * math.prod(weight[1:])
