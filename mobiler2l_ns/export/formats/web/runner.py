"""Runs web packages: their own page, in a real browser."""

from __future__ import annotations

import base64
import json
import math
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nerfstudio.utils.rich_utils import CONSOLE
from numpy.typing import NDArray

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export.contract import MANIFEST
from mobiler2l_ns.export.formats.web.chromium import Chromium, PageError
from mobiler2l_ns.export.formats.web.serve import serve

AGREEMENT = 40.0
"""Least PSNR in dB between the page's two engines."""


class WebRunner:
    """A web package's own page in headless Chromium.

    Its WebAssembly engine, which computes in float32, draws the pictures. The first one of the package's first view is
    drawn by WebGPU too, where the browser has it, and both must agree.

    Args:
        path: of the folder, with its manifest.
        function: the view to render.

    Raises:
        UserError: if the page does not come up.
    """

    def __init__(self, path: Path, function: str) -> None:
        self.run_by = "the page in Chromium: WebAssembly"
        self._browser = Chromium()
        self._server = serve(path)
        first = json.loads((path / MANIFEST).read_text(encoding="utf8"))["views"][0]
        self._function, self._compared = function, function != first["function"]
        self._end = weakref.finalize(self, _end, self._browser, self._server)
        self._open("wasm")

    def _open(self, engine: str) -> None:
        self._browser.open(f"{self._server.address}?engine={engine}", 320, 240)
        try:
            failed = self._browser.evaluate("mobiler2l.ready.then(() => '', error => error.message)", 300)
        except PageError as error:
            failed = str(error)
        if failed:
            raise UserError(f"The web page does not come up: {failed}")

    def _draw(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        pose = json.dumps(inputs["camera_to_world"].reshape(3, 4).tolist())
        intrinsics = json.dumps(inputs["intrinsics"].reshape(4).tolist())
        asked = f"mobiler2l.picture({json.dumps(self._function)}, {pose}, {intrinsics})"
        answer = self._browser.evaluate(asked, 600)
        pixels = np.frombuffer(base64.b64decode(answer["data"]), "<u2").astype(np.float32) / 65535.0
        return pixels.reshape(answer["height"], answer["width"], answer["channels"]).transpose(2, 0, 1)

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        picture = self._draw(inputs)
        if not self._compared:
            self._compared = True
            self._compare(inputs, picture)
        return picture

    def _compare(self, inputs: Mapping[str, NDArray[Any]], picture: NDArray[np.float32]) -> None:
        if not self._browser.evaluate("mobiler2l.hasWebGPU()"):
            CONSOLE.print("The Chromium here has no WebGPU: the page's WebGPU engine is not proven", style="yellow")
            return
        self._open("webgpu")
        other = self._draw(inputs)
        self._open("wasm")
        squared = float(np.square(other.astype(np.float64) - picture).mean())
        if math.isnan(squared) or squared > 10 ** (-AGREEMENT / 10):
            raise UserError("The web page draws different pictures with WebGPU and with WebAssembly")
        self.run_by += ", and WebGPU on the first picture"


def _end(browser: Chromium, server: Any) -> None:
    server.shutdown()
    browser.close()
