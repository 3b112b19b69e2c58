"""The panel in nerfstudio's viewer: while a run is trained, in a browser; and when a finished run is looked at."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO, Viewer
from PIL import Image
from short_run import PHASES, open_run

from mobiler2l_ns.export.formats.web.chromium import Chromium
from mobiler2l_ns.pool.pseudo_views import PseudoViewPool
from mobiler2l_ns.progress.log import Progress
from mobiler2l_ns.progress.phases import Phase, PhasePlan
from mobiler2l_ns.run.pipeline import MobileR2LPipeline
from mobiler2l_ns.viewer import export_job
from mobiler2l_ns.viewer.export_job import ExportJob
from mobiler2l_ns.viewer.run_state import describe, progress_of_checkpoint, share_done
from mobiler2l_ns.viewer.strip import strip

MIDDLE = "(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({}.getBoundingClientRect())"
VISIBLE = "[...document.querySelectorAll('{}')].find(e => {} && e.offsetParent)"


@dataclass
class Seen:
    """A run that was trained while a browser looked at it."""

    trainer: Any
    browser: Chromium
    said: list[str]
    """What the panel said of the run after each step."""

    @property
    def pipeline(self) -> MobileR2LPipeline:
        return self.trainer.pipeline

    def frame(self) -> np.ndarray:
        """What the page shows of the scene, left of the controls."""
        picture = Image.open(io.BytesIO(self.browser.screenshot())).convert("RGB")
        return np.asarray(picture, dtype=np.float32)[100:, : picture.width // 2]

    def frame_after(self, action: Callable[[], None], thin: bool = False) -> np.ndarray:
        """The picture that an action leads to, once it stands still.

        Args:
            thin: whether a few pixels are change enough, such as those of lines.
        """
        before = previous = self.frame()
        action()
        for _ in range(60):
            time.sleep(0.2)
            now = self.frame()
            change = np.abs(now - before)
            if np.array_equal(now, previous) and (change.max() > 40.0 if thin else change.mean() > 0.2):
                return now
            previous = now
        raise AssertionError("the picture stays as it was")

    def frame_like(self, picture: np.ndarray, difference: float) -> None:
        """Wait until the page's picture is this near to another, in mean absolute difference of the colours."""
        for _ in range(150):
            found = float(np.abs(self.frame() - picture).mean())
            if found < difference:
                return
            time.sleep(0.2)
        raise AssertionError(f"the picture stays {found:.1f} away, not {difference:.1f}")

    def text(self) -> str:
        return self.browser.evaluate("document.body.innerText")

    def click(self, tag: str, condition: str) -> None:
        """Click on the first element of which a JavaScript condition on ``e`` is true."""
        element = VISIBLE.format(tag, condition)
        self.browser.wait_for(f"!!{element}")
        self.browser.evaluate(f"{element}.scrollIntoView({{block: 'center'}})")
        self.browser.click(*self.browser.evaluate(MIDDLE.format(element)))

    def choose(self, current: str, wanted: str) -> None:
        """Another option of a dropdown."""
        self.click("input", f"e.value == '{current}'")
        self.click("[role=option]", f"e.innerText == '{wanted}'")


@pytest.fixture(scope="module")
def seen(make_config, tmp_path_factory) -> Iterator[Seen]:
    config = make_config(tmp_path_factory.mktemp("panel"))
    config.vis = "viewer"
    config.viewer.websocket_host, config.report_views = "127.0.0.1", 0
    torch.manual_seed(0)
    config.save_config()
    trainer = config.setup()
    trainer.setup()
    trainer.viewer_state.control_panel._max_res.value = 64  # the teacher is slow
    address = f"http://127.0.0.1:{trainer.viewer_state.viser_server.get_port()}"
    panel, said = trainer.pipeline.panel, []

    def look(step: int) -> None:
        if step == PHASES["teacher"] + PHASES["distil"]:  # a browser takes one of two cores
            browser.open(address, 760, 640)
            browser.wait_for("document.body.innerText.includes('MobileR2L')")
        panel.update()
        said.append(panel._run.content)

    trainer.callbacks.append(TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], look))
    with Chromium() as browser:
        try:
            trainer.train()
            yield Seen(trainer, browser, said)
        finally:
            trainer.shutdown()


def test_the_panel_says_how_far_the_run_is(seen):
    seen.browser.wait_for("document.body.innerText.includes('finished')")
    said = "\n".join(seen.said)
    for phase, steps in zip(("teacher", "distil", "fine-tune"), PHASES.values(), strict=True):
        assert f"**{phase}** · step {steps} of {steps} " in said
    assert "images/s" in said and "steps/s" in said
    text = seen.text()
    for line in ("teacher to photos", "student to teacher", "student to selection photos"):
        assert f"{line}: " in text
    assert "6 of 6 in the pool" in text and "pose sampler orbit" in text
    assert seen.pipeline.panel._bar.value == 100.0


def test_the_camera_starts_where_the_first_photo_was_taken(seen):
    (client,) = seen.trainer.viewer_state.viser_server.get_clients().values()
    first = seen.pipeline.datamanager.train_poses[0].numpy()
    place = client.camera.position / VISER_NERFSTUDIO_SCALE_RATIO
    assert 0.3 < np.linalg.norm(place - first[:, 3]) < 0.5  # of a distance of 4: past the frustum of that photo
    state = seen.trainer.viewer_state.get_camera_state(client)
    assert float(torch.as_tensor(state.c2w[:, 2]) @ torch.as_tensor(first[:, 2]).double()) > 0.9999
    assert abs(state.fov - 2 * np.arctan(26 / seen.pipeline.datamanager.view.fy)) < 1e-4


def test_a_drag_moves_the_camera_and_the_picture(seen):
    (client,) = seen.trainer.viewer_state.viser_server.get_clients().values()
    assert seen.frame().std() > 3.0  # a picture is there
    before = np.array(client.camera.position)
    seen.frame_after(lambda: seen.browser.drag((200, 500), (330, 540)))
    assert np.linalg.norm(client.camera.position - before) > 1.0
    seen.browser.wait_for("document.body.innerText.includes('x 64 on cpu')", 10)


def test_what_is_shown_can_be_chosen(seen):
    model = seen.pipeline.model
    student = seen.frame()
    teacher = seen.frame_after(lambda: seen.choose("phase", "teacher"))
    assert model.display.show == "teacher"
    apart = float(np.abs(teacher - student).mean())
    seen.choose("teacher", "split")
    seen.frame_like(student, 0.9 * apart)  # half of it is the student's
    assert model.display.show == "split" and model.display.split == 0.5
    panel = seen.pipeline.panel
    assert panel._split.gui_handle.visible
    thumb = "[...document.querySelectorAll('[role=slider]')].find(e => e.ariaValueNow == '0.5' && e.offsetParent)"
    x, y = seen.browser.evaluate(MIDDLE.format(thumb))
    seen.frame_after(lambda: seen.browser.drag((x, y), (x + 40, y)))
    assert 0.55 < model.display.split <= 1.0
    seen.frame_after(lambda: seen.choose("split", "error"))
    assert not panel._split.gui_handle.visible
    seen.choose("error", "student")
    seen.frame_like(student, apart / 4)


def test_pseudo_views_and_their_cameras_are_shown(seen):
    panel, pool = seen.pipeline.panel, seen.pipeline.datamanager.pool
    assert pool is not None
    panel._pictures_due = 0.0
    panel.update()
    places = np.stack([frustum.position for frustum in panel._cameras.handles])
    newest = pool.poses[pool.newest(6), :, 3].numpy()
    assert np.allclose(places / VISER_NERFSTUDIO_SCALE_RATIO, newest, atol=1e-5)
    strip = "document.querySelector('img[alt=\"the newest pseudo views\"]')"
    seen.browser.wait_for(f"({strip} || {{}}).naturalWidth == 298", 10)
    assert len(panel._photos.handles) == 20 and panel._cameras.visible
    seen.frame_after(lambda: seen.browser.wheel(200, 400, 700))  # back, to where the cameras are seen
    seen.frame_after(lambda: seen.click("label", "e.innerText == 'Cameras'"), thin=True)
    assert not panel._cameras.visible and not panel._photos.visible


def test_an_export_runs_beside_the_viewer(seen):
    panel = seen.pipeline.panel
    panel._format.value = "onnx"
    seen.click("button", "e.innerText == 'Export newest checkpoint'")
    seen.browser.wait_for("document.body.innerText.includes('Exporting onnx')")
    assert panel._button.gui_handle.disabled
    seen.frame_after(lambda: seen.browser.drag((200, 500), (330, 500)))  # nobody waits
    seen.browser.wait_for("document.body.innerText.includes('Done: ')", 120)
    package = seen.trainer.base_dir / "exports"
    assert (package / "mobiler2l.onnx").is_file() and str(package) in seen.text()
    assert "MB, " in seen.text() and "dB to the student" in seen.text()
    assert not panel._button.gui_handle.disabled


def test_no_script_of_the_page_fails(seen):
    assert [line for line in seen.browser.console if line.startswith("exception")] == []


# A run that is only looked at


def watchers() -> int:
    return sum(thread.name == "mobiler2l panel" for thread in threading.enumerate())


def test_a_finished_run_shows_its_panel_without_a_pool(finished_run):
    before = watchers()
    pipeline, step = open_run(finished_run)
    assert watchers() == before and not any("panel" in name for name in pipeline.state_dict())
    log = finished_run.parent / "viewer_log_filename.txt"
    viewer = Viewer(ViewerConfig(websocket_host="127.0.0.1"), log, Path("."), pipeline, train_lock=threading.Lock())
    try:
        assert watchers() == before + 1
        viewer.init_scene(pipeline.datamanager.train_dataset, "completed", pipeline.datamanager.eval_dataset)
        viewer.update_scene(step)
        panel = pipeline.panel
        panel.update()
        assert panel._run.content.startswith("**finished** · trained for 0:00:")
        assert "student to selection photos: " in panel._run.content and panel._bar.value == 100.0
        assert panel._pool.content.startswith("Rendered only while training; the cameras are samples")
        assert panel._strip.content == "" and len(panel._cameras.handles) == 64
        assert not panel._cameras.visible
    finally:
        viewer.viser_server.stop()


# Words, pictures and exports, without a viewer


def test_an_export_that_fails_says_why_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(export_job, "COMMAND", "print('Loading'); raise SystemExit('No run at {config.yml}: give one')")
    job = ExportJob("onnx", tmp_path / "config.yml", tmp_path)
    assert job.running and job.state().startswith("Exporting onnx: ")
    until = time.monotonic() + 30
    while job.running and time.monotonic() < until:
        time.sleep(0.02)
    # Braces would be code in the viewer's Markdown.
    assert job.state() == r"**Failed:** No run at \{config.yml}: give one"


PLAN = PhasePlan(teacher=100, distil=200, finetune=50)


def test_a_run_in_words():
    pool = PseudoViewPool(4, 8, 8, 1.0, "cpu")
    pool.add(torch.eye(4)[:3], torch.zeros(8, 8, 3))
    preparing = Progress(Phase.DISTIL, 200, 0, "preparing", psnr={"teacher": 21.0})
    assert describe(preparing, pool) == "**distil** · rendering pseudo views: 1 of 4  \nteacher to photos: 21.00 dB"
    training = Progress(Phase.DISTIL, 200, 40, "training", 30.0, 2.0, 8.0)
    assert describe(training, pool) == "**distil** · step 40 of 200 · 8.0 images/s · 0:01:20 left"
    assert share_done(PLAN, training) == 140 / 350
    teaching = Progress(Phase.TEACHER, 100, 10, "training", 5.0, 2.0)
    assert describe(teaching, None) == "**teacher** · step 10 of 100 · 2.0 steps/s · 0:00:45 left"


def test_a_run_that_is_progress_of_checkpoint_has_its_state_from_checkpoint_and_log(tmp_path):
    log = tmp_path / "progress.jsonl"
    log.write_text(
        '{"event": "train", "step": 99, "phase": "teacher", "seconds": 50.0, "psnr": 20.5}\n'
        '{"event": "selection", "step": 299, "phase": "distil", "curve": "selection", "seconds": 90.0, "psnr": 19.25}\n'
        '{"event": "train", "step": 340, "phase": "fine-tune", "seconds": 99.0, "psnr": 30.0}\n'
    )
    state = progress_of_checkpoint(PLAN, 299, log)  # the checkpoint holds nothing of what came later
    expected = "**distil** · stopped · step 200 of 200 · trained for 0:01:30  \nteacher to photos: 20.50 dB"
    assert describe(state, None) == expected + "  \nstudent to selection photos: 19.25 dB"
    assert describe(progress_of_checkpoint(PLAN, 349, tmp_path / "none"), None) == "**finished**"


@pytest.mark.parametrize("channels", [3, 4])
def test_a_strip_shows_pictures_in_rows_over_white(channels):
    pictures = torch.zeros(5, 60, 90, channels, dtype=torch.uint8)
    pictures[0, :, :, 0] = pictures[4, :, :, 1] = 255
    if channels == 4:
        pictures[[0, 4], :, :, 3] = 255  # the others are transparent
    kind, data = strip(pictures, columns=4, width=158).split(",")
    assert kind == "data:image/jpeg;base64"
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), dtype=float)
    assert sheet.shape == (2 * 25 + 2, 158, 3)
    assert np.abs(sheet[12, 19] - [255, 0, 0]).max() < 8
    assert np.abs(sheet[40, 19] - [0, 255, 0]).max() < 8
    assert np.abs(sheet[12, 60] - (0 if channels == 3 else 255)).max() < 8
    assert sheet[40, 100].min() > 247
