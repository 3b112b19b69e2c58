"""What a training run says: its plan, a table of lines for each phase, and at its end the commands to type next.

nerfstudio's own table of the last ten steps moves the cursor about; in its place stand here, by way of its
``LocalWriter``, lines that also read well in a file, and on a terminal a progress bar below them.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nerfstudio.configs.base_config import LocalWriterConfig
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.utils.writer import LocalWriter
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table

from mobiler2l_ns.progress.log import CURVES, Progress, RunLog
from mobiler2l_ns.progress.phases import Phase, PhasePlan
from mobiler2l_ns.progress.records import SELECTION, duration

MOST_SILENCE = 300.0
"""Seconds after which a line is printed though a tenth of the phase is not done yet."""
WHAT = {
    Phase.TEACHER: "The teacher learns the photos.",
    Phase.DISTIL: "The teacher renders pseudo views, the student learns them.",
    Phase.FINETUNE: "The student learns photos mixed with pseudo views; the best one on selection photos is kept.",
}
COLUMNS = (("done", 6), ("step", 17), ("training", 11), ("left", 10), ("dB", 7), ("selection dB", 13), ("speed", 16))


def print_facts(facts: Mapping[str, str]) -> None:
    """Print names and values below each other; values are not wrapped, so that paths can be copied."""
    width = max(map(len, facts))
    for name, value in facts.items():
        CONSOLE.print(f"  [bold]{name:<{width}}[/bold]  ", end="")
        CONSOLE.print(value, markup=False, highlight=False, soft_wrap=True)


def announce(plan: PhasePlan, step: int) -> None:
    """A phase begins, or goes on: what happens in it."""
    phase = plan.at(step)
    begin, length = plan.start(phase), plan.length(phase)
    at = f", from step {step - begin}" if step > begin else ""
    CONSOLE.rule(f"[bold green]{phase.value}: {length} steps of {plan.total}{at}")
    CONSOLE.print(WHAT[phase])


def _speed(now: Progress) -> str:
    if now.images_per_second is not None:
        return f"{now.images_per_second:.1f} images/s"
    return "" if now.steps_per_second is None else f"{now.steps_per_second:.1f} steps/s"


def _line(cells: tuple[str, ...]) -> str:
    return "".join(f"{cell:>{width}}" for cell, (_, width) in zip(cells, COLUMNS, strict=True))


class PhaseWriter(LocalWriter):
    """Prints the table of the current phase, a line for each tenth of it."""

    def __init__(self, config: LocalWriterConfig, banner_messages: list[str] | None = None) -> None:
        super().__init__(config, banner_messages)
        for message in banner_messages or ():
            CONSOLE.print(f"[bold green]{message}")
        self._log: RunLog | None = None
        self._checkpoints = Path()
        self._phase: Phase | None = None
        self._tenth = 0
        self._last_line = 0.0
        self._bar: ProgressBar | None = None

    def follow(self, log: RunLog, checkpoints: Path) -> None:
        """Show this run, whose checkpoints go to that folder."""
        self._log, self._checkpoints = log, checkpoints

    def write_stats_log(self, step: int) -> None:
        if self._log is None:
            return
        now = self._log.now
        if now.activity != "training" or now.steps_per_second is None:
            return
        tenth = 10 * now.step // now.steps
        if now.phase is not self._phase:
            self._begin(now, tenth)
        elif self._tenth == 10:
            return
        silent = time.monotonic() - self._last_line > MOST_SILENCE
        if tenth > self._tenth or silent:
            self._tenth, self._last_line = tenth, time.monotonic()
            self._print_line(now)
        if self._bar is not None:
            task = self._bar.task_ids[0]
            left = "" if now.seconds_left is None else f"{duration(now.seconds_left)} left"
            self._bar.update(task, completed=now.step, speed=_speed(now), left=left)
        if now.step >= now.steps:
            self.close()
            print_facts({"checkpoint": str(self._checkpoints)})

    def _begin(self, now: Progress, tenth: int) -> None:
        self.close()
        self._phase, self._tenth, self._last_line = now.phase, min(tenth, 9), time.monotonic()
        CONSOLE.print(f"dB: {CURVES[now.phase.value]}; selection dB: {CURVES[SELECTION]}", style="dim", highlight=False)
        CONSOLE.print(_line(tuple(name for name, _ in COLUMNS)), style="bold", highlight=False)
        if CONSOLE.is_terminal:
            columns = (TextColumn(now.phase.value), BarColumn(), MofNCompleteColumn())
            more = (TextColumn("{task.fields[speed]}"), TextColumn("{task.fields[left]}"))
            self._bar = ProgressBar(*columns, *more, console=CONSOLE, transient=True)
            self._bar.add_task(now.phase.value, total=now.steps, speed="", left="")
            self._bar.start()

    def _print_line(self, now: Progress) -> None:
        psnr, selection = now.psnr.get(now.phase.value), now.psnr.get(SELECTION)
        cells = (
            f"{100 * now.step // now.steps} %",
            f"{now.step} / {now.steps}",
            duration(now.seconds),
            "" if now.seconds_left is None else duration(now.seconds_left),
            "" if psnr is None else f"{psnr:.2f}",
            "" if selection is None else f"{selection:.2f}",
            _speed(now),
        )
        CONSOLE.print(_line(cells), highlight=False)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


@dataclass
class PhaseWriterConfig(LocalWriterConfig):
    """Lines for each phase, and on a terminal a progress bar."""

    _target: type = field(default_factory=lambda: PhaseWriter)
    """Target class to instantiate."""


def print_plan(
    method: str, plan: PhasePlan, parameters: int, capture: Path | None, run: Path, minutes: float | None = None
) -> None:
    """What a run is going to do, and where; in ``minutes``, if its steps follow from them."""
    CONSOLE.rule(f"[bold green]{method}")
    phases = [f"{phase.value} {plan.length(phase)}" for phase in Phase if plan.length(phase) > 0]
    steps = f"{' + '.join(phases)} = {plan.total}"
    print_facts(
        {
            "capture": str(capture),
            "student": f"{parameters:,} parameters",
            "steps": steps if minutes is None else f"as many as {minutes:g} minutes are enough for",
            "run": f"{run}",
            "settings": f"{run / 'config.yml'}",
        }
    )


def print_results(title: str, results: Mapping[str, Mapping[str, float]], files: Mapping[str, str]) -> None:
    """What a run has come to.

    Args:
        title: of the rule above.
        results: who against whom -> metric -> value, as means over the test views; may be empty.
        files: what -> where.
    """
    CONSOLE.rule(f"[bold green]{title}")
    if results:
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
        names = list(dict.fromkeys(name for metrics in results.values() for name in metrics))
        table.add_column("test views")
        for name in names:
            table.add_column(name, justify="right")
        for who, metrics in results.items():
            table.add_row(who, *(_metric(name, metrics.get(name)) for name in names))
        CONSOLE.print(table)
    print_facts(files)


def _metric(name: str, value: float | None) -> str:
    return "" if value is None else f"{value:.2f} dB" if name == "PSNR" else f"{value:.3f}"


def print_next_commands(config_path: Path, distilled: bool) -> None:
    """The commands to type next, each on a line of its own whatever the width of the terminal.

    Args:
        config_path: of the run.
        distilled: whether there is a student to measure and export, or only a teacher to look at.
    """
    config, run = shlex.quote(str(config_path)), config_path.parent
    commands = {"look around": f"ns-viewer --load-config {config}"}
    if distilled:
        commands["measure"] = f"ns-eval --load-config {config} --output-path {shlex.quote(str(run / 'eval.json'))}"
        packages = shlex.quote(str(run / "exports"))
        commands["a package for iPhones; onnx, litert, ncnn and all make others"] = (
            f"mobiler2l-export coreml --load-config {config} --output-dir {packages}"
        )
    CONSOLE.print("\n[bold]Next:")
    for what, command in commands.items():
        CONSOLE.print(f"{command}  # {what}", markup=False, highlight=False, soft_wrap=True)
