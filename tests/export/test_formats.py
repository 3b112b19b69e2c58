"""Formats are found by their folders, each says all about itself, and none is loaded before it is used."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from small_student import make_student

from mobiler2l_ns.export import formats
from mobiler2l_ns.export.formats import all_formats
from mobiler2l_ns.export.package import Request, export_packages

FORMATS = all_formats()


def test_every_folder_is_a_format_in_an_order_that_stays():
    assert list(FORMATS) == ["coreml", "coreai", "onnx", "snapml", "litert", "ncnn", "web"]
    assert {path.parent.name for path in Path(formats.__path__[0]).glob("*/__init__.py")} == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_complete(name):
    form = FORMATS[name]
    assert form.name == name and form.suffix.startswith(".") and form.precision in form.thresholds
    templates = files("mobiler2l_ns.export.clients").joinpath("templates")
    assert form.clients and all(templates.joinpath(kind.template).is_file() for kind in form.clients)
    assert all(not processor.runs & processor.falls_back for processor in form.processors)


def test_listing_formats_loads_no_converter_and_no_runtime():
    heavy = (
        "coremltools",
        "onnx",
        "onnxruntime",
        "litert_torch",
        "ai_edge_litert",
        "jax",
        "ncnn",
        "pnnx",
        "coreai_torch",
    )
    code = f"""
import sys
from mobiler2l_ns.export.formats import all_formats
assert all(form.title for form in all_formats().values())
print([name for name in {heavy} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


TOY = """
from dataclasses import dataclass

import torch

from mobiler2l_ns.export.format import Format, single


@dataclass(frozen=True, kw_only=True)
class Toy(Format):
    def convert(self, graphs, path, precision, metadata):
        torch.save({"graph": single(graphs), "metadata": metadata}, path)

    def open(self, path, function):
        graph = torch.load(path, weights_only=False)["graph"]
        return lambda inputs: graph(*map(torch.from_numpy, inputs.values()))[0].numpy()


FORMAT = Toy(name="toy", suffix=".toy", title="children", thresholds={"fp32": 100.0}, run_by="torch")
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A folder like those of formats, on the path where they are looked for."""
    (tmp_path / "more" / "toy").mkdir(parents=True)
    (tmp_path / "more" / "toy" / "__init__.py").write_text(TOY)
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path / "more")])
    all_formats.cache_clear()
    yield
    sys.modules.pop(f"{formats.__name__}.toy", None)
    monkeypatch.undo()
    all_formats.cache_clear()
    all_formats().update(FORMATS)  # the ones that other tests have seen


def test_a_folder_that_is_added_is_a_format_that_can_be_written(toy, tmp_path):
    assert list(all_formats()) == [*FORMATS, "toy"]
    (file,) = export_packages(make_student(), [Request("toy", "encoding")], tmp_path / "out")
    assert (file.format, file.path, file.run_by) == ("toy", "mobiler2l-encoding.toy", "torch")
    assert file.psnr_student >= 100 and file.gmac is None and file.warnings == []
    assert torch.load(tmp_path / "out" / file.path, weights_only=False)["metadata"]["contract"] == "encoding -> image"
    (entry,) = json.loads((tmp_path / "out" / "manifest.json").read_text())["files"]
    assert entry["inputs"] == {"encoding": "float32"}
    assert "## mobiler2l-encoding.toy" in (tmp_path / "out" / "CLIENT.md").read_text()
