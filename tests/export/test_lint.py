"""What would leave a phone's fast processors is said, and every layer's cost is counted."""

from __future__ import annotations

import json

import pytest
from small_student import make_student

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export.formats import all_formats
from mobiler2l_ns.export.layer import Layer
from mobiler2l_ns.export.lint import advice, lint
from mobiler2l_ns.export.package import Request, export_packages
from mobiler2l_ns.plugin.export_commands import Lint
from mobiler2l_ns.student.cost import measure_cost

FORMATS = all_formats()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A ReLU student in three formats, both contracts."""
    folder = tmp_path_factory.mktemp("exported")
    student = make_student(activation="relu", sphere=True)
    requests = [Request(name, contract) for name in ("coreml", "onnx", "snapml") for contract in ("pose", "encoding")]
    return folder, student, {file.path: file for file in export_packages(student, requests, folder)}


def test_the_network_alone_runs_wholly_on_the_neural_engine(exported):
    _, _, files = exported
    assert files["mobiler2l-encoding.mlpackage"].warnings == []


def test_the_encoding_in_the_graph_leaves_the_neural_engine_but_not_the_gpu(exported):
    _, _, files = exported
    warnings = files["mobiler2l.mlpackage"].warnings
    assert any("sin" in warning for warning in warnings) and any("cos" in warning for warning in warnings)
    assert all(warning.startswith("Neural Engine: ") for warning in warnings)


def test_snapml_says_that_cos_leaves_the_npu(exported):
    _, _, files = exported
    assert any("1 x Cos" in warning for warning in files["mobiler2l.snapml.onnx"].warnings)
    assert files["mobiler2l-encoding.snapml.onnx"].warnings == [] or all(
        "Slice" in warning for warning in files["mobiler2l-encoding.snapml.onnx"].warnings
    )


EXTRA = [name for name in ("litert", "ncnn") if FORMATS[name].missing() is None]


@pytest.mark.parametrize("format_name", EXTRA)
def test_formats_of_extras_are_read_too(format_name, tmp_path):
    student = make_student(activation="relu", sphere=True)
    requests = [Request(format_name, contract) for contract in ("pose", "encoding")]
    whole, alone = export_packages(student, requests, tmp_path)
    assert alone.gmac == pytest.approx(measure_cost(student.config, 44, 60).gmac, abs=5e-4)
    assert alone.largest_activation_bytes == 48 * 64 * 8 * (2 if format_name == "ncnn" else 4)
    # Nothing of the network is left; where no stride divides the picture, the rest is cut off.
    assert all("SLICE" in warning for warning in alone.warnings)
    # Sines and cosines: NPUs are not known to run the latter, and ncnn packages keep both in float32 on the CPU.
    left = "1 x COS (float32) falls back" if format_name == "litert" else "x UnaryOp (float32) is kept on the CPU"
    assert any(left in warning for warning in whole.warnings)


def test_multiply_accumulates_are_those_of_the_network(exported):
    folder, student, files = exported
    expected = measure_cost(student.config, 44, 60).gmac * 1e9
    for path, format_name in (("mobiler2l-encoding.onnx", "onnx"), ("mobiler2l-encoding.mlpackage", "coreml")):
        layers = FORMATS[format_name].layers(folder / path, "main")
        assert sum(layer.macs for layer in layers) == expected
        assert files[path].gmac == pytest.approx(expected / 1e9, abs=5e-4)
    # The largest activation is the last module's: 8 channels over whole blocks of pixels.
    assert files["mobiler2l-encoding.onnx"].largest_activation_bytes == 48 * 64 * 8 * 4
    assert files["mobiler2l-encoding.mlpackage"].largest_activation_bytes == 48 * 64 * 8 * 2


def test_an_operation_that_is_on_no_list_is_reported():
    layers = [Layer("conv", "a", (1, 8, 4, 4), "fp16", 10), Layer("lstm", "b", (1, 8), "fp16", 0)]
    assert [str(finding) for finding in lint(layers, FORMATS["coreml"].processors)] == [
        "Neural Engine: 1 x lstm (fp16) is not known to run there",
        "Core ML GPU: 1 x lstm (fp16) is not known to run there",
    ]


def test_what_does_not_suit_the_neural_engine_is_advised_against():
    conv = ("conv", "a", (1, 8, 100, 100), "fp16", 10)
    layers = [
        Layer(*conv),
        Layer(*conv),
        Layer("conv", "b", (1, 8, 96, 96), "fp32", 10),
        Layer("add", "c", (1, 5), "fp32", 0),
    ]
    layers += [Layer("conv_transpose", "d", (1, 8, 4, 288), "fp16", 10, stride=3, palette=True)]
    assert advice(layers, FORMATS["coreml"].processors) == [
        "Neural Engine: 1 layers in float32, which it cannot compute: export with fp16",
        "Neural Engine: the last axis of 2 layers, 100, is padded to 128: 22% of their work there is wasted",
        "Neural Engine: palettes at stride 3 are not known to run there",
    ]


def test_palettes_and_strides_are_read_off_core_ml_packages(tmp_path):
    # Layers of fewer weights keep them as they are.
    shape = {"strides": (2, 2, 3), "sr_channels": (16, 32, 32), "num_blocks": 1, "sr_blocks": 1}
    student = make_student(activation="relu", **shape)
    (file,) = export_packages(student, [Request("coreml", "encoding", "palette6")], tmp_path)
    layers = FORMATS["coreml"].layers(tmp_path / file.path, "main")
    assert {layer.stride for layer in layers if layer.op == "conv_transpose"} == {2, 3}
    assert any(layer.palette for layer in layers if layer.stride == 3)
    assert "Neural Engine: palettes at stride 3 are not known to run there" in advice(
        layers, FORMATS["coreml"].processors
    )


def test_the_command_lists_every_layer(exported, capsys):
    folder, _, files = exported
    Lint(folder / "mobiler2l-encoding.onnx").main()
    printed = capsys.readouterr().out
    assert "ConvTranspose" in printed and "1 x 24 x 6 x 8" in printed
    with pytest.raises(UserError, match="is not one of the packages there: mobiler2l-encoding.mlpackage, "):
        Lint(folder / "none.onnx").main()
    with pytest.raises(UserError, match="There is no manifest.json beside"):
        Lint(folder / "elsewhere" / "mobiler2l.onnx").main()
    described = json.loads((folder / "manifest.json").read_text())
    assert len(described["files"]) == len(files) == 6
