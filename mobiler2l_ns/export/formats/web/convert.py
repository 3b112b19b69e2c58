"""Web packages: a folder that any static file server can serve and any phone's browser can open.

It holds the page (the files of ``web/``), the network's weights, a list of its layers for the page's WebGPU and
WebAssembly engines, and the WebAssembly module. ``manifest.json`` comes from the export core.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import weakref
import zlib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from nerfstudio.utils.rich_utils import CONSOLE
from numpy.typing import NDArray
from torch import Tensor, nn

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export import manifest
from mobiler2l_ns.export.formats.web.chromium import Chromium, PageError, find_chromium
from mobiler2l_ns.export.formats.web.kernels import assemble
from mobiler2l_ns.export.formats.web.serve import serve
from mobiler2l_ns.export.graph import Graph, PoseToImage
from mobiler2l_ns.student.network import ResidualBlock, StudentNetwork, SuperResolution

NETWORK = "network.json"
WEIGHTS = "weights.bin"
SERVICE_WORKER = "sw.js"
Precision = Literal["fp16", "fp32"]
AGREEMENT = 40.0
"""Least PSNR in dB between the page's two engines."""


def missing() -> str | None:
    """What to install before a web package can be proven; None if it is there."""
    return None if find_chromium() else "a web page is proven by Chromium or Chrome (Debian: apt-get install chromium)"


class _Layers:
    """The network as a list of operations on numbered registers, and their weights in one array.

    Channels are filled up with zeros to multiples of eight, which the kernels ask for.
    """

    def __init__(self, network: StudentNetwork, precision: Precision) -> None:
        self.dtype = np.dtype("<f2" if precision == "fp16" else "<f4")
        self.operations: list[dict[str, Any]] = []
        self.chunks: list[bytes] = []
        self.values = 0
        self.registers: dict[int, tuple[int, int]] = {}  # channels, pixels a ray each way
        self._add_network(network)

    def _append(self, values: NDArray[np.float32]) -> int:
        """Place of values in the array, in numbers; each begins at a multiple of eight."""
        start, data = self.values, values.astype(self.dtype).tobytes()
        self.chunks.append(data)
        self.values += values.size
        return start

    def _layer(
        self, module: nn.Module, activation: str, source: int, target: int, scale: int, added: int | None = None
    ) -> None:
        """Append a layer: a linear map of each pixel, or a transposed convolution."""
        weight, bias = (cast(Tensor, module.get_parameter(name)).detach().numpy() for name in ("weight", "bias"))
        stride = 1
        if isinstance(module, nn.ConvTranspose2d):
            stride = module.stride[0]
            weight = weight.transpose(2, 3, 0, 1)  # kernel rows and columns, inputs, outputs
        else:
            weight = weight.reshape(*weight.shape[:2]).T[None, None]
        inputs, outputs = (8 * math.ceil(count / 8) for count in weight.shape[2:])
        weight = np.pad(weight, [(0, 0), (0, 0), (0, inputs - weight.shape[2]), (0, outputs - weight.shape[3])])
        bias = np.pad(bias, (0, outputs - len(bias)))
        # What an output pixel of each phase (its place in its block of stride x stride) takes from which neighbour:
        # along each axis, tap t looks t pixels away, up for phase 0 and down for phase 1, with this row of the kernel.
        taps = 2 if stride == 2 else 1
        rows = [
            [phase + 1 - 2 * tap * (2 * phase - 1) if taps == 2 else phase for tap in range(taps)]
            for phase in range(stride)
        ]
        packed = [
            weight[rows[down][tap_down], rows[across][tap_across]].reshape(inputs, outputs // 8, 8).transpose(1, 0, 2)
            for down in range(stride)
            for across in range(stride)
            for tap_down in range(taps)
            for tap_across in range(taps)
        ]
        self.registers.setdefault(source, (inputs, scale))
        self.registers[target] = (outputs, scale * stride)
        self.operations.append(
            {
                "kind": "layer",
                "from": source,
                "to": target,
                "add": added,
                "inputs": inputs,
                "outputs": outputs,
                "stride": stride,
                "taps": taps,
                "activation": activation,
                "weights": self._append(np.stack(packed)),
                "bias": self._append(bias),
                "scale": scale,
            }
        )

    def _fresh(self, channels: int, scale: int, *busy: int) -> int:
        """A register of a size that is not busy, an old one where there is one."""
        for number, size in self.registers.items():
            if size == (channels, scale) and number not in busy:
                return number
        self.registers[number := len(self.registers)] = (channels, scale)
        return number

    def _blocks(self, blocks: nn.Module, current: int, scale: int, activation: str, kept: int = -1) -> int:
        for block in cast(nn.Sequential, blocks):
            first, last = (
                m for m in cast(ResidualBlock, block).body if not isinstance(m, (nn.GELU, nn.ReLU, nn.Identity))
            )
            channels, _ = self.registers[current]
            hidden = 8 * math.ceil(first.get_parameter("weight").shape[0] / 8)
            middle = self._fresh(hidden, scale, current, kept)
            target = self._fresh(channels, scale, current, kept, middle)
            self._layer(first, activation, current, middle, scale)
            self._layer(last, "none", middle, target, scale, current)
            current = target
        return current

    def _add_network(self, network: StudentNetwork) -> None:
        activation = network.config.activation
        self.registers[0] = (8 * math.ceil(network.config.input_channels / 8), 1)
        features = 1
        self._layer(network.head[0], activation, 0, features, 1)
        deep = self._blocks(network.body[: network.active_blocks], features, 1, activation, features)
        current = self._fresh(self.registers[deep][0], 1, deep, features)
        self.operations.append({"kind": "sum", "from": deep, "add": features, "to": current})
        scale = 1
        for stage in network.super_resolution:
            up = cast(SuperResolution, stage).up
            scale_up = scale * up.stride[0]
            target = self._fresh(8 * math.ceil(up.out_channels / 8), scale_up)
            self._layer(up, "none", current, target, scale)
            scale = scale_up
            current = self._blocks(cast(SuperResolution, stage).blocks, target, scale, activation)
        picture = self._fresh(8, scale, current)
        self._layer(network.out[0], "sigmoid", current, picture, scale)
        self.picture = picture


def convert(graphs: Mapping[str, Graph], path: Path, precision: Precision, metadata: dict[str, str]) -> None:
    """Write a web package, a folder, but for its manifest.

    Args:
        graphs: from a pose to a picture, by the name of their view; they share one network.
        path: of the folder.
        precision: of the weights; where a browser computes in half precision, fp16 weights are used as they are.
        metadata: goes into network.json.
    """
    graph = next(iter(graphs.values()))
    assert isinstance(graph, PoseToImage)
    layers = _Layers(graph.network, precision)
    data = b"".join(layers.chunks)
    described = {
        **metadata,
        "precision": precision,
        "alpha": graph.alpha,
        "weights": {"file": WEIGHTS, "bytes": len(data), "crc32": zlib.crc32(data)},
        "registers": [layers.registers[number] for number in range(len(layers.registers))],
        "picture": layers.picture,
        "operations": layers.operations,
    }
    path.mkdir()
    (path / WEIGHTS).write_bytes(data)
    (path / NETWORK).write_text(json.dumps(described) + "\n", encoding="utf8")
    for name, fused in (("kernels.wasm", False), ("kernels-fma.wasm", True)):
        (path / name).write_bytes(assemble(fused))
    for source in files("mobiler2l_ns.export.formats.web").joinpath("page").iterdir():
        (path / source.name).write_bytes(source.read_bytes())


def seal(folder: Path) -> None:
    """Tell the service worker of a finished package its files: these and no others are kept for offline use."""
    worker = folder / SERVICE_WORKER
    code = worker.read_text(encoding="utf8")
    files = sorted(path for path in folder.iterdir() if path != worker)
    digests = json.dumps({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}, indent=2)
    version = hashlib.sha256((digests + code).encode()).hexdigest()[:16]
    worker.write_text(f'const VERSION = "{version}";\nconst FILES = {digests};\n\n{code}', encoding="utf8")


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
        first = json.loads((path / manifest.NAME).read_text(encoding="utf8"))["views"][0]
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
            CONSOLE.print("[yellow]The Chromium here has no WebGPU: the page's WebGPU engine is not proven")
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
