"""The parts of the day there is a GPU keep their time, and each leaves its result when it ends."""

import json
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
from short_run import SCRIPTS, load_script

PARTS = ["environment", "tests", "training_compile_off", "teacher", "race", "run"]


@pytest.fixture
def day(tmp_path):
    def make(seconds, parts=None):
        script = load_script("gpu_day")
        return script, script.Day(Namespace(out=tmp_path, device="cpu", seconds=seconds, data=None, parts=parts))

    return make


def statuses(folder: Path) -> dict[str, str]:
    noted = json.loads((folder / "gpu_day.json").read_text())["parts"]
    return {name: part["status"] for name, part in noted.items()}


def test_the_script_is_over_in_time_and_tells_of_every_part(tmp_path):
    command = ["bash", str(SCRIPTS / "gpu_day.sh"), "--out", str(tmp_path), "--device", "cpu", "--seconds", "14"]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 14 + 10
    assert list(statuses(tmp_path))[: len(PARTS)] == PARTS
    # Not "failed": on a busy machine any of them is cut off, but none ends of itself before its work is done.
    assert {status.split()[0] for status in statuses(tmp_path).values()} <= {"done", "cut", "left"}


def test_what_the_machine_is_is_written_down(tmp_path, day):
    _, today = day(2000.0, ["environment"])
    today.spend()
    assert statuses(tmp_path) == {"environment": "done"}
    found = json.loads((tmp_path / "environment.json").read_text())
    assert "threads" in found["device"] and found["versions"]["torch"] and not found["packages"]["tinycudann"]


def test_a_part_that_takes_too_long_is_ended_with_what_it_has_started(tmp_path, day, monkeypatch):
    script, today = day(100.0)
    child = f"import time; time.sleep(2.5); open({str(tmp_path / 'late')!r}, 'w')"
    code = f"import subprocess, sys; print('begun', flush=True); subprocess.run([sys.executable, '-c', {child!r}])"
    parts = [
        script.Part("slow", [sys.executable, "-c", code], 0.015),
        script.Part("wrong", [sys.executable, "-c", "raise SystemExit(3)"], 0.5),
        script.Part("right", [sys.executable, "-c", "print('all is well')"], 0.5),
    ]
    monkeypatch.setattr(today, "parts", lambda: iter(parts))
    today.spend()
    assert statuses(tmp_path) == {"slow": "cut off", "wrong": "failed (3)", "right": "done"}
    assert (tmp_path / "right.log").read_text() == "all is well\n"
    time.sleep(1.5)
    assert not (tmp_path / "late").exists()
