"""ncnn packages give the student's pictures, from a pose and from an encoding."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from small_student import COMBINED_VARIANTS, MISTAKES, make_graph, psnr

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export.formats.ncnn import convert as ncnn
from mobiler2l_ns.export.formats.ncnn.param import BIN, FLOAT32_ONLY, METADATA, PARAM
from mobiler2l_ns.export.formats.ncnn.runner import NcnnRunner
from mobiler2l_ns.export.formats.ncnn.weights import codebook_of

pytest.importorskip("ncnn")
pytest.importorskip("pnnx")


def convert(graph, path, precision="fp32"):
    ncnn.convert(graph, graph.inputs, path, precision, {"generator": "test"})
    return NcnnRunner(path)


@pytest.mark.parametrize("start", ["pose", "encoding"])
@pytest.mark.parametrize("variant", COMBINED_VARIANTS)
def test_the_package_is_the_graph(variant, start, tmp_path):
    graph, examples = make_graph(start, **COMBINED_VARIANTS[variant])
    assert psnr(graph, convert(graph, tmp_path / "p"), examples) >= 80


@pytest.mark.parametrize(("precision", "least", "share"), [("fp16", 55, 0.55), ("int8", 45, 0.55)])
@pytest.mark.parametrize("start", ["pose", "encoding"])
def test_smaller_weights_cost_little(precision, least, share, start, tmp_path):
    graph, examples = make_graph(start)
    assert psnr(graph, convert(graph, tmp_path / "p", precision), examples) >= least
    in_float32 = 4 * sum(weight.numel() for weight in graph.parameters())
    assert (tmp_path / "p" / BIN).stat().st_size <= share * in_float32


def test_the_encoding_stays_in_float32_when_the_network_does_not(tmp_path):
    graph, (camera, _) = make_graph("pose")
    expected = graph.encode(**camera)[0].numpy()  # type: ignore
    convert(graph, tmp_path / "p")
    param = tmp_path / "p" / PARAM
    encoding = re.search(r"^Convolution +\S+ +1 1 (\S+)", param.read_text(), re.MULTILINE)[1]  # type: ignore

    def error_in_half() -> float:
        net = pytest.importorskip("ncnn").Net()
        net.opt.use_bf16_storage = True  # the narrow type that ncnn has on every processor
        net.opt.lightmode = False  # keep the blob that is looked at
        assert (net.load_param(str(param)), net.load_model(str(tmp_path / "p" / BIN))) == (0, 0)
        got = NcnnRunner.run(net, {name: value.numpy() for name, value in camera.items()}, encoding)
        return float(np.abs(got - expected).max())

    assert error_in_half() < 2e-4
    param.write_text(param.read_text().replace(f" 31={FLOAT32_ONLY}", ""))
    assert error_in_half() > 0.05


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_package_is_far_from_the_graph(mistake, tmp_path):
    graph, examples = make_graph("encoding")
    wrong, _ = make_graph("encoding")
    with torch.no_grad():
        mistake(wrong)
    assert psnr(graph, convert(wrong, tmp_path / "p"), examples) < 40


def test_same_graph_same_bytes_and_nothing_beside_them(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    graph, _ = make_graph("pose")
    for name in ("first", "second", "first"):
        convert(graph, tmp_path / name, "int8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == [METADATA, BIN, PARAM]
    for name in (METADATA, BIN, PARAM):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert capfd.readouterr() == ("", "")


def test_a_client_finds_names_and_shapes(tmp_path):
    graph, _ = make_graph("pose")
    run = convert(graph, tmp_path / "p")
    about = json.loads((tmp_path / "p" / METADATA).read_text())
    assert about["inputs"] == {"camera_to_world": [3, 4], "intrinsics": [4]} and about["output"] == "image"
    assert about["metadata"] == {"generator": "test"}
    assert list(run.net.input_names()) == ["camera_to_world", "intrinsics"]
    assert list(run.net.output_names()) == ["image"]


def test_a_codebook_holds_values_it_has_room_for():
    values = np.repeat(np.random.default_rng(0).normal(size=100), 3).astype(np.float32)
    codebook = codebook_of(values)
    assert codebook.shape == (256,) and (np.diff(codebook) >= 0).all()
    assert np.abs(values[:, None] - codebook).min(axis=1).max() < np.ptp(values) / 255 / 2


def test_precisions_and_packages_that_are_not_there_are_named(tmp_path):
    graph, _ = make_graph("encoding")
    with pytest.raises(UserError, match="ncnn packages are fp32, fp16, int8, not int4"):
        convert(graph, tmp_path / "p", "int4")
    code = "import sys; sys.modules['pnnx'] = None; from mobiler2l_ns.export.formats.ncnn.extra import EXTRA; "
    done = subprocess.run([sys.executable, "-c", code + "EXTRA.load('pnnx')"], capture_output=True, text=True)
    assert done.returncode == 1 and "pip install '.[ncnn]' in this project's checkout" in done.stderr
