"""The operations of an ONNX file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from mobiler2l_ns.export.layer import LOOKUP, Layer, convolution_macs

WEIGHTS = ("Identity", "DequantizeLinear", "Constant")
"""Operators that give weights, not activations."""


def read_layers(path: Path) -> list[Layer]:
    """The operations of a file, in order."""
    import onnx

    return layers_of(onnx.load(str(path)))


def layers_of(model: Any) -> list[Layer]:
    """The operations of an ONNX model, in order."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
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
            macs = convolution_macs(node.op_type, shapes[node.input[0]], shapes[node.input[1]], shape)
        elif node.op_type == "MatMul":
            macs = math.prod(shape) * shapes[node.input[0]][-1]
        elif node.op_type == "GridSample":
            macs = math.prod(shape) * LOOKUP
        elif node.op_type == "Gather" and dtypes.get(name, "float32").startswith("float"):
            macs = math.prod(shape)  # of the rows of one of the four pixels
        if node.op_type not in WEIGHTS:
            layers.append(Layer(node.op_type, name, shape, dtypes.get(name, "float32"), macs))
    return layers
