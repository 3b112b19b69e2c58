"""The log of a run: what it remembers, and what it forgets when the run is resumed."""

from __future__ import annotations

import json
import math

import pytest
import torch

from mobiler2l_ns.progress.log import EARLY, POINTS, RunLog
from mobiler2l_ns.progress.phases import Phase, PhasePlan
from mobiler2l_ns.progress.records import SELECTION, read_log

PLAN = PhasePlan(teacher=4, distil=4, finetune=2)


def go_through(log: RunLog, first: int, last: int, loss: float = 1.0) -> None:
    """The steps from ``first`` to ``last``, each a little better than the one before."""
    for step in range(first, last + 1):
        phase = PLAN.at(step)
        if step == first or step == PLAN.start(phase):
            log.begin_phase(step)
            log.ready(step)
        images = None if phase is Phase.TEACHER else 3
        log.trained(step, torch.tensor(loss / (step + 1)), torch.tensor(10.0 + step), images)


def test_now_is_the_phase_its_step_its_speed_and_the_newest_decibels():
    log = RunLog(PLAN)
    assert (log.now.phase, log.now.step, log.now.steps, log.now.activity) == (Phase.TEACHER, 0, 4, "waiting")
    go_through(log, 0, 2)
    assert (log.now.step, log.now.activity, log.now.images_per_second) == (3, "training", None)
    assert log.now.steps_per_second is not None and log.now.steps_per_second > 0
    assert log.now.seconds_left == pytest.approx(1 / log.now.steps_per_second)
    go_through(log, 3, 5)
    log.selection(5, 17.5)
    assert (log.now.phase, log.now.step, log.now.steps) == (Phase.DISTIL, 2, 4)
    assert log.now.images_per_second == pytest.approx(3 * (log.now.steps_per_second or 0))
    assert log.now.psnr == {"teacher": 13.0, "distil": 15.0, SELECTION: 17.5}


def test_a_log_that_is_not_open_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    go_through(RunLog(PLAN), 0, 9)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("first", [0, 500])
def test_a_slow_device_gives_figures_soon_and_its_first_step_does_not_spoil_them(monkeypatch, first):
    log = RunLog(PhasePlan(teacher=0, distil=20 * POINTS, finetune=0))
    now = 0.0
    monkeypatch.setattr(log, "seconds", lambda: now)
    log.begin_phase(first)
    log.ready(first)
    speeds = []
    for step in range(first, first + 19):
        now += 60.0 if step == first else 1.0
        log.trained(step, torch.tensor(1.0), torch.tensor(20.0), 2)
        speeds.append(log.now.images_per_second)
    early = int(EARLY)
    assert speeds[:early] == [pytest.approx(2 / 60)] * early
    assert speeds[early:] == [pytest.approx(2.0)] * (19 - early)


def test_a_long_phase_is_thinned_to_means(tmp_path):
    plan = PhasePlan(teacher=0, distil=10 * POINTS, finetune=0)
    log = RunLog(plan)
    log.open(tmp_path / "log")
    log.begin_phase(0)
    log.ready(0)
    for step in range(plan.distil):
        log.trained(step, torch.tensor(float(step)), None, 1)
    points = [record for record in read_log(tmp_path / "log") if record["event"] == "train"]
    assert len(points) == POINTS
    assert [point["loss"] for point in points[:2]] == [4.5, 14.5] and points[-1]["step"] == plan.distil - 1


def test_a_resumed_run_keeps_what_its_checkpoint_holds_and_goes_on_with_the_clock(tmp_path):
    log = RunLog(PLAN)
    log.open(tmp_path / "first", device="a")
    go_through(log, 0, 7)
    with (tmp_path / "first").open("a") as file:
        file.write('{"event": "train", "st')  # killed while writing
    resumed = RunLog(PLAN)
    resumed.open(tmp_path / "second", 6, earlier=tmp_path / "first", device="b")
    go_through(resumed, 6, 9, loss=2.0)
    resumed.finish(9, peak_memory=1)
    records = read_log(tmp_path / "second")
    trained = [record for record in records if record["event"] == "train"]
    assert [record["step"] for record in trained] == list(range(10))
    assert trained[5]["loss"] == pytest.approx(1 / 6) and trained[6]["loss"] == pytest.approx(2 / 7)
    assert [record["device"] for record in records if record["event"] == "start"] == ["a", "b"]
    seconds = [record["seconds"] for record in records]
    assert seconds == sorted(seconds) and resumed.now.activity == "finished"


def test_a_run_begun_anew_in_the_same_folder_forgets_the_old_one(tmp_path):
    for _ in range(2):
        log = RunLog(PLAN)
        log.open(tmp_path / "log")
        go_through(log, 0, 1)
    assert [record["event"] for record in read_log(tmp_path / "log")] == ["start", "phase", "ready", "train", "train"]


def test_what_is_not_a_number_is_written_as_null(tmp_path):
    log = RunLog(PLAN)
    log.open(tmp_path / "log")
    go_through(log, 0, 0, loss=math.nan)
    assert "NaN" not in (tmp_path / "log").read_text()
    assert json.loads((tmp_path / "log").read_text().splitlines()[-1])["loss"] is None
