"""The parts of gpu_day.sh, each a command of its own with a limit of its own, the most valuable first."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_day_wheels import CARRIED, ON_THE_MACHINE, missing
from results_file import write_json

SCRIPTS = Path(__file__).resolve().parent
METHOD = "mobiler2l_ns.plugin.methods"
KERNELS, BACKEND = "splat_kernels", "gsplat.cuda._backend"
SPARE = 5.0
"""Seconds kept for what is written at the end."""


@dataclass(frozen=True)
class Part:
    """A command, and how much of the time it may take."""

    name: str
    command: list[str]
    share: float
    """Of all the time, at most; what a part leaves is the others'."""
    needs: tuple[str, ...] = (*ON_THE_MACHINE, *CARRIED)
    """Modules without which it is left out."""
    beside: bool = False
    """Whether the next parts begin while it is under way."""


@dataclass(frozen=True)
class Begun:
    """A part that is under way."""

    part: Part
    process: subprocess.Popen[bytes]
    limit: float
    """Seconds that it may take."""
    began: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.began

    def wait(self, seconds: float) -> str | None:
        """How it has ended; None if it has not within so many seconds."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        return "done" if code == 0 else f"failed ({code})"

    def end(self) -> None:
        """Kill it and what it has started, if it has not ended."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


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
        self.beside: dict[str, Begun] = {}

    def left(self) -> float:
        """Seconds until all must be over."""
        return self.ends - time.monotonic() - SPARE

    def path(self, name: str) -> str:
        """Of a file in the folder of results."""
        return str(self.out / name)

    def parts(self) -> Iterator[Part]:
        """What is done, in this order; a part is asked for when those before it are over."""
        script, small, device = self._script, self.small, ["--device", self.device]
        options = [*device, "--json", self.path("environment.json")]
        yield Part("environment", script("gpu_day_environment", *options), 0.08)
        if not small:
            # Minutes of compiling, by what the next parts leave of the processor.
            compiling = ["nice", "-n", "19", sys.executable, "-c", f"import {BACKEND} as backend; assert backend._C"]
            yield Part(KERNELS, compiling, 0.9, beside=True)
        # What compiles comes last, and each is told when it ends.
        tests = ["-m", "pytest", "-o", "addopts=--import-mode=importlib", "-v", "-rs", "-p", "no:cacheprovider"]
        files = sorted((SCRIPTS.parent / "tests" / "cuda").glob("test_*.py"), key=lambda path: "compil" in path.stem)
        tests += map(str, files)
        tests += [f"--junitxml={self.path('tests.xml')}"]
        yield Part("tests", [sys.executable, *tests], 0.17, (*Part.needs, "pytest"))
        size = ["--size", "32" if small else "800", "--runs", "1" if small else "10"]
        for compile_it, share in (("off", 0.09),) if small else (("off", 0.07), ("on", 0.15)):
            name = f"training_compile_{compile_it}"
            options = ["--compile", compile_it, "--json", self.path(f"{name}.json")]
            yield Part(name, script("benchmark_training", *size, *device, *options), share)
        teacher = ["--size", "32" if small else "800", *(["--small"] if small else [])]
        options = [*teacher, *device, "--json", self.path("teacher.json")]
        yield Part("teacher", script("benchmark_teacher", *options), 0.08)
        yield from self._splats()
        minutes = self.seconds * 0.19 / 60.0 if not small else self.seconds * 0.03 / 60.0
        race = ["--oracle", "--resolution", "48" if small else "800", "--minutes", f"{minutes:.4f}"]
        race += ["--views", "6" if small else "200", "--photos", "8" if small else "60"]
        race += ["--recipes", "default" if small else "default,paper", "--network", "small" if small else "own"]
        race += ["--cache", self.path("race"), "--json", self.path("race.json"), "--png", self.path("race.png")]
        yield Part("race", script("benchmark_distillation", *race, *device), 0.5)
        yield from self._splats()
        if self.only is None or not {"run", "eval", "export"}.isdisjoint(self.only):
            yield from self._run()
        yield from self._splats(last=True)

    def _splats(self, last: bool = False) -> Iterator[Part]:
        """As soon as their kernels are compiled; ``last``: now or never."""
        if "splats" in self.results or (KERNELS in self.beside and not last):
            return
        if KERNELS in self.beside:
            self.beside[KERNELS].wait(max(0.0, self.left()))
            self._look_beside()
        if self.results.get(KERNELS, {"status": "done"})["status"] != "done" or KERNELS in self.beside:
            self._note("splats", "left out", why=f"gsplat has not been compiled, see {KERNELS}.log")
            return
        small = self.small
        options = ["--splats", *(["500"] if small else ["100000", "1000000"]), "--views", "1" if small else "20"]
        options += ["--size", "32" if small else "800", "--device", self.device, "--json", self.path("splats.json")]
        yield Part("splats", self._script("benchmark_splats", *options), 0.06)

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
        yield Part(
            "export",
            self._module("mobiler2l_ns.plugin.export_commands", *options),
            0.2,
            (*Part.needs, "onnx", "onnxruntime"),
        )

    def _script(self, name: str, *options: str) -> list[str]:
        return [sys.executable, str(SCRIPTS / f"{name}.py"), *options]

    def _module(self, name: str, *options: str) -> list[str]:
        code = f"import sys; sys.argv[0] = {name!r}; from {name} import entrypoint; entrypoint()"
        return [sys.executable, "-c", code, *options]

    def spend(self) -> None:
        """Do all parts, as far as there is time."""
        try:
            for part in self.parts():
                if self.only is None or part.name in self.only:
                    self._spend_on(part)
                self._look_beside()
            self._look_beside(over=True)
        finally:
            for begun in self.beside.values():
                begun.end()
        print(f"Results: {self.out}", flush=True)

    def _spend_on(self, part: Part) -> None:
        limit = min(self.left(), part.share * self.seconds)
        if limit <= 1.0:
            self._note(part.name, "left out", why="no time was left")
            return
        if lacking := missing(part.needs):
            self._note(part.name, "left out", why=f"missing here: {' '.join(lacking)}, see gpu_day_wheels.py")
            return
        print(f"{part.name}: at most {limit:.0f} s", flush=True)
        begun = self._begin(part, limit)
        if part.beside:
            self.beside[part.name] = begun
            return
        try:
            status = begun.wait(limit) or "cut off"
        finally:
            begun.end()
        self._note_end(begun, status)

    def _look_beside(self, over: bool = False) -> None:
        """Note what has ended beside the other parts, and end what has had its time; all of it if all is over."""
        for name, begun in list(self.beside.items()):
            late = over or begun.seconds() > begun.limit
            if status := begun.wait(0.0) or ("cut off" if late else None):
                begun.end()
                del self.beside[name]
                self._note_end(begun, status)

    def _begin(self, part: Part, limit: float) -> Begun:
        methods = {"mobiler2l": "mobiler2l", "mobiler2l-tiny": "mobiler2l_tiny"}
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(SCRIPTS.parent), str(SCRIPTS), os.environ.get("PYTHONPATH", "")]),
            "MOBILER2L_TEST_DEVICE": self.device,
            # The method is known without an installation.
            "NERFSTUDIO_METHOD_CONFIGS": ",".join(f"{name}={METHOD}:{value}" for name, value in methods.items()),
            "MPLBACKEND": "agg",
            "PYTHONUNBUFFERED": "1",
            # There is no network: LPIPS's weights are asked for in vain, which shall not take long.
            "RES_OPTIONS": "timeout:1 attempts:1",
            # gsplat's kernels: the compiler's ninja, where it writes, and how many files at a time.
            "PATH": os.pathsep.join([str(Path(sys.prefix) / "bin"), os.environ.get("PATH", "")]),
            "TORCH_EXTENSIONS_DIR": self.path("kernels"),
            "MAX_JOBS": str(max(1, (os.cpu_count() or 2) * 3 // 4)),
        }
        with open(self.out / f"{part.name}.log", "wb") as log:
            process = subprocess.Popen(
                part.command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment,
                cwd=self.out, start_new_session=True,
            )  # fmt: skip
        return Begun(part, process, limit)

    def _note_end(self, begun: Begun, status: str) -> None:
        self._note(begun.part.name, status, seconds=round(begun.seconds(), 1), limit=round(begun.limit, 1))

    def _note(self, name: str, status: str, **facts: Any) -> None:
        self.results[name] = {"status": status, **facts}
        print(f"{name}: {status}" + (f", {facts['why']}" if "why" in facts else ""), flush=True)
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
