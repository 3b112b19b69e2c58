"""The parts of gpu_day.sh, each a command of its own with a limit of its own, the most valuable first."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results_file import write_json

SCRIPTS = Path(__file__).resolve().parent
METHOD = "mobiler2l_ns.plugin.methods"
SPARE = 5.0
"""Seconds kept for what is written at the end."""


@dataclass(frozen=True)
class Part:
    """A command, and how much of the time it may take."""

    name: str
    command: list[str]
    share: float
    """Of all the time, at most; what a part leaves is the others'."""


class Day:
    """All parts, on one device, by one clock.

    Args:
        arguments: of the command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.out, self.device, self.seconds = arguments.out.resolve(), arguments.device, arguments.seconds
        self.data: Path | None = arguments.data
        self.only: list[str] | None = arguments.parts
        self.small = self.device == "cpu"
        began = float(os.environ.get("GPU_DAY_BEGAN", time.time()))
        self.ends = time.monotonic() + self.seconds - (time.time() - began)
        self.results: dict[str, Any] = {}

    def left(self) -> float:
        """Seconds until all must be over."""
        return self.ends - time.monotonic() - SPARE

    def path(self, name: str) -> str:
        """Of a file in the folder of results."""
        return str(self.out / name)

    def parts(self) -> Iterator[Part]:
        """What is done, in this order; a part is asked for when those before it are over."""
        script, small, device = self._script, self.small, ["--device", self.device]
        yield Part("environment", script("gpu_day_environment", *device, "--json", self.path("environment.json")), 0.05)
        tests = ["-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", str(SCRIPTS.parent / "tests" / "cuda")]
        yield Part("tests", [sys.executable, *tests, f"--junitxml={self.path('tests.xml')}"], 0.14)
        size = ["--size", "32" if small else "800", "--runs", "1" if small else "10"]
        for compile_it in ("off",) if small else ("on", "off"):
            name = f"training_compile_{compile_it}"
            options = ["--compile", compile_it, "--json", self.path(f"{name}.json")]
            yield Part(name, script("benchmark_training", *size, *device, *options), 0.09)
        teacher = ["--size", "32" if small else "800", *(["--small"] if small else [])]
        options = [*teacher, *device, "--json", self.path("teacher.json")]
        yield Part("teacher", script("benchmark_teacher", *options), 0.09)
        minutes = self.seconds * 0.19 / 60.0 if not small else self.seconds * 0.03 / 60.0
        race = ["--oracle", "--resolution", "48" if small else "800", "--minutes", f"{minutes:.4f}"]
        race += ["--views", "6" if small else "200", "--photos", "8" if small else "60"]
        race += ["--recipes", "default" if small else "default,paper", "--network", "small" if small else "own"]
        race += ["--cache", self.path("race"), "--json", self.path("race.json"), "--png", self.path("race.png")]
        yield Part("race", script("benchmark_distillation", *race, *device), 0.55)
        if self.only is None or not {"run", "eval", "export"}.isdisjoint(self.only):
            yield from self._run()

    def _run(self) -> Iterator[Part]:
        """A run on a capture, for what is left, and then what nerfstudio's commands make of it."""
        scene = next(iter(sorted((self.out / "race").glob("demo_*"))), None)
        data = self.data or scene
        if data is None:
            self._note("run", "left out", why="there is no capture: the race has not come to its scene")
            return
        blender = (data / "transforms_train.json").exists()
        method = "mobiler2l-tiny" if self.small else "mobiler2l"
        config = self.out / "runs" / "day" / method / "run" / "config.yml"
        length = ["--pipeline.minutes", f"{max(0.5, 0.7 * self.left() / 60.0):.2f}"]
        if self.small:
            steps = {"teacher": 5, "distill": 5, "finetune": 2}
            length = [part for name, count in steps.items() for part in (f"--pipeline.{name}-steps", str(count))]
            length += ["--pipeline.datamanager.pool-views", "2", "--report-views", "1"]
        train = [method, "--output-dir", self.path("runs"), "--experiment-name", "day", "--timestamp", "run"]
        train += ["--machine.device-type", self.device, "--vis", "tensorboard", *length]
        train += ["blender-data" if blender else "nerfstudio-data", "--data", str(data)]
        yield Part("run", self._module("nerfstudio.scripts.train", *train), 0.9)
        if not config.exists():
            return
        options = ["--load-config", str(config), "--output-path", self.path("eval.json")]
        yield Part("eval", self._module("nerfstudio.scripts.eval", *options), 0.2)
        options = ["onnx", "--load-config", str(config), "--output-dir", self.path("export")]
        yield Part("export", self._module("mobiler2l_ns.plugin.export_commands", *options), 0.2)

    def _script(self, name: str, *options: str) -> list[str]:
        return [sys.executable, str(SCRIPTS / f"{name}.py"), *options]

    def _module(self, name: str, *options: str) -> list[str]:
        code = f"import sys; sys.argv[0] = {name!r}; from {name} import entrypoint; entrypoint()"
        return [sys.executable, "-c", code, *options]

    def spend(self) -> None:
        """Do all parts, as far as there is time."""
        for part in self.parts():
            if self.only is not None and part.name not in self.only:
                continue
            limit = min(self.left(), part.share * self.seconds)
            if limit <= 1.0:
                self._note(part.name, "left out", why="no time was left")
                continue
            print(f"{part.name}: at most {limit:.0f} s", flush=True)
            began = time.monotonic()
            status = self._do(part, limit)
            self._note(part.name, status, seconds=round(time.monotonic() - began, 1), limit=round(limit, 1))
        print(f"Results: {self.out}", flush=True)

    def _do(self, part: Part, limit: float) -> str:
        methods = {"mobiler2l": "mobiler2l", "mobiler2l-tiny": "mobiler2l_tiny"}
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(SCRIPTS.parent), str(SCRIPTS), os.environ.get("PYTHONPATH", "")]),
            "MOBILER2L_TEST_DEVICE": self.device,
            # The method is known without an installation.
            "NERFSTUDIO_METHOD_CONFIGS": ",".join(f"{name}={METHOD}:{value}" for name, value in methods.items()),
            "MPLBACKEND": "agg",
        }
        with open(self.out / f"{part.name}.log", "wb") as log:
            process = subprocess.Popen(
                part.command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment,
                cwd=self.out, start_new_session=True,
            )  # fmt: skip
            try:
                return "done" if process.wait(limit) == 0 else f"failed ({process.returncode})"
            except subprocess.TimeoutExpired:
                return "cut off"
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()

    def _note(self, name: str, status: str, **facts: Any) -> None:
        self.results[name] = {"status": status, **facts}
        print(f"{name}: {status}", flush=True)
        settings = {"device": self.device, "seconds": self.seconds}
        write_json(self.out / "gpu_day.json", {"settings": settings, "parts": self.results})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu_day"), help="folder of results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: the same parts, small")
    parser.add_argument("--seconds", type=float, default=480.0, help="for everything")
    parser.add_argument("--data", type=Path, help="capture of the last part, in place of the demo scene")
    parser.add_argument("--parts", nargs="+", help="only these")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    Day(arguments).spend()


if __name__ == "__main__":
    main()
