"""The folder "MobileR2L" in nerfstudio's viewer, while training and in ns-viewer.

nerfstudio hands its viewer to every ``ViewerControl`` that it finds on the pipeline; without a viewer nothing here ever
runs. A thread brings the folder up to date while somebody looks, and reads only what others own.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.viewer.viewer_elements import (
    ViewerButton,
    ViewerCheckbox,
    ViewerControl,
    ViewerDropdown,
    ViewerSlider,
    ViewerText,
)
from viser import ClientHandle

from mobiler2l_ns.progress import log as progress
from mobiler2l_ns.progress import records
from mobiler2l_ns.student.display import Shown
from mobiler2l_ns.viewer.export_job import ExportJob, format_names
from mobiler2l_ns.viewer.frustums import Frustums
from mobiler2l_ns.viewer.run import ViewedRun
from mobiler2l_ns.viewer.run_state import describe, progress_of_checkpoint, share_done
from mobiler2l_ns.viewer.strip import strip
from mobiler2l_ns.viewer.viewer_frame import viewer_point

if TYPE_CHECKING:
    from nerfstudio.viewer.viewer import Viewer

INTERVAL = 0.5
"""Seconds between two updates of the text."""
PICTURES_INTERVAL = 2.0
"""Seconds between two updates of pseudo views and their cameras."""
STRIP_VIEWS, STRIP_COLUMNS, STRIP_WIDTH = 8, 4, 300
CAMERAS = 64
"""Most cameras of a kind whose frustums are shown."""
FRUSTUM_SHARE = 0.05
"""Size of a frustum as a share of the cameras' usual distance from what they look at."""
START_SHARE = 0.1
"""How far ahead of the first photo's camera the viewer starts, as a share of the distance to what it looks at."""
WHITE, ORANGE = (255, 255, 255), (255, 128, 0)


class Panel(ViewerControl):
    """Progress, what to show, pseudo views and export.

    Args:
        run: the panel reads it, and sets what its model shows.
    """

    def __init__(self, run: ViewedRun) -> None:
        self._viewed = run
        self._installed = False
        self._job: ExportJob | None = None
        self._checkpoint_progress: tuple[int, progress.Progress] | None = None
        self._shown_views = -1
        self._pictures_due = 0.0

    def _setup(self, viewer: Viewer) -> None:
        """Called by nerfstudio's viewer when it has built its own controls."""
        super()._setup(viewer)
        self._config = viewer.log_filename.parent / "config.yml"
        # Above nerfstudio's tabs, which come right after these lines.
        with self.viser_server.gui.add_folder("MobileR2L", order=viewer.stats_markdown.order + 0.5):
            self._add_run()
            self._add_show()
            with self.viser_server.gui.add_folder("Pseudo views"):
                self._add_pseudo_views()
            with self.viser_server.gui.add_folder("Export"):
                self._add_export()
        self._installed = True
        self.viser_server.on_client_connect(self._place_camera)
        threading.Thread(target=_watch, args=(weakref.ref(self),), name="mobiler2l panel", daemon=True).start()

    # Controls

    def _add_run(self) -> None:
        self._run = self.viser_server.gui.add_markdown("")
        self._bar = self.viser_server.gui.add_progress_bar(0.0)

    def _add_show(self) -> None:
        model, server = self._viewed.model, self.viser_server
        options = list(get_args(Shown)) if model.find_teacher() is not None else ["phase", "student"]
        hint = "phase: what is being trained; split: teacher left, student right; error: how they differ"
        display = model.display
        self._show = ViewerDropdown("Show", display.show, options, cb_hook=lambda _: self._choose(), hint=hint)
        self._split = ViewerSlider("Split", display.split, 0.0, 1.0, 0.01, cb_hook=lambda _: self._choose())
        self._show.install(server)
        self._split.install(server)
        self._split.set_visible(display.show == "split")
        self._frame = server.gui.add_markdown("")

    def _choose(self) -> None:
        display = self._viewed.model.display
        display.show, display.split = self._show.value, self._split.value  # type: ignore[assignment]
        self._split.set_visible(display.show == "split")
        self.viewer._trigger_rerender()

    def _add_pseudo_views(self) -> None:
        server, visible = self.viser_server, self.viewer.trainer is not None
        hint = "Orange: where pseudo views are taken from; white: the photos"
        self._cameras_shown = ViewerCheckbox("Cameras", visible, cb_hook=lambda _: self._toggle_cameras(), hint=hint)
        self._cameras_shown.install(server)
        datamanager = self._viewed.datamanager
        poses, view = datamanager.train_poses, datamanager.view
        distance = viewer_point((poses[:, :, 3] - datamanager.look_at).norm(dim=-1).median())
        scale = FRUSTUM_SHARE * float(distance)
        self._photos = Frustums(server, "/photo_cameras", WHITE, view, scale, visible)
        self._cameras = Frustums(server, "/pseudo_cameras", ORANGE, view, scale, visible)
        self._photos.place(poses[torch.linspace(0, len(poses) - 1, min(CAMERAS, len(poses))).round().long()])
        self._pool = server.gui.add_markdown("")
        self._strip = server.gui.add_markdown("")

    def _toggle_cameras(self) -> None:
        self._photos.visible = self._cameras.visible = self._cameras_shown.value

    def _add_export(self) -> None:
        names = format_names()
        self._format = ViewerDropdown("Format", names[0], names)
        self._folder = ViewerText("Folder", str(self._config.parent / "exports"))
        self._button = ViewerButton("Export newest checkpoint", lambda _: self._export())
        for element in (self._format, self._folder, self._button):
            element.install(self.viser_server)
        self._export_state = self.viser_server.gui.add_markdown("")

    def _export(self) -> None:
        if self._job is None or not self._job.running:
            self._job = ExportJob(self._format.value, self._config, Path(self._folder.value))
            self._show_export()

    def _place_camera(self, client: ClientHandle) -> None:
        """Start at the first photo with the student's field of view, just past the frustum that would hide the rest."""
        datamanager = self._viewed.datamanager
        first = datamanager.train_poses[0]
        centre, look_at = viewer_point(first[:, 3]), viewer_point(datamanager.look_at)
        ahead = viewer_point(-first[:, 2])
        # The point to turn around: on the camera's axis, as far away as what all cameras look at.
        depth = float(np.dot(look_at - centre, ahead) / np.dot(ahead, ahead))
        depth = depth if depth > 0.0 else 1.0
        with client.atomic():
            client.camera.position = centre + START_SHARE * depth * ahead
            client.camera.look_at = centre + depth * ahead
            client.camera.fov = 2.0 * math.atan(datamanager.view.height / 2.0 / datamanager.view.fy)

    def give_way(self) -> None:
        """Let the viewer render now, if there is one: for long work within a training step, which holds its lock."""
        if self._installed and self.viewer.train_lock is not None and self.viser_server.get_clients():
            self.viewer.train_lock.release()
            try:
                time.sleep(0.001)
            finally:
                self.viewer.train_lock.acquire()

    # News

    def update(self) -> None:
        """Bring the folder up to date; only what has changed is sent."""
        now = self._now()
        pool = self._viewed.datamanager.pool
        _say(self._run, describe(now, pool))
        done = round(100.0 * share_done(self._viewed.plan, now), 1)
        if self._bar.value != done:
            self._bar.value = done
        frame = self._viewed.model.display.frame_time
        if frame is not None:
            device = self._viewed.model.device.type
            _say(self._frame, f"Student: {frame.seconds * 1e3:.0f} ms for {frame.width} x {frame.height} on {device}")
        if self._job is not None:
            self._show_export()
        _say(self._pool, self._describe_pool())
        if time.monotonic() >= self._pictures_due:
            self._pictures_due = time.monotonic() + PICTURES_INTERVAL
            self._show_pseudo_views()

    def _now(self) -> progress.Progress:
        if self.viewer.trainer is not None:
            return self._viewed.log.now
        if self._checkpoint_progress is None or self._checkpoint_progress[0] != self.viewer.step:
            log = self._config.parent / records.FILE
            shown = progress_of_checkpoint(self._viewed.plan, self.viewer.step, log)
            self._checkpoint_progress = self.viewer.step, shown
        return self._checkpoint_progress[1]

    def _describe_pool(self) -> str:
        datamanager = self._viewed.datamanager
        pool, reason = datamanager.pool, datamanager.sampler_reason
        if pool is not None:
            return f"{len(pool)} of {pool.capacity} in the pool, {pool.rendered} rendered  \n{reason}"
        if self.viewer.trainer is None:
            return f"Rendered only while training; the cameras are samples  \n{reason}"
        return f"Rendered when distillation begins; the cameras are samples  \n{reason}"

    def _show_pseudo_views(self) -> None:
        datamanager = self._viewed.datamanager
        pool = datamanager.pool
        views = 0 if pool is None else pool.rendered
        if views == self._shown_views:
            return
        self._shown_views = views
        if pool is None or views == 0:
            # Draws of its own: those of the run stay as they are.
            self._cameras.place(datamanager.sampler.sample(CAMERAS, torch.Generator().manual_seed(0)))
            return
        self._cameras.place(pool.poses[pool.newest(CAMERAS)])
        pictures = strip(pool.pictures[pool.newest(STRIP_VIEWS)], STRIP_COLUMNS, STRIP_WIDTH)
        # Not as Markdown's own image, which the viewer would make narrower than the folder.
        self._strip.content = f'<img alt="the newest pseudo views" src="{pictures}" style={{{{width: "100%"}}}} />'

    def _show_export(self) -> None:
        assert self._job is not None
        _say(self._export_state, self._job.state())
        if self._button.gui_handle.disabled != self._job.running:
            self._button.set_disabled(self._job.running)


def _say(handle, text: str) -> None:
    if handle.content != text:
        handle.content = text


def _watch(panel: weakref.ref[Panel]) -> None:
    """Updates a panel for as long as there is one and somebody looks at it; each failure is told once."""
    told: set[str] = set()
    while True:
        time.sleep(INTERVAL)
        watched = panel()
        if watched is None:
            return
        if watched.viser_server.get_clients():
            try:
                watched.update()
            except Exception as error:  # a panel that stands still for good would be worse than one that is late
                reason = f"{type(error).__name__}: {error}"
                if reason not in told:
                    told.add(reason)
                    CONSOLE.print("The viewer's panel could not be updated:", reason, style="yellow", markup=False)
        del watched
