"""A web package shows the student's own pictures in a real browser, by both engines, and its record says so."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_student import VARIANTS, make_student
from web_page import make_rgba_student, picture, pixels, psnr, show, write_page

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export import manifest, package
from mobiler2l_ns.export.formats import all_formats
from mobiler2l_ns.export.formats.web import chromium
from mobiler2l_ns.export.formats.web.chromium import find_chromium
from mobiler2l_ns.export.formats.web.runner import WebRunner
from mobiler2l_ns.export.formats.web.serve import serve
from mobiler2l_ns.export.graph import PoseToImage
from mobiler2l_ns.export.package import Request, export_packages

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The package of an RGBA student, as the export leaves it, and its page's address."""
    torch.manual_seed(0)
    student, folder = make_rgba_student(), tmp_path_factory.mktemp("web")
    (file,) = export_packages(student, [Request("web")], folder)
    server = serve(folder / file.path)
    yield SimpleNamespace(student=student, file=file, folder=folder / file.path, address=server.address)
    server.shutdown()


@pytest.mark.parametrize("engine", ["webgpu", "wasm"])
def test_every_size_is_the_students_own_picture(browser, served, engine):
    show(browser, served.address, engine)
    views = served.file.views
    assert [(view["pitch"], view["width"], view["height"]) for view in views] == [
        (1, 60, 44),
        (1.5, 40, 29),
        (2, 30, 22),
    ]
    for view, pose in zip(views, served.student.capture.proof_poses, strict=False):
        expected = served.student.render(served.student.training_camera(pose, view["pitch"])).permute(2, 0, 1)
        assert psnr(picture(browser, view, pose), expected) >= 40
    assert browser.console == []


WITH_FLOAT32_WEIGHTS = [
    ("stride 12", "webgpu"),
    ("unbounded", "webgpu"),
    *((name, "wasm") for name in VARIANTS if "pitches" not in name),
]


@pytest.mark.parametrize(("variant", "engine"), WITH_FLOAT32_WEIGHTS)
def test_float32_weights_give_the_picture_of_every_variant(variant, engine, tmp_path, browser):
    student = make_student(**VARIANTS[variant])
    server = write_page(student, tmp_path / "page", "fp32")
    show(browser, server.address, engine)
    view = manifest.describe_view("pitch_1", student.view(), 1.0)
    for pose in student.capture.proof_poses[:3]:
        expected = student.render(student.training_camera(pose)).permute(2, 0, 1)
        assert psnr(picture(browser, view, pose), expected) >= 60
    server.shutdown()


def test_what_is_on_the_page_is_the_picture_of_its_camera(browser, served):
    for engine in ("webgpu", "wasm"):
        show(browser, served.address, engine)
        pose = torch.tensor(browser.evaluate("mobiler2l.camera().pose()"))
        rgba = served.student.render(served.student.training_camera(pose)).numpy()
        shown = pixels(browser, "mobiler2l.compose()")
        assert psnr(shown[..., 3], rgba[..., 3]) > 45
        premultiplied = shown[..., :3] * shown[..., 3:]
        assert psnr(premultiplied, np.minimum(rgba[..., :3], rgba[..., 3:])) > 40


def test_nothing_points_outside_of_the_folder(served):
    texts = [path for path in served.folder.iterdir() if path.suffix in (".html", ".js", ".css", ".wgsl")]
    assert len(texts) > 8
    assert [path.name for path in texts if "://" in path.read_text()] == []
    listed = (served.folder / "sw.js").read_text()
    names = {path.name for path in served.folder.iterdir()} - {"sw.js"}
    assert names == {name for name in names if f'"{name}"' in listed}


def test_the_record_names_what_ran(monkeypatch, tmp_path, capsys, served):
    assert served.file.run_by == all_formats()["web"].run_by
    without = tuple(flag for flag in chromium.FLAGS if "webgpu" not in flag)
    monkeypatch.setattr(chromium, "FLAGS", without)
    (file,) = export_packages(make_student(num_blocks=1), [Request("web")], tmp_path)
    assert file.run_by == "the page in Chromium: WebAssembly"
    assert "no WebGPU" in capsys.readouterr().out


def test_a_wrong_page_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(WebRunner, "_compare", lambda *_: None)  # only the student's pictures refuse it
    student = make_student()
    wrong = PoseToImage(student).eval()
    wrong.network.head[0].weight[3] += 0.5  # type: ignore[operator]
    monkeypatch.setattr(package, "graph_of", lambda *_: wrong)
    with pytest.raises(UserError, match="The web package is not the student"):
        export_packages(student, [Request("web")], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_browser_the_export_says_what_to_install(monkeypatch):
    monkeypatch.setattr(chromium, "find_chromium", lambda: None)
    assert "apt-get install chromium" in (all_formats()["web"].missing() or "")
