"""ONNX files of standard operators, for onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mobiler2l_ns.export.clients.kind import RUN, ClientKind, pip
from mobiler2l_ns.export.contract import Runner
from mobiler2l_ns.export.format import Format, single
from mobiler2l_ns.export.graph import Graph
from mobiler2l_ns.export.layer import Layer
from mobiler2l_ns.export.processor import NNAPI_SOURCE, Processor, names

NPU = Processor(
    "NNAPI-class NPU",
    runs=names(
        "Abs Add MatMul Concat Conv DequantizeLinear Div Exp Floor Gather Gemm Log Sigmoid Max Min Mul Neg Pad Pow "
        "ReduceMax ReduceSum Relu Reshape Sin Sqrt Squeeze Unsqueeze Sub Tanh Tile Transpose ConvTranspose Cast"
    ),
    falls_back=names("Cos CumSum Erf GridSample Slice Split"),
    source=NNAPI_SOURCE,
)


@dataclass(frozen=True, kw_only=True)
class Onnx(Format):
    """Written by torch's exporter, run by onnxruntime."""

    def convert(self, graphs: Mapping[str, Graph], path: Path, precision: str, metadata: dict[str, str]) -> None:
        from mobiler2l_ns.export.formats.onnx.convert import convert

        convert(single(graphs), path, precision, metadata)  # type: ignore[arg-type]

    def open(self, path: Path, function: str) -> Runner:
        from mobiler2l_ns.export.formats.onnx.runner import OnnxRunner

        return OnnxRunner(path)

    def input_dtype(self, graph: Graph, precision: str) -> str:
        from mobiler2l_ns.export.formats.onnx.convert import input_dtype

        return input_dtype(graph, precision)

    def layers(self, path: Path, function: str) -> list[Layer]:
        from mobiler2l_ns.export.formats.onnx.layers import read_layers

        return read_layers(path)


FORMAT = Onnx(
    name="onnx",
    suffix=".onnx",
    title="onnxruntime on any device",
    thresholds={"fp32": 80.0, "fp16": 55.0, "int8": 35.0},
    run_by="onnxruntime",
    holds_depth=True,
    clients=(ClientKind("onnx.py.jinja", "Desktop, onnxruntime", "python", pip("onnxruntime"), RUN),),
    processors=(NPU,),
    order=2,
)
