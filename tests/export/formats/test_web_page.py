"""The page of a web package moves with the hand, and lays the object over the device's camera."""

from __future__ import annotations

import json
import math
import shutil
import time

import numpy as np
import pytest
import torch
from PIL import Image
from web_page import ERROR, READOUT, pixels, psnr, show

from mobiler2l_ns.export.formats.web.chromium import find_chromium
from mobiler2l_ns.export.formats.web.serve import serve

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")


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


def orbit(browser, pose_range, points):
    """The camera of a page with this range of poses, which starts four units away."""
    start = [[1, 0, 0, 0], [0, 0, -1, -4], [0, 1, 0, 0]]
    described = json.dumps({"start_pose": start, "pose_range": pose_range, "points": points})
    return browser.evaluate(f"import('/camera.js').then(({{ OrbitCamera }}) => ({{...new OrbitCamera({described})}}))")


def test_a_capture_from_one_distance_and_height_leaves_room_to_move(browser, served):
    browser.open(served.address)
    one = {
        "look_at": [0, 0, 0],
        "distance": [4, 4],
        "elevation_degrees": [30, 30],
        "azimuth_degrees": {"start": 0, "extent": 360},
    }
    planes, sphere = {"in": "planes"}, {"in": "sphere", "centre": [0.6, 0, 0.8], "radius": 2.0}
    free = orbit(browser, one, planes)
    assert (free["nearest"], free["farthest"]) == pytest.approx((4 / 1.4, 4 * 1.4))
    assert np.degrees([free["lowest"], free["highest"]]) == pytest.approx((20, 40))
    outside = orbit(browser, one, sphere)
    assert 3.0 < outside["nearest"] < 3.5 and outside["farthest"] == free["farthest"]
    inside = orbit(browser, one, {**sphere, "radius": 9.0})
    assert inside["nearest"] == 4
    wide = orbit(browser, {**one, "distance": [2, 4], "elevation_degrees": [0, 30]}, sphere)
    assert (wide["nearest"], wide["farthest"], wide["lowest"]) == (2, 4, 0)


def test_a_slow_device_draws_fewer_pixels_while_the_camera_moves(browser, served, tmp_path):
    folder = shutil.copytree(served.folder, tmp_path / "page")
    described = json.loads((folder / "manifest.json").read_text())
    # Fewer still, but of another field of view.
    described["views"].append({**described["views"][0], "function": "part", "height": 8, "rows": 1})
    (folder / "manifest.json").write_text(json.dumps(described))
    server = serve(folder)
    browser.open(f"{server.address}?engine=wasm&budget=0", 390, 844, touch=True)
    browser.evaluate("mobiler2l.ready.then(() => null)")
    assert "60 × 44" in browser.evaluate(READOUT)
    for kind, x in (("touchStart", 200), ("touchMove", 230)):
        browser.send("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": 400}])
    browser.wait_for(f"{READOUT}.includes('30 × 22')", 10)
    browser.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    browser.wait_for(f"{READOUT}.includes('60 × 44')", 10)
    assert "WebAssembly" in browser.evaluate(READOUT) and " ms" in browser.evaluate(READOUT)
    server.shutdown()


COUNT_STRIPS = """{
  Object.defineProperty(navigator, 'hardwareConcurrency', { get: () => 2 });
  window.strips = [];
  const post = Worker.prototype.postMessage;
  Worker.prototype.postMessage = function (question, transfer) {
    if (question.kind !== 'strip') return post.call(this, question, transfer);
    strips.push(question.view.width);
    setTimeout(() => post.call(this, question, transfer), 200);
  };
}"""


def test_a_large_picture_is_given_up_once_the_camera_moves(browser, served, tmp_path):
    folder = shutil.copytree(served.folder, tmp_path / "page")
    engine = folder / "wasm.js"
    engine.write_text(engine.read_text().replace("STRIP_BYTES = 48e6", "STRIP_BYTES = 1"))  # a row of rays each
    server = serve(folder)
    browser.open(f"{server.address}?engine=wasm&budget=0", 390, 844, touch=True, before=COUNT_STRIPS)
    browser.evaluate("mobiler2l.ready.then(() => { strips = [] })")
    browser.evaluate("document.getElementById('reset').click()")
    browser.wait_for("strips.length > 0")
    for kind, x in (("touchStart", 200), ("touchMove", 230)):
        browser.send("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": 400}])
    browser.wait_for("strips.includes(30)")
    rows = served.student.view().grid[0]
    assert browser.evaluate("strips.filter((width) => width === 60).length") < rows == 6
    browser.wait_for(f"{READOUT}.includes('30 × 22')")
    browser.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    browser.wait_for(f"{READOUT}.includes('60 × 44')")
    server.shutdown()


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


KEEP_STREAMS = """{
  window.streams = [];
  const ask = MediaDevices.prototype.getUserMedia;
  MediaDevices.prototype.getUserMedia = async function (wanted) {
    streams.push(await ask.call(this, wanted));
    return streams[streams.length - 1];
  };
}"""


def test_try_on_ends_with_its_camera(browser, served):
    show(browser, served.address, width=390, height=844, before=KEEP_STREAMS)
    browser.evaluate("(document.getElementById('ar').click(), document.getElementById('ar').click(), null)")
    browser.wait_for("mobiler2l.tryOn.on && !document.getElementById('ar').disabled")
    assert browser.evaluate("streams.length") == 1

    # Back from the background, where browsers pause it.
    browser.evaluate("(mobiler2l.tryOn.video.pause(), document.dispatchEvent(new Event('visibilitychange')), null)")
    browser.wait_for("!mobiler2l.tryOn.video.paused")

    browser.evaluate("(streams[0].getTracks()[0].dispatchEvent(new Event('ended')), null)")
    assert browser.evaluate("mobiler2l.tryOn.on") is False
    assert "camera has stopped" in browser.evaluate(ERROR)
    assert browser.evaluate("document.getElementById('ar').textContent") == "AR"

    browser.evaluate("(mobiler2l.tryOn.video.play = () => Promise.reject(new Error('not now')), null)")
    browser.click_on("#ar")
    browser.wait_for(f"{ERROR}?.includes('not now')")
    assert browser.evaluate("streams.map(({ active }) => active)") == [False, False]
    assert browser.evaluate("document.getElementById('ar').disabled") is False
