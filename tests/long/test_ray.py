"""Ray: workers and drivers that are killed, teachers that are waited for."""

from __future__ import annotations

import json
import time

import pytest
from fleet_files import kill, planned, processes_of, start_fleet, write_fleet

from mobiler2l_ns.fleet.state import RunState

pytest.importorskip("ray")


def wait_for(condition, seconds=90.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.1)


def test_runs_survive_the_death_of_their_worker_and_of_the_driver(tmp_path):
    file = write_fleet(
        tmp_path,
        count=2,
        teachers={"t": {"method": "mobiler2l", "settings": {"pause": 0.1}}},
        methods={"mobiler2l-tiny": {"teacher": "t"}},
        settings={"steps": 30, "pause": 0.1},
        gpus=0,
        cpus=0.5,
    )
    plan = planned(file)
    teacher, student = plan.folder(plan.jobs[0]), plan.folder(plan.jobs[2])
    driver = start_fleet("run", str(file))
    try:
        wait_for(lambda: list(teacher.glob("a/*/1/nerfstudio_models/*.ckpt")))
        kill(RunState.read(teacher).pid)  # a worker: Ray does the run again
        wait_for(lambda: RunState.read(student).step is not None)
        state = RunState.read(teacher)
        assert (state.status, state.attempt, state.failures) == ("done", 2, 0)
        kill(driver.pid)
        driver.wait()
        wait_for(lambda: not processes_of(teacher.parent.parent))  # its runs end with it
        driver = start_fleet("run", str(file), "--json")
        said, _ = driver.communicate(timeout=120)
    finally:
        for pid in processes_of(tmp_path):
            kill(pid)
    assert driver.returncode == 0, said
    for job in plan.jobs:
        folder = plan.folder(job)
        state = RunState.read(folder)
        assert state.status == "done" and not (folder / "two_writers").exists()
        assert (folder / "ends").read_text().count("\n") == 1
    runs = json.loads(said[said.index("{") : said.rindex("}") + 1])["runs"]
    assert [run["status"] for run in runs] == ["done"] * 4
