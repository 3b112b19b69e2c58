"""The console script mobiler2l-fleet: many captures, as a fleet file says."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import track
from rich.text import Text

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.fleet import page
from mobiler2l_ns.fleet.drive import States, alone, drive, states_of
from mobiler2l_ns.fleet.engines import Engine, EngineName
from mobiler2l_ns.fleet.job import Job
from mobiler2l_ns.fleet.plan import Plan, plan_fleet
from mobiler2l_ns.fleet.spec import FleetSpec, read_fleet
from mobiler2l_ns.fleet.table import as_json, failure_lines, fleet_table, shown_live, summary

PAGE_EVERY = 30.0
"""Seconds between two pages while runs go on."""
_FRAME = re.compile(r"[\s│╭╮╰╯─-]*\n[\s│╭╮╰╯]*|[│╭╮╰╯─]+")


def _parse(kind: Any, default: Any, words: Sequence[str], *markers: Any) -> str | None:
    """What a command's own parser says against words; None if it takes them."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            tyro.cli(kind, default=default, args=list(words), config=markers)
    except SystemExit:
        text = said.getvalue().partition("Perhaps you meant")[0].partition("For full helptext")[0]
        line = " ".join(_FRAME.sub(" ", re.sub(r"\x1b\[[0-9;]*m", "", text)).split())
        return re.sub(r"^(.+) (?=\1)", "", line)  # the frame's title, which the text repeats
    return None


def _checking(jobs: Collection[Job]) -> Iterable[Job]:
    return track(jobs, "Checking settings", console=Console(stderr=True), transient=True, disable=len(jobs) < 3)


def check_words(spec: FleetSpec, plan: Plan) -> None:
    """See that the commands take what they will be given, before any is started.

    Raises:
        UserError: with file, place, and what the command's parser says.
    """
    warnings.filterwarnings("ignore", category=FutureWarning, module="nerfstudio")
    # Imported late: half a minute of others' modules on a slow machine, which a container's commands bring themselves.
    if spec.exports and "export" not in spec.commands:
        from mobiler2l_ns.plugin.export_commands import EXPORT_COMMANDS

        for index, words in enumerate(spec.exports):
            name, *options = words.split()
            if name not in EXPORT_COMMANDS:
                known = ", ".join(EXPORT_COMMANDS)
                raise UserError(f"{spec.file}: exports[{index}]: there is no format {name}; there are {known}")
            needed = ["--load-config", "config.yml", "--output-dir", "packages"]
            if (wrong := _parse(EXPORT_COMMANDS[name], tyro.MISSING_NONPROP, [*options, *needed])) is not None:
                raise UserError(f"{spec.file}: exports[{index}]: {wrong}")
    if "train" in spec.commands:
        return
    from nerfstudio.configs.method_configs import all_methods

    different = {(job.method, *job.arguments, *job.dataparser): job for job in plan.jobs}
    for job in _checking(different.values()):
        where = f"{spec.file}: {'teachers' if job.is_teacher else 'methods'}.{job.label.removeprefix('teacher-')}"
        if job.method not in all_methods:
            raise UserError(f"{where}.method: ns-train knows no {job.method}")
        config = all_methods[job.method]
        # ns-train's own way with booleans, which it wants spelt out.
        markers = (tyro.conf.FlagConversionOff, tyro.conf.SuppressFixed)
        if (wrong := _parse(type(config), config, [*job.arguments, *job.dataparser], *markers)) is not None:
            raise UserError(f"{where} with capture {job.capture}: {wrong}")


@dataclass
class _Fleet:
    fleet: tyro.conf.Positional[Path]
    """The fleet file, see docs/fleet.md."""

    def planned(self) -> tuple[FleetSpec, Plan]:
        """The file, read, and its runs."""
        spec = read_fleet(self.fleet)
        return spec, plan_fleet(spec)


@dataclass
class Run(_Fleet):
    """Do all runs of a fleet that are not done; go on where an earlier call stopped."""

    engine: EngineName = "ray"
    """ray: this machine, or a cluster by its address; slurm: through submitit; slurm-local: submitit on this machine,
    to try that, all runs at once."""
    address: str | None = None
    """Of a Ray cluster: auto on one of its machines, or ray://HOST:10001; none: this machine."""
    gpus: float | None = None
    """GPUs of each run, in place of the file's; with Ray fractions, so that several runs share one. 0: CPUs only."""
    cpus: float | None = None
    """CPUs of each run, in place of the file's."""
    tries: int | None = None
    """How often a run may fail before it is given up, in place of the file's."""
    again: bool = False
    """Give the runs that have failed their tries once more."""
    json: bool = False
    """Print the result as JSON, and nothing else on stdout."""

    def main(self) -> None:
        """Check, run, report."""
        spec, plan = self.planned()
        console = Console(stderr=self.json)
        for path in spec.skipped:
            console.print(Text(f"{path} is no capture and is left out", style="yellow"), soft_wrap=True)
        check_words(spec, plan)
        if self.tries is not None and self.tries < 1:
            raise UserError(f"--tries {self.tries}: give a run at least one")
        tries = spec.tries if self.tries is None else self.tries
        with alone(plan.output):
            engine = self._engine(spec, plan, tries)
            try:
                with shown_live(console) as show:
                    plan, states = drive(plan, engine, tries, _with_page(show, spec), self.again)
            except KeyboardInterrupt:
                raise UserError(
                    f"Stopped. What is done is kept: mobiler2l-fleet run {self.fleet} goes on"
                    + ("; jobs that Slurm has go on without it" if self.engine == "slurm" else "")
                ) from None
            finally:
                engine.close()
        written = page.write_page(plan, states, spec.file.stem)
        if self.json:
            print(json.dumps(as_json(plan, states), indent=1))
        else:
            console.print(fleet_table(plan, states))
        for line in failure_lines(plan, states):
            console.print(Text(line, style="red"), soft_wrap=True)
        console.print(Text(f"{summary(states)}; {written}"), soft_wrap=True)
        if any(state.status == "failed" for state in states.values()):
            sys.exit(1)

    def _engine(self, spec: FleetSpec, plan: Plan, tries: int) -> Engine:
        gpus = spec.gpus if self.gpus is None else self.gpus
        cpus = spec.cpus if self.cpus is None else self.cpus
        if self.engine == "ray":
            from mobiler2l_ns.fleet.engines.ray_core import RayEngine

            return RayEngine(self.address, gpus, cpus, tries)
        from mobiler2l_ns.fleet.engines.slurm import SlurmEngine

        if self.address is not None:
            raise UserError("--address is Ray's: leave it out with Slurm")
        local = self.engine == "slurm-local"
        return SlurmEngine(plan.output / "submitit", spec.slurm, gpus, cpus, tries, local)


def _with_page(show: Callable[[Plan, States], Any], spec: FleetSpec) -> Callable[[Plan, States], None]:
    """Shows runs, and now and then writes the page when one more is over."""
    last, over = time.monotonic(), -1

    def shown(plan: Plan, states: States) -> None:
        nonlocal last, over
        show(plan, states)
        count = sum(state.is_over for state in states.values())
        if over < 0 or (count != over and time.monotonic() - last > PAGE_EVERY):
            last, over = time.monotonic(), count
            page.write_page(plan, states, spec.file.stem)

    return shown


@dataclass
class Status(_Fleet):
    """Say how far the runs of a fleet are, from anywhere that sees its folder."""

    json: bool = False
    """Print JSON in place of the table."""

    def main(self) -> None:
        """Print once."""
        _, plan = self.planned()
        states = states_of(plan)
        if self.json:
            print(json.dumps(as_json(plan, states), indent=1))
            return
        console = Console()
        console.print(fleet_table(plan, states))
        for line in failure_lines(plan, states):
            console.print(Text(line, style="red"), soft_wrap=True)


@dataclass
class Report(_Fleet):
    """Write fleet.html, one page with all runs of a fleet, failures on top."""

    json: bool = False
    """Print the results as JSON, too."""

    def main(self) -> None:
        """Write it."""
        spec, plan = self.planned()
        states = states_of(plan)
        written = page.write_page(plan, states, spec.file.stem)
        if self.json:
            print(json.dumps(as_json(plan, states), indent=1))
        else:
            print(written)


def entrypoint() -> None:
    """``mobiler2l-fleet run|status|report FLEET.yaml``."""
    commands = Annotated[Run, tyro.conf.subcommand("run")] | Annotated[Status, tyro.conf.subcommand("status")]
    commands = commands | Annotated[Report, tyro.conf.subcommand("report")]
    tyro.cli(commands, description="Train, measure and export many captures.").main()  # type: ignore[call-overload]


if __name__ == "__main__":
    entrypoint()
