"""SnapML packages, for Lens Studio."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mobiler2l_ns.export.clients.kind import ClientKind
from mobiler2l_ns.export.contract import Runner
from mobiler2l_ns.export.format import Format, single
from mobiler2l_ns.export.graph import Graph
from mobiler2l_ns.export.layer import Layer
from mobiler2l_ns.export.processor import Processor, names

NPU = Processor(
    "SnapML on the iPhone's NPU",
    runs=names("Abs Add BatchNormalization Concat Conv ConvTranspose GeluSnap Mul Relu Sigmoid"),
    falls_back=names("Cos Sin Constant Div MatMul Erf"),
    source="https://developers.snap.com/lens-studio/features/snap-ml/compatibility",
)


@dataclass(frozen=True, kw_only=True)
class SnapML(Format):
    """Written by torch's ONNX exporter, run by onnxruntime."""

    def convert(self, graphs: Mapping[str, Graph], path: Path, precision: str, metadata: dict[str, str]) -> None:
        from mobiler2l_ns.export.formats.snapml.convert import convert

        convert(single(graphs), path, metadata)

    def open(self, path: Path, function: str) -> Runner:
        from mobiler2l_ns.export.formats.snapml.runner import open_file

        return open_file(path)

    def layers(self, path: Path, function: str) -> list[Layer]:
        from mobiler2l_ns.export.formats.onnx.layers import layers_of
        from mobiler2l_ns.export.formats.snapml.runner import read_runnable

        return layers_of(read_runnable(path))


FORMAT = SnapML(
    name="snapml",
    suffix=".snapml.onnx",
    title="Snap's Lens Studio",
    thresholds={"fp32": 80.0},
    run_by="onnxruntime, GeluSnap defined as a local function",
    looks_up=False,  # operator set 11 has no GridSample
    clients=(
        ClientKind(
            "snapml.js.jinja",
            "Lens Studio, SnapML",
            "javascript",
            "Lens Studio 5",
            "Run by this project's tests against a stand-in for Lens Studio, not in Lens Studio",
            (
                "https://developers.snap.com/lens-studio/features/snap-ml/ml-component/scripting-ml-component",
                "https://developers.snap.com/lens-studio/api/lens-scripting/classes/Built-In.InputPlaceholder.html",
            ),
        ),
    ),
    processors=(NPU,),
    order=3,
)
