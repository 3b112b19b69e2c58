"""The log of a run from before there was one, as far as its tensorboard files tell it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mobiler2l_ns.progress.phases import PhasePlan

METRICS = "Train Metrics Dict/"


def records_of_event_files(run: Path, plan: PhasePlan) -> list[dict[str, Any]]:
    """Lines as ``progress.read_log`` gives them: phases, and their loss and PSNR; none without tensorboard files.

    Times are those since the first entry, with the pauses between a run and its resumption.
    """
    if not any(run.glob("events.out.tfevents.*")):
        return []
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    tags = events.Tags()["scalars"]
    psnr = {
        event.step: event.value
        for tag in tags
        if tag.startswith(METRICS) and "psnr" in tag
        for event in events.Scalars(tag)
    }
    losses = events.Scalars("Train Loss") if "Train Loss" in tags else []
    records: list[dict[str, Any]] = []
    phase, begin = None, losses[0].wall_time if losses else 0.0
    for event in losses:
        line = {
            "step": event.step,
            "phase": plan.at(event.step).value,
            "seconds": event.wall_time - begin,
        }
        if line["phase"] != phase:
            phase = line["phase"]
            records += [{**line, "event": "phase"}, {**line, "event": "ready"}]
        records.append({**line, "event": "train", "loss": event.value, "psnr": psnr.get(event.step)})
    return records
