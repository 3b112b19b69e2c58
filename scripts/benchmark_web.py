"""Time the web package's page in headless Chromium, beside onnxruntime-web on the same networks.

    python scripts/benchmark_web.py mobiler2l mobiler2l-fast --onnxruntime-web FOLDER --json FILE

Both run on the CPU by WebAssembly, in as many threads as there are cores; the weights are random. The first frame
counts from the start of loading until it is on the canvas; later frames are medians of turns of the camera. Without
``--onnxruntime-web`` the page is timed alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
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


def folder_bytes(folder: Path, *without: str) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.name not in without)


def time_page(folder: Path, browser: Any, student: Any, runs: int) -> dict[str, float]:
    """Our page with the weights in half precision."""
    from mobiler2l_ns.export import manifest
    from mobiler2l_ns.export.contract import MANIFEST
    from mobiler2l_ns.export.formats.web import convert as web_package
    from mobiler2l_ns.export.formats.web.serve import serve
    from mobiler2l_ns.export.graph import PoseToImage

    web_package.convert({"main": PoseToImage(student).eval()}, folder, "fp16", {})
    manifest.write_inside(folder, student, [manifest.describe_view("main", student.view(), 1.0)])
    server = serve(folder)
    browser.open(f"{server.address}?engine=wasm", 800, 800)
    first = browser.evaluate("mobiler2l.ready.then(() => mobiler2l.firstFrame())", 600)
    times = []
    for turn in range(runs):
        browser.drag((400, 400), (400 + 30 * (-1) ** turn, 400), steps=1)
        times.append(browser.evaluate("mobiler2l.idle().then(() => mobiler2l.frameTime())", 600))
    server.shutdown()
    sizes = {"runtime_bytes": folder_bytes(folder, web_package.WEIGHTS, web_package.NETWORK, MANIFEST)}
    return {"first_ms": first, "ms": statistics.median(times), **sizes, "bytes": folder_bytes(folder)}


def time_onnxruntime(folder: Path, browser: Any, student: Any, runs: int, runtime: Path) -> dict[str, float]:
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
    server = serve(folder)
    browser.open(server.address, 800, 800)
    first = browser.wait_for("window.firstFrame", 600)
    times = [browser.evaluate("frame()", 600) for _ in range(runs)]
    server.shutdown()
    sizes = {"runtime_bytes": folder_bytes(folder, "model.onnx"), "bytes": folder_bytes(folder)}
    return {"first_ms": first, "ms": statistics.median(times), **sizes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="+", help="such as mobiler2l")
    parser.add_argument("--size", type=int, default=800, help="pixels of the square picture")
    parser.add_argument("--runs", type=int, default=9, help="timed frames of each network")
    parser.add_argument("--onnxruntime-web", type=Path, help="dist/ of its npm package")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = parser.parse_args()

    from benchmark_inference import student_of
    from results_file import write_json
    from rich.console import Console
    from rich.table import Table

    from mobiler2l_ns.export.formats.web.chromium import Chromium

    results: dict[str, dict[str, dict[str, float]]] = {}
    for method in arguments.methods:
        student = student_of(method, arguments.size)
        # A browser of its own for each, so that none is warm.
        with tempfile.TemporaryDirectory() as folder, Chromium() as browser:
            results[method] = {"page": time_page(Path(folder) / "page", browser, student, arguments.runs)}
        if arguments.onnxruntime_web is not None:
            with tempfile.TemporaryDirectory() as folder, Chromium() as browser:
                settings = (Path(folder) / "ort", browser, student, arguments.runs, arguments.onnxruntime_web)
                results[method]["onnxruntime-web"] = time_onnxruntime(*settings)

    table = Table(title=f"WebAssembly, {arguments.size} x {arguments.size} pixels")
    for column in ("network", "by", "first frame, ms", "frame, ms", "runtime, MB", "with weights, MB"):
        table.add_column(column, justify="left" if column in ("network", "by") else "right")
    for method, measured in results.items():
        for by, result in measured.items():
            megabytes = (f"{result[name] / 1e6:.2f}" for name in ("runtime_bytes", "bytes"))
            table.add_row(method, by, f"{result['first_ms']:.0f}", f"{result['ms']:.0f}", *megabytes)
    Console().print(table)
    write_json(arguments.json, {"size": arguments.size, "networks": results})


if __name__ == "__main__":
    main()
