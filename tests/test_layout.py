"""The layout of the package: no import runs back, lazy ones included."""

from __future__ import annotations

import ast
from pathlib import Path

import mobiler2l_ns

PACKAGE = Path(mobiler2l_ns.__file__).parent
FOLDERS = (
    "plugin",
    "fleet",
    "run",
    "viewer",
    "report",
    "export",
    "student",
    "teacher",
    "pool",
    "capture",
    "geometry",
    "progress",
)
"""From the top down: a file may import from its own folder and from those below. What lies in no folder, the ground, is
imported by all and imports none of them."""
NOT_BELOW = {"viewer": "report", "report": "viewer", "teacher": "pool"}
"""Folders that know nothing of each other though one stands above the other."""


def modules() -> dict[str, Path]:
    """Name -> file of every module of the package."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(name: str, files: dict[str, Path]) -> set[str]:
    """The package's modules that a module imports anywhere: at its top, in functions, for type checkers."""
    found = set()
    for node in ast.walk(ast.parse(files[name].read_text(encoding="utf8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                found.add(submodule if submodule in files else node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {module for module in found if module in files and module != name}


def graph() -> dict[str, set[str]]:
    files = modules()
    return {name: imports_of(name, files) for name in files}


def folder(module: str) -> str:
    """The folder of the package that a module lies in; empty for the ground."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FOLDERS else ""


def height(module: str) -> int:
    return FOLDERS[::-1].index(folder(module)) + 1 if folder(module) else 0


def circles(arrows: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules each of which imports itself by way of the others."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for module in arrows.get(waiting.pop(), ()):
                if module not in seen:
                    seen.add(module)
                    waiting.append(module)
        return seen

    reach = {module: reached(module) for module in arrows}
    groups = []
    for module in arrows:
        if module in reach[module] and not any(module in group for group in groups):
            groups.append({other for other in reach[module] if module in reach[other]})
    return groups


def test_every_folder_is_known():
    found = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert found == set(FOLDERS)


def test_no_arrow_runs_back():
    arrows = [(a, b) for a, found in graph().items() for b in sorted(found)]
    assert len(arrows) > 200
    back = [f"{a} -> {b}" for a, b in arrows if height(a) < height(b) or NOT_BELOW.get(folder(a)) == folder(b)]
    assert back == []


def test_no_files_import_each_other_in_a_circle():
    assert circles(graph()) == []


def test_a_circle_and_a_lazy_import_are_seen(tmp_path):
    files = {}
    for name, code in {
        "mobiler2l_ns.a": "def f():\n    from mobiler2l_ns import b\n",
        "mobiler2l_ns.b": "import mobiler2l_ns.c\n",
        "mobiler2l_ns.c": "from mobiler2l_ns.a import f\n",
        "mobiler2l_ns.d": "from mobiler2l_ns.a import f\n",
    }.items():
        files[name] = tmp_path / name
        files[name].write_text(code)
    arrows = {name: imports_of(name, files) for name in files}
    assert circles(arrows) == [{"mobiler2l_ns.a", "mobiler2l_ns.b", "mobiler2l_ns.c"}]


def test_a_file_is_one_concept():
    long = {name: count for name, path in modules().items() if (count := len(path.read_text().splitlines())) > 400}
    assert long == {}


HEAVY = {"coremltools", "onnx", "onnxruntime", "ncnn", "litert_torch", "open3d"}


def test_what_every_command_loads_imports_nothing_heavy():
    import subprocess
    import sys

    code = "import sys, nerfstudio.configs.method_configs, mobiler2l_ns.plugin.methods; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "mobiler2l_ns.plugin.methods" in loaded
    assert not HEAVY & set(loaded) and not any(name.startswith("mobiler2l_ns.export.formats") for name in loaded)
