"""A client that knows only manifest.json gets the student's pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from short_run import load_script
from small_student import VARIANTS, VOLUMES, make_student

from mobiler2l_ns.export.formats import all_formats
from mobiler2l_ns.export.graph import PoseToImage
from mobiler2l_ns.export.package import Request, export_packages
from mobiler2l_ns.export.volume_graph import with_volume_in_half

FORMATS = all_formats()

client = load_script("reference_client")


@pytest.mark.parametrize("name", VARIANTS)
def test_plain_numpy_encodes_like_the_student(name, tmp_path):
    student = make_student(**VARIANTS[name])
    export_packages(student, [Request("onnx", "encoding")], tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    pose, view = student.capture.proof_poses[1], manifest["files"][0]["views"][0]
    expected = PoseToImage(student).eval().encode(pose[None], student.capture.intrinsics[None])
    np.testing.assert_allclose(client.encode(manifest, view, pose.numpy()), expected.numpy(), atol=5e-5)


@pytest.mark.parametrize("name", VOLUMES)
def test_plain_numpy_composites_like_the_student(name, tmp_path):
    student = make_student(**VOLUMES[name], num_blocks=1, sr_blocks=1)
    (file,) = export_packages(student, [Request("onnx", "features", "fp16")], tmp_path)
    manifest, pose = json.loads((tmp_path / "manifest.json").read_text()), student.capture.proof_poses[1]
    arrays = client.read_volume(tmp_path, manifest)
    assert student.volume is not None
    half = sum(table.numel() for table in (student.volume.proposals.density, *student.volume.planes))
    assert (tmp_path / "volume.bin").stat().st_size == 2 * half == manifest["volume"]["bytes"]
    graph = PoseToImage(student).eval()
    volume = with_volume_in_half(graph).volume
    assert volume is not None
    expected = volume(pose[None], student.capture.intrinsics[None]).numpy()
    got = client.composite(manifest, file.views[0], pose.numpy(), arrays)
    np.testing.assert_allclose(got, expected, atol=2e-3)
    assert np.sqrt(np.square(got - expected).mean()) < 1e-4 < 0.05 < expected.std()
    picture = student.render(student.training_camera(pose)).numpy()
    assert -10 * np.log10(np.mean((client.render(tmp_path, file.path, pose.numpy()) - picture) ** 2)) > 50


CASES = [
    (name, contract)
    for name, form in FORMATS.items()
    if form.missing() is None and not form.stands_alone  # a page is its own client
    for contract in form.contracts_of(make_student())
]


@pytest.mark.parametrize(("format_name", "contract"), [case for case in CASES if case != ("coreml", "pose")])
def test_every_package_shows_the_students_picture_to_the_client(format_name, contract, tmp_path):
    shape = {"num_blocks": 1, "sr_blocks": 1}
    student = make_student(pitches=(1.0, 2.0), sphere=True, alpha=format_name != "snapml", **shape)
    request = Request(format_name, contract, sizes=((44, 60), (22, 30)))
    files = export_packages(student, [request], tmp_path)
    sizes = [(file.path, index) for file in files for index in range(len(file.views))]
    assert len(sizes) == 2
    pose = student.capture.proof_poses[2]
    for pitch, (path, index) in zip((1.0, 2.0), sizes, strict=True):
        with torch.no_grad():
            expected = student.render(student.training_camera(pose, pitch)).numpy()
        got = client.render(tmp_path, path, pose.numpy(), index)
        assert got.shape == expected.shape
        assert -10 * np.log10(np.mean((got - expected) ** 2)) > 50
