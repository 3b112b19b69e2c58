"""What somebody who looks through a camera is shown: student, teacher, both, or how they differ."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.models.base_model import Model
from nerfstudio.utils import colormaps
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.geometry.rays import is_perspective
from mobiler2l_ns.student.renderer import Student

Outputs = dict[str, Any]
Shown = Literal["phase", "student", "teacher", "split", "error"]
"""What the viewer shows: the model that is trained, one of the two, the teacher left of the student, or their
difference."""
ERROR_RANGE = 0.25
"""Mean absolute colour error that the error map shows as its brightest colour."""


class Renderers(Protocol):
    """What pictures are taken from."""

    @property
    def student(self) -> Student:
        """The student, trained or not."""
        ...

    def has_begun(self) -> bool:
        """Whether the student has begun to learn."""
        ...

    def find_teacher(self) -> Model | None:
        """The teacher, if it is there."""
        ...

    def render_student(self, camera: Cameras, obb_box: OrientedBox | None = None) -> Outputs:
        """``rgb``, ``accumulation`` and ``depth`` of a perspective camera."""
        ...

    def render_teacher(self, camera: Cameras, obb_box: OrientedBox | None = None) -> Outputs:
        """The same of the teacher and any camera."""
        ...


@dataclass(frozen=True)
class FrameTime:
    """How long a picture of the student took on this device."""

    seconds: float
    width: int
    height: int


def error_map(a: Tensor, b: Tensor) -> Tensor:
    """Colours (H, W, 3) for the mean absolute difference of two pictures (H, W, 3) in 0..1."""
    error = (a - b).abs().mean(-1, keepdim=True) / ERROR_RANGE
    return colormaps.apply_float_colormap(error.clamp(0, 1), "turbo")


class Display:
    """Pictures for the viewer.

    Attributes:
        show: what they show.
        split: the teacher's share of the width where both are shown.
        frame_time: of the newest picture of the student.
    """

    def __init__(self, renderers: Renderers) -> None:
        self.show: Shown = "phase"
        self.split = 0.5
        self.frame_time: FrameTime | None = None
        self._renderers = renderers
        self._warned: set[str] = set()

    def picture(self, camera: Cameras, obb_box: OrientedBox | None = None, show: Shown | None = None) -> Outputs:
        """Picture of one camera.

        Args:
            camera: of any size, focal length and principal point; it is not changed. Of one that is not perspective
                the teacher's picture is shown.
            obb_box: crops the teacher, and a student with a volume; a light field has no space to crop.
            show: in place of what the viewer has chosen.

        Returns:
            ``rgb`` (H, W, 3), ``accumulation`` and ``depth`` (H, W, 1), exactly the camera's size.

        Raises:
            UserError: if the camera is not perspective and there is no teacher; the viewer, whose thread must live, is
                shown a perspective camera's picture instead.
        """
        teacher = self._renderers.find_teacher()
        show = self.resolve(show or self.show)
        if show != "teacher" and not is_perspective(camera):
            if teacher is None:
                camera = self._perspective(camera)
            else:
                show = "teacher"
                self._warn_once("The student renders perspective cameras only: others show its teacher")
        if show == "student":
            return self._timed_student(camera, obb_box)
        rendered = self._renderers.render_teacher(camera, obb_box)
        rgb = rendered["rgb"]
        ones = torch.ones_like(rgb[..., :1])
        outputs = {
            "rgb": rgb,
            "accumulation": rendered.get("accumulation", ones),
            "depth": rendered.get("depth", ones),
        }
        if show == "teacher":
            return outputs
        student = self._timed_student(camera, obb_box)
        if show == "error":
            return {**student, "rgb": error_map(student["rgb"], rgb)}
        cut = round(rgb.shape[1] * self.split)
        return {name: torch.cat([outputs[name][:, :cut], student[name][:, cut:]], dim=1) for name in student}

    def resolve(self, show: Shown) -> Shown:
        """What is really shown: where there is no teacher the student, and by phase whichever is trained."""
        teacher = self._renderers.find_teacher()
        if show == "phase" or (teacher is None and show != "student"):
            return "student" if self._renderers.has_begun() or teacher is None else "teacher"
        return show

    def _perspective(self, camera: Cameras) -> Cameras:
        """What the viewer is shown in place of a camera that is not perspective."""
        # nerfstudio's commands render in the main thread, its viewer in threads of its own.
        if threading.current_thread() is threading.main_thread():
            raise UserError(
                "The student renders perspective cameras only (no fisheye or 360° ones), and its teacher is not here: "
                'give the camera path "camera_type": "perspective"'
            )
        self._warn_once("The student renders perspective cameras only: others are shown as one")
        return self._renderers.student.perspective(camera)

    def _warn_once(self, warning: str) -> None:
        if warning not in self._warned:
            self._warned.add(warning)
            CONSOLE.print(f"[yellow]{warning}")

    def _timed_student(self, camera: Cameras, obb_box: OrientedBox | None) -> Outputs:
        begin = time.perf_counter()
        outputs = self._renderers.render_student(camera, obb_box)
        float(outputs["rgb"][0, 0, 0])  # waits for the device
        height, width = outputs["rgb"].shape[:2]
        self.frame_time = FrameTime(time.perf_counter() - begin, width, height)
        return outputs
