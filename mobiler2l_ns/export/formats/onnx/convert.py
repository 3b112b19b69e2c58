"""The student as one ONNX file of standard operators.

Precisions, all of the network (rays and encoding are float32 wherever they are part of the graph):

- fp32;
- fp16: computed in half precision, in and out of the layers;
- int8: weights stored as bytes with one scale a channel and expanded by DequantizeLinear; computed in float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mobiler2l_ns.export.contract import outputs_of
from mobiler2l_ns.export.formats.onnx.lookups import with_gathered_volume
from mobiler2l_ns.export.graph import Graph
from mobiler2l_ns.export.volume_graph import with_volume_in_half

OPSET = 17
DOMAIN, WIDEN = "mobiler2l", "Widen"
"""Of a node that is replaced by a Cast once nothing is folded any more."""
Precision = Literal["fp32", "fp16", "int8"]
WEIGHTED = {"Conv": 0, "ConvTranspose": 1}
"""Operators with weights, and the axis of the weight that counts output channels."""


def convert(graph: Graph, path: Path, precision: Precision, metadata: Mapping[str, str]) -> None:
    """Write a graph to a file: its inputs, in order, give ``image`` (1, 3, height, width), RGB in 0..1 as float32, or
    (1, 4, height, width) premultiplied RGBA; and ``depth``, as float32, if the graph does. Where the input is the
    encoding and the precision fp16, it is float16.

    Args:
        graph: the student.
        path: the file, overwritten.
        precision: see above.
        metadata: stored in the file's metadata_props.
    """
    import onnx

    stored = with_gathered_volume(graph)
    if precision != "fp32":
        stored = with_volume_in_half(stored)
    model = traced(in_half(stored) if precision == "fp16" else stored, graph, OPSET, precision)
    if precision == "int8":
        _store_weights_as_bytes(model)
    write(model, path, metadata)
    foreign = {node.domain for node in onnx.load(str(path)).graph.node} - {"", "ai.onnx"}
    assert not foreign, f"operators of {foreign} are not standard ONNX"


def input_dtype(graph: Graph, precision: str) -> Literal["float32", "float16"]:
    """What the file wants its inputs in."""
    return "float16" if graph.contract != "pose" and precision == "fp16" else "float32"


def traced(module: nn.Module, graph: Graph, opset: int, precision: str, **options: Any) -> Any:
    """The ONNX model of a module that takes the inputs of ``graph``."""
    import io

    import onnx

    torch.onnx.register_custom_op_symbolic("mobiler2l::widen", _widening, opset)
    buffer = io.BytesIO()
    dtype = getattr(torch, input_dtype(graph, precision))
    # Fractions, so that nothing is divided by zero while tracing.
    examples = tuple(torch.full(i.shape, 0.5, dtype=dtype) for i in graph.inputs)
    with warnings.catch_warnings(), torch.no_grad():
        # The TorchScript exporter writes the plain operator sets that runtimes of any age read; torch announces its
        # end.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            examples,
            buffer,  # type: ignore[arg-type]
            input_names=[i.name for i in graph.inputs],
            output_names=list(outputs_of(graph)),
            opset_version=opset,
            dynamo=False,
            **options,
        )
    model = onnx.load_from_string(buffer.getvalue())
    for node in model.graph.node:
        if node.op_type == WIDEN:
            node.op_type, node.domain = "Cast", ""
            node.attribute.append(onnx.helper.make_attribute("to", onnx.TensorProto.FLOAT))
    for imported in [opset for opset in model.opset_import if opset.domain == DOMAIN]:
        model.opset_import.remove(imported)
    return model


def _widening(g: Any, values: Any) -> Any:
    # A Cast the exporter would fold into a constant of float32.
    return g.op(f"{DOMAIN}::{WIDEN}", values).setType(values.type().with_dtype(torch.float32))


def write(model: Any, path: Path, metadata: Mapping[str, str], check: Any = None) -> None:
    """Write a model, the same bytes for the same model, and check it, or what stands for it where it has operators of
    its own."""
    import onnx

    for key, value in sorted(metadata.items()):
        model.metadata_props.add(key=key, value=value)
    model.producer_name, model.producer_version = "mobiler2l-ns", ""
    onnx.checker.check_model(model if check is None else check, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


class _Half(nn.Module):
    """A network computed in half precision between float32 neighbours."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = deepcopy(network).half()

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.network(*(values.half() for values in inputs)).float()


def in_half(graph: Graph) -> nn.Module:
    """A copy of a graph whose network computes in half precision."""
    halved = deepcopy(graph)
    halved.network = _Half(graph.network)  # type: ignore[assignment]
    return halved


def _store_weights_as_bytes(model: Any) -> None:
    """Replace each layer's float weights by int8 ones, a scale for each output channel, and a DequantizeLinear."""
    from onnx import helper, numpy_helper

    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    # The exporter stores equal weights once, under the first one's name.
    same = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Identity"}
    layers = [node for node in model.graph.node if node.op_type in WEIGHTED]
    expanded = []
    for name, axis in {same.get(node.input[1], node.input[1]): WEIGHTED[node.op_type] for node in layers}.items():
        values, scales = quantised(numpy_helper.to_array(initializers[name]), axis)
        model.graph.initializer.remove(initializers[name])
        model.graph.initializer.extend(
            [numpy_helper.from_array(values, f"{name}_int8"), numpy_helper.from_array(scales, f"{name}_scale")]
        )
        parts = [f"{name}_int8", f"{name}_scale"]
        expanded.append(helper.make_node("DequantizeLinear", parts, [name], f"{name}_expanded", axis=axis))
    nodes = [*expanded, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def quantised(weights: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Weights as symmetric int8 with one scale for each index of ``axis``: weights = int8 * scale."""
    others = tuple(i for i in range(weights.ndim) if i != axis)
    largest = np.abs(weights).max(axis=others, keepdims=True)
    scales = np.where(largest > 0, largest / 127.0, 1.0).astype(np.float32)
    return np.round(weights / scales).astype(np.int8), scales.reshape(-1)
