"""Core ML packages, for Apple's devices."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mobiler2l_ns import __version__
from mobiler2l_ns.export.clients.kind import NOT_RUN, ClientKind
from mobiler2l_ns.export.contract import Runner
from mobiler2l_ns.export.extra import Extra
from mobiler2l_ns.export.format import Format
from mobiler2l_ns.export.formats.coreml.processors import GPU, NEURAL_ENGINE
from mobiler2l_ns.export.graph import Graph
from mobiler2l_ns.export.layer import Layer

DESCRIPTION = {
    "pose": "MobileR2L neural light field: a camera's pose in, its picture out.",
    "encoding": "MobileR2L neural light field: encoded low-resolution rays in, their picture out.",
    "features": "MobileR2L neural light field: encoded low-resolution rays and what its volume shows of them in, their "
    "picture out.",
}
AUTHOR = "Distilled with mobiler2l-ns"
LICENSE = "Follows from the rights in the captured photos; the code that made it is Apache-2.0"
MAC = sys.platform == "darwin"
THRESHOLDS = {"fp16": 55.0, "fp32": 80.0, "int8": 35.0, "palette6": 25.0, "palette4": 15.0}


@dataclass(frozen=True, kw_only=True)
class CoreML(Format):
    """Written by coremltools, run by Core ML on a Mac and by ``MILProgram`` elsewhere."""

    def convert(self, graphs: Mapping[str, Graph], path: Path, precision: str, metadata: dict[str, str]) -> None:
        from mobiler2l_ns.export.formats.coreml.convert import convert

        convert(
            graphs,
            path,
            precision,  # type: ignore[arg-type]
            metadata,
            author=AUTHOR,
            license=LICENSE,
            description=DESCRIPTION[next(iter(graphs.values())).contract],
            version=__version__,
        )

    def open(self, path: Path, function: str) -> Runner:
        from mobiler2l_ns.export.formats.coreml.runner import CoreMLRunner

        return CoreMLRunner(path, function)

    def missing(self) -> str | None:
        # It comes with this package, and may have been left out on a machine that trains.
        return Extra(("coremltools",), "pip install coremltools").missing()

    def input_dtype(self, graph: Graph, precision: str) -> str:
        from mobiler2l_ns.export.formats.coreml.convert import input_dtype

        return input_dtype(graph, precision)

    def layers(self, path: Path, function: str) -> list[Layer]:
        from mobiler2l_ns.export.formats.coreml.layers import read_layers

        return read_layers(path, function)


FORMAT = CoreML(
    name="coreml",
    suffix=".mlpackage",
    title="iPhone, iPad and Mac",
    # Core ML itself answers in bytes, which alone differ from the student's colours by 59 dB.
    thresholds={name: min(50.0, least) if MAC else least for name, least in THRESHOLDS.items()},
    run_by="Core ML" if MAC else "an evaluation of the saved program, operation by operation",
    output="image, an RGB image of 8 bits a channel (and alpha, a grey one)",
    holds_depth=True,
    holds_functions=True,
    timed=MAC,
    clients=(
        ClientKind(
            "coreml.swift.jinja",
            "iOS and macOS, Core ML",
            "swift",
            "Xcode",
            NOT_RUN,
            (
                "https://developer.apple.com/documentation/coreml/mlfeaturevalue/init(shapedarray:)",
                "https://developer.apple.com/documentation/coreml/mlmodelconfiguration/functionname",
            ),
        ),
    ),
    processors=(NEURAL_ENGINE, GPU),
    order=1,
)
