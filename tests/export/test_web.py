"""A web package shows the student's own pictures in a real browser, moves with the hand, and says what is wrong."""

from __future__ import annotations

import base64
import io
import json
import math
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from small_student import VARIANTS, make_student

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export import manifest, package, web_package
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


def write_page(student, folder, precision):
    """A web package at the student's own size, without its proof."""
    web_package.convert({"main": PoseToImage(student).eval()}, folder, precision, {})
    manifest.write_inside(folder, student, [manifest.describe_view("main", student.view(), 1.0)])
    return serve(folder)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The package of an RGBA student, as the export leaves it, and its page's address."""
    torch.manual_seed(0)
    student, folder = make_rgba_student(), tmp_path_factory.mktemp("web")
    (file,) = export_packages(student, [Request("web")], folder)
    server = serve(folder / file.path)
    yield SimpleNamespace(student=student, file=file, folder=folder / file.path, address=server.address)
    server.shutdown()


def show(browser, address, engine="wasm", **page):
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
    view = manifest.describe_view("main", student.view(), 1.0)
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


def test_hands_move_the_camera_within_the_trained_range(browser, served):
    show(browser, served.address, width=390, height=844)
    before = browser.screenshot()
    start = browser.evaluate("({...mobiler2l.camera()})")
    browser.drag((200, 400), (120, 400))
    turned = browser.evaluate("mobiler2l.idle().then(() => ({...mobiler2l.camera()}))")
    assert turned["azimuth"] > start["azimuth"] and turned["elevation"] == pytest.approx(start["elevation"])
    assert browser.screenshot() != before
    for _ in range(30):
        browser.wheel(200, 400, 500)
    browser.drag((200, 700), (200, 200))
    browser.drag((200, 700), (200, 200))
    browser.drag((100, 400), (300, 400), button="right")
    moved = browser.evaluate("mobiler2l.idle().then(() => ({...mobiler2l.camera()}))")
    assert moved["distance"] == pytest.approx(5.0)
    assert math.degrees(moved["elevation"]) == pytest.approx(-10.0)
    assert 0 < np.linalg.norm(moved["shift"]) <= 0.2 * 5.0 + 1e-6
    browser.click_on("#reset")
    home = browser.evaluate("({...mobiler2l.camera()})")
    assert home["azimuth"] == pytest.approx(start["azimuth"]) and home["shift"] == [0, 0, 0]


def test_two_fingers_zoom(browser, served):
    show(browser, served.address, width=390, height=844, touch=True)
    far = browser.evaluate("mobiler2l.camera().distance")
    browser.touch([(150, 400), (250, 400)], [(130, 400), (270, 400)], [(100, 400), (300, 400)])
    assert browser.evaluate("mobiler2l.camera().distance") < far


def test_a_slow_device_draws_fewer_pixels_while_the_camera_moves(browser, served):
    browser.open(f"{served.address}?engine=wasm&budget=0", 390, 844, touch=True)
    browser.evaluate("mobiler2l.ready.then(() => null)")
    readout = "document.getElementById('readout').textContent"
    assert "60 × 44" in browser.evaluate(readout)
    for kind, x in (("touchStart", 200), ("touchMove", 230)):
        browser.send("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": 400}])
    browser.wait_for(f"{readout}.includes('30 × 22')", 10)
    browser.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    browser.wait_for(f"{readout}.includes('60 × 44')", 10)
    assert "WebAssembly" in browser.evaluate(readout) and " ms" in browser.evaluate(readout)


def test_a_wrong_model_file_is_a_message(browser, served, tmp_path):
    damages = {
        "incomplete": lambda data: data[:-100],
        "checksum": lambda data: data[:50] + bytes([data[50] ^ 1]) + data[51:],
    }
    for word, damage in damages.items():
        folder = shutil.copytree(served.folder, tmp_path / word)
        weights = folder / web_package.WEIGHTS
        weights.write_bytes(damage(weights.read_bytes()))
        server = serve(folder)
        browser.open(server.address, 390, 844)
        message = browser.wait_for("document.querySelector('#message.error')?.textContent")
        assert "weights.bin" in message and word in message
        assert browser.console == []
        server.shutdown()


def test_it_works_offline_once_loaded(browser, served):
    server = serve(served.folder)
    browser.open(server.address)
    browser.evaluate("mobiler2l.ready.then(() => navigator.serviceWorker.ready).then(() => null)", 60)
    server.shutdown()
    server.server_close()
    browser.open(server.address)
    browser.evaluate("mobiler2l.ready.then(() => null)", 60)
    assert "60 × 44" in browser.evaluate("document.getElementById('readout').textContent")


def test_nothing_points_outside_of_the_folder(served):
    texts = [path for path in served.folder.iterdir() if path.suffix in (".html", ".js", ".css", ".wgsl")]
    assert len(texts) > 8
    assert [path.name for path in texts if "://" in path.read_text()] == []
    listed = (served.folder / "sw.js").read_text()
    names = {path.name for path in served.folder.iterdir()} - {"index.html", "sw.js"}
    assert names == {name for name in names if f'"{name}"' in listed}


def test_try_on_lays_the_object_over_the_camera(browser, served, tmp_path):
    show(browser, served.address, width=1920, height=1080)  # a pixel for each of the camera's
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

    # One tap saves what is on the stage.
    browser.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    browser.evaluate("(document.getElementById('view').style.left = '100px', null)")
    browser.click_on("#save")
    saved = tmp_path / "try-on.png"
    until = time.monotonic() + 20
    while not saved.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert np.array_equal(np.asarray(Image.open(saved).convert("RGBA")) / 255.0, with_object)

    browser.click_on("#ar")
    assert browser.evaluate("mobiler2l.tryOn.on") is False and browser.console == []


def test_a_wrong_page_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(web_package.WebRunner, "_compare", lambda *_: None)  # only the student's pictures refuse it
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
