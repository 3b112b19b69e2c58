"""All runs of a fleet as a table in the terminal, and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mobiler2l_ns.fleet.drive import States
from mobiler2l_ns.fleet.plan import Plan
from mobiler2l_ns.fleet.state import RunState
from mobiler2l_ns.progress.records import duration

MOST_ROWS = 40
"""Runs that are shown at once; those that are over give way first."""
STYLES = {"done": "green", "failed": "red", "running": "cyan"}


def summary(states: States) -> str:
    """Such as 3 done, 1 failed, 2 running."""
    counts = Counter(state.status for state in states.values())
    return ", ".join(
        f"{counts[status]} {status}" for status in ("done", "failed", "running", "queued") if counts[status]
    )


def decibels(state: RunState) -> float | None:
    """On the test views; of a run under way the newest of its learning curve. The two cannot be compared, so a run that
    is over and was not evaluated, such as a shared teacher, has none."""
    return state.result.get("psnr") if state.is_over else state.psnr


def doing(state: RunState) -> str:
    """What a run is at, in a word or two."""
    if state.status != "running":
        return state.status
    if state.is_silent:
        return "no sign of it"
    return state.phase if state.doing == "train" and state.phase else state.doing


def fleet_table(plan: Plan, states: States) -> Table:
    """One row a run: failed and running ones first where there are too many."""
    table = Table(title=summary(states) or "no runs")
    for column in ("run", "phase", "step", "dB", "time left", "try", "host"):
        table.add_column(column, justify="right" if column in ("step", "dB", "time left", "try") else "left")
    keys = [job.key for job in plan.jobs]
    order = {"failed": 0, "running": 1, "queued": 2, "done": 3}
    shown = set(sorted(keys, key=lambda key: order[states[key].status])[:MOST_ROWS])
    for key in keys:
        if key not in shown:
            continue
        state = states[key]
        psnr, left = decibels(state), state.seconds_left if state.status == "running" else None
        cells = (
            key,
            doing(state),
            "" if state.step is None else str(state.step),
            "" if psnr is None else f"{psnr:.2f}",
            "" if left is None else duration(left),
            str(state.attempt or ""),
            state.host,
        )
        # Names are other people's: nothing in them is markup.
        table.add_row(*(Text(cell, style=STYLES.get(state.status, "")) for cell in cells))
    if len(keys) > len(shown):
        table.caption = f"and {len(keys) - len(shown)} more"
    return table


def failure_lines(plan: Plan, states: States) -> list[str]:
    """What is said of each run that has failed."""
    lines = []
    for job in plan.jobs:
        state = states[job.key]
        if state.status == "failed":
            lines += [f"{job.key} failed at {state.doing or 'its beginning'}:", *(f"    {x}" for x in state.last_lines)]
    return lines


def as_json(plan: Plan, states: States) -> dict[str, Any]:
    """All that is known of a fleet."""
    runs = [
        {**asdict(states[job.key]), "run": job.key, "capture": job.capture, "method": job.label,
         "is_teacher": job.is_teacher, "folder": str(plan.folder(job))}
        for job in plan.jobs
    ]  # fmt: skip
    return {"output": str(plan.output), "runs": runs}


class Lines:
    """Where no terminal can be drawn on: a line for each thing that changes."""

    def __init__(self, console: Console) -> None:
        self._console, self._said = console, {}

    def __call__(self, plan: Plan, states: States) -> None:
        for key, state in states.items():
            now = (doing(state), state.attempt)
            if self._said.get(key) == now or (key not in self._said and state.status == "queued"):
                continue
            self._said[key] = now
            psnr = decibels(state)
            more = "" if psnr is None or state.status == "running" else f", {psnr:.2f} dB"
            self._console.print(Text(f"{key}: {doing(state)}{more}"), soft_wrap=True)


@contextmanager
def shown_live(console: Console) -> Iterator[Any]:
    """What ``drive`` shows: a table that is drawn again, or lines."""
    if not console.is_terminal:
        yield Lines(console)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda plan, states: live.update(fleet_table(plan, states), refresh=True)
