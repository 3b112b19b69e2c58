"""A web package shows the student's own pictures in a real browser, moves with the hand, and says what is wrong."""

from __future__ import annotations

import base64
import io
import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from small_student import VARIANTS, make_student

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export import package, web_package
from mobiler2l_ns.export.chromium import Chromium, find_chromium
from mobiler2l_ns.export.formats import FORMATS
from mobiler2l_ns.export.graph import PoseToImage
from mobiler2l_ns.export.package import Request, export_packages
from mobiler2l_ns.export.serve import serve

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def browser():
    with Chromium() as browser:
        yield browser


def make_rgba_student():
    """Three resolutions, RGBA, and cameras all around."""
    student = make_student(sphere=True, alpha=True, pitches=(1.0, 1.5, 2.0))
    student.capture.record(
        look_at=torch.tensor([0.2, -0.1, 0.3]),
        distance=torch.tensor([2.0, 5.0]),
        elevation=torch.tensor([-10.0, 70.0]),
        azimuth=torch.tensor([0.0, 360.0]),
    )
    return student


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A package of an RGBA student in both precisions, as the export left them, and their addresses."""
    torch.manual_seed(0)
    student, folder = make_rgba_student(), tmp_path_factory.mktemp("web")
    files = export_packages(student, [Request("web"), Request("web", precision="fp32")], folder)
    servers = {file.precision: serve(folder / file.path) for file in files}
    yield SimpleNamespace(
        student=student,
        files={file.precision: file for file in files},
        folders={file.precision: folder / file.path for file in files},
        addresses={precision: server.address for precision, server in servers.items()},
    )
    for server in servers.values():
        server.shutdown()


def show(browser, address, engine="webgpu", **page):
    """Open a page and wait until it has drawn its first picture."""
    browser.open(f"{address}?engine={engine}", **page)
    browser.evaluate("mobiler2l.ready.then(() => null)", 120)


def picture(browser, view, pose):
    """What the page draws, (channels, height, width)."""
    fx, fy, cx, cy = (view["intrinsics"][name] for name in ("fx", "fy", "cx", "cy"))
    asked = f"mobiler2l.picture({json.dumps(view['function'])}, {pose.tolist()}, {[fx, fy, cx, cy]})"
    answer = browser.evaluate(asked)
    values = np.frombuffer(base64.b64decode(answer["data"]), "<u2") / 65535.0
    return values.reshape(answer["height"], answer["width"], answer["channels"]).transpose(2, 0, 1)


def psnr(a, b) -> float:
    return -10 * math.log10(max(float(np.square(np.asarray(a) - np.asarray(b)).mean()), 1e-20))


def pixels(browser, script):
    """A canvas of the page as RGBA, 0..1."""
    url = browser.evaluate(f"{script}.then((canvas) => canvas.toDataURL('image/png'))")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGBA")) / 255.0


@pytest.mark.parametrize(
    ("precision", "engine", "least"), [("fp16", "webgpu", 40), ("fp32", "wasm", 60), ("fp32", "webgpu", 60)]
)
def test_every_size_is_the_students_own_picture(browser, served, precision, engine, least):
    show(browser, served.addresses[precision], engine)
    views = served.files[precision].views
    assert [(view["pitch"], view["width"], view["height"]) for view in views] == [
        (1, 60, 44),
        (1.5, 40, 29),
        (2, 30, 22),
    ]
    for view, pose in zip(views, served.student.capture.proof_poses, strict=False):
        expected = served.student.render(served.student.training_camera(pose, view["pitch"])).permute(2, 0, 1)
        assert psnr(picture(browser, view, pose), expected) >= least
    assert browser.console == []


@pytest.mark.parametrize("variant", [name for name in VARIANTS if "pitches" not in name])
def test_both_engines_draw_every_variant(variant, tmp_path, browser):
    student = make_student(**VARIANTS[variant])
    graph = PoseToImage(student).eval()
    web_package.convert({"main": graph}, tmp_path / "p", "fp32", {})
    from mobiler2l_ns.export import manifest

    manifest.write_inside(tmp_path / "p", student, [manifest.describe_view("main", student.view(), 1.0)])
    view = json.loads((tmp_path / "p/manifest.json").read_text())["views"][0]
    server = serve(tmp_path / "p")
    pose = student.capture.start_pose
    expected = graph(pose[None], student.capture.intrinsics[None])[0]
    for engine in ("wasm", "webgpu"):
        show(browser, server.address, engine)
        assert psnr(picture(browser, view, pose), expected) >= 75
    server.shutdown()


def test_what_is_on_the_page_is_the_picture_of_its_camera(browser, served):
    for engine in ("webgpu", "wasm"):
        show(browser, served.addresses["fp16"], engine)
        pose = torch.tensor(browser.evaluate("mobiler2l.camera().pose()"))
        rgba = served.student.render(served.student.training_camera(pose)).numpy()
        shown = pixels(browser, "mobiler2l.compose()")
        assert psnr(shown[..., 3], rgba[..., 3]) > 45
        premultiplied = shown[..., :3] * shown[..., 3:]
        assert psnr(premultiplied, np.minimum(rgba[..., :3], rgba[..., 3:])) > 40


def test_hands_move_the_camera_within_the_trained_range(browser, served):
    show(browser, served.addresses["fp16"], width=390, height=844)
    before = browser.screenshot()
    start = browser.evaluate("({...mobiler2l.camera()})")
    browser.drag((200, 400), (120, 400))
    turned = browser.evaluate("mobiler2l.idle().then(() => ({...mobiler2l.camera()}))")
    assert turned["azimuth"] > start["azimuth"] and turned["elevation"] == pytest.approx(start["elevation"])
    assert browser.screenshot() != before
    for _ in range(30):
        browser.wheel(200, 400, 500)
    browser.drag((200, 200), (200, 700))
    browser.drag((200, 200), (200, 700))
    browser.drag((100, 400), (300, 400), button="right")
    moved = browser.evaluate("mobiler2l.idle().then(() => ({...mobiler2l.camera()}))")
    assert moved["distance"] == pytest.approx(5.0)
    assert math.degrees(moved["elevation"]) == pytest.approx(70.0)
    assert 0 < np.linalg.norm(moved["shift"]) <= 0.2 * 5.0 + 1e-6
    browser.click_on("#reset")
    home = browser.evaluate("({...mobiler2l.camera()})")
    assert home["azimuth"] == pytest.approx(start["azimuth"]) and home["shift"] == [0, 0, 0]


def test_two_fingers_zoom_and_glide_is_at_the_coarsest_size_that_is_quick(browser, served):
    show(browser, served.addresses["fp16"], "wasm", width=390, height=844, touch=True)
    far = browser.evaluate("mobiler2l.camera().distance")
    browser.touch([(150, 400), (250, 400)], [(130, 400), (270, 400)], [(100, 400), (300, 400)])
    assert browser.evaluate("mobiler2l.camera().distance") < far
    readout = browser.wait_for("document.getElementById('readout').textContent")
    assert "60 × 44" in readout and "WebAssembly" in readout and " ms" in readout


def test_a_wrong_model_file_is_a_message(browser, served, tmp_path):
    damages = {
        "incomplete": lambda data: data[:-100],
        "checksum": lambda data: data[:50] + bytes([data[50] ^ 1]) + data[51:],
    }
    for word, damage in damages.items():
        folder = shutil.copytree(served.folders["fp16"], tmp_path / word)
        weights = folder / web_package.WEIGHTS
        weights.write_bytes(damage(weights.read_bytes()))
        server = serve(folder)
        browser.open(server.address, 390, 844)
        message = browser.wait_for("document.querySelector('#message.error')?.textContent")
        assert "weights.bin" in message and word in message
        assert browser.console == []
        server.shutdown()


def test_it_works_offline_once_loaded(browser, served):
    server = serve(served.folders["fp16"])
    browser.open(server.address)
    browser.evaluate("mobiler2l.ready.then(() => navigator.serviceWorker.ready).then(() => null)", 60)
    server.shutdown()
    server.server_close()
    browser.open(server.address)
    browser.evaluate("mobiler2l.ready.then(() => null)", 60)
    assert "60 × 44" in browser.evaluate("document.getElementById('readout').textContent")


def test_nothing_points_outside_of_the_folder(served):
    texts = [path for path in served.folders["fp16"].iterdir() if path.suffix in (".html", ".js", ".css", ".wgsl")]
    assert len(texts) > 8
    assert [
        path.name for path in texts if "//" in path.read_text().replace("// ", "") and "http" in path.read_text()
    ] == []
    listed = (served.folders["fp16"] / "sw.js").read_text()
    names = {path.name for path in served.folders["fp16"].iterdir()} - {"index.html", "sw.js"}
    assert names == {name for name in names if f'"{name}"' in listed}


def test_try_on_lays_the_object_over_the_camera(browser, served):
    show(browser, served.addresses["fp32"], "wasm", width=390, height=600)
    browser.click_on("#ar")
    browser.wait_for("mobiler2l.tryOn.on && mobiler2l.tryOn.video.videoWidth > 0")
    box = "(({x, y, width}) => [x, y, width])(document.getElementById('view').getBoundingClientRect())"
    before = browser.evaluate(box)
    browser.drag((190, 300), (230, 260))
    browser.wheel(230, 260, -200)
    browser.evaluate("mobiler2l.idle().then(() => new Promise((done) => setTimeout(done, 600)))")
    after = browser.evaluate(box)
    assert after[2] > before[2] * 1.2
    middle = [at + size / 2 for at, size in ((before[0], before[2]), (after[0], after[2]))]
    assert middle[1] > middle[0] + 30

    # At one pixel of the page for one of the picture, and over a paused camera, every pixel is known.
    browser.evaluate("(mobiler2l.tryOn.video.pause(), mobiler2l.tryOn.home(), null)")
    browser.evaluate("""(() => { const view = document.getElementById('view');
        view.style.cssText = 'width: 60px; height: 44px; position: absolute; left: 100px; top: 200px';
        return null })()""")
    with_object = pixels(browser, "mobiler2l.compose()")
    browser.evaluate("(document.getElementById('view').style.left = '-200px', null)")
    background = pixels(browser, "mobiler2l.compose()")
    browser.evaluate("mobiler2l.idle()")
    pose = torch.tensor(browser.evaluate("mobiler2l.camera().pose()"))
    rgba = served.student.render(served.student.training_camera(pose)).numpy()
    rows, columns = slice(200, 244), slice(100, 160)
    colour = np.minimum(rgba[..., :3], rgba[..., 3:])  # what a screen can show
    expected = colour + (1 - rgba[..., 3:]) * background[rows, columns, :3]
    assert psnr(with_object[rows, columns, :3], expected) > 40
    assert psnr(with_object[rows, columns, :3], background[rows, columns, :3]) < 30
    browser.click_on("#ar")
    assert browser.evaluate("mobiler2l.tryOn.on") is False and browser.console == []


def test_a_wrong_page_is_refused(monkeypatch, tmp_path):
    student = make_student()
    wrong = PoseToImage(student).eval()
    wrong.network.head[0].weight[3] += 0.5  # type: ignore[operator]
    monkeypatch.setattr(package, "graph_of", lambda *_: wrong)
    with pytest.raises(UserError, match="The web package is not the student"):
        export_packages(student, [Request("web")], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_browser_the_export_says_what_to_install(monkeypatch):
    monkeypatch.setattr(web_package, "find_chromium", lambda: None)
    assert "apt-get install chromium" in (FORMATS["web"].missing() or "")
