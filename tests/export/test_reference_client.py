"""A client that knows only manifest.json gets the student's pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from short_run import load_script
from small_student import VARIANTS, make_student

from mobiler2l_ns.export.formats import all_formats
from mobiler2l_ns.export.graph import PoseToImage
from mobiler2l_ns.export.package import Request, export_packages

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


CASES = [
    (name, contract)
    for name, form in FORMATS.items()
    if form.missing() is None and not form.stands_alone  # a page is its own client
    for contract in form.contracts
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
