"""The parts of the day there is a GPU keep their time, and each leaves its result when it ends."""

import json
import subprocess
import sys
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from pkgutil import walk_packages

import pytest
from short_run import SCRIPTS, load_script

import mobiler2l_ns

PARTS = ["environment", "tests", "training_compile_off", "teacher", "splats", "race", "run"]


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
    _, today = day(8000.0, ["environment"])
    today.spend()
    assert statuses(tmp_path) == {"environment": "done"}
    found = json.loads((tmp_path / "environment.json").read_text())
    assert "threads" in found["device"] and found["versions"]["torch"] and not found["packages"]["tinycudann"]


ALONE = """
import sys
from importlib.machinery import PathFinder
from importlib.metadata import distribution, packages_distributions, PackageNotFoundError
from packaging.requirements import Requirement

def name(of):
    return of.lower().replace("_", "-").replace(".", "-")

allowed = {name(Requirement(each).name) for each in CARRIED} | {"mobiler2l-ns"}
open_ones = [name(Requirement(each).name) for each in THERE]
while open_ones:  # what the machine's packages need is there with them
    if (found := open_ones.pop()) in allowed:
        continue
    allowed.add(found)
    try:
        needs = [Requirement(each) for each in distribution(found).requires or ()]
    except PackageNotFoundError:
        continue
    open_ones += [name(each.name) for each in needs if each.marker is None or each.marker.evaluate({"extra": ""})]

class Allowed:
    others = {top for top, owners in packages_distributions().items() if not allowed & {name(each) for each in owners}}

    def find_distributions(self, context):
        return [each for each in PathFinder.find_distributions(context) if name(each.name) in allowed]

    def find_spec(self, module, path=None, target=None):
        return None if module in self.others else PathFinder.find_spec(module, path, target)

sys.meta_path[:] = [Allowed() if each is PathFinder else each for each in sys.meta_path]
assert {"open3d", "plotly", "coremltools", "timm", "av"} & Allowed.others
"""


def test_nothing_is_imported_that_is_neither_on_the_machine_nor_carried_along():
    script = load_script("gpu_day_wheels")
    extras = (".coreml", ".coreai", ".litert", ".ncnn", "ray_core")
    names = [each.name for each in walk_packages(mobiler2l_ns.__path__, "mobiler2l_ns.")]
    names = ["nerfstudio.scripts.train", "nerfstudio.scripts.eval", *names]
    code = ALONE.replace("CARRIED", repr(list(script.CARRIED.values())))
    code = code.replace("THERE", repr([*script.ON_THE_MACHINE.values(), "onnx", "onnxruntime"]))
    code += "".join(f"import {name}\n" for name in names if not any(extra in name for extra in extras))
    code += "import tyro\nfrom nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion as Methods\n"
    code += "tyro.cli(Methods, args=['mobiler2l-tiny', '--vis', 'tensorboard', 'blender-data', '--data', 'lego'])\n"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_part_whose_packages_are_missing_is_left_out_with_their_names(tmp_path, day, monkeypatch, capsys):
    script, today = day(100.0)
    needy = script.Part("needy", [sys.executable, "-c", "print('never')"], 0.5, ("json", "no_such_module", "cv3"))
    monkeypatch.setattr(today, "parts", lambda: iter([needy]))
    today.spend()
    noted = json.loads((tmp_path / "gpu_day.json").read_text())["parts"]["needy"]
    assert noted["status"] == "left out" and noted["why"] in capsys.readouterr().out
    assert noted["why"] == "missing here: cv3 no_such_module, see gpu_day_wheels.py"


def test_a_part_beside_the_others_ends_with_its_limit_or_with_the_day(tmp_path, day, monkeypatch):
    script, today = day(100.0)

    def beside(name, code, share):
        return script.Part(name, [sys.executable, "-c", code], share, needs=(), beside=True)

    parts = [
        beside("short", "print('ready')", 0.5),
        beside("late", "import time; time.sleep(30)", 0.012),
        beside("long", "import time; time.sleep(30)", 0.5),
        script.Part("next", [sys.executable, "-c", "import time; time.sleep(1.5)"], 0.5, needs=()),
    ]
    monkeypatch.setattr(today, "parts", lambda: iter(parts))
    began = time.monotonic()
    today.spend()
    assert time.monotonic() - began < 20
    assert statuses(tmp_path) == {"short": "done", "late": "cut off", "next": "done", "long": "cut off"}
    assert (tmp_path / "short.log").read_text() == "ready\n"


@pytest.mark.parametrize(
    ("ended", "then"),
    [("print('compiled')", "done"), ("raise SystemExit(1)", "left"), ("import time; time.sleep(30)", "left")],
)
def test_splats_are_timed_when_their_kernels_are_compiled(tmp_path, day, monkeypatch, ended, then):
    script, today = day(8.0)
    kernels = script.Part(script.KERNELS, [sys.executable, "-c", ended], 0.9, needs=(), beside=True)

    def parts():
        yield kernels
        for part in today._splats(last=True):
            yield replace(part, command=[sys.executable, "-c", "print('timed')"], share=0.9, needs=())

    monkeypatch.setattr(today, "parts", parts)
    today.spend()
    assert statuses(tmp_path)["splats"].split()[0] == then


def test_a_part_that_takes_too_long_is_ended_with_what_it_has_started(tmp_path, day, monkeypatch):
    script, today = day(100.0)
    child = f"import time; time.sleep(2.5); open({str(tmp_path / 'late')!r}, 'w')"
    code = f"import subprocess, sys; print('begun', flush=True); subprocess.run([sys.executable, '-c', {child!r}])"
    parts = [
        script.Part("slow", [sys.executable, "-c", code], 0.015, ()),
        script.Part("wrong", [sys.executable, "-c", "raise SystemExit(3)"], 0.5, ()),
        script.Part("right", [sys.executable, "-c", "print('all is well')"], 0.5, ()),
    ]
    monkeypatch.setattr(today, "parts", lambda: iter(parts))
    today.spend()
    assert statuses(tmp_path) == {"slow": "cut off", "wrong": "failed (3)", "right": "done"}
    assert (tmp_path / "right.log").read_text() == "all is well\n"
    time.sleep(1.5)
    assert not (tmp_path / "late").exists()
