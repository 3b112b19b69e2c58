"""LiteRT (once TensorFlow Lite): a torch graph to a `.tflite` file for Android's and Google's runtimes.

A client addresses everything by name, through a signature (`Interpreter.runSignature` on Android,
`get_signature_runner` in Python); a file of one graph has the signature `main`:

- inputs: the names of the graph's inputs, float32, fixed shapes. An input of four axes is NHWC: a graph that takes an
  encoding (1, C, rows, columns) becomes one of (1, rows, columns, C), the C numbers of a ray side by side. Poses
  (1, 3, 4) and intrinsics (1, 4) are as they were.
- output: `image`, float32 in 0..1, NHWC (1, H, W, 3) RGB or (1, H, W, 4) premultiplied RGBA: rows of pixels, as
  bitmaps and textures have them.

Precision is that of the stored weights of convolutions, transposed convolutions and linear layers. Biases, and all
constants of a pose's encoding, are float32 always.

- `fp32`.
- `fp16`: half-precision weights, widened to float32 before use.
- `int8`: weights only. Symmetric, one scale for each output channel, widened to float32 before use: a quarter of the
  size at the speed and arithmetic of fp32.
- `int8-dynamic`: the same weights, but the runtime also rounds each layer's input to int8 and computes in integers
  (dynamic range). Faster where the processor has integer dot products, and less exact.

All of them compute activations in float32 on the CPU. A GPU delegate computes in half precision unless it is told not
to (`setPrecisionLossAllowed(false)`), and no operation can be excepted in the file: from a pose, `sin(32 x)` would then
be off by up to 0.06. On such a delegate use a graph that begins at the encoding.

`convert_many` writes several graphs, such as several sizes, as signatures of one file; equal weights are stored once.

Written by litert-torch, quantised by ai-edge-quantizer, then packed again here: weights stay inside of the flatbuffer,
aligned to 16 bytes, which runtimes from 2.9 on read (the quantizer puts them behind it, which needs newer ones), equal
buffers are merged, metadata is added (entry `mobiler2l`, JSON), and the same graph gives the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export.extras import load_extra

if TYPE_CHECKING:
    from mobiler2l_ns.export.graph import GraphInput

PRECISIONS = ("fp32", "fp16", "int8", "int8-dynamic")
SIGNATURE, OUTPUT, METADATA = "main", "image", "mobiler2l"
QUANTISED = ("CONV_2D", "CONV_2D_TRANSPOSE", "FULLY_CONNECTED")
ALIGNMENT = 16
"""Bytes; the schema's `force_align` of buffers, which its Python classes ignore."""


def convert(
    graph: nn.Module, inputs: Sequence[GraphInput], path: Path, precision: str, metadata: Mapping[str, str]
) -> None:
    """Write a graph as a LiteRT file with the one signature `main`.

    Args:
        graph: in eval mode, on the CPU, float32; `inputs`, in order -> picture (1, C, H, W) in 0..1, C 3 or 4.
        inputs: names and shapes, NCHW where there are four axes.
        path: the file, replaced if it exists.
        precision: fp32, fp16, int8 or int8-dynamic, see above.
        metadata: stored in the file as JSON.

    Raises:
        UserError: the precision is unknown, or litert-torch is not installed.
    """
    convert_many({SIGNATURE: (graph, inputs)}, path, precision, metadata)


def convert_many(
    graphs: Mapping[str, tuple[nn.Module, Sequence[GraphInput]]],
    path: Path,
    precision: str,
    metadata: Mapping[str, str],
) -> None:
    """Write several graphs into one file, each a signature; see `convert`. Equal weights are stored once."""
    if precision not in PRECISIONS:
        raise UserError(f"LiteRT packages are {', '.join(PRECISIONS)}, not {precision}")
    with _quiet():
        converter = load_extra("litert_torch", "litert")  # its `signature` makes a converter, that one's adds to it
        for name, (graph, inputs) in graphs.items():
            layout = _ChannelsLast(graph).eval()
            examples = tuple(torch.ones(_channels_last(wanted.shape)) for wanted in inputs)
            converter = converter.signature(name, layout, examples)
        with torch.no_grad():
            content = bytes(converter.convert().model_content())
        if precision != "fp32":
            content = _quantise(content, precision)
        model = _read(content)
    for signature in model.signatureDefs:
        names = [wanted.name for wanted in graphs[signature.signatureKey.decode()][1]]
        for tensor in signature.inputs:
            tensor.name = names[int(re.fullmatch(r"args_(\d+)", tensor.name.decode())[1])]  # type: ignore[index]
        (output,) = signature.outputs
        output.name = OUTPUT
    path.write_bytes(_pack(model, metadata))


class LiteRTRunner:
    """Runs a file with the LiteRT interpreter (XNNPACK) on the CPU."""

    def __init__(self, path: Path, signature: str = SIGNATURE) -> None:
        """Args: the file, and which of its graphs."""
        with _quiet():
            interpreter = load_extra("ai_edge_litert.interpreter", "litert")
            self._interpreter = interpreter.Interpreter(model_path=str(path), num_threads=os.cpu_count())
            known = list(self._interpreter.get_signature_list())
            if signature not in known:
                raise UserError(f"{path} has no signature {signature}, only {', '.join(known)}")
            self._run = self._interpreter.get_signature_runner(signature)

    def __call__(self, inputs: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Args: the graph's inputs by name, NCHW as the graph took them. Returns the picture (C, H, W) in 0..1."""
        arrays = {
            name: np.ascontiguousarray(np.moveaxis(value, 1, 3) if value.ndim == 4 else value, dtype=np.float32)
            for name, value in inputs.items()
        }
        return np.ascontiguousarray(np.moveaxis(self._run(**arrays)[OUTPUT][0], 2, 0))


def layers(path: Path) -> list[tuple[str, str, tuple[int, ...], str, int]]:
    """The operators of a file, in order of execution, one graph after the other.

    Returns:
        For each operator its name in the schema (such as CONV_2D), its first output's name, shape and type (such as
        FLOAT32), and its multiply-accumulates, 0 for all but layers.
    """
    model, schema = _read(path.read_bytes()), load_extra("ai_edge_litert.schema_py_generated", "litert")
    operators = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    types = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    found = []
    for subgraph in model.subgraphs:
        for operator in subgraph.operators:
            code, output = model.operatorCodes[operator.opcodeIndex], subgraph.tensors[operator.outputs[0]]
            name = operators[max(code.builtinCode, code.deprecatedBuiltinCode)]
            shape = tuple(int(side) for side in output.shape)
            macs = 0
            if name in ("CONV_2D", "FULLY_CONNECTED"):  # weights (out, height, width, in) or (out, in)
                macs = math.prod(shape) * math.prod(subgraph.tensors[operator.inputs[1]].shape[1:])
            elif name == "TRANSPOSE_CONV":  # of the output's shape, the weights (out, height, width, in) and the input
                _, weights, given = (subgraph.tensors[index].shape for index in operator.inputs[:3])
                macs = math.prod(given) * math.prod(weights[:3])
            found.append((name, output.name.decode(), shape, types[output.type], int(macs)))
    return found


def read_metadata(path: Path) -> dict[str, str]:
    """What `convert` was given as metadata."""
    model = _read(path.read_bytes())
    (entry,) = (entry for entry in model.metadata if entry.name.decode() == METADATA)
    return json.loads(bytes(model.buffers[entry.buffer].data))


def _channels_last(shape: Sequence[int]) -> tuple[int, ...]:
    return (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else tuple(shape)


class _ChannelsLast(nn.Module):
    """A graph with channels last outside; the converter moves both transposes through the network until they meet."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.wrapped = graph

    def forward(self, *inputs: Tensor) -> Tensor:
        planar = [value.permute(0, 3, 1, 2) if value.dim() == 4 else value for value in inputs]
        return self.wrapped(*planar).permute(0, 2, 3, 1)


def _quantise(content: bytes, precision: str) -> bytes:
    quantizer = load_extra("ai_edge_quantizer.quantizer", "litert")
    operation = load_extra("ai_edge_quantizer.qtyping", "litert").TFLOperationName
    work = quantizer.Quantizer(bytearray(content))
    for name in QUANTISED:
        if precision == "fp16":
            work.add_weight_only_config(".*", operation[name], num_bits=16, algorithm_key="float_casting")
        elif precision == "int8":
            work.add_weight_only_config(".*", operation[name], num_bits=8)
        else:
            work.add_dynamic_config(".*", operation[name], num_bits=8)
    result = work.quantize(enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def _read(content: bytes) -> Any:
    """A file as the schema's objects, all weights in its buffers."""
    schema = load_extra("ai_edge_litert.schema_py_generated", "litert")
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for buffer in model.buffers:
        if buffer.offset > 1:  # stored behind the flatbuffer
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def _pack(model: Any, metadata: Mapping[str, str]) -> bytes:
    """The bytes of a file: equal buffers merged, buffers aligned, metadata added."""
    schema = load_extra("ai_edge_litert.schema_py_generated", "litert")
    flatbuffers = load_extra("flatbuffers", "litert")

    class Aligned(schema.BufferT):
        def Pack(self, builder: Any) -> Any:
            data = bytes(self.data) if self.data is not None else b""
            if data:
                builder.StartVector(1, len(data), ALIGNMENT)
                builder.head -= len(data)
                builder.Bytes[builder.head : builder.head + len(data)] = data
                vector = builder.EndVector()
            schema.BufferStart(builder)
            if data:
                schema.BufferAddData(builder, vector)
            return schema.BufferEnd(builder)

    about = schema.MetadataT()
    about.name, about.buffer = METADATA, len(model.buffers)
    model.metadata = [*(model.metadata or []), about]
    content = schema.BufferT()
    content.data = np.frombuffer(json.dumps(dict(metadata), sort_keys=True).encode(), np.uint8)
    model.buffers = [*model.buffers, content]
    model.description = "MobileR2L"

    # Buffer 0 is empty by convention; any other empty one belongs to a tensor that is computed.
    kept, place, moved = [], {}, {}
    for index, buffer in enumerate(model.buffers):
        data = bytes(buffer.data) if buffer.data is not None else b""
        if index and data and data in place:
            moved[index] = place[data]
            continue
        moved[index] = len(kept)
        if index and data:
            place[data] = len(kept)
        aligned = Aligned()
        aligned.data = buffer.data
        kept.append(aligned)
    model.buffers = kept
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            tensor.buffer = moved[tensor.buffer]
    for entry in model.metadata:
        entry.buffer = moved[entry.buffer]

    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the converter and the runtime write to standard error, mostly from C++, where Python cannot.

    Standard output is left alone: a progress line of the caller's may be on it. Should something be raised, what was
    silenced is shown after all.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as silenced:
        os.dup2(silenced.fileno(), 2)
        try:
            with warnings.catch_warnings(), mock.patch.dict(os.environ, LITERT_TORCH_SHOW_PROGRESS="n"):
                warnings.simplefilter("ignore")
                yield
        except Exception:
            sys.stderr.flush()
            os.dup2(saved, 2)
            silenced.seek(0)
            sys.stderr.write(silenced.read().decode(errors="replace"))
            raise
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
