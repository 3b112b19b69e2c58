"""SnapML, for Lens Studio: an ONNX file of operator set 11, with GELU as Lens Studio's own operator.

Lens Studio knows no Erf, which exact GELU is written with elsewhere; it has an operator of its own, `GeluSnap`, which
stands in the file like any other and which no other runtime knows. To run the file elsewhere, and to prove it, that
operator is given its meaning as a local function (``runnable``). A student with ReLU needs none of this and makes the
faster lens.

Lens Studio compiles what it imports for each device, so the file is float32. Its output holds 0..1: give the output of
the ML component a channel scale of 255.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mobiler2l_ns.export.formats.onnx.convert import traced, write
from mobiler2l_ns.export.formats.snapml.runner import DOMAIN, GELU, OPSET, runnable
from mobiler2l_ns.export.graph import Graph


class _Gelu(torch.autograd.Function):
    """GELU that is exported as one node."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return nn.functional.gelu(x)

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        return g.op(f"{DOMAIN}::{GELU}", x).setType(x.type())


class _GeluNode(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _Gelu.apply(x)  # type: ignore[return-value]


def convert(graph: Graph, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a graph to a file, with the inputs and the output that ``onnx.convert`` gives it at fp32."""
    rewritten = deepcopy(graph)
    for module in list(rewritten.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.GELU):
                setattr(module, name, _GeluNode())
    model = traced(rewritten, graph, OPSET, "fp32", custom_opsets={DOMAIN: 1})
    for node in model.graph.node:
        if node.op_type == GELU:
            node.domain = ""
    for imported in [opset for opset in model.opset_import if opset.domain == DOMAIN]:
        model.opset_import.remove(imported)
    write(model, path, metadata, check=runnable(model))
