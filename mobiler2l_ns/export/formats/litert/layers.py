"""The operators of a LiteRT file."""

from __future__ import annotations

import math
from pathlib import Path

from mobiler2l_ns.export.formats.litert.extra import EXTRA
from mobiler2l_ns.export.formats.litert.file import read
from mobiler2l_ns.export.layer import Layer


def read_layers(path: Path) -> list[Layer]:
    """The operators of a file, in order of execution, one graph after the other; by their names in the schema, such as
    CONV_2D."""
    model, schema = read(path.read_bytes()), EXTRA.load("ai_edge_litert.schema_py_generated")
    operators = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    types = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    found = []
    for subgraph in model.subgraphs:
        for operator in subgraph.operators:
            code, output = model.operatorCodes[operator.opcodeIndex], subgraph.tensors[operator.outputs[0]]
            name = operators[max(code.builtinCode, code.deprecatedBuiltinCode)]
            shape = tuple(int(side) for side in output.shape)
            macs = 0
            if name in ("CONV_2D", "FULLY_CONNECTED"):  # weights (out, height, width, in) or (out, in)
                macs = math.prod(shape) * math.prod(subgraph.tensors[operator.inputs[1]].shape[1:])
            elif name == "TRANSPOSE_CONV":  # of the output's shape, the weights (out, height, width, in) and the input
                _, weights, given = (subgraph.tensors[index].shape for index in operator.inputs[:3])
                macs = math.prod(given) * math.prod(weights[:3])
            elif name == "EMBEDDING_LOOKUP":
                macs = math.prod(shape)  # one of the four pixels that a value is looked up between
            found.append(Layer(name, output.name.decode(), shape, types[output.type].lower(), int(macs)))
    return found
