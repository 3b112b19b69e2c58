"""The student and its teacher on test views: the figures of ns-eval view by view, and some pictures to look at."""

from __future__ import annotations

import base64
import io
import time
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.data.utils.dataloaders import FixedIndicesEvalDataloader
from nerfstudio.utils.rich_utils import CONSOLE
from PIL import Image
from rich.progress import track
from torch import Tensor

from mobiler2l_ns.capture.parsing import Split, of_split
from mobiler2l_ns.capture.photos import CaptureDataset
from mobiler2l_ns.errors import UserError
from mobiler2l_ns.pool.datamanager import MobileR2LDataManager
from mobiler2l_ns.pool.pseudo_views import quantise
from mobiler2l_ns.report.run import ReportedRun

SHOWN_VIEWS = 4
SHOWN_PIXELS = 480
"""Longest side of a picture on the page."""
LOSSLESS_PIXELS = 200
"""Pictures up to this size are stored as they are, as PNG."""


@dataclass
class View:
    """One test view."""

    name: str
    """Of the photo's file."""
    metrics: dict[str, float]
    """Of ``MobileR2LModel.get_image_metrics_and_images``: psnr, ssim, teacher_psnr, ..."""
    pictures: dict[str, str]
    """Photo, teacher, student, error -> data URL; empty for views that are not shown."""


@dataclass
class Measured:
    """What was measured on test views, on this device."""

    views: list[View]
    split: str
    """Of the capture: test, or the one that stands in for it."""
    available: int
    """Views in that split that are not wholly hidden by their masks."""
    size: tuple[int, int]
    """Width and height of the first view in pixels."""
    student_ms: float | None
    """Median milliseconds of a student's frame; None for fewer than two views, of which the first warms up."""
    teacher_ms: float | None
    """Median milliseconds of a teacher's frame; None as above or without a teacher."""
    poses: Float[Tensor, "n 3 4"]
    """Camera to world, of the whole split."""

    def means(self) -> dict[str, float]:
        """Mean over the views of each metric that all of them have."""
        names = [name for name in self.views[0].metrics if all(name in view.metrics for view in self.views)]
        return {name: sum(view.metrics[name] for view in self.views) / len(self.views) for name in names}


def test_views(datamanager: MobileR2LDataManager) -> tuple[CaptureDataset, str]:
    """The views that ns-eval measures, whichever split the run was opened with.

    Raises:
        UserError: if the capture holds none out, or their masks leave nothing of them.
    """
    splits: tuple[Split, ...] = () if datamanager.config.cameras_only else ("test", "val")
    for split in splits:
        outputs = of_split(datamanager.dataparser, split)
        if outputs is not None:
            is_open = split == datamanager.test_split
            dataset = datamanager.eval_dataset if is_open else datamanager.sized(outputs)
            if dataset.visible:
                return dataset, split
    raise UserError("This capture holds out no views to measure")


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers below ``count``, evenly spread, first and last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(place) for place in torch.linspace(0, count - 1, most).tolist()})


def picture_url(picture: Float[Tensor, "h w 3"]) -> str:
    """A picture in 0..1 as a data URL, scaled down if it is large."""
    image = Image.fromarray(quantise(picture).cpu().numpy())
    image.thumbnail((SHOWN_PIXELS, SHOWN_PIXELS), Image.Resampling.LANCZOS)
    kind = "png" if max(image.size) <= LOSSLESS_PIXELS else "jpeg"
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=90, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def measure(run: ReportedRun, most_views: int) -> Measured:
    """Render and compare test views, as ns-eval does, with a progress bar. The run stays in evaluation mode.

    Args:
        most_views: if the capture holds out more, so many are taken evenly from all of them.

    Raises:
        UserError: if the capture holds out no views.
    """
    # The viewer may render at the same time, and would otherwise turn training mode on again in between.
    run.eval()
    model, teacher = run.model, run.model.find_teacher()
    dataset, split = test_views(run.datamanager)
    chosen = [dataset.visible[i] for i in spread(len(dataset.visible), most_views)]
    shown = {chosen[i] for i in spread(len(chosen), SHOWN_VIEWS)}
    loader: Any = FixedIndicesEvalDataloader(dataset, tuple(chosen), device=run.device)  # type: ignore[arg-type]
    views, student_ms, teacher_ms = [], [], []
    with torch.no_grad():
        for camera, batch in track(loader, "Measuring test views", len(chosen), console=CONSOLE, transient=True):
            index = chosen[len(views)]
            outputs, ms = _timed(lambda: model.render_student(camera), run.device)  # noqa: B023
            student_ms.append(ms)
            if teacher is not None:
                teacher_rgb, ms = _timed(lambda: model.render_teacher(camera)["rgb"], run.device)  # noqa: B023
                teacher_ms.append(ms)
                outputs["teacher_rgb"] = teacher_rgb.to(outputs["rgb"])
            metrics, images = model.get_image_metrics_and_images(outputs, batch)
            names = ("photo", "teacher", "student", "error") if teacher is not None else ("photo", "student", "error")
            parts = images["img"].chunk(len(names), dim=1) if index in shown else ()
            pictures = {name: picture_url(part) for name, part in zip(names, parts, strict=False)}
            views.append(View(dataset.image_filenames[index].name, metrics, pictures))
    camera = dataset.cameras[chosen[0]]
    return Measured(
        views=views,
        split=split,
        available=len(dataset.visible),
        size=(int(camera.width), int(camera.height)),
        student_ms=_median_of_later(student_ms),
        teacher_ms=_median_of_later(teacher_ms),
        poses=dataset.cameras.camera_to_worlds.cpu().float(),
    )


def _timed(render: Any, device: torch.device | str) -> tuple[Any, float]:
    def now() -> float:
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    start = now()
    result = render()
    return result, 1000.0 * (now() - start)


def _median_of_later(values: list[float]) -> float | None:
    return float(torch.tensor(values[1:]).median()) if len(values) > 1 else None
