"""Core AI packages, for Apple's devices from iOS 27 and macOS 27 on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mobiler2l_ns.export.clients.kind import RUN, ClientKind
from mobiler2l_ns.export.contract import Runner
from mobiler2l_ns.export.format import Format, single
from mobiler2l_ns.export.graph import Graph


@dataclass(frozen=True, kw_only=True)
class CoreAI(Format):
    """Written by coreai-torch and run by Core AI's runtime, both in an interpreter of their own."""

    def convert(self, graphs: Mapping[str, Graph], path: Path, precision: str, metadata: dict[str, str]) -> None:
        from mobiler2l_ns.export.formats.coreai.convert import convert

        convert(single(graphs), path, precision, metadata)

    def open(self, path: Path, function: str) -> Runner:
        from mobiler2l_ns.export.formats.coreai.runner import CoreAIRunner

        return CoreAIRunner(path)

    def input_dtype(self, graph: Graph, precision: str) -> str:
        return "float16" if graph.contract != "pose" and precision == "fp16" else "float32"

    def missing(self) -> str | None:
        from mobiler2l_ns.export.formats.coreai.interpreter import missing

        return missing()


FORMAT = CoreAI(
    name="coreai",
    suffix=".aimodel",
    title="iPhone, iPad and Mac, from iOS 27 and macOS 27 on",
    thresholds={"fp16": 55.0, "fp32": 80.0},
    run_by="Core AI's runtime on the CPU",
    timed=False,  # pictures come from another process, by way of files
    clients=(
        ClientKind(
            "coreai.py.jinja",
            "Desktop, Core AI's Python runtime",
            "python",
            "`pip install coreai-core==1.0.0b3 numpy pillow`, Python 3.11 or newer; no Swift for Core AI is there yet",
            RUN,
        ),
    ),
    order=1.5,
)
