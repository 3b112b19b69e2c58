"""LiteRT (once TensorFlow Lite): a torch graph to a `.tflite` file for Android's and Google's runtimes.

A client addresses everything by name, through a signature (`Interpreter.runSignature` on Android,
`get_signature_runner` in Python); a file of one graph has the signature `main`:

- inputs: the names of the graph's inputs, float32, fixed shapes. An input of four axes is NHWC: a graph that takes an
  encoding (1, C, rows, columns) becomes one of (1, rows, columns, C), the C numbers of a ray side by side. Poses
  (1, 3, 4) and intrinsics (1, 4) are as they were.
- outputs: `image`, float32 in 0..1, NHWC (1, H, W, 3) RGB or (1, H, W, 4) premultiplied RGBA: rows of pixels, as
  bitmaps and textures have them; and `depth`, float32, NHWC, where it is asked for.

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

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export.contract import GraphInput, outputs_of
from mobiler2l_ns.export.formats.litert.extra import EXTRA
from mobiler2l_ns.export.formats.litert.file import pack, read
from mobiler2l_ns.export.formats.litert.quiet import quiet
from mobiler2l_ns.export.formats.litert.runner import SIGNATURE
from mobiler2l_ns.export.formats.litert.volume import gathered, store
from mobiler2l_ns.export.volume_tables import WithTables

PRECISIONS = ("fp32", "fp16", "int8", "int8-dynamic")
QUANTISED = ("CONV_2D", "CONV_2D_TRANSPOSE", "FULLY_CONNECTED")


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
    with quiet():
        converter = EXTRA.load("litert_torch")  # its `signature` makes a converter, that one's adds to it
        tables = {}
        for name, (graph, inputs) in graphs.items():
            whole = WithTables(gathered(graph), len(inputs))
            tables[name] = whole.tables
            layout = _ChannelsLast(whole).eval()
            shapes = [wanted.shape for wanted in inputs] + [table.shape for table in whole.tables]
            examples = tuple(torch.ones(_channels_last(shape)) for shape in shapes)
            converter = converter.signature(name, layout, examples)
        with torch.no_grad():
            content = bytes(converter.convert().model_content())
        if precision != "fp32":
            content = _quantise(content, precision)
        model = read(content)
    for signature in model.signatureDefs:
        store(model, signature, tables[signature.signatureKey.decode()], precision != "fp32")
        graph, inputs = graphs[signature.signatureKey.decode()]
        names, outputs = [wanted.name for wanted in inputs], outputs_of(graph)
        for tensor in signature.inputs:
            tensor.name = names[int(re.fullmatch(r"args_(\d+)", tensor.name.decode())[1])]  # type: ignore[index]
        # The converter numbers outputs in their order.
        for output, name in zip(sorted(signature.outputs, key=lambda o: o.name), outputs, strict=True):
            output.name = name
    path.write_bytes(pack(model, metadata))


def _channels_last(shape: Sequence[int]) -> tuple[int, ...]:
    return (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else tuple(shape)


class _ChannelsLast(nn.Module):
    """A graph with channels last outside; the converter moves both transposes through the network until they meet."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.wrapped = graph

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        planar = [value.permute(0, 3, 1, 2) if value.dim() == 4 else value for value in inputs]
        found = self.wrapped(*planar)
        if isinstance(found, Tensor):
            return found.permute(0, 2, 3, 1)
        return tuple(value.permute(0, 2, 3, 1) for value in found)


def _quantise(content: bytes, precision: str) -> bytes:
    quantizer = EXTRA.load("ai_edge_quantizer.quantizer")
    operation = EXTRA.load("ai_edge_quantizer.qtyping").TFLOperationName
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
