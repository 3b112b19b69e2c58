"""Fleet files for the tests: captures that are folders with a transforms.json, commands that are fakes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from mobiler2l_ns.fleet.plan import Plan, plan_fleet
from mobiler2l_ns.fleet.spec import read_fleet

FAKE = Path(__file__).parent / "fake_commands.py"
COMMANDS = {name: [sys.executable, "-I", "-S", str(FAKE), name] for name in ("train", "evaluate", "export")}


def write_fleet(folder: Path, count: int = 2, **fields: Any) -> Path:
    """A fleet file of so many captures, a, b, ... with fake commands; further keyword arguments replace its keys, with
    underscores for hyphens."""
    for name in "abcdefgh"[:count]:
        (folder / "captures" / name).mkdir(parents=True, exist_ok=True)
        (folder / "captures" / name / "transforms.json").write_text("{}")
    content = {"captures": ["captures/*"], "methods": ["mobiler2l-tiny"], "commands": COMMANDS, "output": "out"}
    content |= {name.replace("_", "-"): value for name, value in fields.items()}
    file = folder / "fleet.yaml"
    file.write_text(yaml.safe_dump({name: value for name, value in content.items() if value is not None}))
    return file


def planned(file: Path) -> Plan:
    """The runs of a fleet file, written for ``run_one`` as the driver writes them."""
    plan = plan_fleet(read_fleet(file))
    for job in plan.jobs:
        job.write(plan.folder(job))
    return plan


def start_fleet(*words: str) -> subprocess.Popen[str]:
    """``mobiler2l-fleet`` as a process of its own."""
    command = [sys.executable, "-m", "mobiler2l_ns.plugin.fleet_command", *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def processes_of(folder: Path) -> dict[int, list[str]]:
    """Processes whose command line names a folder: id -> words."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode("utf8", "replace").split("\0")
        except OSError:
            continue
        if any(str(folder) in word for word in words) and int(entry.name) != os.getpid():
            found[int(entry.name)] = words
    return found


def kill(pid: int) -> None:
    """With -9, if it is still there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
