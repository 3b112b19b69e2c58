"""The hooks are tested on the real ns-export, which has to be imported to be extended: in processes of their own.

The lower half of this file is what those processes run (`python test_nerfstudio_hooks.py SCENES REPORT`); a scene's
return value comes back as JSON. Three processes serve the whole file, because the exporter takes seconds to import.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.metadata
import importlib.util
import io
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Annotated, Any, Union, get_args

import pytest

from mobiler2l_ns.plugin import nerfstudio_hooks

EXPORTER = "nerfstudio.scripts.exporter"
METHODS = "nerfstudio.configs.method_configs"
OUR_COMMANDS = "mobiler2l_ns.plugin.export_commands"
NERFSTUDIO_SUBCOMMANDS = ["pointcloud", "tsdf", "poisson", "marching-cubes", "cameras", "gaussian-splat"]


def play(scene: str, folder: Path) -> Any:
    """Runs one scene of the lower half in a fresh interpreter and returns its report."""
    report = folder / f"{scene}.json"
    repository = Path(nerfstudio_hooks.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(repository), "PYTHONWARNINGS": "ignore", "COLUMNS": "160"}
    command = [sys.executable, __file__, scene, str(report)]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(report.read_text())


@pytest.fixture(scope="module")
def console(tmp_path_factory) -> dict:
    return play("scene_console_script", tmp_path_factory.mktemp("console"))


@pytest.fixture(scope="module")
def orders(tmp_path_factory) -> dict:
    return play("scene_other_orders", tmp_path_factory.mktemp("orders"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> dict:
    return play("scene_checkpoint", tmp_path_factory.mktemp("checkpoint"))


def listed(help_text: str) -> list[str]:
    """The subcommands in the usage line of ns-export --help, in order. (tyro names a subcommand given twice once.)"""
    usage = help_text[help_text.index("{") + 1 : help_text.index("}")]
    return [name.strip() for name in usage.split(",")]


class TestNsExportAsInstalled:
    """`from nerfstudio.scripts.exporter import entrypoint`: plugins load while the exporter is half-imported."""

    def test_help_lists_ours_after_nerfstudios(self, console):
        assert console["help"]["code"] == 0
        assert listed(console["help"]["out"]) == [*NERFSTUDIO_SUBCOMMANDS, "mobiler2l-probe", "mobiler2l-other"]
        assert "Writes what it was told" in console["help"]["out"]

    def test_our_command_runs_with_its_options(self, console):
        assert console["ours"] == {"code": None, "out": "probe: runs/config.yml half=False size=7\n", "err": ""}

    def test_our_command_has_its_own_help(self, console):
        assert console["our_help"]["code"] == 0
        assert "How many of them." in console["our_help"]["out"]

    def test_nerfstudios_commands_are_as_before(self, console):
        assert console["theirs"]["code"] == 0
        assert "--num-points INT" in console["theirs"]["out"]

    def test_completion_knows_both(self, console):
        assert console["completion"]["code"] in (0, None)
        assert "complete -F" in console["completion"]["out"]
        assert "'mobiler2l-probe'" in console["completion"]["out"]
        assert "'pointcloud'" in console["completion"]["out"]

    def test_a_wrong_subcommand_is_still_refused(self, console):
        assert console["wrong"]["code"] == 2

    def test_nothing_is_left_behind(self, console):
        assert console["class_while_waiting"] == "ExporterInWaiting"
        assert console["class_after"] == "module"
        assert console["commands_seen_half_imported"] is False
        assert console["our_commands_read"] == 1
        assert console["errors"] == ""


class TestOtherOrders:
    def test_methods_first_then_exporter(self, orders):
        scene = orders["methods_first"]
        assert listed(scene["help"]) == [*NERFSTUDIO_SUBCOMMANDS, "mobiler2l-probe", "mobiler2l-other"]
        assert scene["finders"] == {"before": 1, "after_a_mere_find_spec": 1, "after": 0}

    def test_our_commands_are_not_imported_before_they_are_used(self, orders):
        assert orders["methods_first"]["our_commands_read"] == {"by_methods": 0, "by_exporter": 0, "by_entrypoint": 1}

    def test_exporter_first_then_install(self, orders):
        scene = orders["exporter_first"]
        assert listed(scene["help"]) == [*NERFSTUDIO_SUBCOMMANDS, "mobiler2l-probe", "mobiler2l-other"]
        assert scene["members"] == [*NERFSTUDIO_SUBCOMMANDS, "mobiler2l-probe", "mobiler2l-other"]

    @pytest.mark.parametrize("order", ["neighbour_between", "neighbour_first"])
    def test_two_plugins_and_two_installs_list_each_once(self, orders, order):
        expected = sorted([*NERFSTUDIO_SUBCOMMANDS, "mobiler2l-probe", "mobiler2l-other", "neighbour"])
        assert sorted(listed(orders[order]["help"])) == expected
        assert sorted(orders[order]["members"]) == expected

    def test_broken_commands_cost_one_line_and_nothing_else(self, orders):
        scene = orders["broken"]
        assert listed(scene["help"]) == NERFSTUDIO_SUBCOMMANDS
        assert len(scene["errors"].splitlines()) == 1
        assert scene["errors"].startswith("mobiler2l: warning: ns-export does not list the mobiler2l exports (")
        assert OUR_COMMANDS in scene["errors"]


class TestCheckpoints:
    def test_nerfstudios_scheduler_state_is_refused_before(self, checkpoint):
        assert "numpy" in checkpoint["before"]
        assert "multiarray.scalar" in checkpoint["before"]

    def test_and_loads_after(self, checkpoint):
        assert checkpoint["saved_type"] == "float64"
        assert checkpoint["after"] == checkpoint["saved"]

    @pytest.mark.parametrize("numpy_name", ["numpy.core", "numpy._core"])
    def test_whichever_numpy_wrote_it(self, checkpoint, numpy_name):
        assert checkpoint[numpy_name] == checkpoint["saved"]

    def test_importing_the_hooks_is_light(self, checkpoint):
        assert checkpoint["heavy_imports"] == []

    def test_nothing_is_touched_before_torch_2_6(self, monkeypatch):
        monkeypatch.setattr("torch.__version__", "2.5.1+cpu")
        monkeypatch.delattr("torch.serialization.add_safe_globals")
        nerfstudio_hooks.allow_nerfstudio_checkpoints()

    def test_an_error_is_one_line_on_stderr(self, monkeypatch, capsys):
        monkeypatch.delattr("torch.serialization.add_safe_globals")
        nerfstudio_hooks.allow_nerfstudio_checkpoints()
        output = capsys.readouterr()
        assert output.out == ""
        assert len(output.err.splitlines()) == 1
        assert output.err.startswith("mobiler2l: warning: torch.load may refuse nerfstudio's checkpoints (AttributeErr")


def test_an_exporter_of_another_shape_is_left_alone(monkeypatch, capsys):
    exporter = types.ModuleType(EXPORTER)
    vars(exporter)["Commands"] = dict
    monkeypatch.setitem(sys.modules, EXPORTER, exporter)
    monkeypatch.setitem(sys.modules, OUR_COMMANDS, CommandsModule())
    nerfstudio_hooks.extend_ns_export()
    assert vars(exporter)["Commands"] is dict
    assert "no Union of subcommands" in capsys.readouterr().err


# ---- what the processes run ------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Probe:
    """Writes what it was told."""

    load_config: Path
    """A run."""
    half: bool = True
    """A flag, spelt as ns-export spells flags."""
    size: int = 3
    """How many of them."""

    def main(self) -> None:
        print(f"probe: {self.load_config} half={self.half} size={self.size}")


@dataclasses.dataclass
class Other(Probe):
    """Another one."""


class CommandsModule(types.ModuleType):
    """Stands in for `mobiler2l_ns.plugin.export_commands` and counts how often its table is read."""

    def __init__(self) -> None:
        super().__init__(OUR_COMMANDS)
        self.reads = 0

    @property
    def NS_EXPORT_COMMANDS(self) -> dict[str, tuple[type, str]]:
        self.reads += 1
        return {"mobiler2l-probe": (Probe, "Writes what it was told."), "mobiler2l-other": (Other, "Another one.")}


def neighbour_extends_ns_export() -> None:
    """Another plugin that found the same trick: the class of the half-imported module is swapped until it is used."""
    import tyro

    exporter = sys.modules[EXPORTER]
    before = type(exporter)

    def first_read(name: str) -> property:
        def read(module: Any) -> Any:
            module.__class__ = before
            union, *markers = get_args(module.Commands)
            command = Annotated[Probe, tyro.conf.subcommand(name="neighbour")]
            module.Commands = Annotated[(Union[(*get_args(union), command)], *markers)]
            return getattr(module, name)

        return property(read)

    names = ("entrypoint", "Commands", "get_parser_fn")
    exporter.__class__ = type("Neighbour", (before,), {name: first_read(name) for name in names})


def discovered(*hooks) -> Any:
    """A factory that nerfstudio's plugin discovery calls; it runs the hooks as a plugin module would when imported."""

    def method() -> Any:
        from nerfstudio.engine.trainer import TrainerConfig
        from nerfstudio.plugins.types import MethodSpecification

        for hook in hooks:
            hook()
        return MethodSpecification(TrainerConfig(method_name="probe"), "a method that only loads hooks")

    return method


half_import: dict[str, Any] = {}


def look_at_half_imported_exporter() -> None:
    exporter = sys.modules[EXPORTER]
    half_import.update(class_name=type(exporter).__name__, has_commands=hasattr(exporter, "Commands"))


plugin = discovered(nerfstudio_hooks.install, look_at_half_imported_exporter)
plugin_twice = discovered(nerfstudio_hooks.install, nerfstudio_hooks.install)
plugin_neighbour_between = discovered(nerfstudio_hooks.install, neighbour_extends_ns_export, nerfstudio_hooks.install)
plugin_neighbour_first = discovered(neighbour_extends_ns_export, nerfstudio_hooks.install, nerfstudio_hooks.install)


def begin(plugin_name: str = "") -> CommandsModule:
    """nerfstudio will discover just this plugin, whose commands are the ones above."""
    os.environ["NERFSTUDIO_METHOD_CONFIGS"] = f"probe=__main__:{plugin_name}" if plugin_name else ""
    commands = sys.modules[OUR_COMMANDS] = CommandsModule()
    return commands


def begin_again(plugin_name: str = "") -> CommandsModule:
    """As if nerfstudio had not been imported in this process: seconds cheaper than another process."""
    for name in [name for name in sys.modules if name.split(".")[0] == "nerfstudio"]:
        del sys.modules[name]
    # The table of methods that are not installed inspects the whole stack for each of them: seconds, too.
    external: Any = types.ModuleType("nerfstudio.configs.external_methods")
    external.ExternalMethodDummyTrainerConfig = type("ExternalMethodDummyTrainerConfig", (), {})
    external.get_external_methods = lambda: ({}, {})
    sys.modules[external.__name__] = external
    return begin(plugin_name)


def hide_installed_plugins() -> None:
    """Keeps the plugins installed beside us, this package's own among them, out of the scenes."""
    every_entry_point = importlib.metadata.entry_points

    def without_methods(**select: Any) -> Any:
        if select.get("group") == "nerfstudio.method_configs":
            select["name"] = "no plugin has this name"
        return every_entry_point(**select)

    importlib.metadata.entry_points = without_methods


def ns_export(*arguments: str) -> dict:
    """What the ns-export console script does, with what it prints."""
    sys.argv = ["ns-export", *arguments]
    out, err, code = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        from nerfstudio.scripts.exporter import entrypoint

        try:
            entrypoint()
        except SystemExit as ended:
            code = ended.code
    return {"out": out.getvalue(), "err": err.getvalue(), "code": code}


def scene_console_script() -> dict:
    commands = begin("plugin")
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        importlib.import_module(EXPORTER)
    return {
        "errors": errors.getvalue(),
        "help": ns_export("--help"),
        "ours": ns_export("mobiler2l-probe", "--load-config", "runs/config.yml", "--half", "False", "--size", "7"),
        "our_help": ns_export("mobiler2l-other", "--help"),
        "theirs": ns_export("pointcloud", "--help"),
        "completion": ns_export("--tyro-print-completion", "bash"),
        "wrong": ns_export("mobiler2l-nonsense"),
        "our_commands_read": commands.reads,
        "class_while_waiting": half_import["class_name"],
        "commands_seen_half_imported": half_import["has_commands"],
        "class_after": type(sys.modules[EXPORTER]).__name__,
    }


def scene_other_orders() -> dict:
    def help_and_members() -> dict:
        help_text = ns_export("--help")["out"]
        union = get_args(sys.modules[EXPORTER].Commands)[0]
        return {"help": help_text, "members": [get_args(member)[1].name for member in get_args(union)]}

    def discovering(plugin_name: str) -> dict:
        begin_again(plugin_name)
        return help_and_members()

    def count_finders() -> int:
        return sum(type(finder).__module__ == nerfstudio_hooks.__name__ for finder in sys.meta_path)

    def methods_first() -> dict:
        commands = begin_again("plugin_twice")
        importlib.import_module(METHODS)
        assert EXPORTER not in sys.modules
        finders = {"before": count_finders()}
        reads = {"by_methods": commands.reads}
        importlib.util.find_spec(EXPORTER)
        finders["after_a_mere_find_spec"] = count_finders()
        importlib.import_module(EXPORTER)
        finders["after"] = count_finders()
        reads["by_exporter"] = commands.reads
        help_text = ns_export("--help")["out"]
        reads["by_entrypoint"] = commands.reads
        return {"help": help_text, "finders": finders, "our_commands_read": reads}

    def exporter_first() -> dict:
        begin_again()
        importlib.import_module(EXPORTER)
        nerfstudio_hooks.install()
        nerfstudio_hooks.install()
        return help_and_members()

    def broken() -> dict:
        begin_again("plugin_twice")
        sys.modules[OUR_COMMANDS] = None  # type: ignore[assignment]  # every import of it raises
        result = ns_export("--help")
        return {"help": result["out"], "errors": result["err"]}

    return {
        "methods_first": methods_first(),
        "exporter_first": exporter_first(),
        "neighbour_between": discovering("plugin_neighbour_between"),
        "neighbour_first": discovering("plugin_neighbour_first"),
        "broken": broken(),
    }


def scene_checkpoint() -> dict:
    heavy = {"nerfstudio", "open3d", "coremltools", "onnx", "onnxruntime", OUR_COMMANDS} & set(sys.modules)

    import torch
    from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig

    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1e-2)
    schedule = ExponentialDecaySchedulerConfig(lr_final=1e-4, max_steps=100).setup()
    scheduler = schedule.get_scheduler(optimizer=optimizer, lr_init=1e-2)
    optimizer.step()
    scheduler.step()
    rates = scheduler.state_dict()["_last_lr"]

    def save(**options: Any) -> bytes:
        file = io.BytesIO()
        torch.save({"step": 1, "schedulers": {"fields": scheduler.state_dict()}}, file, **options)
        return file.getvalue()

    def load(checkpoint: bytes) -> list[float]:
        return torch.load(io.BytesIO(checkpoint))["schedulers"]["fields"]["_last_lr"]

    report = {"saved": rates, "saved_type": type(rates[0]).__name__, "before": "", "heavy_imports": sorted(heavy)}
    try:
        load(save())
    except Exception as refused:
        report["before"] = str(refused)

    nerfstudio_hooks.allow_nerfstudio_checkpoints()
    report["after"] = load(save())
    # The old file layout is one plain pickle, in which the module's name can be exchanged.
    plain = save(_use_new_zipfile_serialization=False).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    report["numpy.core"] = load(plain)
    report["numpy._core"] = load(plain.replace(b"numpy.core.multiarray", b"numpy._core.multiarray"))
    return report


if __name__ == "__main__":
    hide_installed_plugins()
    scene_name, report_path = sys.argv[1:]
    Path(report_path).write_text(json.dumps(globals()[scene_name]()))
