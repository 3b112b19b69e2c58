"""One run, by the commands that a person would type: train or resume, evaluate, export. Each is its own process."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

from mobiler2l_ns.fleet import child, results
from mobiler2l_ns.fleet.job import Job
from mobiler2l_ns.fleet.lock import held
from mobiler2l_ns.fleet.spec import COMMANDS
from mobiler2l_ns.fleet.state import RunState
from mobiler2l_ns.progress import records

POLL = 0.2
SIGN_OF_LIFE = 5.0
"""Seconds between two signs in ``fleet.json`` though nothing has changed."""
LAST_LINES = 12
TAIL = 1 << 14
"""Bytes at the end of a log that are looked at."""


def do_run(folder: Path, tries: int) -> RunState:
    """Do what is left of a run, and leave its state in its folder.

    It waits for whoever holds the run, and does nothing where it is over. Of a student whose teacher is not trained it
    does nothing either: the run stays queued, or has failed where the teacher has.

    Args:
        folder: of the run, with its job.json.
        tries: of a command, of which this many may end badly.
    """
    with held(folder, lambda: None) as lock:
        state = RunState.read(folder)
        job = Job.read(folder)
        if state.status == "failed" or (state.status == "done" and all(step in state.finished for step in job.steps)):
            return state
        if job.teacher is not None and "train" not in state.finished:
            teacher = RunState.read(Path(job.teacher))
            if teacher.status == "failed":
                state.status, state.last_lines = "failed", [f"Its teacher has failed: {job.teacher}"]
                state.write(folder)
            if teacher.status != "done":
                return state
        worker = _Worker(folder, job, state, tries, lock)
        for step in job.steps:
            if step not in state.finished and not worker.do(step):
                break
        else:
            state.status, state.doing = "done", ""
            state.result = results.collect(folder, job, state)
        if state.status == "done":
            worker.tidy()
        state.write(folder)
        return state


class _Worker:
    def __init__(self, folder: Path, job: Job, state: RunState, tries: int, lock: int) -> None:
        self.folder, self.job, self.state, self.tries, self.lock = folder, job, state, tries, lock
        state.status, state.host, state.pid = "running", socket.gethostname(), os.getpid()

    def do(self, step: str) -> bool:
        """Do a step, again if it fails and may; returns whether it is done."""
        state = self.state
        state.doing = step
        while state.failures < self.tries:
            state.line, state.last_lines = "", []
            command = self._command(step)
            state.write(self.folder)
            log = self.folder / "logs" / f"{step.split()[0]}-{state.attempt}.log"
            code = self._run(command, log)
            if code == 0 and (step != "train" or self._trained()):
                state.finished.append(step)
                state.phase, state.seconds_left = "", None
                state.write(self.folder)
                return True
            state.failures += 1
            ended = f"ended with {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
            state.last_lines = [*_last_lines(log), f"{command[0]} {ended}; its log: {log}"]
        state.status = "failed"
        return False

    def _trained(self) -> bool:
        """Whether there is what training should leave; the run's config is noted."""
        config = self._attempt_folder(self.state.attempt) / "config.yml"
        if not config.is_file() or newest_checkpoint(config.parent) is None:
            return False
        self.state.config = config.relative_to(self.folder).as_posix()
        return True

    # Commands

    def _words(self, name: str) -> list[str]:
        given = self.job.commands.get(name)
        if given:
            return given
        beside = Path(sys.executable).parent / COMMANDS[name]
        return [str(beside) if beside.is_file() else COMMANDS[name]]

    def _command(self, step: str) -> list[str]:
        if step == "train":
            return self._training()
        assert self.state.config is not None
        config = str(self.folder / self.state.config)
        if step == "evaluate":
            output = str(self.folder / results.EVALUATION)
            return [*self._words("evaluate"), "--load-config", config, "--output-path", output]
        options = ["--load-config", config, "--output-dir", str(self.folder / results.PACKAGES)]
        return [*self._words("export"), *step.split()[1:], *options]

    def _training(self) -> list[str]:
        job, state = self.job, self.state
        options = [*job.arguments, "--data", job.data, "--output-dir", str(self.folder)]
        if job.teacher is not None:
            config = RunState.read(Path(job.teacher)).config
            assert config is not None
            options += ["--pipeline.teacher-load-config", str(Path(job.teacher) / config)]
        if job.pool is not None:
            options += ["--pipeline.datamanager.cache-dir", job.pool]
        if job.gpus == 0 and "--machine.device-type" not in options:
            options += ["--machine.device-type", "cpu"]
        if job.gpus is not None and job.gpus >= 2 and "--machine.num-devices" not in options:
            options += ["--machine.num-devices", str(int(job.gpus))]
        checkpoint = self._newest_checkpoint()
        if checkpoint is not None:
            options += ["--load-dir", str(checkpoint.parent)]
        state.attempt += 1
        state.step = state.psnr = state.seconds_left = None
        options += ["--experiment-name", job.capture, "--timestamp", str(state.attempt)]
        return [*self._words("train"), job.method, *options, *job.dataparser]

    # Attempts: each trains in a folder of its own, so that what it goes on from stays whole

    def _attempt_folder(self, attempt: int) -> Path:
        return self.folder / self.job.capture / self.job.method / str(attempt)

    def _newest_checkpoint(self) -> Path | None:
        found = [newest_checkpoint(self._attempt_folder(attempt)) for attempt in range(1, self.state.attempt + 1)]
        return max((each for each in found if each is not None), key=lambda path: path.name, default=None)

    def tidy(self) -> None:
        """Remove the checkpoints of attempts that others went on from; their logs stay."""
        for attempt in range(1, self.state.attempt):
            shutil.rmtree(self._attempt_folder(attempt) / "nerfstudio_models", ignore_errors=True)

    # Processes

    def _run(self, command: list[str], log: Path) -> int:
        """Run a command to its end, telling how far it is; returns its exit code, negative if a signal ended it."""
        log.parent.mkdir(parents=True, exist_ok=True)
        begun, busy = time.monotonic(), self.state.busy
        with log.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", child.__file__, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(self.lock,),
            )
        try:
            while (code := process.poll()) is None:
                time.sleep(POLL)
                self.state.busy = busy + time.monotonic() - begun
                self._look(log)
        finally:
            # Whatever ends this ends the command, and what it has started.
            _kill_group(process)
            self.state.busy = busy + time.monotonic() - begun
        self._look(log, even_if_same=True)
        return code

    def _look(self, log: Path, even_if_same: bool = False) -> None:
        state = self.state
        before = (state.line, state.phase, state.step, state.psnr)
        lines = _last_lines(log, 1)
        state.line = lines[0] if lines else ""
        if state.doing == "train":
            record = _newest_record(self._attempt_folder(state.attempt) / records.FILE)
            if record:
                state.phase, state.step = record.get("phase", ""), record.get("step")
                state.seconds_left = record.get("seconds_left")
                state.psnr = record.get("psnr", state.psnr)
        changed = before != (state.line, state.phase, state.step, state.psnr)
        silent = time.time() - state.updated
        if even_if_same or silent > SIGN_OF_LIFE or (changed and silent > 1.0):
            state.write(self.folder)


def newest_checkpoint(run: Path) -> Path | None:
    """The checkpoint of the most steps of a training's folder whose config is there, too."""
    found = sorted((run / "nerfstudio_models").glob("step-*.ckpt")) if (run / "config.yml").is_file() else []
    return found[-1] if found else None


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    process.wait()


def _tail(path: Path) -> list[str]:
    """The last lines of a file; the first of them may have lost its beginning."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            return file.read().decode("utf8", "replace").splitlines()
    except OSError:
        return []


def _last_lines(log: Path, count: int = LAST_LINES) -> list[str]:
    """What a command said last, without empty lines and the control codes of terminals."""
    found: deque[str] = deque(maxlen=count)
    for line in _tail(log):
        text = "".join(sign for sign in line.rpartition("\r")[2] if sign.isprintable()).strip()
        if text:
            found.append(text)
    return list(found)


def _newest_record(path: Path) -> dict:
    return next(iter(records.parsed(reversed(_tail(path)))), {})


def main() -> None:
    """``python -m mobiler2l_ns.fleet.run_one FOLDER TRIES``: by hand, or by a scheduler that only knows commands."""
    state = do_run(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    sys.exit(0 if state.status == "done" else 1)


if __name__ == "__main__":
    main()
