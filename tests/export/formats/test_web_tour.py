"""The page keeps the camera where the capture is good, plays the turntable, links to views and saves a film."""

from __future__ import annotations

import json
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_student import make_fence, make_student
from web_page import show, write_page

from mobiler2l_ns.capture.fence import measure_fence, strangeness
from mobiler2l_ns.capture.pose_samplers import look_at_poses
from mobiler2l_ns.export.formats.web.chromium import find_chromium
from mobiler2l_ns.export.formats.web.serve import serve
from mobiler2l_ns.export.poses import poses_of_fence

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")


@pytest.fixture(scope="module", params=["inward", "outward"])
def page(request, tmp_path_factory):
    """A page of a student with a fence, its folder and its address."""
    student, folder = make_student(width_of_body=8, num_blocks=1), tmp_path_factory.mktemp("web") / "page"
    student.capture.record_fence(make_fence(request.param == "inward"))
    student.capture.record(start_pose=poses_of_fence(student.capture.fence()).views["front"])
    server = write_page(student, folder)
    yield SimpleNamespace(student=student, folder=folder, address=server.address, fence=student.capture.fence())
    server.shutdown()


def shown(browser):
    return torch.tensor(browser.evaluate("mobiler2l.idle().then(() => mobiler2l.shownPose())"))


def left_alone(browser):
    """The pose once the hand's inertia has ended and the camera is where it stays: then there is a new link."""
    browser.wait_for("location.hash.startsWith('#view=')")
    return shown(browser)


FORGET_LINK = "(history.replaceState(null, '', location.pathname + location.search), null)"


def how_strange(page, pose):
    return float(strangeness(pose[None], page.fence.anchors, page.fence.reach))


def test_a_hand_leads_only_a_little_beyond_and_what_it_leaves_comes_back(browser, page):
    show(browser, page.address, width=390, height=844)
    for _ in range(6):
        browser.send(
            "Input.dispatchMouseEvent", type="mousePressed", x=100, y=200, button="left", buttons=1, clickCount=1
        )
        for x in range(100, 380, 20):
            browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=200 + x, button="left", buttons=1)
        out = torch.tensor(browser.evaluate("mobiler2l.camera().pose()"))
        browser.evaluate(FORGET_LINK)
        browser.send("Input.dispatchMouseEvent", type="mouseReleased", x=380, y=580, button="left", clickCount=1)
    assert 1.0 < how_strange(page, out) < 2.5
    assert how_strange(page, left_alone(browser)) <= 1.05
    assert browser.console == []


def test_links_lead_to_views(browser, page):
    views = poses_of_fence(page.fence).views
    show(browser, page.address + "#view=left", engine="")
    torch.testing.assert_close(shown(browser), views["left"], atol=1e-4, rtol=0)
    browser.evaluate("(location.hash = '#view=above', null)")
    browser.wait_for(f"Math.abs(mobiler2l.shownPose()[2][2] - {float(views['above'][2, 2])}) < 1e-4")
    browser.evaluate(FORGET_LINK)
    browser.drag((200, 400), (230, 410))
    moved = left_alone(browser)
    link = browser.evaluate("location.hash")
    assert link.startswith("#view=") and how_strange(page, moved) <= 1.05
    show(browser, page.address + link, engine="")
    torch.testing.assert_close(shown(browser), moved, atol=2e-3, rtol=0)
    browser.evaluate(
        "(document.getElementById('views').selectedIndex = 1, "
        "document.getElementById('views').dispatchEvent(new Event('change')), null)"
    )
    torch.testing.assert_close(shown(browser), views["front"], atol=1e-4, rtol=0)
    assert browser.evaluate("location.hash") == "#view=front"
    for nonsense in ("#view=nowhere", "#view=1,2,3", "#other"):
        show(browser, page.address + nonsense, engine="")
        torch.testing.assert_close(shown(browser), page.student.capture.start_pose, atol=0.3, rtol=0)
    assert browser.console == []


def test_the_turntable_passes_through_its_poses(browser, page):
    show(browser, page.address)
    turntable = json.loads((page.folder / "manifest.json").read_text())["poses"]["turntable"]
    ask = (
        "import('/tour.js').then(({ Path }) => { const path = new Path(%s); return %s.map((share) => path.at(share)) })"
    )
    shares = [index / 24 for index in range(25)] + [0.5 / 24]
    got = np.array(browser.evaluate(ask % (json.dumps(turntable), shares)))
    expected = np.array(turntable["poses"])
    np.testing.assert_allclose(got[:24], expected, atol=1e-4)
    np.testing.assert_allclose(got[24], expected[0], atol=1e-4)
    between = got[25]
    np.testing.assert_allclose(between[:, :3].T @ between[:, :3], np.eye(3), atol=1e-6)
    np.testing.assert_allclose(between, (expected[0] + expected[1]) / 2, atol=0.03)
    open_path = {**turntable, "closed": False}
    got = np.array(browser.evaluate(ask % (json.dumps(open_path), [0, 1, 2])))
    np.testing.assert_allclose(got, expected[[0, -1, -1]], atol=1e-4)


def test_it_plays_until_a_hand_takes_the_camera(browser, page):
    show(browser, page.address + "#view=turntable", engine="")
    browser.wait_for("mobiler2l.playing() && mobiler2l.frameTime() > 0")
    before = browser.evaluate("mobiler2l.shownPose()")
    browser.wait_for(f"JSON.stringify(mobiler2l.shownPose()) !== {json.dumps(json.dumps(before))}")
    browser.evaluate(FORGET_LINK)
    browser.drag((200, 300), (205, 300))
    assert browser.evaluate("mobiler2l.playing()") is False
    still = left_alone(browser)
    assert torch.equal(shown(browser), still) and browser.console == []


def test_a_film_of_the_turntable_is_saved(browser, page, tmp_path):
    folder = shutil.copytree(page.folder, tmp_path / "page")
    described = json.loads((folder / "manifest.json").read_text())
    described["poses"]["turntable"]["seconds"] = 0.6
    (folder / "manifest.json").write_text(json.dumps(described))
    server = serve(folder)
    show(browser, server.address)
    browser.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    browser.click_on("#video")
    until = time.monotonic() + 60
    while not (found := [path for path in tmp_path.glob("turntable.*") if path.suffix in (".webm", ".mp4")]):
        assert time.monotonic() < until
        time.sleep(0.05)
    content = found[0].read_bytes()
    assert len(content) > 1000 and (content[:4] == b"\x1a\x45\xdf\xa3" or content[4:8] == b"ftyp")
    assert browser.console == []
    server.shutdown()


def test_a_page_of_an_earlier_manifest_has_neither(browser, page, tmp_path):
    folder = shutil.copytree(page.folder, tmp_path / "page")
    described = json.loads((folder / "manifest.json").read_text())
    del described["fence"], described["poses"]
    (folder / "manifest.json").write_text(json.dumps(described))
    server = serve(folder)
    show(browser, server.address + "#view=left", engine="")
    shown_buttons = "[...document.querySelectorAll('nav > :not([hidden])')].map((one) => one.id)"
    assert browser.evaluate(shown_buttons) == ["reset", "save"]
    browser.drag((200, 400), (150, 380))
    left_alone(browser)
    assert browser.console == []
    server.shutdown()


def test_a_walk_is_left_for_its_nearest_pose(browser, tmp_path):
    """Within all ranges, but far from the path of its cameras."""
    share = torch.linspace(0, 1, 200)
    azimuth, elevation = 1.5 * share, 0.2 + 0.7 * share
    direction = torch.stack([elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin(), elevation.sin()], -1)
    cameras = look_at_poses(4 * direction, torch.zeros(200, 3), torch.zeros(200), torch.tensor([0.0, 0.0, 1.0]))
    fence = measure_fence(cameras[::2], cameras[1::2])
    student = make_student(width_of_body=8, num_blocks=1)
    student.capture.record_fence(fence)
    student.capture.record(start_pose=cameras[0])
    server = write_page(student, tmp_path / "page")
    show(browser, server.address + "#view=4,48,4,0,0,0", engine="")
    pose = shown(browser)
    assert 0.5 < float(strangeness(pose[None], fence.anchors, fence.reach)) <= 1.05
    server.shutdown()
