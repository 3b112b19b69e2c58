"""ncnn: a torch graph to a folder that ncnn (Tencent's runtime for phones, CPU and Vulkan) loads.

The folder holds `model.param` (the layers, text), `model.bin` (the weights) and `metadata.json` (names and shapes, what
the caller adds). A client loads the first two and addresses blobs by name:

- inputs: the names of the graph's inputs, float32, without the batch axis, which ncnn does not have. A pose
  `camera_to_world` is a Mat of w 4, h 3, and `intrinsics` one of w 4; an encoding (1, C, rows, columns) is a Mat of
  w columns, h rows, c C: planar, as in PyTorch. ncnn aligns each channel of a Mat to 16 bytes (`cstep`).
- output: `image`, float32 in 0..1, w W, h H, c 3 (RGB) or 4 (RGBA, premultiplied), planar.

Precision is that of the stored weights of convolutions, transposed convolutions and linear layers, and of a volume's
tables, which are float16 unless all is float32; biases and other constants are always float32. ncnn turns the weights
into its own layout when it loads them.

- `fp32`, `fp16`: ncnn's own storage.
- `int8`: one byte a weight, an index into 256 float32 values of the layer (found by Lloyd's algorithm; per layer, not
  per channel). It makes the file small, not the network fast. ncnn's other int8, with int8 arithmetic, needs activation
  ranges measured on pictures and is not written here.

What ncnn computes in is the client's choice (`net.opt`), on ARM half precision unless told otherwise; for an `fp32`
package set `use_fp16_packed`, `use_fp16_storage` and `use_fp16_arithmetic` to false. A pose's encoding is computed in
float32 on the CPU whatever the options: its layers carry ncnn's feature mask `31=23`, which rules out half precision,
bfloat16 and Vulkan for them alone.

Limits: one size a package; shapes are fixed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export.contract import GraphInput
from mobiler2l_ns.export.formats.ncnn.extra import EXTRA
from mobiler2l_ns.export.formats.ncnn.param import BIN, FLOAT32_ONLY, MAGIC, METADATA, OUTPUT, PARAM, ParamLayer
from mobiler2l_ns.export.formats.ncnn.weights import store
from mobiler2l_ns.export.volume_tables import WithTables

PRECISIONS = ("fp32", "fp16", "int8")
BODY = ("Convolution", "Deconvolution", "Gemm", "InnerProduct")


def convert(
    graph: nn.Module, inputs: Sequence[GraphInput], path: Path, precision: str, metadata: Mapping[str, str]
) -> None:
    """Write a graph as an ncnn package; the same graph gives the same bytes.

    Args:
        graph: in eval mode, on the CPU, float32; `inputs`, in order -> picture (1, C, H, W) in 0..1, C 3 or 4.
        inputs: names and shapes, batch axis of 1 included.
        path: the folder, replaced if it exists.
        precision: of the weights: fp32, fp16 or int8, see above.
        metadata: stored in metadata.json.

    Raises:
        UserError: the precision is unknown, or pnnx and ncnn are not installed.
        RuntimeError: pnnx does not know an operation of the graph.
    """
    if precision not in PRECISIONS:
        raise UserError(f"ncnn packages are {', '.join(PRECISIONS)}, not {precision}")
    whole = WithTables(graph, len(inputs))
    shapes = [wanted.shape for wanted in inputs] + [tuple(table.shape) for table in whole.tables]
    layers, weights = _run_pnnx(whole, shapes)
    _rename_blobs(layers, {f"in{i}": wanted.name for i, wanted in enumerate(inputs)} | {"out0": OUTPUT})
    tables = _hold_tables(layers, {f"in{len(inputs) + i}": table for i, table in enumerate(whole.tables)}, precision)
    _keep_encoding_in_float32(layers)
    about = {
        "inputs": {wanted.name: list(wanted.shape[1:]) for wanted in inputs},
        "output": OUTPUT,
        "precision": precision,
        "metadata": dict(metadata),
    }
    blobs = {blob for layer in layers for blob in layer.tops}
    if path.exists():
        shutil.rmtree(path)
    path.mkdir()
    lines = [MAGIC, f"{len(layers)} {len(blobs)}", *(layer.line() for layer in layers)]
    (path / PARAM).write_text("\n".join(lines) + "\n")
    (path / BIN).write_bytes(store(layers, weights, tables, precision))
    (path / METADATA).write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")


class _NoNarrow(TorchFunctionMode):
    """Traces `narrow` as the slice that it is: pnnx does not know it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.narrow:
            tensor, axis, start, length = args
            return tensor[(slice(None),) * axis + (slice(start, start + length),)]
        return func(*args, **(kwargs or {}))


def _run_pnnx(graph: nn.Module, inputs: Sequence[tuple[int, ...]]) -> tuple[list[ParamLayer], bytes]:
    """Layers and float32 weights; pnnx leaves eight files, in a folder that is removed."""
    pnnx = EXTRA.load("pnnx")
    examples = tuple(torch.ones(shape) for shape in inputs)
    shapes = ",".join(f"[{','.join(map(str, shape))}]f32" for shape in inputs)
    with tempfile.TemporaryDirectory() as folder:
        with torch.no_grad(), warnings.catch_warnings(), _NoNarrow():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.trace(graph, examples, check_trace=False), f"{folder}/m.pt")
        command = [pnnx.EXEC_PATH, "m.pt", f"inputshape={shapes}", "fp16=0"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
        if done.returncode:
            raise RuntimeError(f"pnnx failed:\n{done.stdout}{done.stderr}")
        magic, _, *lines = (Path(folder) / "m.ncnn.param").read_text().splitlines()
        assert magic == MAGIC
        layers = [ParamLayer.parse(line) for line in lines]
        foreign = sorted({layer.kind for layer in layers if "." in layer.kind})
        if foreign:
            raise RuntimeError(f"ncnn has no layer for {', '.join(foreign)}")
        return layers, (Path(folder) / "m.ncnn.bin").read_bytes()


def _rename_blobs(layers: Sequence[ParamLayer], names: Mapping[str, str]) -> None:
    for layer in layers:
        layer.bottoms = [names.get(blob, blob) for blob in layer.bottoms]
        layer.tops = [names.get(blob, blob) for blob in layer.tops]


def _hold_tables(layers: Sequence[ParamLayer], given: Mapping[str, Tensor], precision: str) -> dict[str, Tensor]:
    """Let the package hold what pnnx thinks it is given: name of an input -> the volume's table.

    Returns:
        The tables by the names of the layers that hold them.
    """
    tables = {}
    for layer in layers:
        if layer.kind == "Input" and layer.tops[0] in given:
            tables[layer.name] = table = given[layer.tops[0]]
            layer.kind = "MemoryData"
            layer.params = [f"{key}={side}" for key, side in zip((2, 1, 0), table.shape[1:], strict=True)]
            layer.params += ["21=0"] * (precision != "fp32")  # stored with a tag of their type
    return tables


def _keep_encoding_in_float32(layers: Sequence[ParamLayer]) -> None:
    """Mask all that does not lie downstream of the first layer with weights, as `coreml._in_network` does."""
    body: set[str] = set()
    for layer in layers:
        if layer.kind in BODY or body.intersection(layer.bottoms):
            body.update(layer.tops)
        elif layer.kind != "Input":
            layer.params.append(f"31={FLOAT32_ONLY}")
