"""What Slurm is asked for, seen by commands that stand in for its own."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from fleet_files import planned, write_fleet

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.fleet.engines.slurm import DoRun, SlurmEngine

submitit = pytest.importorskip("submitit")


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder whose sbatch keeps what it is given."""
    folder = tmp_path / "bin"
    folder.mkdir()
    count = f"$(ls {folder} | grep -c job)"
    for name, script in {
        "srun": "",
        "sbatch": f'cp "$1" {folder}/job{count}.sh; echo "Submitted batch job 10{count}"',
        "sacct": 'echo "JobID|State"; echo "101|RUNNING"; echo "102|FAILED"',
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def test_runs_of_a_teacher_are_an_array_that_waits_for_it(slurm, tmp_path):
    fields = {"teachers": {"t": {"method": "mobiler2l"}}, "methods": {"mobiler2l-tiny": {"teacher": "t"}}}
    plan = planned(write_fleet(tmp_path, count=1, **fields, matrix={"steps": [1, 2]}))
    teacher, *students = (plan.folder(job) for job in plan.jobs)
    engine = SlurmEngine(tmp_path / "submitit", {"partition": "gpu", "time": 90}, gpus=2, cpus=3, tries=4)
    assert engine.orders and engine.gpus == 2
    (first,) = engine.submit([teacher], None)
    handles = engine.submit(students, first)
    assert first.name == "101" and [handle.name for handle in handles] == ["102_0", "102_1"]
    alone, array = ((slurm / f"job{number}.sh").read_text() for number in (0, 1))
    for line in ("--partition=gpu", "--time=90", "--gpus-per-node=2", "--cpus-per-task=3"):
        assert f"#SBATCH {line}\n" in alone and f"#SBATCH {line}\n" in array
    assert "dependency" not in alone and "#SBATCH --dependency=afterany:101\n" in array
    assert "#SBATCH --array=0-1%2\n" in array
    for folder, handle in zip(students, handles, strict=True):
        job = pickle.loads(Path(handle.job.paths.submitted_pickle).read_bytes())
        assert isinstance(job.function, DoRun) and job.args == (str(folder), 4)
    engine.submit([teacher], None)
    assert "dependency" not in (slurm / "job2.sh").read_text()


def test_jobs_of_an_earlier_driver_are_found_again(slurm, tmp_path):
    engine = SlurmEngine(tmp_path / "submitit", {}, None, None, 1)
    assert engine.gpus == 1
    found = engine.find("101")
    assert found is not None and not found.ended()
    assert engine.find("102") is None and engine.find("999") is None


def test_a_job_that_is_interrupted_is_handed_over_as_it_was():
    again = DoRun().checkpoint("folder", 3)
    assert isinstance(again.function, DoRun) and again.args == ("folder", 3)


@pytest.mark.parametrize(
    ("parameters", "gpus", "said"),
    [({"partitoin": "gpu"}, 1, "slurm: .*partitoin.*known: .*partition"), ({}, 0.5, "Slurm gives whole GPUs, not 0.5")],
)
def test_a_mistake_is_told_in_a_line(slurm, tmp_path, parameters, gpus, said):
    with pytest.raises(UserError, match=said) as raised:
        SlurmEngine(tmp_path / "submitit", parameters, gpus, None, 1)
    assert "\n" not in str(raised.value)


def test_a_machine_without_slurm_is_told_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="This machine knows no Slurm"):
        SlurmEngine(tmp_path / "submitit", {}, 1, None, 1)
