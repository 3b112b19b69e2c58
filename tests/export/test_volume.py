"""A student with a volume is exported whole, or its network alone beside the volume, which the client composites."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from small_student import VOLUMES, make_student
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export.formats import all_formats
from mobiler2l_ns.export.graph import PoseToImage, graph_of
from mobiler2l_ns.export.manifest import digests
from mobiler2l_ns.export.package import Request, export_packages

FORMATS = all_formats()


@pytest.mark.parametrize("name", VOLUMES)
def test_the_graph_is_the_student(name):
    student = make_student(**VOLUMES[name])
    graph = PoseToImage(student).eval()
    assert graph.volume is not None
    for pose in student.capture.proof_poses[:3]:
        view = student.view()
        features = graph.volume(pose[None], torch.tensor([view.intrinsics]))
        assert float(features.std()) > 0.05 and 0.1 < float(features[:, -1].mean()) < 0.95
        expected = student.render(student.training_camera(pose)).permute(2, 0, 1)
        got = graph(pose[None], student.capture.intrinsics[None])[0]
        torch.testing.assert_close(got, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(8, 60), (44, 8), (8, 8), (1, 60), (44, 1), (1, 1)])
@pytest.mark.parametrize("name", ["sphere", "planes"])
def test_the_graph_is_a_student_of_a_single_row_or_column_of_cells(name, height, width):
    student = make_student(**VOLUMES[name], height=height, width=width)  # its principal point lies beside its picture
    graph, pose = PoseToImage(student).eval(), student.capture.start_pose
    expected = student.render(student.training_camera(pose)).permute(2, 0, 1)
    got = graph(pose[None], student.capture.intrinsics[None])[0]
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=0)


class Approximate(TorchFunctionMode):
    """Divides and multiplies as fast arithmetic of GPUs and of ncnn does: results end a little short of the exact."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inexact = func in (Tensor.div, Tensor.mul, Tensor.__truediv__, Tensor.__mul__)
        return result * (1.0 - 2.0**-22) if inexact else result


@pytest.mark.parametrize("name", VOLUMES)
def test_inexact_arithmetic_shows_the_same_volume(name):
    volume = PoseToImage(make_student(**VOLUMES[name])).eval().volume
    assert volume is not None
    z, y, x = torch.meshgrid(*(torch.linspace(-1, 1, count) for count in (volume.proposals.cells, 7, 5)), indexing="ij")
    x, y, z = (axis.flatten(1)[None] for axis in (x, y, z))  # all slices, each where it lies itself
    exact = volume.proposals.look_up(x, y, z)
    with Approximate():
        inexact = volume.proposals.look_up(x, y, z)
    assert float(exact.std()) > 0.05
    torch.testing.assert_close(inexact, exact, atol=1e-3, rtol=0)


def test_the_network_alone_takes_what_the_whole_graph_gives_it():
    student = make_student(**VOLUMES["alpha, several pitches"])
    pose, intrinsics = student.capture.start_pose[None], student.capture.intrinsics[None]
    whole, alone = (graph_of(student, contract) for contract in ("pose", "features"))
    assert isinstance(whole, PoseToImage) and alone.contract == "features"
    given = whole.network_inputs(pose, intrinsics)
    assert {name: tuple(value.shape) for name, value in given.items()} == {i.name: i.shape for i in alone.inputs}
    torch.testing.assert_close(alone(*given.values()), whole(pose, intrinsics), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_offers_what_it_can_hold_of_a_student(name):
    form = FORMATS[name]
    plain, seeing = form.contracts_of(make_student()), form.contracts_of(make_student(**VOLUMES["sphere"]))
    assert plain == (("pose",) if name == "web" else ("pose", "encoding"))
    assert seeing == {"web": ("pose",), "snapml": ("features",)}.get(name, ("pose", "features"))


def test_without_operators_that_look_up_a_volume_the_network_alone_is_written(tmp_path):
    student = make_student(**VOLUMES["sphere"], num_blocks=1, sr_blocks=1)
    with pytest.raises(UserError, match="snapml packages cannot look up this .*: ask for --contracts features"):
        export_packages(student, [Request("snapml", "pose")], tmp_path)
    (file,) = export_packages(student, [Request("snapml")], tmp_path)
    assert file.contract == "features" and file.path == "mobiler2l-features.snapml.onnx"
    assert list(file.inputs) == ["encoding", "features"]


def test_a_student_without_a_volume_has_no_features(tmp_path):
    with pytest.raises(UserError, match="This student has no volume"):
        export_packages(make_student(), [Request("onnx", "features")], tmp_path)


def test_the_volume_lies_beside_packages_that_want_its_features(tmp_path):
    small: dict[str, Any] = {"num_blocks": 1, "sr_blocks": 1}
    student, manifest = make_student(**VOLUMES["sphere"], **small), tmp_path / "manifest.json"
    export_packages(student, [Request("onnx")], tmp_path)
    assert not (tmp_path / "volume.bin").exists()
    (file,) = export_packages(student, [Request("onnx", "encoding")], tmp_path)
    parts = [digests(tmp_path / name) for name in ("mobiler2l-features.onnx", "volume.bin")]
    assert file.bytes == sum(size for size, _ in parts) and file.sha256 == {**parts[0][1], **parts[1][1]}
    described = json.loads(manifest.read_text())
    assert described["volume"]["bytes"] == parts[1][0] and "features" in described["contracts"]
    # A package without it is not whole.
    (tmp_path / "volume.bin").unlink()
    export_packages(student, [Request("onnx")], tmp_path)
    assert [entry["contract"] for entry in json.loads(manifest.read_text())["files"]] == ["pose"]
    export_packages(make_student(**small), [Request("onnx")], tmp_path)
    described = json.loads(manifest.read_text())
    assert "volume" not in described and set(described["contracts"]) == {"pose", "encoding"}


GRAPHS = [name for name in ("coreml", "onnx", "litert", "ncnn") if FORMATS[name].missing() is None]
"""Formats that look the volume up themselves, in operations that can be read."""


@pytest.mark.parametrize("format_name", GRAPHS)
def test_lookups_are_counted_and_the_volume_is_stored_in_half(format_name, tmp_path):
    form = FORMATS[format_name]
    precision = "int8" if form.precision == "fp32" else "fp16"
    student = make_student(**{**VOLUMES["sphere"], "volume_cells": (128,)}, num_blocks=1, sr_blocks=1)
    requests = [Request(format_name, contract, precision) for contract in ("pose", "features")]
    whole, alone = export_packages(student, requests, tmp_path)
    assert min(whole.psnr_student, alone.psnr_student) >= form.thresholds[precision]
    values = 3 * 6 * 128**2
    assert 2 * values < whole.bytes - digests(tmp_path / alone.path)[0] < 3 * values
    macs = [sum(layer.macs for layer in form.layers(tmp_path / file.path, "main")) for file in (whole, alone)]
    coarse, fine, hidden = 12 * 16, 24 * 32 * 3, 16
    lookups = 4 * (2 * 12 * coarse + 3 * 6 * fine)
    assert macs[0] - macs[1] == lookups + fine * (6 * hidden + hidden * 9)
