"""ncnn's own files: the layers of a network as text, and the order in which their weights are stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mobiler2l_ns.export.layer import LOOKUP

PARAM, BIN, METADATA = "model.param", "model.bin", "metadata.json"
"""Files of a package: layers, weights, names and shapes."""
OUTPUT = "image"
MAGIC = "7767517"
FLOAT32_ONLY = 1 | 2 | 4 | 16  # no fp16 arithmetic, no fp16 storage, no bf16 storage, no Vulkan


@dataclass
class ParamLayer:
    """One line of a param file."""

    kind: str
    name: str
    bottoms: list[str]
    tops: list[str]
    params: list[str]

    @classmethod
    def parse(cls, line: str) -> ParamLayer:
        kind, name, bottoms, tops, *rest = line.split()
        first, last = int(bottoms), int(bottoms) + int(tops)
        return cls(kind, name, rest[:first], rest[first:last], rest[last:])

    def line(self) -> str:
        counts = [str(len(self.bottoms)), str(len(self.tops))]
        return " ".join([self.kind, self.name, *counts, *self.bottoms, *self.tops, *self.params])

    def number(self, key: int, default: int = 0) -> int:
        values = dict(param.split("=", 1) for param in self.params)
        return int(values.get(str(key), default))

    def macs(self, given: Sequence[tuple[int, ...]], shape: tuple[int, ...]) -> int:
        """Multiply-accumulates of a layer that gets blobs of these shapes and gives one of ``shape``."""
        if self.kind == "Convolution":
            return self.number(6) * math.prod(shape[1:])
        if self.kind == "Deconvolution":
            return self.number(6) * math.prod(given[0][1:])
        if self.kind == "InnerProduct":
            return self.number(2) * math.prod(shape[:-1])
        if self.kind == "Gemm":  # by constant weights
            return math.prod(shape) * self.number(9)
        if self.kind == "GridSample":
            return math.prod(shape) * LOOKUP
        return math.prod(shape) * given[0][-1] if self.kind == "MatMul" else 0

    def stored(self) -> list[tuple[int, bool]]:
        """Arrays of the weights file: number of values, and whether ncnn reads a tag of their type before them."""
        if self.kind in ("Convolution", "Deconvolution"):
            return [(self.number(6), True)] + [(self.number(0), False)] * bool(self.number(5))
        if self.kind == "InnerProduct":
            return [(self.number(2), True)] + [(self.number(0), False)] * bool(self.number(1))
        if self.kind == "Gemm":
            weights, outputs = self.number(8) * self.number(9), self.number(8)
            return [(weights, True)] * self.number(5) + [(outputs, True)] * bool(self.number(6))
        if self.kind == "MemoryData":
            return [(math.prod(self.number(key) or 1 for key in (0, 1, 11, 2)), False)]
        return []
