"""The driver: hands runs over to an engine and waits for them. It may be killed and started again anywhere."""

from __future__ import annotations

import json
import os
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mobiler2l_ns.errors import UserError, unwritable
from mobiler2l_ns.fleet.engines import Engine
from mobiler2l_ns.fleet.job import Job, write_whole
from mobiler2l_ns.fleet.plan import Plan, with_gpus
from mobiler2l_ns.fleet.state import RunState, settled

LOCK, OWNER, SUBMITTED = "driver.lock", "driver.json", "submitted.json"
POLL = 0.5

States = dict[str, RunState]
"""Key of a job -> how far its run is."""


def states_of(plan: Plan) -> States:
    """How far all runs are."""
    return {job.key: settled(job, plan.folder(job)) for job in plan.jobs}


@contextmanager
def alone(output: Path) -> Iterator[None]:
    """Be the only driver of a fleet's folder.

    Raises:
        UserError: if there is one, or the folder cannot be written.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = FileLock(output / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        try:
            owner = json.loads((output / OWNER).read_text(encoding="utf8"))
            who = f"process {owner['pid']} on {owner['host']}"
        except (OSError, ValueError, KeyError):
            who = "another process"
        raise UserError(
            f"{output} is being run by {who}: wait for it or stop it; mobiler2l-fleet status looks on"
        ) from None
    except OSError as error:
        raise unwritable(output, error, "try again, or choose another output") from error
    try:
        write_whole(output / OWNER, {"host": socket.gethostname(), "pid": os.getpid()})
        yield
    finally:
        lock.release()


def drive(
    plan: Plan, engine: Engine, tries: int, show: Callable[[Plan, States], Any], again: bool = False
) -> tuple[Plan, States]:
    """Do all runs of a plan that are not done.

    Args:
        plan: what there is to do.
        engine: which does it.
        tries: how often a run is handed over whose worker the engine has lost.
        show: called with all states, twice a second.
        again: give runs that have failed their tries once more.

    Returns:
        The plan as it was done, and the states at the end.
    """
    plan = with_gpus(plan, engine.gpus)
    for job in plan.jobs:
        _prepare(job, plan.folder(job), again)
    driver = _Driver(plan, engine, tries)
    while True:
        began = time.monotonic()
        states = states_of(plan)
        driver.go_on(states)
        show(plan, states)
        if all(state.is_over for state in states.values()):
            return plan, states
        # Thousands of small files on a network's storage are not read in a moment.
        time.sleep(max(POLL, 4 * (time.monotonic() - began)))


def _prepare(job: Job, folder: Path, again: bool) -> None:
    job.write(folder)
    state = settled(job, folder)
    begun_anew = again and state.status == "failed"
    if begun_anew:
        state.failures, state.last_lines = 0, []
    if begun_anew or state.updated == 0.0:
        state.status = "queued"
        state.write(folder)


class _Driver:
    def __init__(self, plan: Plan, engine: Engine, tries: int) -> None:
        self.plan, self.engine, self.tries = plan, engine, tries
        self.keys = {str(plan.folder(job)): job.key for job in plan.jobs}
        self.handles: dict[str, Any] = {}
        self.lost: dict[str, int] = defaultdict(int)
        self._names = plan.output / SUBMITTED
        waiting = {key for key, state in states_of(plan).items() if not state.is_over}
        for key, name in self._submitted().items():
            if key in waiting and (found := engine.find(name)) is not None:
                self.handles[key] = found

    def go_on(self, states: States) -> None:
        """Look after what has been handed over, and hand over what is left."""
        for key, handle in list(self.handles.items()):
            if handle.ended():
                del self.handles[key]
                self._see_end(key, handle, states)
        groups: dict[str | None, list[Job]] = defaultdict(list)
        for job in self.plan.jobs:
            if not states[job.key].is_over and job.key not in self.handles:
                groups[self._waits_for(job, states)].append(job)
        # Teachers, which wait for nothing, first.
        for teacher, jobs in sorted(groups.items(), key=lambda group: group[0] or ""):
            if teacher is not None and (not self.engine.orders or teacher not in self.handles):
                continue
            after = None if teacher is None else self.handles[teacher]
            handles = self.engine.submit([self.plan.folder(job) for job in jobs], after)
            self.handles.update({job.key: handle for job, handle in zip(jobs, handles, strict=True)})
        names = {key: handle.name for key, handle in self.handles.items() if handle.name}
        if names != self._submitted():
            write_whole(self._names, names)

    def _waits_for(self, job: Job, states: States) -> str | None:
        """Key of the teacher that is still to be trained."""
        teacher = None if job.teacher is None else self.keys[job.teacher]
        return None if teacher is None or states[teacher].is_over else teacher

    def _see_end(self, key: str, handle: Any, states: States) -> None:
        job = next(job for job in self.plan.jobs if job.key == key)
        # What it wrote last may be newer than what was read before it ended.
        state = states[key] = settled(job, self.plan.folder(job))
        if state.is_over or self._waits_for(job, states) is not None:
            return
        self.lost[key] += 1
        if self.lost[key] > self.tries:
            state.status = "failed"
            state.last_lines = [*state.last_lines, f"Its worker was lost {self.lost[key]} times: {handle.reason()}"]
            state.write(self.plan.folder(job))

    def _submitted(self) -> dict[str, str]:
        try:
            return json.loads(self._names.read_text(encoding="utf8"))
        except (OSError, ValueError):
            return {}
