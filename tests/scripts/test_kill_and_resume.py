"""A run that is killed, resumed and killed again ends as one that is left alone: the script that tries it, in short."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from short_run import SCRIPTS


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs are forks")
def test_a_killed_run_loses_nothing_but_the_steps_since_its_last_checkpoint(tmp_path):
    command = [sys.executable, "-W", "ignore", str(SCRIPTS / "kill_and_resume.py"), "--kills", "4", "--whole", "1"]
    command += ["--steps", "16", "24", "12", "--seed", "3", "--json", str(tmp_path / "kills.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "kills.json").read_text())
    assert [kill["moment"] for kill in found["kills"]] == ["teacher", "pool", "checkpoint", "fine-tune"]
    for kill in found["kills"]:
        assert kill["broken"] == [] and 0 <= kill["lost"] <= found["save_every"] + 1
        assert kill["resumed_at"] <= kill["step"] + 1 <= 52
    whole, killed = found["runs"]
    assert whole["steps"] == killed["steps"] == 52 and whole["points"] == killed["points"] == 52
    assert whole["in_order"] and killed["in_order"]
