"""Web packages: a folder that any static file server can serve and any phone's browser can open.

It holds the page (the files of ``page/``), the network's weights and the volume's tables, a list of its layers for the
page's WebGPU and WebAssembly engines, and the WebAssembly module. ``manifest.json`` comes from the export core.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from mobiler2l_ns.export.formats.web.kernels import assemble
from mobiler2l_ns.export.formats.web.network import NetworkLayers, Precision
from mobiler2l_ns.export.formats.web.volume import add_volume
from mobiler2l_ns.export.graph import Graph, PoseToImage

NETWORK = "network.json"
WEIGHTS = "weights.bin"
SERVICE_WORKER = "sw.js"
OF_VOLUMES = ("place.js", "surfaces.js", "volume.js", "volume.wgsl", "volume_shaders.js")
"""Files of the page that students without a volume do not need."""


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
    layers = NetworkLayers(graph.network, precision)
    volumes = {name: each.volume for name, each in graphs.items() if isinstance(each, PoseToImage) and each.volume}
    volume, shape = add_volume(layers, graph.network.config.volume_rays, volumes) if volumes else (None, None)
    data = b"".join(layers.chunks)
    described = {
        **metadata,
        "precision": precision,
        "alpha": graph.alpha,
        "weights": {"file": WEIGHTS, "bytes": len(data), "crc32": zlib.crc32(data)},
        "registers": [layers.registers[number] for number in range(len(layers.registers))],
        "picture": layers.picture,
        "operations": layers.operations,
        "volume": volume,
    }
    path.mkdir()
    (path / WEIGHTS).write_bytes(data)
    (path / NETWORK).write_text(json.dumps(described) + "\n", encoding="utf8")
    for name, fused in (("kernels.wasm", False), ("kernels-fma.wasm", True)):
        (path / name).write_bytes(assemble(fused, shape))
    for source in files("mobiler2l_ns.export.formats.web").joinpath("page").iterdir():
        if volume is None and source.name in OF_VOLUMES:
            continue
        (path / source.name).write_bytes(source.read_bytes())


def seal(folder: Path) -> None:
    """Tell the service worker of a finished package its files: these and no others are kept for offline use."""
    worker = folder / SERVICE_WORKER
    code = worker.read_text(encoding="utf8")
    files = sorted(path for path in folder.iterdir() if path != worker)
    digests = json.dumps({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}, indent=2)
    version = hashlib.sha256((digests + code).encode()).hexdigest()[:16]
    worker.write_text(f'const VERSION = "{version}";\nconst FILES = {digests};\n\n{code}', encoding="utf8")
