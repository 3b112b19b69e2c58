"""One run: trained, resumed, evaluated, exported, each by a command of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from fleet_files import kill, planned, processes_of, write_fleet

from mobiler2l_ns.fleet.lock import held, is_held
from mobiler2l_ns.fleet.run_one import do_run
from mobiler2l_ns.fleet.state import RunState, settled


def only(tmp_path, **fields):
    """The folder of the only run of a fleet, and its job."""
    plan = planned(write_fleet(tmp_path, count=1, **fields))
    return plan.folder(plan.jobs[-1]), plan.jobs[-1]


def arguments(folder: Path, attempt: int) -> list[str]:
    return json.loads((folder / "a" / "mobiler2l-tiny" / str(attempt) / "arguments.json").read_text())


def wait_for(condition, seconds=60.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.05)


def test_a_run_is_trained_evaluated_and_exported(tmp_path):
    folder, _ = only(tmp_path, exports=["web", "onnx --precision int8"], gpus=0)
    state = do_run(folder, tries=1)
    assert state == RunState.read(folder) and state.status == "done"
    assert state.finished == ["train", "evaluate", "export web", "export onnx --precision int8"]
    assert state.result["psnr"] == 30.0 and state.result["steps"] == 10 and state.result["seconds"] == 9.0
    assert [(each["format"], each["mb"]) for each in state.result["packages"]] == [("web", 2.0), ("onnx", 2.0)]
    assert state.result["page"] == "packages/student.web/index.html"
    words = " ".join(arguments(folder, 1))
    assert "--machine.device-type cpu" in words and "--vis tensorboard" in words
    ends = (folder / "ends").read_text()
    assert do_run(folder, tries=1).status == "done"
    assert (folder / "ends").read_text() == ends, "a run that is done is not repeated"


def test_what_fails_is_resumed_from_its_checkpoint_and_given_up_after_its_tries(tmp_path):
    folder, _ = only(tmp_path, settings={"fail": 2})
    state = do_run(folder, tries=3)
    assert (state.status, state.attempt, state.failures) == ("done", 3, 2)
    first, second = arguments(folder, 1), arguments(folder, 2)
    assert "--load-dir" not in first
    assert second[second.index("--load-dir") + 1] == str(folder / "a/mobiler2l-tiny/1/nerfstudio_models")
    assert (folder / "ends").read_text().split()[1] == "4", "it went on after the checkpoint of step 3"
    steps = [
        json.loads(line)["step"] for line in (folder / "a/mobiler2l-tiny/3/progress.jsonl").read_text().split("\n")[:-1]
    ]
    assert steps == list(range(10))
    assert not (folder / "a/mobiler2l-tiny/1/nerfstudio_models").exists(), "checkpoints that others went on from go"
    folder, _ = only(tmp_path, settings={"fail": 2, "pause": 0})
    state = do_run(folder, tries=2)
    assert (state.status, state.doing, state.failures) == ("failed", "train", 2)
    assert state.last_lines[-2] == "the GPU is on fire" and state.last_lines[-1].endswith("train-2.log")
    assert "ended with 1" in state.last_lines[-1] and "step 4" in state.last_lines


def test_a_package_that_is_asked_for_later_is_made_without_training_again(tmp_path):
    folder, job = only(tmp_path)
    assert do_run(folder, 1).status == "done"
    more = replace(job, exports=["web"])
    more.write(folder)
    assert settled(more, folder).status == "queued"
    state = do_run(folder, 1)
    assert state.finished == ["train", "evaluate", "export web"] and state.attempt == 1


def test_a_command_that_leaves_nothing_has_failed(tmp_path):
    folder, _ = only(tmp_path, commands={"train": "true"})
    state = do_run(folder, 1)
    assert state.status == "failed" and state.last_lines[-1].startswith("true ended with 0")
    folder, _ = only(tmp_path, commands={"train": "no-such-command"}, settings={"pause": 0})
    assert "no-such-command cannot be started: No such file" in do_run(folder, 1).last_lines[0]


def test_a_student_takes_its_teachers_run_and_waits_or_fails_with_it(tmp_path):
    fields: dict[str, Any] = {
        "teachers": {"t": {"method": "mobiler2l"}},
        "methods": {"mobiler2l-tiny": {"teacher": "t"}},
    }
    folder, job = only(tmp_path, **fields, share_pool=True)
    teacher = Path(str(job.teacher))
    assert do_run(folder, 1).status == "queued"
    assert do_run(teacher, 1).status == "done" and do_run(folder, 1).status == "done"
    words = arguments(folder, 1)
    assert words[words.index("--pipeline.teacher-load-config") + 1] == str(teacher / "a/mobiler2l/1/config.yml")
    assert words[words.index("--pipeline.datamanager.cache-dir") + 1] == job.pool
    fields["teachers"]["t"]["settings"] = {"fail": 9}
    folder, job = only(tmp_path, **fields)
    assert do_run(Path(str(job.teacher)), 1).status == "failed"
    state = do_run(folder, 1)
    assert state.status == "failed" and state.last_lines == [f"Its teacher has failed: {job.teacher}"]


def test_a_command_dies_with_its_worker_and_the_run_goes_on(tmp_path):
    folder, _ = only(tmp_path, settings={"pause": 0.2, "steps": 30})
    worker = subprocess.Popen([sys.executable, "-m", "mobiler2l_ns.fleet.run_one", str(folder)])
    wait_for(lambda: len(list(folder.glob("a/*/1/nerfstudio_models/*.ckpt"))) > 0)
    assert is_held(folder)
    kill(worker.pid)
    worker.wait()
    wait_for(lambda: not processes_of(folder), 10)
    assert not is_held(folder) and RunState.read(folder).status == "running"
    state = do_run(folder, 1)
    assert (state.status, state.attempt, state.failures) == ("done", 2, 0)
    assert not (folder / "two_writers").exists()


def test_a_command_that_outlives_its_worker_holds_the_run(tmp_path):
    folder = tmp_path
    with held(folder, lambda: None) as lock:
        command = [sys.executable, "-I", "-S", "-c", "input()"]
        outliving = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(lock,))
    assert is_held(folder)
    waited = []

    def waiting():
        waited.append(True)
        outliving.communicate(b"\n")

    with held(folder, waiting):
        assert waited == [True]
    assert not is_held(folder)
