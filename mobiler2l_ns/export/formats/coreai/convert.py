"""The student as a Core AI package, a folder ``.aimodel``: torch.export here, coreai-torch in another interpreter.

Precisions: fp32, and fp16 of the network, which is computed in half precision; rays, encoding and volume stay float32
wherever they are part of the graph.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch

from mobiler2l_ns.export.formats.coreai.interpreter import command, environment
from mobiler2l_ns.export.formats.onnx.convert import in_half, input_dtype
from mobiler2l_ns.export.graph import Graph
from mobiler2l_ns.export.volume_graph import with_volume_in_half

AUTHOR = "Distilled with mobiler2l-ns"
LICENSE = "Follows from the rights in the captured photos; the code that made it is Apache-2.0"
DESCRIPTION = "MobileR2L neural light field: "


class CoreAIError(RuntimeError):
    """The converter failed."""


def convert(graph: Graph, path: Path, precision: str, metadata: Mapping[str, str]) -> None:
    """Write a graph to a package: its inputs, by name, give ``image`` (1, channels, height, width), 0..1, float32.

    Args:
        graph: the student, in evaluation mode.
        path: of the folder; its name ends in .aimodel.
        precision: fp16 or fp32.
        metadata: the package's custom metadata.

    Raises:
        UserError: without an interpreter that has coreai-torch.
        CoreAIError: if the converter does.
    """
    module = in_half(with_volume_in_half(graph)) if precision == "fp16" else graph
    dtype = getattr(torch, input_dtype(graph, precision))
    examples = tuple(torch.full(each.shape, 0.5, dtype=dtype) for each in graph.inputs)
    with tempfile.TemporaryDirectory() as folder:
        program, job = Path(folder) / "program.pt2", Path(folder) / "job.json"
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.export.save(torch.export.export(module, examples), program)
        told = {
            "program": str(program),
            "package": str(path),
            "inputs": [each.name for each in graph.inputs],
            "metadata": dict(metadata),
            "author": AUTHOR,
            "license": LICENSE,
            "description": f"{DESCRIPTION}{', '.join(each.name for each in graph.inputs)} in, the picture out.",
        }
        job.write_text(json.dumps(told), encoding="utf8")
        done = subprocess.run(command("convert", job), capture_output=True, text=True, env=environment())
    if done.returncode or not path.is_dir():
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit status {done.returncode}"]
        raise CoreAIError(f"coreai-torch could not convert the graph: {lines[-1]}")
