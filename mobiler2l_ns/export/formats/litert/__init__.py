"""LiteRT (once TensorFlow Lite) packages, for Android and Google's runtimes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mobiler2l_ns.export.clients.kind import NOT_RUN, RUN, ClientKind, pip
from mobiler2l_ns.export.contract import Runner
from mobiler2l_ns.export.format import Format
from mobiler2l_ns.export.formats.litert.extra import EXTRA
from mobiler2l_ns.export.graph import Graph
from mobiler2l_ns.export.layer import Layer
from mobiler2l_ns.export.processor import NNAPI_SOURCE, Processor, names

NPU = Processor(
    "NNAPI-class NPU",
    runs=names(
        "ABS ADD BATCH_MATMUL CONCATENATION CONV_2D DEQUANTIZE DIV EXP EXPAND_DIMS FLOOR FULLY_CONNECTED LOG LOGISTIC "
        "MAXIMUM MINIMUM MUL NEG PAD PADV2 POW REDUCE_MAX SUM RELU RESHAPE RESIZE_NEAREST_NEIGHBOR RSQRT SIN SQRT "
        "SQUEEZE STRIDED_SLICE SUB TANH TILE TRANSPOSE TRANSPOSE_CONV CAST FILL"
    ),
    falls_back=names("COS CUMSUM EMBEDDING_LOOKUP GELU RELU_0_TO_1 SLICE SPLIT SPLIT_V PACK UNPACK"),
    source=NNAPI_SOURCE,
)


@dataclass(frozen=True, kw_only=True)
class LiteRT(Format):
    """Written by litert-torch, run by the LiteRT interpreter."""

    def convert(self, graphs: Mapping[str, Graph], path: Path, precision: str, metadata: dict[str, str]) -> None:
        from mobiler2l_ns.export.formats.litert.convert import convert_many

        convert_many({name: (graph, graph.inputs) for name, graph in graphs.items()}, path, precision, metadata)

    def open(self, path: Path, function: str) -> Runner:
        from mobiler2l_ns.export.formats.litert.runner import LiteRTRunner

        return LiteRTRunner(path, function)

    def layers(self, path: Path, function: str) -> list[Layer]:
        from mobiler2l_ns.export.formats.litert.layers import read_layers

        return read_layers(path)


FORMAT = LiteRT(
    name="litert",
    suffix=".tflite",
    title="LiteRT (TensorFlow Lite) on Android and elsewhere",
    thresholds={"fp32": 80.0, "fp16": 55.0, "int8": 35.0, "int8-dynamic": 25.0},
    run_by="the LiteRT interpreter",
    output="image, float32 (1, height, width, channels), 0..1",
    layout="NHWC",
    holds_depth=True,
    holds_functions=True,
    function_is="signature",
    extra=EXTRA,
    clients=(
        ClientKind(
            "litert.kt.jinja",
            "Android, LiteRT",
            "kotlin",
            "`com.google.ai.edge.litert:litert` of Google's Maven repository",
            NOT_RUN,
            ("https://ai.google.dev/edge/litert/next/android_kotlin",),
        ),
        ClientKind("litert.py.jinja", "Desktop, LiteRT", "python", pip("ai-edge-litert"), RUN),
    ),
    processors=(NPU,),
    order=4,
)
