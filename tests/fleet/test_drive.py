"""The driver: every capture ends exactly once, whatever is killed. Runs are done by submitit's local executor."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest
from filelock import FileLock
from fleet_files import kill, planned, processes_of, start_fleet, write_fleet

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.fleet.drive import alone, drive, states_of
from mobiler2l_ns.fleet.state import RunState

KILLS, SECONDS = 6, 240.0


class Inline:
    """An engine that does runs when they are handed over, and loses the first ``losing`` of them."""

    orders = True

    def __init__(self, losing: int = 0, gpus: float = 0.0) -> None:
        self.gpus, self.losing, self.submitted = gpus, losing, []
        self.name = ""

    def submit(self, folders, after):
        from mobiler2l_ns.fleet.run_one import do_run

        for folder in folders:
            self.submitted.append((folder.parent.name, after is not None))
            if self.losing:
                self.losing -= 1
            elif after is None:
                do_run(folder, 1)
        return [self] * len(folders)

    def ended(self) -> bool:
        return True

    def reason(self) -> str:
        return "the machine is gone"

    def find(self, name):
        return None

    def close(self) -> None: ...


def nothing(plan, states) -> None: ...


def test_a_run_whose_worker_is_lost_is_handed_over_again_and_given_up_in_the_end(tmp_path):
    plan = planned(write_fleet(tmp_path, count=1))
    engine = Inline(losing=2)
    _, states = drive(plan, engine, 2, nothing)
    assert [state.status for state in states.values()] == ["done"] and len(engine.submitted) == 3
    plan = planned(write_fleet(tmp_path, count=1, settings={"pause": 0}))
    _, states = drive(plan, Inline(losing=9), 2, nothing)
    (state,) = states.values()
    assert state.status == "failed"
    assert state.last_lines == ["Its worker was lost 3 times: the machine is gone"]
    engine = Inline()
    assert next(iter(drive(plan, engine, 2, nothing)[1].values())).status == "failed" and engine.submitted == []
    _, states = drive(plan, engine, 2, nothing, again=True)
    assert next(iter(states.values())).status == "done"


def test_students_are_handed_over_behind_their_teacher(tmp_path):
    fields = {"teachers": {"t": {"method": "mobiler2l"}}, "methods": {"mobiler2l-tiny": {"teacher": "t"}}}
    plan = planned(write_fleet(tmp_path, count=1, **fields))
    engine = Inline()
    _, states = drive(plan, engine, 1, nothing)
    assert {state.status for state in states.values()} == {"done"}
    assert engine.submitted[:2] == [("a", False), ("a", True)]


def test_runs_take_the_gpus_of_the_engine_where_the_file_does_not_say(tmp_path):
    for given, found in ((None, 1.0), (0.5, 0.5)):
        plan = planned(write_fleet(tmp_path, count=1, gpus=given))
        plan, _ = drive(plan, Inline(gpus=1.0), 1, nothing)
        assert json.loads((plan.folder(plan.jobs[0]) / "job.json").read_text())["gpus"] == found


def test_a_second_driver_is_told_so_in_a_line(tmp_path):
    with alone(tmp_path / "out"), pytest.raises(UserError, match="is being run by process [0-9]+ on "):
        with alone(tmp_path / "out"):
            pass
    with alone(tmp_path / "out"):
        pass
    lock = FileLock(tmp_path / "out" / "driver.lock")
    with lock, pytest.raises(UserError, match="mobiler2l-fleet status looks on"):
        with alone(tmp_path / "out"):
            pass


def end_of(folder: Path) -> int:
    """How many trainings of a run came to their end."""
    return len((folder / "ends").read_text().splitlines())


def test_every_capture_ends_exactly_once_whatever_is_killed(tmp_path):
    pytest.importorskip("submitit")
    file = write_fleet(tmp_path, count=2, settings={"steps": 24, "pause": 0.15}, tries=20)
    plan = planned(file)
    chance, until, kills = random.Random(0), time.monotonic() + SECONDS, []
    driver = start_fleet("run", str(file), "--engine", "slurm-local")
    try:
        while time.monotonic() < until and not all(state.is_over for state in states_of(plan).values()):
            time.sleep(chance.uniform(0.3, 1.0))
            if driver.poll() is not None:
                driver = start_fleet("run", str(file), "--engine", "slurm-local")
            elif len(kills) < KILLS and (there := processes_of(tmp_path)):
                victim = driver.pid if len(kills) == 1 else chance.choice(sorted(there))
                kills.append(there.get(victim, ["driver"])[1:4])
                kill(victim)
        if driver.poll() is not None:
            driver = start_fleet("run", str(file), "--engine", "slurm-local")
        said, _ = driver.communicate(timeout=SECONDS)
    finally:
        for pid in processes_of(tmp_path):
            kill(pid)
    assert driver.returncode == 0 and kills, said
    for job in plan.jobs:
        folder = plan.folder(job)
        state = RunState.read(folder)
        assert state.status == "done" and state.result["psnr"] == 30.0, (kills, said)
        assert state.result["steps"] == 24 and not (folder / "two_writers").exists(), kills
        log = [json.loads(line)["step"] for line in (folder / str(state.config)).with_name("progress.jsonl").open()]
        assert log == list(range(24)), "each step once, over all resumptions"
    assert "2 done" in said and (plan.output / "fleet.html").is_file()
    again = start_fleet("run", str(file), "--engine", "slurm-local")
    ends = [end_of(plan.folder(job)) for job in plan.jobs]
    assert again.wait(SECONDS) == 0 and [end_of(plan.folder(job)) for job in plan.jobs] == ends
