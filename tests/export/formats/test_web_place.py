"""Balls are placed on the scene of a page: they stay there, and are hidden by what lies before them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_student import VOLUME, VOLUMES, make_student
from web_page import pixels, show, write_page

from mobiler2l_ns.export.formats.web.chromium import find_chromium
from mobiler2l_ns.student.renderer import SOLID

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")

BALLS = "mobiler2l.placed().balls"
IDLE = "mobiler2l.idle()"
OVERLAY = "Promise.resolve(document.getElementById('balls'))"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A student that looks along y at a wall with a hole in its middle, and the address of its page."""
    student = make_student(**VOLUMES["sphere"])
    student.capture.record(
        start_pose=torch.tensor([[1.0, 0.0, 0.0, 0.2], [0.0, 0.0, -1.0, -4.1], [0.0, 1.0, 0.0, 0.3]]),
        look_at=torch.tensor([0.2, -0.1, 0.3]),
        distance=torch.tensor([2.0, 6.0]),
        elevation=torch.tensor([-60.0, 60.0]),
        azimuth=torch.tensor([0.0, 360.0]),
    )
    volume = student.volume
    assert volume is not None
    volume.proposals.box.copy_(torch.tensor([[-1.0] * 3, [1.0] * 3]))
    density = volume.proposals.density.zero_()
    density[..., 1:-1, 4:6, 1:-1] = 8.0  # z, y, x
    density[..., 3:7, :, 3:7] = 0.0
    server = write_page(student, tmp_path_factory.mktemp("web") / "page", "fp32")
    yield SimpleNamespace(student=student, address=server.address)
    server.shutdown()


def shown_pose(browser):
    return torch.tensor(browser.evaluate(f"{IDLE}.then(() => mobiler2l.shownPose())"))


def box(browser):
    of = "document.getElementById('view').getBoundingClientRect()"
    return browser.evaluate(f"(({{x, y, width, height}}) => [x, y, width, height])({of})")


def tap(browser, x, y):
    """Tap a place of the picture, in its pixels; returns how many balls there are then."""
    left, top, width, height = box(browser)
    before = browser.evaluate(f"JSON.stringify({BALLS}) + document.getElementById('hint').textContent")
    browser.click(left + x / 60 * width, top + y / 44 * height)
    browser.wait_for(f"JSON.stringify({BALLS}) + document.getElementById('hint').textContent !== {before!r}")
    browser.evaluate(IDLE)
    return browser.evaluate(f"{BALLS}.length")


def surfaces(student, pose):
    """Where the volume's rays end, (rows, columns, 3), and which end somewhere."""
    rays = student.view().rays(pose[None])
    composited = student.composite(*rays)
    return student.surfaces(rays, composited)[0], composited.features[0, -1] > SOLID


def ball_pixels(browser):
    """Of the balls' canvas those that are covered, as (x, y) in pixels of the picture; empty where it is hidden."""
    if browser.evaluate("document.getElementById('balls').hidden"):
        return np.zeros((0, 2))
    alpha = pixels(browser, OVERLAY)[..., 3]
    rows, columns = np.nonzero(alpha > 0.5)
    return np.stack([columns + 0.5, rows + 0.5], axis=1) * (60 / alpha.shape[1])


def ball_colour(browser, column, row):
    """What the balls' canvas, which is finer, shows within a pixel of the picture, on average."""
    shown = pixels(browser, OVERLAY)
    left, right, top, bottom = (round(at * shown.shape[1] / 60) for at in (column, column + 1, row, row + 1))
    within = shown[top:bottom, left:right].reshape(-1, 4)
    assert within[:, 3].min() > 0.99
    return within[:, :3].mean(axis=0)


def project(student, pose, point):
    x, y, back = (pose[:, :3].T @ (torch.tensor(point) - pose[:, 3])).tolist()
    fx, fy, cx, cy = student.view().intrinsics
    return np.array([cx - fx * x / back, cy + fy * y / back])


@pytest.mark.parametrize(("name", "engine"), [*((name, "wasm") for name in VOLUMES), ("unbounded", "webgpu")])
def test_the_page_knows_where_the_student_s_surfaces_are(name, engine, tmp_path, browser):
    student = make_student(**VOLUMES[name], width_of_body=8, num_blocks=1)
    server = write_page(student, tmp_path / "page", "fp32")
    show(browser, server.address, engine)
    pose = shown_pose(browser)
    ask = "{ const s = await mobiler2l.placed().surfaces(), all = []; for (let r = 0; r < s.rows; r++) \
        for (let c = 0; c < s.columns; c++) all.push(s.point(r, c)); return all; }"
    got = browser.evaluate(f"(async () => {ask})()")
    expected, seen = (each.flatten(0, 1) for each in surfaces(student, pose))
    assert 0.1 < seen.float().mean() < 1.0
    assert [point is not None for point in got] == seen.tolist()
    found = torch.tensor([point for point in got if point])
    torch.testing.assert_close(found, expected[seen], atol=2e-3, rtol=1e-3)
    server.shutdown()


@pytest.mark.parametrize("engine", ["wasm", "webgpu"])
def test_a_tap_places_a_ball_that_stays_where_it_is(engine, page, browser):
    show(browser, page.address, engine)
    pose = shown_pose(browser)
    points, seen = surfaces(page.student, pose)
    assert seen[10, 8] and not seen[10, 15]
    assert ball_pixels(browser).size == 0
    browser.click_on("#place")
    assert tap(browser, 17.0, 21.0) == 1
    ball = browser.evaluate(f"{BALLS}[0]")
    centre, radius = torch.tensor(ball["centre"]), ball["radius"]
    assert float((centre - points[10, 8]).norm()) == pytest.approx(radius, rel=0.05)  # it lies on the place
    assert float(pose[:, 2] @ (centre - points[10, 8])) > 0.5 * radius
    covered = ball_pixels(browser)
    assert np.abs(covered.mean(axis=0) - project(page.student, pose, ball["centre"])).max() < 0.7

    browser.drag((600, 200), (660, 170))
    browser.evaluate("new Promise((done) => setTimeout(done, 700))")
    moved = shown_pose(browser)
    assert float((moved - pose).abs().max()) > 0.05
    assert browser.evaluate(f"{BALLS}[0].centre") == ball["centre"]
    covered = ball_pixels(browser)
    middle = project(page.student, moved, ball["centre"])
    assert np.abs(covered.mean(axis=0) - middle).max() < 0.7
    # It is in the picture that is saved, too; a tap on it removes it.
    saved = pixels(browser, "mobiler2l.compose()")
    column, row = middle.astype(int)
    assert np.abs(saved[row, column, :3] - ball_colour(browser, column, row)).max() < 0.03
    assert tap(browser, *middle) == 0
    assert ball_pixels(browser).size == 0 and browser.console == []


def test_a_ball_is_hidden_by_what_lies_before_it_and_shows_through_a_hole(page, browser):
    show(browser, page.address)
    pose = shown_pose(browser)
    ahead, middle = -pose[:, 2], pose[:, 3] + 4.0 * -pose[:, 2]
    _, seen = surfaces(page.student, pose)

    def shown(forward, radius):
        ball = {"centre": (middle + forward * ahead).tolist(), "radius": radius, "colour": [255, 0, 0]}
        browser.evaluate(f"({BALLS} = [{ball}], mobiler2l.placed().paint())")
        return ball_pixels(browser)

    before = shown(-2.0, 0.5)
    assert len(before) > 300
    behind = shown(3.0, 1.5)
    cells = (behind / 2.0).astype(int)
    assert 0 < len(behind) < len(before)
    assert (~seen[cells[:, 1], cells[:, 0]]).float().mean() > 0.9  # where nothing is before it
    assert shown(-9.0, 0.5).size == 0  # behind the camera


def test_nothing_is_placed_where_nothing_is(page, browser):
    show(browser, page.address)
    browser.click_on("#place")
    assert tap(browser, 31.0, 21.0) == 0
    assert "Nothing is there" in browser.evaluate("document.getElementById('hint').textContent")


def test_taps_place_nothing_until_asked_and_drags_never_do(page, browser):
    show(browser, page.address)
    left, top, width, height = box(browser)
    browser.click(left + 17 / 60 * width, top + 21 / 44 * height)
    browser.click_on("#place")
    browser.drag((left + 17 / 60 * width, top + 21 / 44 * height), (left + 20 / 60 * width, top + 21 / 44 * height))
    assert browser.evaluate(f"{IDLE}.then(() => {BALLS}.length)") == 0


def test_a_ball_is_placed_on_an_object_in_ar(tmp_path, browser):
    student = make_student(**{**VOLUME, "alpha": True, "sphere": True}, num_blocks=1)
    server = write_page(student, tmp_path / "page", "fp32")
    show(browser, server.address)
    browser.click_on("#ar")
    browser.wait_for("mobiler2l.tryOn.on")
    browser.drag((600, 300), (660, 330))
    _, seen = surfaces(student, shown_pose(browser))
    row, column = divmod(int(seen[4:-4, 4:-4].float().flatten().argmax()), seen.shape[1] - 8)
    browser.click_on("#place")
    assert tap(browser, 2.0 * (column + 4) + 1.0, 2.0 * (row + 4) + 1.0) == 1
    same = "['view', 'balls'].map((id) => JSON.stringify(document.getElementById(id).getBoundingClientRect()))"
    assert len(set(browser.evaluate(same))) == 1
    browser.click_on("#ar")
    server.shutdown()


def test_a_light_field_s_page_places_nothing(browser, served):
    show(browser, served.address)
    assert browser.evaluate("document.getElementById('place').hidden")
    assert browser.evaluate("mobiler2l.placed()") is None
    assert [path.name for path in served.folder.iterdir() if path.name in ("place.js", "surfaces.js")] == []
