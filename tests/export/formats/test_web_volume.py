"""The page of a student with a volume shows the student's own pictures, by both engines."""

from __future__ import annotations

import pytest
from small_student import VOLUME, VOLUMES, make_student
from web_page import picture, psnr, show, write_page

from mobiler2l_ns.export import manifest
from mobiler2l_ns.export.formats import all_formats
from mobiler2l_ns.export.formats.web.chromium import find_chromium
from mobiler2l_ns.export.package import Request, export_packages

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


def test_an_export_proves_both_engines(tmp_path):
    (file,) = export_packages(make_student(**VOLUMES["sphere"]), [Request("web")], tmp_path)
    assert file.precision == "fp16" and file.psnr_student > 50
    assert file.run_by == all_formats()["web"].run_by


COUNT = """(async () => {
  const [{ loadModel }, { Volume }] = await Promise.all([import("/model.js"), import("/volume.js")]);
  const { manifest, network, weights } = await loadModel(() => {});
  const memory = new WebAssembly.Memory({ initial: 200 });
  new Uint8Array(memory.buffer).set(weights);
  const code = await (await fetch("/kernels.wasm")).arrayBuffer();
  const { exports } = (await WebAssembly.instantiate(code, { env: { memory } })).instance;
  let found = 0;
  const look_up = (...given) => {
    const more = exports.look_up(...given);
    found += more;
    return more;
  };
  const volume = new Volume(manifest, network, memory, weights.length);
  volume.fill();
  const view = manifest.views[0], { fx, fy, cx, cy } = view.intrinsics;
  const layout = volume.layout(view, volume.end, view.rows);
  volume.composite({ ...exports, look_up }, layout, view, POSE, [fx, fy, cx, cy], 0, view.rows, layout.end);
  return found;
})()"""


def test_rays_that_nothing_stops_are_not_looked_up(tmp_path, browser):
    student = make_student(**VOLUMES["sphere"])
    assert student.volume is not None
    student.volume.proposals.density[..., :4] = 0.0
    server = write_page(student, tmp_path / "page", "fp32")
    browser.open(server.address)
    pose = student.capture.proof_poses[0]
    composited = student.composite(*student.view().rays(pose[None]))
    assert composited is not None
    fours = (composited.features[0, -1] > 0.0).reshape(-1, 4).any(1)
    assert 0.1 < fours.float().mean() < 0.9
    assert browser.evaluate(COUNT.replace("POSE", str(pose.tolist()))) == int(fours.sum())
    server.shutdown()


def test_a_light_fields_page_holds_nothing_of_volumes(tmp_path):
    server = write_page(make_student(num_blocks=1), tmp_path / "page")
    assert [path.name for path in (tmp_path / "page").iterdir() if "volume" in path.name] == []
    server.shutdown()
