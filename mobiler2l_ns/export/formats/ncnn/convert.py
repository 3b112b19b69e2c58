"""ncnn: a torch graph to a folder that ncnn (Tencent's runtime for phones, CPU and Vulkan) loads.

The folder holds `model.param` (the layers, text), `model.bin` (the weights) and `metadata.json` (names and shapes, what
the caller adds). A client loads the first two and addresses blobs by name:

- inputs: the names of the graph's inputs, float32, without the batch axis, which ncnn does not have. A pose
  `camera_to_world` is a Mat of w 4, h 3, and `intrinsics` one of w 4; an encoding (1, C, rows, columns) is a Mat of
  w columns, h rows, c C: planar, as in PyTorch. ncnn aligns each channel of a Mat to 16 bytes (`cstep`).
- output: `image`, float32 in 0..1, w W, h H, c 3 (RGB) or 4 (RGBA, premultiplied), planar.

Precision is that of the stored weights of convolutions, transposed convolutions and linear layers; biases and constants
are always float32. ncnn turns the weights into its own layout when it loads them.

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
import math
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export.extras import load_extra

if TYPE_CHECKING:
    from mobiler2l_ns.export.graph import GraphInput

PRECISIONS = ("fp32", "fp16", "int8")
OUTPUT = "image"
PARAM, BIN, METADATA = "model.param", "model.bin", "metadata.json"

MAGIC = "7767517"
FP16_TAG = 0x01306B47
CODEBOOK_TAG = 1  # any tag that ncnn does not know otherwise
FLOAT32_ONLY = 1 | 2 | 4 | 16  # no fp16 arithmetic, no fp16 storage, no bf16 storage, no Vulkan
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
    layers, weights = _run_pnnx(graph, inputs)
    _rename_blobs(layers, {f"in{i}": wanted.name for i, wanted in enumerate(inputs)} | {"out0": OUTPUT})
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
    (path / BIN).write_bytes(_store(layers, weights, precision))
    (path / METADATA).write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")


class NcnnRunner:
    """Runs a package with ncnn on the CPU, computing in float32."""

    def __init__(self, path: Path) -> None:
        """Args: the folder that `convert` wrote."""
        self.net = load_extra("ncnn", "ncnn").Net()
        for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(self.net.opt, f"use_{option}", False)
        if self.net.load_param(str(path / PARAM)) or self.net.load_model(str(path / BIN)):
            raise RuntimeError(f"ncnn cannot load {path}")

    def __call__(self, inputs: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Args: the graph's inputs by name, batch axis included. Returns the picture (C, H, W) in 0..1."""
        return self.run(self.net, inputs, OUTPUT)

    @staticmethod
    def run(net: Any, inputs: Mapping[str, NDArray[np.float32]], blob: str) -> NDArray[np.float32]:
        """Any blob of a loaded net, without the batch axis."""
        return np.array(_extract(_begin(net, inputs), blob))


def _begin(net: Any, inputs: Mapping[str, NDArray[np.float32]]) -> Any:
    """An extractor that was given its inputs, batch axis included."""
    ncnn = load_extra("ncnn", "ncnn")
    extractor = net.create_extractor()
    for name, value in inputs.items():
        # Cloned: a Mat that looks at numpy's memory neither owns it nor aligns its channels as layers rely on.
        if extractor.input(name, ncnn.Mat(np.ascontiguousarray(value[0], dtype=np.float32)).clone()):
            raise RuntimeError(f"this ncnn package has no input {name}")
    return extractor


def _extract(extractor: Any, blob: str) -> Any:
    failed, found = extractor.extract(blob)
    if failed:
        raise RuntimeError(f"ncnn could not compute {blob}")
    return found


def layers(path: Path) -> list[tuple[str, str, tuple[int, ...], str, int, bool]]:
    """The layers of a package, in order of execution. Their shapes are those of a run in ncnn, no file holds them.

    Returns:
        For each layer its kind (such as Convolution), its first output's name and shape (without a batch axis), the
        type that devices with half precision keep it in, its multiply-accumulates, and whether the package itself
        keeps it on the CPU.
    """
    about = json.loads((path / METADATA).read_text(encoding="utf8"))
    inputs = {name: np.ones((1, *shape), np.float32) for name, shape in about["inputs"].items()}
    extractor = _begin(NcnnRunner(path).net, inputs)
    shapes = {name: value.shape[1:] for name, value in inputs.items()}
    found = []
    for line in (path / PARAM).read_text(encoding="utf8").splitlines()[2:]:
        layer = _Layer.parse(line)
        for blob in layer.tops:  # in this order nothing is computed twice, and what was used is gone
            shapes[blob] = np.asarray(_extract(extractor, blob)).shape
        if layer.kind in ("Input", "Split"):  # names, not work
            continue
        held = layer.number(31) == FLOAT32_ONLY
        dtype = "float32" if held or about["precision"] == "fp32" else "float16"
        top = layer.tops[0]
        macs = layer.macs([shapes[blob] for blob in layer.bottoms], shapes[top])
        found.append((layer.kind, top, shapes[top], dtype, macs, held))
    return found


@dataclass
class _Layer:
    """One line of a param file."""

    kind: str
    name: str
    bottoms: list[str]
    tops: list[str]
    params: list[str]

    @classmethod
    def parse(cls, line: str) -> _Layer:
        kind, name, bottoms, tops, *rest = line.split()
        first, last = int(bottoms), int(bottoms) + int(tops)
        return cls(kind, name, rest[:first], rest[first:last], rest[last:])

    def line(self) -> str:
        counts = [str(len(self.bottoms)), str(len(self.tops))]
        return " ".join([self.kind, self.name, *counts, *self.bottoms, *self.tops, *self.params])

    def number(self, key: int, default: int = 0) -> int:
        values = dict(param.split("=", 1) for param in self.params)
        return int(values.get(str(key), default))

    def macs(self, given: Sequence[tuple[int, ...]], shape: tuple[int, ...]) -> int:
        """Multiply-accumulates of a layer that gets blobs of these shapes and gives one of ``shape``."""
        if self.kind == "Convolution":
            return self.number(6) * math.prod(shape[1:])
        if self.kind == "Deconvolution":
            return self.number(6) * math.prod(given[0][1:])
        if self.kind == "InnerProduct":
            return self.number(2) * math.prod(shape[:-1])
        if self.kind == "Gemm":  # by constant weights
            return math.prod(shape) * self.number(9)
        return math.prod(shape) * given[0][-1] if self.kind == "MatMul" else 0

    def stored(self) -> list[tuple[int, bool]]:
        """Arrays of the weights file: number of values, and whether ncnn reads a tag of their type before them."""
        if self.kind in ("Convolution", "Deconvolution"):
            return [(self.number(6), True)] + [(self.number(0), False)] * bool(self.number(5))
        if self.kind == "InnerProduct":
            return [(self.number(2), True)] + [(self.number(0), False)] * bool(self.number(1))
        if self.kind == "Gemm":
            weights, outputs = self.number(8) * self.number(9), self.number(8)
            return [(weights, True)] * self.number(5) + [(outputs, True)] * bool(self.number(6))
        if self.kind == "MemoryData":
            return [(int(np.prod([self.number(key) or 1 for key in (0, 1, 11, 2)])), False)]
        return []


class _NoNarrow(TorchFunctionMode):
    """Traces `narrow` as the slice that it is: pnnx does not know it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.narrow:
            tensor, axis, start, length = args
            return tensor[(slice(None),) * axis + (slice(start, start + length),)]
        return func(*args, **(kwargs or {}))


def _run_pnnx(graph: nn.Module, inputs: Sequence[GraphInput]) -> tuple[list[_Layer], bytes]:
    """Layers and float32 weights; pnnx leaves eight files, in a folder that is removed."""
    pnnx = load_extra("pnnx", "ncnn")
    examples = tuple(torch.ones(wanted.shape) for wanted in inputs)
    shapes = ",".join(f"[{','.join(map(str, wanted.shape))}]f32" for wanted in inputs)
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
        layers = [_Layer.parse(line) for line in lines]
        foreign = sorted({layer.kind for layer in layers if "." in layer.kind})
        if foreign:
            raise RuntimeError(f"ncnn has no layer for {', '.join(foreign)}")
        return layers, (Path(folder) / "m.ncnn.bin").read_bytes()


def _rename_blobs(layers: Sequence[_Layer], names: Mapping[str, str]) -> None:
    for layer in layers:
        layer.bottoms = [names.get(blob, blob) for blob in layer.bottoms]
        layer.tops = [names.get(blob, blob) for blob in layer.tops]


def _keep_encoding_in_float32(layers: Sequence[_Layer]) -> None:
    """Mask all that does not lie downstream of the first layer with weights, as `coreml._in_network` does."""
    body: set[str] = set()
    for layer in layers:
        if layer.kind in BODY or body.intersection(layer.bottoms):
            body.update(layer.tops)
        elif layer.kind != "Input":
            layer.params.append(f"31={FLOAT32_ONLY}")


def _store(layers: Sequence[_Layer], weights: bytes, precision: str) -> bytes:
    """The weights file at a precision, from the float32 one."""
    stored, position = bytearray(), 0
    for layer in layers:
        for i, (count, tagged) in enumerate(layer.stored()):
            if tagged:
                if weights[position : position + 4] != bytes(4):
                    raise RuntimeError(f"pnnx stored the weights of {layer.name} in an unexpected way")
                position += 4
            values = np.frombuffer(weights, np.float32, count, position)
            position += 4 * count
            if tagged:
                stored += _encode(values, precision if i == 0 else "fp32")
            else:
                stored += values.tobytes()
    if position != len(weights):
        raise RuntimeError("pnnx stored weights of a layer that is not known here")
    return bytes(stored)


def _encode(values: NDArray[np.float32], precision: str) -> bytes:
    """A tag and an array, padded to four bytes, as ncnn's ModelBin reads them."""
    if precision == "fp16":
        tag, data = FP16_TAG, values.astype(np.float16).tobytes()
    elif precision == "int8":
        codebook = _codebook(values)
        indices = np.searchsorted((codebook[1:] + codebook[:-1]) / 2, values).astype(np.uint8)
        tag, data = CODEBOOK_TAG, codebook.tobytes() + indices.tobytes()
    else:
        tag, data = 0, values.tobytes()
    return tag.to_bytes(4, "little") + data + bytes(-len(data) % 4)


def _codebook(values: NDArray[np.float32], rounds: int = 50) -> NDArray[np.float32]:
    """256 ascending values that represent an array with little squared error (Lloyd's algorithm, from an even grid)."""
    ordered = np.sort(values.astype(np.float64))
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    centres = np.linspace(ordered[0], ordered[-1], 256)
    for _ in range(rounds):
        edges = np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2)
        starts, ends = np.concatenate([[0], edges]), np.concatenate([edges, [len(ordered)]])
        filled = ends > starts
        centres[filled] = ((sums[ends] - sums[starts]) / np.maximum(ends - starts, 1))[filled]
    return np.sort(centres).astype(np.float32)
