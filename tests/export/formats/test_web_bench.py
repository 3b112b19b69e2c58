"""?bench measures the device and gives the numbers as text."""

from __future__ import annotations

import json

import pytest

from mobiler2l_ns.export.formats.web.chromium import find_chromium

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")


def test_the_benchmark_times_every_size_and_the_heat(browser, served):
    browser.open(f"{served.address}?engine=wasm&bench=0.6", 390, 844)
    browser.evaluate("mobiler2l.ready.then(() => null)", 120)
    result = browser.evaluate("mobiler2l.benchmark()")
    assert result == json.loads(browser.evaluate("document.getElementById('numbers').value"))
    (engine,) = result["engines"]
    assert engine["kind"] == "WebAssembly" and engine["name"].startswith("WebAssembly")
    sizes = [(size["width"], size["height"]) for size in engine["sizes"]]
    assert sizes == [(60, 44), (40, 29), (30, 22)]
    for size in engine["sizes"]:
        assert size["frames"] >= 3 and 0 < size["median_ms"] <= size["p95_ms"]
    heat = result["heat"]
    assert heat["seconds"] == 0.6 and 1 <= len(heat["windows"]) <= 12 and heat["slowdown"] > 0
    described = json.loads((served.folder / "manifest.json").read_text())
    assert result["package"]["student_sha256"] == described["student_sha256"]
    assert result["device"]["cores"] >= 1 and result["hidden"] is False
    browser.click_on("#copy")
    browser.wait_for("document.getElementById('copy').textContent === 'Copied'")
    assert browser.console == []


def test_an_engine_that_does_not_start_is_told(browser, served):
    broken = "navigator.gpu && (navigator.gpu.requestAdapter = () => Promise.reject(new Error('no adapter today')))"
    browser.open(f"{served.address}?bench=0.1", 390, 844, before=broken)
    browser.evaluate("mobiler2l.ready.then(() => null)", 120)
    engines = {engine["kind"]: engine for engine in browser.evaluate("mobiler2l.benchmark().engines")}
    assert "no adapter today" in engines["WebGPU"]["error"] and engines["WebAssembly"]["sizes"]
