"""The page of a student with a volume shows the student's own pictures, by both engines."""

from __future__ import annotations

import pytest
from small_student import VOLUME, VOLUMES, make_student
from web_page import picture, psnr, show, write_page

from mobiler2l_ns.export import manifest
from mobiler2l_ns.export.formats.web.chromium import find_chromium

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")

VARIANTS = {
    **VOLUMES,
    "a ray a cell": {**VOLUME, "volume_rays": 1, "density_rays": 1, "sphere": True},
    "odd numbers": {
        **VOLUME,
        "volume_rays": 2,
        "density_rays": 1,
        "volume_points": 5,
        "volume_features": 7,
        "volume_hidden": 11,
        "strides": (2, 2, 3),
        "width": 59,
        "contraction": "on",
    },
    "filled to the edges": {**VOLUME, "volume_features": 4, "volume_channels": 8, "layer": "mlp"},
}


def make_students(variant: str):
    """A student whose picture depends on its volume, and the same with nothing in there."""
    students = [make_student(**VARIANTS[variant]) for _ in range(2)]
    for student, factor in zip(students, (1.0, 0.0), strict=True):
        assert student.volume is not None
        student.volume.proposals.density += 0.02 * (variant == "filled to the edges")
        student.volume.proposals.density *= factor
        student.network.patches.weight *= 4.0  # type: ignore[operator]
    return students


@pytest.mark.parametrize("engine", ["wasm", "webgpu"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_page_looks_the_volume_up(variant, engine, tmp_path, browser):
    student, blind = make_students(variant)
    server = write_page(student, tmp_path / "page", "fp32")
    show(browser, server.address, engine)
    for pitch in student.config.pitches:
        view = manifest.describe_view(f"pitch_{pitch:g}", student.view(pitch), pitch)
        for pose in student.capture.proof_poses[:2]:
            camera = student.training_camera(pose, pitch)
            expected, without = (each.render(camera).permute(2, 0, 1) for each in (student, blind))
            assert psnr(expected, without) < 40
            assert psnr(picture(browser, view, pose), expected) >= 60
    assert browser.console == []
    server.shutdown()


@pytest.mark.parametrize("engine", ["wasm", "webgpu"])
def test_tables_in_half_precision_give_the_picture(engine, tmp_path, browser):
    student = make_student(**VOLUMES["sphere"])
    server = write_page(student, tmp_path / "page", "fp16")
    show(browser, server.address, engine)
    view = manifest.describe_view("pitch_1", student.view(), 1.0)
    pose = student.capture.proof_poses[0]
    expected = student.render(student.training_camera(pose)).permute(2, 0, 1)
    assert psnr(picture(browser, view, pose), expected) >= (50 if engine == "wasm" else 40)
    server.shutdown()
