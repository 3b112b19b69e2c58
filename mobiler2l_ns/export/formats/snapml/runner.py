"""Runs SnapML files outside of Lens Studio, its own operator defined by standard ones."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from mobiler2l_ns.export.formats.onnx.runner import OnnxRunner

OPSET = 11
GELU = "GeluSnap"
DOMAIN = "mobiler2l.snap"
IR_WITH_FUNCTIONS = 8


def runnable(model: Any) -> Any:
    """A copy of a model in which ``GeluSnap`` is defined: y = x / 2 * (1 + erf(x / sqrt(2)))."""
    from onnx import helper

    model = deepcopy(model)
    nodes = [node for node in model.graph.node if node.op_type == GELU]
    if not nodes:
        return model
    for node in nodes:
        node.domain = DOMAIN
    constants = {"half": 0.5, "one": 1.0, "slope": 0.5**0.5}
    body = [
        helper.make_node("Constant", [], [name], value=helper.make_tensor(name, 1, [], [value]))
        for name, value in constants.items()
    ]
    body += [
        helper.make_node("Mul", ["x", "slope"], ["scaled"]),
        helper.make_node("Erf", ["scaled"], ["erf"]),
        helper.make_node("Add", ["erf", "one"], ["shifted"]),
        helper.make_node("Mul", ["x", "half"], ["halved"]),
        helper.make_node("Mul", ["halved", "shifted"], ["y"]),
    ]
    opset = helper.make_opsetid("", OPSET)
    model.functions.append(helper.make_function(DOMAIN, GELU, ["x"], ["y"], body, [opset]))
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    model.ir_version = max(model.ir_version, IR_WITH_FUNCTIONS)
    return model


def read_runnable(path: Path) -> Any:
    """The model of a file, see ``runnable``."""
    import onnx

    return runnable(onnx.load(str(path)))


def open_file(path: Path) -> OnnxRunner:
    """A file in onnxruntime."""
    return OnnxRunner(read_runnable(path).SerializeToString())
