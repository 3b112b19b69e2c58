"""Small web packages, and what a page shows in the browser."""

from __future__ import annotations

import base64
import io
import json
import math

import numpy as np
import torch
from PIL import Image
from small_student import make_student

from mobiler2l_ns.export import manifest
from mobiler2l_ns.export.formats.web import convert as web_package
from mobiler2l_ns.export.formats.web.serve import serve
from mobiler2l_ns.export.graph import PoseToImage


def make_rgba_student():
    """Three resolutions, RGBA, and cameras all around."""
    student = make_student(sphere=True, alpha=True, pitches=(1.0, 1.5, 2.0))
    student.capture.record(
        look_at=torch.tensor([0.2, -0.1, 0.3]),
        distance=torch.tensor([2.0, 5.0]),
        elevation=torch.tensor([-10.0, 70.0]),
        azimuth=torch.tensor([0.0, 360.0]),
    )
    return student


def write_page(student, folder, precision: web_package.Precision = "fp16"):
    """A web package of all of a student's pitches, without its proof, and its server."""
    graphs = {f"pitch_{p:g}": PoseToImage(student, pitch=p).eval() for p in student.config.pitches}
    web_package.convert(graphs, folder, precision, {})
    views = [manifest.describe_view(f"pitch_{p:g}", student.view(p), p) for p in student.config.pitches]
    manifest.write_inside(folder, student, views)
    web_package.seal(folder)
    return serve(folder)


def show(browser, address, engine="wasm", **page):
    """Open a page and wait until it has drawn its first picture; no engine: the page chooses."""
    browser.open(f"{address}?engine={engine}" if engine else address, **page)
    browser.evaluate("mobiler2l.ready.then(() => null)", 120)


def picture(browser, view, pose):
    """What the page draws, (channels, height, width)."""
    fx, fy, cx, cy = (view["intrinsics"][name] for name in ("fx", "fy", "cx", "cy"))
    asked = f"mobiler2l.picture({json.dumps(view['function'])}, {pose.tolist()}, {[fx, fy, cx, cy]})"
    answer = browser.evaluate(asked)
    values = np.frombuffer(base64.b64decode(answer["data"]), "<u2") / 65535.0
    return values.reshape(answer["height"], answer["width"], answer["channels"]).transpose(2, 0, 1)


def psnr(a, b) -> float:
    return -10 * math.log10(max(float(np.square(np.asarray(a) - np.asarray(b)).mean()), 1e-20))


READOUT = "document.getElementById('readout').textContent"
ERROR = "document.querySelector('#message.error:not([hidden])')?.textContent"


def pixels(browser, script):
    """A canvas of the page as RGBA, 0..1."""
    url = browser.evaluate(f"{script}.then((canvas) => canvas.toDataURL('image/png'))")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGBA")) / 255.0
