"""LiteRT's file format: a flatbuffer, read and packed again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mobiler2l_ns.export.formats.litert.extra import EXTRA

METADATA = "mobiler2l"
"""Name of the entry that holds what the exporter was given."""
ALIGNMENT = 16
"""Bytes; the schema's `force_align` of buffers, which its Python classes ignore."""


def read(content: bytes) -> Any:
    """A file as the schema's objects, all weights in its buffers."""
    schema = EXTRA.load("ai_edge_litert.schema_py_generated")
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for buffer in model.buffers:
        if buffer.offset > 1:  # stored behind the flatbuffer
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def read_metadata(path: Path) -> dict[str, str]:
    """What `convert` was given as metadata."""
    model = read(path.read_bytes())
    (entry,) = (entry for entry in model.metadata if entry.name.decode() == METADATA)
    return json.loads(bytes(model.buffers[entry.buffer].data))


def pack(model: Any, metadata: Mapping[str, str]) -> bytes:
    """The bytes of a file: equal buffers merged, buffers aligned, tensors numbered, metadata added."""
    schema = EXTRA.load("ai_edge_litert.schema_py_generated")
    flatbuffers = EXTRA.load("flatbuffers")

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
    kept, index_of, moved = [], {}, {}
    for index, buffer in enumerate(model.buffers):
        data = bytes(buffer.data) if buffer.data is not None else b""
        if index and data in index_of:
            moved[index] = index_of[data]
            continue
        moved[index] = len(kept)
        if index and data:
            index_of[data] = len(kept)
        aligned = Aligned()
        aligned.data = buffer.data
        kept.append(aligned)
    model.buffers = kept
    for subgraph in model.subgraphs:
        for index, tensor in enumerate(subgraph.tensors):
            tensor.buffer = moved[tensor.buffer]
            tensor.name = f"t{index}"  # the converter's names are paths through modules, hundreds of letters each
    for entry in model.metadata:
        entry.buffer = moved[entry.buffer]

    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
