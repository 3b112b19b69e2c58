"""The table of formats: what each can hold, who writes it, who proves it.

A new format is one module with a ``convert`` and something that runs what it wrote, and one row here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobiler2l_ns import __version__
from mobiler2l_ns.export.extras import INSTALL
from mobiler2l_ns.export.graph import Contract, Graph

Runner = Callable[[Mapping[str, NDArray[Any]]], NDArray[np.float32]]
"""A package in a runtime: one array for each input to a picture (channels, height, width) in 0..1."""

DESCRIPTION = {
    "pose": "MobileR2L neural light field: a camera's pose in, its picture out.",
    "encoding": "MobileR2L neural light field: encoded low-resolution rays in, their picture out.",
}
AUTHOR = "Distilled with mobiler2l-ns"
LICENSE = "Follows from the rights in the captured photos; the code that made it is Apache-2.0"
FLOAT_OUTPUT = "image, float32 (1, channels, height, width), 0..1"


@dataclass(frozen=True)
class Format:
    """How one kind of package is written and run."""

    name: str
    suffix: str
    """Of the file's or folder's name."""
    title: str
    """What it is for, in one line."""
    thresholds: dict[str, float]
    """Precisions on offer, the default one first, and the least PSNR in dB to the student each must reach."""
    run_by: str
    """What runs the proof; a runner of which only a part may run here says so in a ``run_by`` of its own."""
    output: str
    """What a client gets."""
    convert: Callable[[Mapping[str, Graph], Path, str, dict[str, str]], None]
    """Write graphs, by the name of their function, to a path with a precision and metadata."""
    open: Callable[[Path, str], Runner]
    """A function of a package in its runtime."""
    input_dtype: Callable[[Graph, str], str]
    """What a graph at a precision wants its inputs in."""
    layout: str = "NCHW"
    """Axes of an encoding and of a picture, as a client sees them; CHW has no batch axis at all."""
    contracts: tuple[Contract, ...] = ("pose", "encoding")
    holds_functions: bool = False
    """Whether one package holds several sizes, sharing weights."""
    timed: bool = True
    """Whether the proof's runtime tells anything about time."""
    extra: str = ""
    """Which of ``extras.INSTALL`` brings what it needs; none: always installed."""
    needs: tuple[str, ...] = ()
    """Modules of that extra."""
    stands_alone: bool = False
    """Whether it is a folder to be used by itself: it has a manifest inside and, unless sizes are asked for, all that
    the student has learned."""
    finish: Callable[[Path], None] = lambda path: None
    """The last step for such a folder, when all else is in it."""
    lacks: Callable[[], str | None] = lambda: None
    """What else is to be installed; None if nothing is missing."""

    @cached_property
    def precision(self) -> str:
        """The default precision."""
        return next(iter(self.thresholds))

    def missing(self) -> str | None:
        """What to install before this format can be written; None if nothing is missing."""
        absent = [module for module in self.needs if find_spec(module) is None]
        return f"{INSTALL[self.extra]}  (missing: {', '.join(absent)})" if absent else self.lacks()


def _float32(graph: Graph, precision: str) -> str:
    return "float32"


def _only(graphs: Mapping[str, Graph]) -> Graph:
    (graph,) = graphs.values()
    return graph


# Formats import what they need only when they are asked for.


def _convert_onnx(graphs: Mapping[str, Graph], path: Path, precision: str, metadata: dict[str, str]) -> None:
    from mobiler2l_ns.export.formats.onnx import convert as onnx

    onnx.convert(_only(graphs), path, precision, metadata)  # type: ignore[arg-type]


def _open_onnx(path: Path, function: str) -> Runner:
    from mobiler2l_ns.export.formats.onnx.convert import OnnxRunner

    return OnnxRunner(path)


def _onnx_input(graph: Graph, precision: str) -> str:
    from mobiler2l_ns.export.formats.onnx.convert import input_dtype

    return input_dtype(graph, precision)


def _convert_snapml(graphs: Mapping[str, Graph], path: Path, precision: str, metadata: dict[str, str]) -> None:
    from mobiler2l_ns.export.formats.snapml import convert as snapml

    snapml.convert(_only(graphs), path, metadata)


def _open_snapml(path: Path, function: str) -> Runner:
    from mobiler2l_ns.export.formats.snapml import convert as snapml

    return snapml.open_file(path)


def _convert_coreml(graphs: Mapping[str, Graph], path: Path, precision: str, metadata: dict[str, str]) -> None:
    from mobiler2l_ns.export.formats.coreml import convert as coreml

    coreml.convert(
        graphs,
        path,
        precision,  # type: ignore[arg-type]
        metadata,
        author=AUTHOR,
        license=LICENSE,
        description=DESCRIPTION[next(iter(graphs.values())).contract],
        version=__version__,
    )


def _open_coreml(path: Path, function: str) -> Runner:
    from mobiler2l_ns.export.formats.coreml import convert as coreml
    from mobiler2l_ns.export.formats.coreml.evaluator import open_package

    package = open_package(path, function)

    def run(inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        outputs = package(inputs)
        return np.concatenate([outputs[name] for name in (coreml.OUTPUT, coreml.ALPHA) if name in outputs]) / 255.0

    return run


def _coreml_input(graph: Graph, precision: str) -> str:
    from mobiler2l_ns.export.formats.coreml.convert import input_dtype

    return input_dtype(graph, precision)


def _convert_litert(graphs: Mapping[str, Graph], path: Path, precision: str, metadata: dict[str, str]) -> None:
    from mobiler2l_ns.export.formats.litert import convert as litert

    parts = {name: (graph, graph.inputs) for name, graph in graphs.items()}
    litert.convert_many(parts, path, precision, metadata)


def _open_litert(path: Path, function: str) -> Runner:
    from mobiler2l_ns.export.formats.litert.convert import LiteRTRunner

    return LiteRTRunner(path, function)


def _convert_ncnn(graphs: Mapping[str, Graph], path: Path, precision: str, metadata: dict[str, str]) -> None:
    from mobiler2l_ns.export.formats.ncnn import convert as ncnn

    graph = _only(graphs)
    ncnn.convert(graph, graph.inputs, path, precision, metadata)


def _open_ncnn(path: Path, function: str) -> Runner:
    from mobiler2l_ns.export.formats.ncnn.convert import NcnnRunner

    return NcnnRunner(path)


def _convert_web(graphs: Mapping[str, Graph], path: Path, precision: str, metadata: dict[str, str]) -> None:
    from mobiler2l_ns.export.formats.web import convert as web_package

    web_package.convert(graphs, path, precision, metadata)  # type: ignore[arg-type]


def _open_web(path: Path, function: str) -> Runner:
    from mobiler2l_ns.export.formats.web.convert import WebRunner

    return WebRunner(path, function)


def _finish_web(path: Path) -> None:
    from mobiler2l_ns.export.formats.web import convert as web_package

    web_package.seal(path)


def _web_lacks() -> str | None:
    from mobiler2l_ns.export.formats.web import convert as web_package

    return web_package.missing()


_MAC = sys.platform == "darwin"
_COREML_THRESHOLDS = {"fp16": 55.0, "fp32": 80.0, "int8": 35.0, "palette6": 25.0, "palette4": 15.0}

FORMATS = {
    form.name: form
    for form in (
        Format(
            "coreml",
            ".mlpackage",
            "iPhone, iPad and Mac",
            # Core ML itself answers in bytes, which alone differ from the student's colours by 59 dB.
            {name: min(50.0, least) if _MAC else least for name, least in _COREML_THRESHOLDS.items()},
            "Core ML" if _MAC else "an evaluation of the saved program, operation by operation",
            "image, an RGB image of 8 bits a channel (and alpha, a grey one)",
            _convert_coreml,
            _open_coreml,
            _coreml_input,
            holds_functions=True,
            timed=_MAC,
        ),
        Format(
            "onnx",
            ".onnx",
            "onnxruntime on any device",
            {"fp32": 80.0, "fp16": 55.0, "int8": 35.0},
            "onnxruntime",
            FLOAT_OUTPUT,
            _convert_onnx,
            _open_onnx,
            _onnx_input,
        ),
        Format(
            "snapml",
            ".snapml.onnx",
            "Snap's Lens Studio",
            {"fp32": 80.0},
            "onnxruntime, GeluSnap defined as a local function",
            FLOAT_OUTPUT,
            _convert_snapml,
            _open_snapml,
            _float32,
        ),
        Format(
            "litert",
            ".tflite",
            "LiteRT (TensorFlow Lite) on Android and elsewhere",
            {"fp32": 80.0, "fp16": 55.0, "int8": 35.0, "int8-dynamic": 25.0},
            "the LiteRT interpreter",
            "image, float32 (1, height, width, channels), 0..1",
            _convert_litert,
            _open_litert,
            _float32,
            layout="NHWC",
            holds_functions=True,
            extra="litert",
            needs=("litert_torch", "ai_edge_litert"),
        ),
        Format(
            "ncnn",
            ".ncnn",
            "ncnn on phones' CPUs and Vulkan GPUs",
            {"fp16": 55.0, "fp32": 80.0, "int8": 30.0},
            "ncnn on the CPU, computing in float32",
            "image, float32 (channels, height, width), 0..1",
            _convert_ncnn,
            _open_ncnn,
            _float32,
            layout="CHW",
            extra="ncnn",
            needs=("ncnn", "pnnx"),
        ),
        Format(
            "web",
            ".web",
            "any browser: a folder with a page for a static file server",
            {"fp16": 50.0, "fp32": 70.0},
            "the page in Chromium: WebAssembly, and WebGPU on the first picture",
            "a page that shows the student",
            _convert_web,
            _open_web,
            _float32,
            contracts=("pose",),
            holds_functions=True,
            stands_alone=True,
            finish=_finish_web,
            lacks=_web_lacks,
        ),
    )
}
"""Every format there is."""
