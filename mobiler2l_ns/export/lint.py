"""Which operations of a finished package would leave the processor they are meant for, and what each layer costs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nerfstudio.utils.rich_utils import CONSOLE
from rich.table import Table

from mobiler2l_ns.export.device_support import PROCESSORS, Processor

BYTES = {"fp16": 2, "fp32": 4, "float16": 2, "float32": 4, "int8": 1, "uint8": 1, "int32": 4, "int64": 8, "bool": 1}


@dataclass(frozen=True)
class Layer:
    """One operation of a package."""

    op: str
    """By the format's own name."""
    name: str
    shape: tuple[int, ...]
    """Of what it gives."""
    dtype: str
    macs: int
    """Multiply-accumulates; 0 for all but convolutions and matrix products."""
    on_cpu: bool = False
    """Whether the package itself keeps it on the CPU."""

    @property
    def activation_bytes(self) -> int:
        """Bytes of what it gives."""
        return math.prod(self.shape) * BYTES.get(self.dtype, 4)


@dataclass(frozen=True)
class Finding:
    """Operations of one kind that do not run on a processor."""

    processor: str
    op: str
    dtype: str
    count: int
    reason: str

    def __str__(self) -> str:
        return f"{self.processor}: {self.count} x {self.op} ({self.dtype}) {self.reason}"


def lint(layers: Sequence[Layer], format_name: str) -> list[Finding]:
    """What would fall back, processor by processor.

    A last cast into an image is not reported: it belongs to the runtime's own output, not to the graph.
    """
    outputs = {layer.name for layer in layers[-2:] if layer.op == "cast"}
    kinds = Counter((layer.op, layer.dtype, layer.on_cpu) for layer in layers if layer.name not in outputs)
    findings = []
    for processor in PROCESSORS:
        if format_name not in processor.formats:
            continue
        for (op, dtype, on_cpu), count in sorted(kinds.items()):
            reason = "is kept on the CPU by the package" if on_cpu else _why_not(processor, op, dtype)
            if reason:
                findings.append(Finding(processor.name, op, dtype, count, reason))
    return findings


def _why_not(processor: Processor, op: str, dtype: str) -> str | None:
    if op in processor.falls_back:
        return "falls back to a slower processor"
    if processor.half_only and dtype in ("fp32", "float32"):
        return "falls back: it computes in half precision only"
    return None if op in processor.runs else "is not known to run there"


def layers_of(format_name: str, path: Path, function: str = "main") -> list[Layer]:
    """The operations of a package, in order; none where it is no graph but carries kernels of its own (web)."""
    reader = READERS.get(format_name)
    return [] if reader is None else reader(path, function)


def _convolution_macs(op: str, given: Sequence[int], weight: Sequence[int], out: Sequence[int]) -> int:
    """Weights are (out, in, ...) for a convolution, (in, out, ...) for a transposed one."""
    if "transpose" in op.lower():
        return math.prod(given) * math.prod(weight[1:])
    return math.prod(out) * math.prod(weight[1:])


def _coreml_layers(path: Path, function: str) -> list[Layer]:
    from mobiler2l_ns.export.formats.coreml.evaluator import MILProgram, dtype_of

    layers = []
    for op in MILProgram.load(path, function).operations:
        out, inputs = op.outputs[0], op.inputs
        macs = 0
        if op.op_type in ("conv", "conv_transpose"):
            macs = _convolution_macs(op.op_type, inputs["x"].shape, inputs["weight"].shape, out.shape)
        elif op.op_type == "linear":
            macs = math.prod(out.shape) * inputs["weight"].shape[-1]
        elif op.op_type == "matmul":
            macs = math.prod(out.shape) * inputs["x"].shape[-1]
        if not op.op_type.startswith("constexpr_"):
            layers.append(Layer(op.op_type, out.name, tuple(out.shape), dtype_of(out), macs))
    return layers


def _onnx_model_layers(model: Any) -> list[Layer]:
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    dtypes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        shapes[value.name] = tuple(dim.dim_value for dim in kind.shape.dim)
        dtypes[value.name] = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    layers = []
    for node in graph.node:
        name, macs = node.output[0], 0
        shape = shapes.get(name, ())
        if node.op_type in ("Conv", "ConvTranspose"):
            macs = _convolution_macs(node.op_type, shapes[node.input[0]], shapes[node.input[1]], shape)
        elif node.op_type == "MatMul":
            macs = math.prod(shape) * shapes[node.input[0]][-1]
        if node.op_type not in ("Identity", "DequantizeLinear", "Constant"):  # weights, not activations
            layers.append(Layer(node.op_type, name, shape, dtypes.get(name, "float32"), macs))
    return layers


def _onnx_layers(path: Path, function: str) -> list[Layer]:
    import onnx

    return _onnx_model_layers(onnx.load(str(path)))


def _snapml_layers(path: Path, function: str) -> list[Layer]:
    import onnx

    from mobiler2l_ns.export.formats.snapml.convert import runnable

    return _onnx_model_layers(runnable(onnx.load(str(path))))


def _litert_layers(path: Path, function: str) -> list[Layer]:
    from mobiler2l_ns.export.formats.litert import convert as litert

    found = litert.layers(path)
    return [Layer(op, name, shape, dtype.lower(), macs) for op, name, shape, dtype, macs in found]


def _ncnn_layers(path: Path, function: str) -> list[Layer]:
    from mobiler2l_ns.export.formats.ncnn import convert as ncnn

    return [Layer(*found) for found in ncnn.layers(path)]


READERS: dict[str, Callable[[Path, str], list[Layer]]] = {
    "coreml": _coreml_layers,
    "onnx": _onnx_layers,
    "snapml": _snapml_layers,
    "litert": _litert_layers,
    "ncnn": _ncnn_layers,
}
"""Who lists the operations of a format's packages."""


def print_lint(path: Path, layers: Sequence[Layer], findings: Sequence[Finding]) -> None:
    """Print every layer with its cost, and what would fall back."""
    table = Table(title=str(path))
    for column in ("operation", "gives", "type", "MMAC", "KiB"):
        table.add_column(column, justify="left" if column in ("operation", "gives", "type") else "right")
    for layer in layers:
        shape = " x ".join(map(str, layer.shape))
        macs = f"{layer.macs / 1e6:.1f}" if layer.macs else ""
        table.add_row(layer.op, shape, layer.dtype, macs, f"{layer.activation_bytes / 1024:.0f}")
    CONSOLE.print(table)
    largest = max((layer.activation_bytes for layer in layers), default=0)
    total = sum(layer.macs for layer in layers)
    CONSOLE.print(f"{total / 1e9:.2f} GMAC, the largest activation {largest / 2**20:.1f} MiB")
    for finding in findings:
        CONSOLE.print(f"[yellow]{finding}")
    if not findings:
        CONSOLE.print("[green]Nothing falls back.")
