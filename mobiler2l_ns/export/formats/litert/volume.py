"""The volume in LiteRT files.

LiteRT has no operator that looks up pictures, and its converter would write an index for each channel of each place.
Here a lookup gathers the channels of four pixels, which lie side by side.

The converter folds constants, and folds away that they are stored as float16. So the tables are inputs to it, and
become constants of the finished file.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mobiler2l_ns.export.formats.litert.extra import EXTRA
from mobiler2l_ns.export.volume_graph import Sample


class _Gather(nn.Module):
    """What ``Sample`` gives, of pictures of at least two pixels each way."""

    def forward(self, picture: Tensor, x: Tensor, y: Tensor) -> Tensor:
        _, channels, height, width = picture.shape
        pixels = picture.permute(0, 2, 3, 1).reshape(height * width, channels)
        x, y = ((place.clamp(-1.0, 1.0) + 1.0) * ((n - 1) / 2) for place, n in ((x, width), (y, height)))
        left, top = x.clamp(max=width - 1.5).floor(), y.clamp(max=height - 1.5).floor()
        across, down = (x - left)[..., None], (y - top)[..., None]
        first = (top * width + left).to(torch.int32)
        corners = [functional.embedding(first + step, pixels) for step in (0, 1, width, width + 1)]
        upper, lower = (a + (b - a) * across for a, b in (corners[:2], corners[2:]))
        return (upper + (lower - upper) * down).permute(0, 3, 1, 2)


def gathered(graph: nn.Module) -> nn.Module:
    """A copy of a graph that looks its volume up by gathers."""
    graph = deepcopy(graph)
    for module in list(graph.modules()):
        for name, child in module.named_children():
            if isinstance(child, Sample):
                setattr(module, name, _Gather())
    return graph


def store(model: Any, signature: Any, tables: Sequence[Tensor], half: bool) -> None:
    """Make constants of the inputs of a signature that come after its own.

    Args:
        model: of a file.
        signature: of the file; its inputs are called args_0 and so on.
        tables: (1, channels, rows, columns) each, of the last inputs.
        half: whether they are stored as float16, and widened before use.
    """
    schema = EXTRA.load("ai_edge_litert.schema_py_generated")
    subgraph = model.subgraphs[signature.subgraphIndex]
    own = len(signature.inputs) - len(tables)
    by_number = sorted(signature.inputs, key=lambda tensor: int(tensor.name.decode().removeprefix("args_")))
    signature.inputs = [tensor for tensor in signature.inputs if tensor in by_number[:own]]
    subgraph.inputs = [tensor.tensorIndex for tensor in signature.inputs]
    for given, table in zip(by_number[own:], tables, strict=True):
        wide = subgraph.tensors[given.tensorIndex]
        values = table.permute(0, 2, 3, 1).contiguous().numpy()
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.astype(np.float16 if half else np.float32).tobytes(), np.uint8)
        model.buffers.append(buffer)
        if not half:
            wide.buffer = len(model.buffers) - 1
            continue
        narrow = deepcopy(wide)
        narrow.name, narrow.type, narrow.buffer = (
            wide.name + b"_half",
            schema.TensorType.FLOAT16,
            len(model.buffers) - 1,
        )
        subgraph.tensors.append(narrow)
        operator = schema.OperatorT()
        operator.opcodeIndex = _code(model, schema.BuiltinOperator.DEQUANTIZE)
        operator.inputs, operator.outputs = [len(subgraph.tensors) - 1], [given.tensorIndex]
        subgraph.operators.insert(0, operator)


def _code(model: Any, builtin: int) -> int:
    """The index of an operator among a model's operator codes."""
    for index, code in enumerate(model.operatorCodes):
        if builtin in (code.builtinCode, code.deprecatedBuiltinCode):
            return index
    code = EXTRA.load("ai_edge_litert.schema_py_generated").OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = builtin
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
