"""Learning curves and timings of a run, read off its log."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mobiler2l_ns.progress.records import SELECTION

Curve = list[tuple[float, float]]
"""Seconds of training and a value."""


@dataclass
class Span:
    """One phase, or the part of it that one process went through, in seconds of training."""

    phase: str
    begin: float
    ready: float
    """Preparations are over, the first step begins."""
    end: float
    first_step: int
    """Of the whole run."""
    steps: int = 0


@dataclass
class History:
    """What a run's log tells."""

    psnr: dict[str, Curve] = field(default_factory=dict)
    """In dB, for the keys of ``progress.CURVES``."""
    loss: dict[str, Curve] = field(default_factory=dict)
    """By phase."""
    spans: list[Span] = field(default_factory=list)
    starts: list[dict[str, Any]] = field(default_factory=list)
    """The facts of each start: time, device, devices, versions, step."""
    peak_memory: int | None = None
    """Bytes."""

    @property
    def seconds(self) -> float:
        """Of all phases and their preparations."""
        return max((span.end for span in self.spans), default=0.0)

    @classmethod
    def of(cls, records: list[dict[str, Any]]) -> History:
        """Read the lines of a log."""
        history = cls()
        for record in records:
            event, phase, seconds = record["event"], record["phase"], record["seconds"]
            if event == "start":
                history.starts.append(record)
            elif event == "phase":
                history.spans.append(Span(phase, seconds, seconds, seconds, record["step"]))
            elif event == "end":
                history.peak_memory = record.get("peak_memory")
            elif history.spans:
                history._extend(history.spans[-1], record)
        return history

    def _extend(self, span: Span, record: dict[str, Any]) -> None:
        seconds = record["seconds"]
        span.end = seconds
        if record["event"] == "ready":
            span.ready = seconds
        if record["event"] == "train":
            span.steps = record["step"] + 1 - span.first_step
            if record["loss"] is not None:
                self.loss.setdefault(record["phase"], []).append((seconds, record["loss"]))
        if record.get("psnr") is not None:
            curve = SELECTION if record["event"] == "selection" else record["phase"]
            self.psnr.setdefault(curve, []).append((seconds, record["psnr"]))
