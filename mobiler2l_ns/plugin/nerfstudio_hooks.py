"""What has to be done to nerfstudio 1.1.5 while a plugin is being loaded.

`methods.py` calls `install()` at its top. nerfstudio loads that module, and with it this one, while it imports
`nerfstudio.configs.method_configs`, where an exception would end every ns-* command: whatever goes wrong here
therefore becomes one warning line on stderr, and nothing heavier than what nerfstudio itself has imported by then
(numpy, torch, tyro) is imported.

Commands. ns-train learns of plugins by an entry point, ns-export does not: its subcommands are the Union `Commands`
in `nerfstudio.scripts.exporter`. That module is usually half-imported when plugins are loaded (it is what imports
`method_configs`), so there is no `Commands` to extend yet. But its `entrypoint()` looks the global up when it is
called, so `extend_ns_export` waits until somebody asks the module for `entrypoint`, and adds ours then.
It may go when nerfstudio discovers exporters of plugins. `python -m nerfstudio.scripts.exporter` runs the file as
`__main__`, which nobody asks for an attribute: there only nerfstudio's own subcommands are listed.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Annotated, Any, Union, get_args, get_origin

import tyro

from mobiler2l_ns.checkpoints import allow_nerfstudio_checkpoints, warning_in_place_of_error
from mobiler2l_ns.errors import UserError
from mobiler2l_ns.foreign_paths import allow_foreign_paths

EXPORTER = "nerfstudio.scripts.exporter"


def install() -> None:
    """Readable checkpoints (see ``checkpoints``) and configs (``foreign_paths``), listed commands, one line where
    nerfstudio has none. Never raises, and may be called any number of times."""
    allow_nerfstudio_checkpoints()
    allow_foreign_paths()
    explain_paths_of_one_camera()
    extend_ns_export()


@warning_in_place_of_error("ns-render interpolate may end in nerfstudio's own words")
def explain_paths_of_one_camera() -> None:
    """Lets `ns-render interpolate` say in one line why there is no way between cameras where there is one camera, as
    there is with one evaluation photo; nerfstudio's own function stacks the empty list of its steps."""
    from nerfstudio.cameras import camera_utils

    interpolate = camera_utils.get_interpolated_poses_many
    if hasattr(interpolate, "__wrapped__"):
        return

    @functools.wraps(interpolate)
    def explained(poses: Any, *args: Any, **kwargs: Any) -> Any:
        if len(poses) < 2:
            raise UserError(
                "There is one camera, and so no way between cameras: give --pose-source train if more photos are "
                "trained on, or let ns-render spiral move around it"
            )
        return interpolate(poses, *args, **kwargs)

    # ns-render has imported the function by name when plugins are loaded.
    importers: tuple[Any, ...] = (camera_utils, sys.modules.get("nerfstudio.cameras.camera_paths"))
    for module in importers:
        if module is not None:
            module.get_interpolated_poses_many = explained


_commands_stay_unlisted = warning_in_place_of_error("ns-export does not list the mobiler2l exports")


@_commands_stay_unlisted
def extend_ns_export() -> None:
    """Lists `mobiler2l_ns.plugin.export_commands.NS_EXPORT_COMMANDS` beside ns-export's own subcommands.

    That module is imported when ns-export's commands are first used, so never by ns-train, ns-viewer and the others.
    """
    exporter = sys.modules.get(EXPORTER)
    if exporter is None:
        if not any(isinstance(finder, _ExporterFinder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _ExporterFinder())
    elif "Commands" in vars(exporter):
        _add_our_commands(exporter)
    else:
        _add_our_commands_on_first_use(exporter)


class _ExporterFinder(MetaPathFinder):
    """Stays on `sys.meta_path` until the exporter has been imported; the other finders do the finding."""

    def __init__(self) -> None:
        self._asking_the_others = False

    @_commands_stay_unlisted
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != EXPORTER or self._asking_the_others:
            return None
        self._asking_the_others = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._asking_the_others = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_retire(module: ModuleType) -> None:
                execute(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                _add_our_commands_on_first_use(module)

            spec.loader.exec_module = execute_and_retire
        return spec


def _extending_first(name: str) -> property:
    """A module attribute that, once it exists and is read, gives the module its own class back and our commands."""

    def read(exporter: Any) -> Any:
        if name not in vars(exporter):
            raise AttributeError(name)  # still half-imported: the module words the message
        exporter.__class__ = exporter.class_before
        _add_our_commands(exporter)
        return getattr(exporter, name)

    return property(read)


class _ExporterInWaiting(ModuleType):
    """Class of the exporter module until one of these is read; other plugins may stack theirs below or above it."""

    class_before: type[ModuleType]
    entrypoint = _extending_first("entrypoint")
    Commands = _extending_first("Commands")
    get_parser_fn = _extending_first("get_parser_fn")


@_commands_stay_unlisted
def _add_our_commands_on_first_use(exporter: ModuleType) -> None:
    class_before = type(exporter)
    if not issubclass(class_before, _ExporterInWaiting):
        bases = (_ExporterInWaiting, class_before)
        exporter.__class__ = type("ExporterInWaiting", bases, {"class_before": class_before})


@_commands_stay_unlisted
def _add_our_commands(exporter: ModuleType) -> None:
    from mobiler2l_ns.plugin.export_commands import NS_EXPORT_COMMANDS

    namespace = vars(exporter)  # not getattr: it would set off what another plugin has waiting
    namespace["Commands"] = _with_subcommands(namespace["Commands"], NS_EXPORT_COMMANDS)


def _with_subcommands(commands: Any, additions: Mapping[str, tuple[type, str]]) -> Any:
    """The same tyro type with more subcommands; names that are listed already are left alone.

    Args:
        commands: `Union[Annotated[A, subcommand(name="a")], ...]`, also in markers: `FlagConversionOff[Union[...]]`.
        additions: Subcommand name -> (dataclass, one-line description).
    """
    markers: list[Any] = []
    if get_origin(commands) is Annotated:
        commands, *markers = get_args(commands)
    if get_origin(commands) is not Union:
        raise TypeError(f"its Commands is no Union of subcommands but {commands!r}")

    listed = get_args(commands)
    names = {getattr(marker, "name", None) for subcommand in listed for marker in get_args(subcommand)[1:]}
    added = [
        Annotated[command, tyro.conf.subcommand(name=name, description=description)]
        for name, (command, description) in additions.items()
        if name not in names
    ]
    extended = Union[(*listed, *added)]
    return Annotated[(extended, *markers)] if markers else extended
