"""Time the web package's page in headless Chromium, beside onnxruntime-web on the same networks.

    python scripts/benchmark_web.py mobiler2l mobiler2l-fast --onnxruntime-web FOLDER --json FILE

Both run on the CPU by WebAssembly, in as many threads as there are cores; the weights are random. The first frame
counts from the start of loading until it is on the canvas; later frames are medians of turns of the camera, network
after network in each turn, so that a busy machine slows all alike. Without ``--onnxruntime-web`` the page is timed
alone.

A network is a method, or a method with other settings of its student, such as
``mobiler2l+volume_rays=0+num_blocks=18``. Where it has a volume, that shows a wall across ``--seen`` of the
picture; the page leaves out rays that nothing stops.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
PAGE = """<!doctype html><link rel="icon" href="data:,"><canvas id="view" width="SIZE" height="SIZE"></canvas>
<script type="module">
import * as ort from "./ort.wasm.min.mjs";
ort.env.wasm.numThreads = navigator.hardwareConcurrency;
const session = await ort.InferenceSession.create("model.onnx", { executionProviders: ["wasm"] });
const context = document.getElementById("view").getContext("2d"), picture = new ImageData(SIZE, SIZE);
window.frame = async () => {
  const began = performance.now();
  const { image } = await session.run({
    camera_to_world: new ort.Tensor("float32", POSE, [1, 3, 4]),
    intrinsics: new ort.Tensor("float32", INTRINSICS, [1, 4]),
  });
  const plane = SIZE * SIZE;
  for (let pixel = 0; pixel < plane; pixel++) {
    for (let c = 0; c < 3; c++) picture.data[4 * pixel + c] = 255 * image.data[c * plane + pixel];
    picture.data[4 * pixel + 3] = 255;
  }
  context.putImageData(picture, 0, 0);
  return performance.now() - began;
};
await frame();
window.firstFrame = performance.now();
</script>
"""


@dataclass
class Opened:
    """A page that has drawn its first frame."""

    first: float
    frame: Callable[[], float]
    """Draws another one, and says in how many milliseconds."""
    sizes: dict[str, int]
    times: list[float] = field(default_factory=list)

    def result(self) -> dict[str, float]:
        return {"first_ms": self.first, "ms": statistics.median(self.times), **self.sizes}


def folder_bytes(folder: Path, *without: str) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.name not in without)


def student_with_scene(name: str, size: int, seen: float) -> Any:
    """An untrained student, see ``student_of``, before whose camera there is something."""
    import torch
    from benchmark_inference import student_of

    student = student_of(name, size)
    pose = torch.eye(4)[:3].clone()
    pose[2, 3] = 4.0
    student.capture.record(start_pose=pose)
    if student.volume is not None:
        build_wall(student, pose, seen)
    return student


def build_wall(student: Any, pose: Any, seen: float) -> None:
    """Density where the middle of the scene lies, across a share of what a camera sees."""
    import torch

    density = student.volume.proposals.density
    cells = density.shape[-1]
    view = student.view()
    places = torch.linspace(-1.0, 1.0, cells)
    capture = student.capture
    half = float(pose[2, 3] * view.width / (2 * view.fx) / capture.scene_radius) * seen**0.5
    inside = (places.abs() <= half).float()
    # Two cells thick, so that whichever way the rays' bins fall, one of them meets it.
    depth = (places.abs() <= 2.0 / cells).float()
    density.copy_((2.0 * depth[:, None, None] * inside[:, None] * inside)[None, None])


def open_page(folder: Path, browser: Any, student: Any) -> Opened:
    """Our page with the weights in half precision."""
    from mobiler2l_ns.export import manifest
    from mobiler2l_ns.export.contract import MANIFEST
    from mobiler2l_ns.export.formats.web import convert as web_package
    from mobiler2l_ns.export.formats.web.serve import serve
    from mobiler2l_ns.export.graph import PoseToImage

    web_package.convert({"main": PoseToImage(student).eval()}, folder, "fp16", {})
    manifest.write_inside(folder, student, [manifest.describe_view("main", student.view(), 1.0)])
    browser.open(f"{serve(folder).address}?engine=wasm", 800, 800)
    first = browser.evaluate("mobiler2l.ready.then(() => mobiler2l.firstFrame())", 600)
    runtime = folder_bytes(folder, web_package.WEIGHTS, web_package.NETWORK, MANIFEST)
    side = 30

    def frame() -> float:
        nonlocal side
        side = -side
        browser.drag((400, 400), (400 - side, 400), steps=1)
        return browser.evaluate("mobiler2l.idle().then(() => mobiler2l.frameTime())", 600)

    return Opened(first, frame, {"runtime_bytes": runtime, "bytes": folder_bytes(folder)})


def open_onnxruntime(folder: Path, browser: Any, student: Any, runtime: Path) -> Opened:
    """The ONNX package of the same network in a page around onnxruntime-web."""
    from mobiler2l_ns.export.formats import all_formats
    from mobiler2l_ns.export.formats.web.serve import serve
    from mobiler2l_ns.export.graph import PoseToImage

    folder.mkdir()
    for name in RUNTIME:
        shutil.copy(runtime / name, folder / name)
    all_formats()["onnx"].convert({"main": PoseToImage(student).eval()}, folder / "model.onnx", "fp32", {})
    view = student.view()
    pose = [float(value) for value in student.capture.start_pose.flatten()]
    page = PAGE.replace("SIZE", str(view.width)).replace("POSE", json.dumps(pose))
    (folder / "index.html").write_text(page.replace("INTRINSICS", json.dumps(list(view.intrinsics))))
    browser.open(serve(folder).address, 800, 800)
    first = browser.wait_for("window.firstFrame", 600)
    sizes = {"runtime_bytes": folder_bytes(folder, "model.onnx"), "bytes": folder_bytes(folder)}
    return Opened(first, lambda: browser.evaluate("frame()", 600), sizes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", metavar="NETWORK", help="such as mobiler2l")
    parser.add_argument("--size", type=int, default=800, help="pixels of the square picture")
    parser.add_argument("--seen", type=float, default=0.4, help="share of the picture where a volume shows something")
    parser.add_argument("--runs", type=int, default=9, help="timed frames of each network")
    parser.add_argument("--onnxruntime-web", type=Path, help="dist/ of its npm package")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = parser.parse_args()
    runtime: Path | None = arguments.onnxruntime_web
    if runtime is not None and (missing := [name for name in RUNTIME if not (runtime / name).is_file()]):
        parser.error(f"--onnxruntime-web {runtime} has no {missing[0]}: give the dist/ of the npm package")

    from results_file import write_json
    from rich.console import Console
    from rich.table import Table

    from mobiler2l_ns.export.formats.web.chromium import Chromium

    opened: dict[str, dict[str, Opened]] = {}
    with ExitStack() as stack:
        for name in arguments.networks:
            student = student_with_scene(name, arguments.size, arguments.seen)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            # A browser of its own for each, so that none is warm.
            opened[name] = {"page": open_page(folder / "page", stack.enter_context(Chromium()), student)}
            if runtime is not None:
                browser = stack.enter_context(Chromium())
                opened[name]["onnxruntime-web"] = open_onnxruntime(folder / "ort", browser, student, runtime)
        for _ in range(arguments.runs):
            for page in (page for pages in opened.values() for page in pages.values()):
                page.times.append(page.frame())
    results = {name: {by: page.result() for by, page in pages.items()} for name, pages in opened.items()}

    table = Table(title=f"WebAssembly, {arguments.size} x {arguments.size} pixels")
    for column in ("network", "by", "first frame, ms", "frame, ms", "runtime, MB", "with weights, MB"):
        table.add_column(column, justify="left" if column in ("network", "by") else "right")
    for name, measured in results.items():
        for by, result in measured.items():
            megabytes = (f"{result[size] / 1e6:.2f}" for size in ("runtime_bytes", "bytes"))
            table.add_row(name, by, f"{result['first_ms']:.0f}", f"{result['ms']:.0f}", *megabytes)
    Console().print(table)
    write_json(arguments.json, {"size": arguments.size, "networks": results})


if __name__ == "__main__":
    main()
