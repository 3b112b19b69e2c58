"""The operations of a Core ML package."""

from __future__ import annotations

import math
from pathlib import Path

from mobiler2l_ns.export.formats.coreml.evaluator import MILProgram, dtype_of
from mobiler2l_ns.export.layer import LOOKUP, Layer, convolution_macs


def read_layers(path: Path, function: str) -> list[Layer]:
    """The operations of a function of a package, in order, without the expansion of compressed weights."""
    layers = []
    for op in MILProgram.load(path, function).operations:
        out, inputs = op.outputs[0], op.inputs
        macs = 0
        if op.op_type in ("conv", "conv_transpose"):
            macs = convolution_macs(op.op_type, inputs["x"].shape, inputs["weight"].shape, out.shape)
        elif op.op_type == "linear":
            macs = math.prod(out.shape) * inputs["weight"].shape[-1]
        elif op.op_type == "matmul":
            macs = math.prod(out.shape) * inputs["x"].shape[-1]
        elif op.op_type == "resample":
            macs = math.prod(out.shape) * LOOKUP
        if not op.op_type.startswith("constexpr_"):
            strides, weight = inputs.get("strides"), inputs.get("weight")
            stride = 1 if strides is None else int(max(strides.val))
            palette = weight is not None and weight.op is not None and weight.op.op_type == "constexpr_lut_to_dense"
            shape = tuple(out.shape)
            layers.append(Layer(op.op_type, out.name, shape, dtype_of(out), macs, stride=stride, palette=palette))
    return layers
