"""What a developer types to use a package, on each kind of device: code with a package's own names, sizes and numbers.

``snippets`` fills the templates of ``templates`` with what manifest.json says and nothing else; ``write`` leaves
them as CLIENT.md beside the manifest. docs/clients.md is the same page of an example.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

NAME = "CLIENT.md"

_RUN = "Run by this project's tests"
_NOT_RUN = "Not run: written from the documentation"


@dataclass(frozen=True)
class Snippet:
    """The code of one client of one package."""

    path: str
    """The package, as the manifest lists it."""
    platform: str
    """Where it runs, and by what."""
    language: str
    """As Markdown calls it."""
    code: str
    needs: str
    """What to install."""
    checked: str
    """What of it was run, and by what."""
    documentation: tuple[str, ...]
    """Where the interfaces it uses are described."""


@dataclass(frozen=True)
class _Kind:
    template: str
    platform: str
    language: str
    needs: str
    checked: str
    documentation: tuple[str, ...] = ()
    encoding_checked: str = ""
    """What more was run where rays and encoding are the client's."""


def _pip(runtime: str) -> str:
    return f"`pip install {runtime} numpy pillow`"


_KINDS = {
    "coreml": (
        _Kind(
            "coreml.swift.jinja",
            "iOS and macOS, Core ML",
            "swift",
            "Xcode",
            _NOT_RUN,
            (
                "https://developer.apple.com/documentation/coreml/mlfeaturevalue/init(shapedarray:)",
                "https://developer.apple.com/documentation/coreml/mlmodelconfiguration/functionname",
            ),
        ),
    ),
    "onnx": (
        _Kind("python.py.jinja", "Desktop, onnxruntime", "python", "`pip install onnxruntime numpy pillow`", _RUN),
    ),
    "snapml": (
        _Kind(
            "snapml.js.jinja",
            "Lens Studio, SnapML",
            "javascript",
            "Lens Studio 5",
            "Run by this project's tests against a stand-in for Lens Studio, not in Lens Studio",
            (
                "https://developers.snap.com/lens-studio/features/snap-ml/ml-component/scripting-ml-component",
                "https://developers.snap.com/lens-studio/api/lens-scripting/classes/Built-In.InputPlaceholder.html",
            ),
        ),
    ),
    "litert": (
        _Kind(
            "litert.kt.jinja",
            "Android, LiteRT",
            "kotlin",
            "`com.google.ai.edge.litert:litert` of Google's Maven repository",
            _NOT_RUN,
            ("https://ai.google.dev/edge/litert/next/android_kotlin",),
        ),
        _Kind("python.py.jinja", "Desktop, LiteRT", "python", _pip("ai-edge-litert"), _RUN),
    ),
    "ncnn": (
        _Kind(
            "ncnn.cpp.jinja",
            "Android, ncnn",
            "cpp",
            "ncnn's prebuilt Android package, Vulkan included",
            _NOT_RUN,
            (
                "https://github.com/Tencent/ncnn/blob/master/src/net.h",
                "https://github.com/Tencent/ncnn/blob/master/src/mat.h",
            ),
            "; its encoding is compiled and run by this project's tests",
        ),
        _Kind("python.py.jinja", "Desktop, ncnn", "python", _pip("ncnn"), _RUN),
    ),
    "web": (
        _Kind(
            "web.html.jinja",
            "A page of yours, any browser",
            "html",
            "a static file server; https for WebGPU, the camera and offline use",
            "The page in the frame is run in Chromium before it is written; the frame around it was not",
        ),
    ),
}


def snippets(manifest: Mapping[str, Any]) -> list[Snippet]:
    """The clients of each file of a manifest, in its order, for the first size of each.

    Args:
        manifest: manifest.json.
    """
    environment = _environment()
    found = []
    for file in manifest["files"]:
        values = _values(manifest, file)
        for kind in _KINDS[file["format"]]:
            code = environment.get_template(kind.template).render(values).strip("\n") + "\n"
            checked = kind.checked + (kind.encoding_checked if file["contract"] == "encoding" else "")
            found.append(
                Snippet(file["path"], kind.platform, kind.language, code, kind.needs, checked, kind.documentation)
            )
    return found


def page(manifest: Mapping[str, Any], example: bool = False) -> str:
    """The Markdown page of a manifest's clients.

    Args:
        manifest: manifest.json.
        example: whether the packages are an example's, for the documentation.
    """
    files = {file["path"]: file for file in manifest["files"]}
    by_file: dict[str, list[Snippet]] = {path: [] for path in files}
    for snippet in snippets(manifest):
        by_file[snippet.path].append(snippet)
    sections = [(files[path], found) for path, found in by_file.items()]
    template = _environment().get_template("page.md.jinja")
    return template.render(manifest=manifest, sections=sections, example=example).strip("\n") + "\n"


def write(manifest: Path) -> None:
    """Write CLIENT.md beside a manifest.json."""
    text = page(json.loads(manifest.read_text(encoding="utf8")))
    manifest.with_name(NAME).write_text(text, encoding="utf8")


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("mobiler2l_ns.export.clients", "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        lstrip_blocks=True,
        autoescape=False,
    )


def _number(value: float) -> str:
    """The shortest digits that give a float32 back, with a point, as every language reads them."""
    return np.format_float_positional(np.float32(value), trim="0")


def _numbers(values: Sequence[float]) -> list[str]:
    return [_number(value) for value in values]


def _values(manifest: Mapping[str, Any], file: Mapping[str, Any]) -> dict[str, Any]:
    """What the templates may use of a manifest and one of its files."""
    view, points = file["views"][0], manifest["points"]
    sphere = points["in"] == "sphere"
    (dtype,) = set(file["inputs"].values())
    return {
        **{name: file[name] for name in ("format", "path", "contract", "precision", "layout", "inputs")},
        **{name: view[name] for name in ("function", "height", "width", "rows", "columns")},
        **{name: _number(value) for name, value in view["intrinsics"].items()},
        "stem": Path(file["path"]).stem,
        "several": len(file["views"]) > 1,
        "dtype": dtype,
        "scalar": {"float32": "Float", "float16": "Float16"}[dtype],
        "alpha": manifest["output"].startswith("RGBA"),
        "pose": [_numbers(row) for row in manifest["start_pose"]],
        "stride": manifest["stride"],
        "channels": manifest["contracts"]["encoding"]["encoding"]["shape"][1],
        "frequencies": manifest["num_frequencies"],
        "places": _numbers(points["places"]),
        "sphere": sphere,
        "centre": _numbers(points["centre"]),
        "radius": _number(points["radius"]),
        "least": _number(points["shortest_half_chord"] ** 2),
        "contracted": manifest["contracted"],
        "log_pitch": _number(np.log2(view["pitch"])) if len(manifest["pitches"]) > 1 else None,
    }
