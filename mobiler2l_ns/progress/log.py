"""How far a run is: what the console and the viewer show right now, and the lines of its log that outlive it.

The log is ``progress.jsonl`` in the run's folder, one JSON object a line, written as things happen. Every line has
``event``, ``step`` (of the whole run), ``phase`` and ``seconds`` (of training since the run began, over all its
resumptions). A run that is resumed keeps the lines of the steps that its checkpoint holds.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mobiler2l_ns.errors import unwritable
from mobiler2l_ns.progress.phases import Phase, PhasePlan
from mobiler2l_ns.progress.records import SELECTION, read_log
from mobiler2l_ns.saved_run import how_to_go_on

POINTS = 400
"""Most points of a phase's learning curve; each is a mean over the steps since the last."""
EARLY = 5.0
"""Seconds between points on a slow device, until the first that is due by its step."""
CURVES = {
    Phase.TEACHER.value: "teacher to photos",
    Phase.DISTIL.value: "student to teacher",
    Phase.FINETUNE.value: "student to photos and teacher",
    SELECTION: "student to selection photos",
}
"""What is measured in dB: on the batches of each phase, and on photos that no batch of the student holds."""


@dataclass(frozen=True)
class Progress:
    """The state of a run at one moment; a new one takes its place with every step, so any thread may read it."""

    phase: Phase
    steps: int
    """Steps of this phase."""
    step: int = 0
    """Steps of this phase that are done."""
    activity: str = "waiting"
    """What is happening: waiting, preparing (pseudo views are rendered, photos loaded), training or finished."""
    seconds: float = 0.0
    """Of training since the run began, over all its resumptions."""
    steps_per_second: float | None = None
    """Lately; None until it has been measured in this phase."""
    images_per_second: float | None = None
    """Pictures that the student lately learned from, on all devices; None in the teacher phase."""
    psnr: Mapping[str, float] = field(default_factory=dict)
    """The newest dB of each of ``CURVES`` that has been measured."""

    @property
    def seconds_left(self) -> float | None:
        """Until the end of this phase, if it goes on as it lately did."""
        return (self.steps - self.step) / self.steps_per_second if self.steps_per_second else None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


class RunLog:
    """``pipeline.log``: pipeline and trainer tell it what happens, ``now`` is how far they are.

    Writes nothing until it is opened, which rank 0 of a training run does alone.
    """

    def __init__(self, plan: PhasePlan) -> None:
        self.plan = plan
        first = plan.at(0)
        self.now = Progress(first, plan.length(first))
        self._path: Path | None = None
        self._before = 0.0
        self._opened = time.monotonic()
        self._losses: list[Tensor] = []
        self._psnrs: list[Tensor] = []
        self._point = (0, 0.0)
        self._first = 0

    def seconds(self) -> float:
        """Of training since the run began, over all its resumptions."""
        return self._before + time.monotonic() - self._opened

    def open(self, path: Path, step: int = 0, earlier: Path | None = None, **facts: Any) -> None:
        """Begin to write.

        Args:
            path: the log of this run; what is there is replaced.
            step: the first step that will be trained.
            earlier: the log of the run that is resumed, which may be the same file.
            facts: what to remember of this start.
        """
        kept = [] if earlier is None else [record for record in read_log(earlier) if record["step"] < step]
        self._before, self._opened = (kept[-1]["seconds"] if kept else 0.0), time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.part")
        partial.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf8")
        partial.replace(path)
        self._path = path
        newest = {}
        for record in kept:
            if record.get("psnr") is not None:
                newest[record.get("curve", record["phase"])] = record["psnr"]
        self.now = replace(self.now, seconds=self._before, psnr=newest)
        self.note("start", step, time=time.strftime("%Y-%m-%d %H:%M:%S"), **facts)

    def follow(self, plan: PhasePlan) -> None:
        """The run has another plan from here on."""
        self.plan = plan
        self.now = replace(self.now, steps=plan.length(self.now.phase))

    def note(self, event: str, step: int, **facts: Any) -> None:
        """Write a line."""
        if self._path is None:
            return
        record = {"event": event, "step": step, "phase": self.plan.at(step).value, "seconds": round(self.seconds(), 3)}
        record.update({name: _finite(value) for name, value in facts.items()})
        try:
            with self._path.open("a", encoding="utf8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise unwritable(self._path, error, how_to_go_on(self._path.parent)) from error

    def begin_phase(self, step: int) -> None:
        """The phase of a step begins, or goes on in this process, with its preparations."""
        phase = self.plan.at(step)
        done = step - self.plan.start(phase)
        self.now = Progress(
            phase, self.plan.length(phase), done, "preparing", seconds=self.seconds(), psnr=self.now.psnr
        )
        self.note("phase", step)

    def ready(self, step: int) -> None:
        """The preparations of a phase are over, its first step begins."""
        self._losses, self._psnrs = [], []
        self._point = (step, self.seconds())
        self._first = step
        self.now = replace(self.now, activity="training", seconds=self.seconds())
        self.note("ready", step)

    def trained(self, step: int, loss: Tensor, psnr: Tensor | None, images: int | None) -> None:
        """A step is done.

        Args:
            step: of the whole run.
            loss: scalar, on any device; it is fetched only once for many steps.
            psnr: of the batch in dB, scalar.
            images: pictures in the batches of all devices; None for rays.
        """
        done = step + 1 - self.plan.start(self.now.phase)
        self._losses.append(loss.detach())
        if psnr is not None:
            self._psnrs.append(psnr.detach())
        self.now = replace(self.now, step=done, seconds=self.seconds())
        interval = max(1, self.now.steps // POINTS)
        # Several, since the first step may have compiled for a minute.
        early = step - self._first < interval and self.now.seconds - self._point[1] >= EARLY
        if early or done % interval == 0 or done >= self.now.steps:
            self._add_point(step, images)

    def _add_point(self, step: int, images: int | None) -> None:
        loss = float(torch.stack(self._losses).mean())
        psnr = float(torch.stack(self._psnrs).mean()) if self._psnrs else None
        (last_step, last_seconds), seconds = self._point, self.seconds()
        rate = (step + 1 - last_step) / max(1e-9, seconds - last_seconds)
        self._losses, self._psnrs, self._point = [], [], (step + 1, seconds)
        speed = None if images is None else rate * images
        self.now = replace(self.now, seconds=seconds, steps_per_second=rate, images_per_second=speed)
        self._measured(self.now.phase.value, psnr)
        left = self.now.seconds_left
        self.note("train", step, loss=loss, psnr=psnr, steps_per_second=rate, seconds_left=left)

    def selection(self, step: int, psnr: float) -> None:
        """The student has been measured on selection photos, in dB."""
        self._measured(SELECTION, psnr)
        self.note("selection", step, curve=SELECTION, psnr=psnr)

    def _measured(self, curve: str, psnr: float | None) -> None:
        if psnr is not None:
            self.now = replace(self.now, psnr={**self.now.psnr, curve: psnr})

    def finish(self, step: int, **facts: Any) -> None:
        """Training is over."""
        self.now = replace(self.now, activity="finished", seconds=self.seconds())
        self.note("end", step, **facts)
