"""ncnn packages, for phones' CPUs and Vulkan GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mobiler2l_ns.export.clients.kind import NOT_RUN, RUN, ClientKind, pip
from mobiler2l_ns.export.contract import Runner
from mobiler2l_ns.export.format import Format, single
from mobiler2l_ns.export.formats.ncnn.extra import EXTRA
from mobiler2l_ns.export.graph import Graph
from mobiler2l_ns.export.layer import Layer
from mobiler2l_ns.export.processor import Processor, names

GPU = Processor(
    "ncnn's Vulkan GPU",
    runs=names(
        "AbsVal BinaryOp Clip Concat Convolution Crop CumulativeSum Deconvolution Eltwise GELU Gemm GridSample "
        "InnerProduct Interp MatMul MemoryData Permute ReLU Reduction Reshape Sigmoid Slice TanH Tile UnaryOp"
    ),
    falls_back=names("ExpandDims Squeeze"),
    source="https://github.com/Tencent/ncnn/tree/master/src/layer/vulkan (a file for each layer that has a shader)",
)


@dataclass(frozen=True, kw_only=True)
class Ncnn(Format):
    """Written by pnnx, run by ncnn on the CPU."""

    def convert(self, graphs: Mapping[str, Graph], path: Path, precision: str, metadata: dict[str, str]) -> None:
        from mobiler2l_ns.export.formats.ncnn.convert import convert

        graph = single(graphs)
        convert(graph, graph.inputs, path, precision, metadata)

    def open(self, path: Path, function: str) -> Runner:
        from mobiler2l_ns.export.formats.ncnn.runner import NcnnRunner

        return NcnnRunner(path)

    def layers(self, path: Path, function: str) -> list[Layer]:
        from mobiler2l_ns.export.formats.ncnn.layers import read_layers

        return read_layers(path)


FORMAT = Ncnn(
    name="ncnn",
    suffix=".ncnn",
    title="ncnn on phones' CPUs and Vulkan GPUs",
    thresholds={"fp16": 55.0, "fp32": 80.0, "int8": 30.0},
    run_by="ncnn on the CPU, computing in float32",
    output="image, float32 (channels, height, width), 0..1",
    layout="CHW",
    extra=EXTRA,
    clients=(
        ClientKind(
            "ncnn.cpp.jinja",
            "Android, ncnn",
            "cpp",
            "ncnn's prebuilt Android package, Vulkan included",
            NOT_RUN,
            (
                "https://github.com/Tencent/ncnn/blob/master/src/net.h",
                "https://github.com/Tencent/ncnn/blob/master/src/mat.h",
            ),
            "; what computes its inputs is compiled and run by this project's tests",
        ),
        ClientKind("ncnn.py.jinja", "Desktop, ncnn", "python", pip("ncnn"), RUN),
    ),
    processors=(GPU,),
    order=5,
)
