"""The fleet file: captures times methods and settings, as YAML. What is wrong in it is told by file and key."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mobiler2l_ns.capture.formats import COLMAP_PLACES
from mobiler2l_ns.errors import UserError

Settings = dict[str, Any]
"""Options of ns-train without dashes -> values: ``pipeline.minutes: 30``, ``pipeline.model.strides: [2, 2, 3]``."""

KEYS = (
    "captures", "methods", "settings", "matrix", "teachers", "share-pool", "evaluate", "exports", "output", "gpus",
    "cpus", "tries", "commands", "slurm",
)  # fmt: skip
COMMANDS = {"train": "ns-train", "evaluate": "ns-eval", "export": "mobiler2l-export"}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]*")


@dataclass(frozen=True)
class Capture:
    """One capture."""

    name: str
    path: Path
    """Absolute."""
    written: str
    """The path as identity: relative to the fleet file where it lies beside or below it, so that storage may move."""
    settings: Settings = field(default_factory=dict)
    dataparser: tuple[str, ...] | None = None
    """Subcommand of ns-train and its options; None: as the capture's files tell."""


@dataclass(frozen=True)
class Method:
    """A method with settings: one student, or one teacher, of each capture."""

    name: str
    """Of its runs' folders."""
    method: str
    """As ns-train knows it."""
    settings: Settings = field(default_factory=dict)
    teacher: str | None = None
    """One of the fleet's teachers; None: each run has its own."""


@dataclass(frozen=True)
class FleetSpec:
    """A fleet file, read and found right."""

    file: Path
    output: Path
    captures: tuple[Capture, ...]
    skipped: tuple[Path, ...]
    """What a glob matched and is no capture."""
    methods: tuple[Method, ...]
    """Of the students, the matrix multiplied out."""
    teachers: dict[str, Method]
    share_pool: bool
    evaluate: bool
    exports: tuple[str, ...]
    """Arguments of mobiler2l-export, such as "onnx --precision int8"."""
    gpus: float | None
    cpus: float | None
    tries: int
    commands: dict[str, tuple[str, ...]]
    """Of ``COMMANDS``, those that are replaced: train, evaluate, export -> words."""
    slurm: dict[str, Any]


class _Reader:
    """Reads values of a mapping, and says where they are wrong."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def wrong(self, key: str, reason: str) -> UserError:
        return UserError(f"{self.file}: {key}: {reason}")

    def mapping(self, value: Any, key: str, known: Sequence[str] | None = None) -> dict[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise self.wrong(key, f"give keys and values, not {value!r}")
        for name in value:
            if not isinstance(name, str):
                raise self.wrong(key, f"{name!r} is no name")
            if known is not None and name not in known:
                raise self.wrong(f"{key}.{name}" if key else name, f"not known here; known are {', '.join(known)}")
        return dict(value)

    def settings(self, value: Any, key: str) -> Settings:
        found = {name.lstrip("-").replace("_", "-"): each for name, each in self.mapping(value, key).items()}
        for name, each in found.items():
            for part in each if isinstance(each, list) else [each]:
                if not isinstance(part, str | int | float | bool | None):
                    raise self.wrong(f"{key}.{name}", f"give a value or a list of values, not {part!r}")
        return found

    def number(self, value: Any, key: str, least: float) -> float | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or value < least:
            raise self.wrong(key, f"give a number from {least:g} on, not {value!r}")
        return value

    def boolean(self, value: Any, key: str) -> bool:
        if not isinstance(value, bool):
            raise self.wrong(key, f"give true or false, not {value!r}")
        return value

    def words(self, value: Any, key: str) -> tuple[str, ...]:
        if isinstance(value, str):
            try:
                return tuple(shlex.split(value))
            except ValueError as error:
                raise self.wrong(key, f"{value!r} cannot be read ({error})") from None
        if isinstance(value, list) and all(isinstance(word, str) for word in value):
            return tuple(value)
        raise self.wrong(key, f"give words, not {value!r}")

    def name(self, value: str, key: str) -> str:
        if not NAME.fullmatch(value):
            raise self.wrong(key, f"{value!r} cannot name a folder: letters, digits and . _ + = - only")
        return value


def is_capture(path: Path) -> bool:
    """Whether a folder, or a transforms.json, looks like a capture."""
    if path.is_file():
        return path.suffix == ".json"
    files = ("transforms.json", "transforms_train.json")
    return any((path / name).is_file() for name in files) or any((path / place).is_dir() for place in COLMAP_PLACES)


def read_fleet(file: Path) -> FleetSpec:
    """Read a fleet file.

    Raises:
        UserError: with file and key of the first thing that is wrong.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf8"))
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): give a fleet file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is no YAML: {' '.join(str(error).split())}") from None
    read = _Reader(file)
    top = read.mapping(content, "", KEYS)
    for needed in ("captures", "methods"):
        if not top.get(needed):
            raise read.wrong(needed, "there is none: give at least one")
    folder = file.resolve().parent
    captures, skipped = _captures(read, top["captures"], folder)
    shared = read.settings(top.get("settings"), "settings")
    teachers = {each.name: each for each in _methods(read, top.get("teachers"), "teachers", ("method", "settings"), {})}
    methods = _methods(read, top["methods"], "methods", ("method", "settings", "teacher"), shared)
    for method in methods:
        if method.teacher is not None and method.teacher not in teachers:
            known = ", ".join(teachers) or "none"
            raise read.wrong(
                f"methods.{method.name}.teacher", f"there is no teacher {method.teacher}; there is {known}"
            )
    commands = read.mapping(top.get("commands"), "commands", tuple(COMMANDS))
    exports = top.get("exports") or []
    if not isinstance(exports, list) or not all(isinstance(each, str) and each.strip() for each in exports):
        raise read.wrong("exports", f"give a list such as [web, onnx --precision int8], not {exports!r}")
    share_pool = read.boolean(top.get("share-pool", False), "share-pool")
    if share_pool and not teachers:
        raise read.wrong("share-pool", "a pool is shared by the students of one teacher: give teachers, too")
    output = top.get("output", f"outputs/{file.stem}")
    if not isinstance(output, str):
        raise read.wrong("output", f"give a folder, not {output!r}")
    tries = read.number(top.get("tries", 3), "tries", 1)
    return FleetSpec(
        file=file,
        output=(folder / Path(output).expanduser()).resolve(),
        captures=captures,
        skipped=skipped,
        methods=tuple(_multiplied(read, methods, top.get("matrix"))),
        teachers=teachers,
        share_pool=share_pool,
        evaluate=read.boolean(top.get("evaluate", True), "evaluate"),
        exports=tuple(" ".join(each.split()) for each in exports),
        gpus=read.number(top.get("gpus"), "gpus", 0),
        cpus=read.number(top.get("cpus"), "cpus", 0),
        tries=int(tries or 1),
        commands={name: read.words(words, f"commands.{name}") for name, words in commands.items()},
        slurm=read.mapping(top.get("slurm"), "slurm"),
    )


def _captures(read: _Reader, entries: Any, folder: Path) -> tuple[tuple[Capture, ...], tuple[Path, ...]]:
    if not isinstance(entries, list):
        raise read.wrong("captures", f"give a list of paths and globs, not {entries!r}")
    found: dict[Path, Capture] = {}
    skipped: list[Path] = []
    for index, entry in enumerate(entries):
        key = f"captures[{index}]"
        fields = {"path": entry} if isinstance(entry, str) else entry
        fields = read.mapping(fields, key, ("path", "name", "settings", "dataparser"))
        pattern = fields.get("path")
        if not isinstance(pattern, str) or not pattern:
            raise read.wrong(f"{key}.path", f"give a path or a glob, not {pattern!r}")
        settings = read.settings(fields.get("settings"), f"{key}.settings")
        parser = read.words(fields["dataparser"], f"{key}.dataparser") if "dataparser" in fields else None
        base = Path(pattern).expanduser()
        is_glob = any(sign in pattern for sign in "*?[")
        root = Path(base.anchor) if base.is_absolute() else folder
        matches = sorted(root.glob(str(base.relative_to(base.anchor)))) if is_glob else [folder / base]
        captures = [match.resolve() for match in matches if is_capture(match)]
        if is_glob:
            skipped += [match for match in matches if match.is_dir() and not is_capture(match)]
        if not captures:
            if is_glob:
                reason = "no capture matches it"
            elif not matches[0].exists():
                reason = f"there is no {matches[0]}"
            else:
                reason = "no transforms.json, no transforms_train.json and no folder sparse in it"
            raise read.wrong(key, f"{pattern}: {reason}")
        if "name" in fields and len(captures) > 1:
            raise read.wrong(f"{key}.name", f"{pattern} is {len(captures)} captures, which need names of their own")
        for path in captures:
            if path in found:
                continue  # by an earlier entry, or a glob that reaches it again
            name = str(fields["name"]) if "name" in fields else (path.parent if path.is_file() else path).name
            written = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()
            found[path] = Capture(read.name(name, f"{key}.name"), path, written, settings, parser)
    by_name: dict[str, Capture] = {}
    for capture in found.values():
        other = by_name.setdefault(capture.name, capture)
        if other is not capture:
            raise read.wrong("captures", f"{other.path} and {capture.path} are both named {capture.name}: give names")
    return tuple(found.values()), tuple(skipped)


def _methods(read: _Reader, value: Any, key: str, known: Sequence[str], shared: Settings) -> list[Method]:
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        value = {each: None for each in value}
    methods = []
    for name, entry in read.mapping(value, key).items():
        where = f"{key}.{name}"
        fields = read.mapping(entry, where, known)
        method, teacher = fields.get("method", name), fields.get("teacher")
        for part, given in (("method", method), ("teacher", teacher)):
            if given is not None and not isinstance(given, str):
                raise read.wrong(f"{where}.{part}", f"give a name, not {given!r}")
        settings = {**shared, **read.settings(fields.get("settings"), f"{where}.settings")}
        methods.append(Method(read.name(name, where), method, settings, teacher))
    return methods


def _multiplied(read: _Reader, methods: list[Method], matrix: Any) -> list[Method]:
    """Each method with each combination of the matrix's values, named after them."""
    values = read.mapping(matrix, "matrix")
    for name, choices in values.items():
        if not isinstance(choices, list) or not choices:
            raise read.wrong(f"matrix.{name}", f"give a list of values, not {choices!r}")
    names = [name.lstrip("-").replace("_", "-") for name in values]
    multiplied = []
    for method, chosen in itertools.product(methods, itertools.product(*values.values())):
        settings = read.settings(dict(zip(names, chosen, strict=True)), "matrix")
        labels = [f"+{name.rpartition('.')[2]}={_label(value)}" for name, value in settings.items()]
        multiplied.append(
            Method(method.name + "".join(labels), method.method, {**method.settings, **settings}, method.teacher)
        )
    return multiplied


def _label(value: Any) -> str:
    parts = value if isinstance(value, list) else [value]
    return re.sub(r"[^A-Za-z0-9._-]", "_", "-".join(str(part) for part in parts)) or "none"


def as_arguments(settings: Settings) -> list[str]:
    """Settings as ns-train takes them on its command line."""
    words: list[str] = []
    for name, value in settings.items():
        words.append(f"--{name}")
        words += [str(part) for part in (value if isinstance(value, list) else [value])]
    return words
