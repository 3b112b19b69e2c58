"""LiteRT files give the student's pictures, from a pose and from an encoding."""

from __future__ import annotations

import logging
import os
import warnings

import numpy as np
import pytest
import torch
from small_student import COMBINED_VARIANTS, MISTAKES, make_graph, psnr

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export.formats.litert import convert as litert
from mobiler2l_ns.export.formats.litert.file import ALIGNMENT, read, read_metadata
from mobiler2l_ns.export.formats.litert.layers import read_layers
from mobiler2l_ns.export.formats.litert.runner import LiteRTRunner

pytest.importorskip("litert_torch")


def convert(graph, path, precision="fp32"):
    litert.convert(graph, graph.inputs, path, precision, {"generator": "test"})
    return LiteRTRunner(path)


def test_nothing_is_printed_and_nothing_changes(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)

    def state():
        root = logging.getLogger()
        return {
            "environment": dict(os.environ),
            "logging": (root.level, list(root.handlers)),
            "warnings": list(warnings.filters),
            "torch": (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()),
            "random": torch.random.get_rng_state().tolist(),
        }

    graph, _ = make_graph("encoding")
    before = state()
    convert(graph, tmp_path / "first.tflite", "int8")
    assert state() == before
    convert(graph, tmp_path / "second.tflite", "int8")
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.tflite", "second.tflite"]
    assert (tmp_path / "first.tflite").read_bytes() == (tmp_path / "second.tflite").read_bytes()


@pytest.mark.parametrize("start", ["pose", "encoding"])
@pytest.mark.parametrize("variant", COMBINED_VARIANTS)
def test_the_file_is_the_graph(variant, start, tmp_path):
    graph, examples = make_graph(start, **COMBINED_VARIANTS[variant])
    assert psnr(graph, convert(graph, tmp_path / "m.tflite"), examples) >= 80
    operators = [layer.op for layer in read_layers(tmp_path / "m.tflite")]
    assert operators.count("TRANSPOSE_CONV") == 3
    if "mlp" not in variant:  # channels are last from end to end
        assert operators.count("TRANSPOSE") == (start == "pose")


@pytest.mark.parametrize(("precision", "least"), [("fp16", 55), ("int8", 45), ("int8-dynamic", 38)])
@pytest.mark.parametrize("start", ["pose", "encoding"])
def test_smaller_weights_cost_little(precision, least, start, tmp_path):
    graph, examples = make_graph(start)
    assert psnr(graph, convert(graph, tmp_path / "m.tflite", precision), examples) >= least
    types = {layer.dtype for layer in read_layers(tmp_path / "m.tflite")}
    assert types == {"float32"}  # also what DEQUANTIZE gives


def test_several_sizes_share_their_weights(tmp_path):
    graphs = {}
    for name, height in (("small", 43), ("large", 86)):
        graphs[name] = make_graph("encoding", height=height, sr_blocks=4)
    parts = {name: (graph, graph.inputs) for name, (graph, _) in graphs.items()}
    litert.convert_many(parts, tmp_path / "two", "int8", {})
    small, _ = graphs["small"]
    litert.convert(small, small.inputs, tmp_path / "one", "int8", {})
    for name, (graph, examples) in graphs.items():
        assert psnr(graph, LiteRTRunner(tmp_path / "two", name), examples) >= 45
    # What is not shared are the lists of operators.
    one, two = (_bytes_of_buffers(tmp_path / name) for name in ("one", "two"))
    assert sum(weight.numel() for weight in small.parameters()) < one < two < 1.2 * one
    with pytest.raises(UserError, match="has no signature main, only .*small"):
        LiteRTRunner(tmp_path / "two")


def _bytes_of_buffers(path) -> int:
    return sum(0 if buffer.data is None else len(buffer.data) for buffer in read(path.read_bytes()).buffers)


def test_a_client_finds_names_shapes_layout_and_metadata(tmp_path):
    graph, (camera, _) = make_graph("pose")
    convert(graph, tmp_path / "m.tflite", "fp16")
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(str(tmp_path / "m.tflite"))
    assert interpreter.get_signature_list() == {
        "main": {"inputs": ["camera_to_world", "intrinsics"], "outputs": ["image"]}
    }
    picture = interpreter.get_signature_runner()(**{name: value.numpy() for name, value in camera.items()})["image"]
    assert picture.shape == (1, 43, 61, 3) and picture.dtype == np.float32
    assert read_metadata(tmp_path / "m.tflite") == {"generator": "test"}
    found = read_layers(tmp_path / "m.tflite")
    assert (found[-1].shape, found[-1].dtype) == ((1, 43, 61, 3), "float32")
    assert {"SIN", "COS", "CONV_2D", "GELU", "LOGISTIC", "DEQUANTIZE"} <= {layer.op for layer in found}


def test_weights_are_aligned_and_inside_of_the_flatbuffer(tmp_path):
    graph, _ = make_graph("encoding", width=256)
    convert(graph, tmp_path / "m.tflite", "int8")
    content = (tmp_path / "m.tflite").read_bytes()
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    for buffer in schema.ModelT.InitFromPackedBuf(content, 0).buffers:
        assert not buffer.offset
        if buffer.data is not None and len(buffer.data) >= 1024:
            assert content.index(bytes(buffer.data)) % ALIGNMENT == 0


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_file_is_far_from_the_graph(mistake, tmp_path):
    graph, examples = make_graph("encoding")
    wrong, _ = make_graph("encoding")
    with torch.no_grad():
        mistake(wrong)
    assert psnr(graph, convert(wrong, tmp_path / "m.tflite"), examples) < 40


def test_an_unknown_precision_is_named(tmp_path):
    graph, _ = make_graph("encoding")
    with pytest.raises(UserError, match="LiteRT packages are fp32, fp16, int8, int8-dynamic, not int4"):
        convert(graph, tmp_path / "m.tflite", "int4")
