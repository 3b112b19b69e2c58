"""Web packages: folders with a page for any browser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mobiler2l_ns.export.clients.kind import ClientKind
from mobiler2l_ns.export.contract import Runner
from mobiler2l_ns.export.format import Format
from mobiler2l_ns.export.graph import Graph


@dataclass(frozen=True, kw_only=True)
class Web(Format):
    """Written here, run by Chromium."""

    def convert(self, graphs: Mapping[str, Graph], path: Path, precision: str, metadata: dict[str, str]) -> None:
        from mobiler2l_ns.export.formats.web.convert import convert

        convert(graphs, path, precision, metadata)  # type: ignore[arg-type]

    def open(self, path: Path, function: str) -> Runner:
        from mobiler2l_ns.export.formats.web.runner import WebRunner

        return WebRunner(path, function)

    def finish(self, path: Path) -> None:
        from mobiler2l_ns.export.formats.web.convert import seal

        seal(path)

    def missing(self) -> str | None:
        from mobiler2l_ns.export.formats.web.chromium import missing_chromium

        return missing_chromium()


FORMAT = Web(
    name="web",
    suffix=".web",
    title="any browser: a folder with a page for a static file server",
    thresholds={"fp16": 50.0, "fp32": 70.0},
    run_by="the page in Chromium: WebAssembly, and WebGPU on the first picture",
    output="a page that shows the student",
    contracts=("pose",),
    holds_functions=True,
    function_is="view",
    stands_alone=True,
    clients=(
        ClientKind(
            "web.html.jinja",
            "A page of yours, any browser",
            "html",
            "a static file server; https for WebGPU, the camera and offline use",
            "The page in the frame is run in Chromium before it is written; the frame around it was not",
        ),
    ),
    order=6,
)
