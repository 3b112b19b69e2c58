"""Core AI packages give the student's pictures, from all contracts, by Core AI's own runtime."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from small_student import COMBINED_VARIANTS, MISTAKES, VOLUMES, make_graph, make_student, psnr

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export.clients.page import NAME
from mobiler2l_ns.export.formats.coreai import FORMAT, interpreter
from mobiler2l_ns.export.formats.coreai.convert import CoreAIError, convert
from mobiler2l_ns.export.formats.coreai.runner import CoreAIRunner
from mobiler2l_ns.export.package import Request, export_packages

here = pytest.mark.skipif(FORMAT.missing() is not None, reason="no interpreter with coreai-torch is named")

CASES = [
    ("pose", COMBINED_VARIANTS["gelu"]),
    ("encoding", COMBINED_VARIANTS["relu, stride 12, alpha, several pitches, sphere"]),
    ("pose", VOLUMES["unbounded"]),
    ("features", VOLUMES["sphere"]),
]


@here
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("start", "settings"), CASES)
def test_the_package_is_the_graph(start, settings, precision, tmp_path):
    graph, examples = make_graph(start, **settings)
    convert(graph, tmp_path / "p.aimodel", precision, {"generator": "test"})
    dtype = np.dtype(FORMAT.input_dtype(graph, precision))
    assert dtype == ("float16" if precision == "fp16" and start != "pose" else "float32")
    runner = CoreAIRunner(tmp_path / "p.aimodel")
    run = lambda inputs: runner({name: value.astype(dtype) for name, value in inputs.items()})  # noqa: E731
    assert psnr(graph, run, examples) >= FORMAT.thresholds[precision]


@here
def test_a_mistake_is_seen_and_nothing_of_this_machine_is_told(tmp_path):
    graph, examples = make_graph("encoding")
    convert(graph, tmp_path / "a.aimodel", "fp32", {"generator": "test"})
    about = json.loads((tmp_path / "a.aimodel" / "metadata.json").read_text())
    assert about["creatorDefinedMetadata"] == {"generator": "test"} and "creationDate" not in about
    whole = b"".join(path.read_bytes() for path in (tmp_path / "a.aimodel").iterdir())
    assert all(str(place).encode() not in whole for place in (tmp_path, Path.cwd(), tempfile.gettempdir()))
    run = CoreAIRunner(tmp_path / "a.aimodel")
    for mistake in MISTAKES:
        wrong, _ = make_graph("encoding")
        with torch.no_grad():
            mistake(wrong)
        assert psnr(wrong, run, examples) < 45


@here
def test_the_python_client_shows_the_students_picture(tmp_path):
    student = make_student(**VOLUMES["sphere"], num_blocks=1, sr_blocks=1)
    files = export_packages(student, [Request("coreai", contract) for contract in ("pose", "features")], tmp_path)
    assert {file.path for file in files} == {"mobiler2l.aimodel", "mobiler2l-features.aimodel"}
    assert all(file.run_by == FORMAT.run_by and file.ms is None for file in files)
    with torch.no_grad():
        expected = student.render(student.training_camera(student.capture.start_pose)).numpy()
    for file in files:
        section = (tmp_path / NAME).read_text().split(f"## {file.path}\n")[1]
        code = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0]
        code += "np.save('picture.npy', picture)\n"
        python = interpreter.interpreter()
        assert python is not None
        subprocess.run([python, "-c", code], cwd=tmp_path, check=True, env=interpreter.environment())
        got = np.load(tmp_path / "picture.npy")
        assert got.shape == expected.shape and -10 * np.log10(np.mean((got - expected) ** 2)) > 50


@here
def test_what_the_converter_cannot_do_is_an_error(tmp_path):
    graph, _ = make_graph("encoding")
    with pytest.raises(CoreAIError, match="could not convert"):
        convert(graph, tmp_path / "no.suffix", "fp32", {})
    with pytest.raises(RuntimeError, match="cannot run the package"):
        CoreAIRunner(tmp_path / "nothing.aimodel")


@pytest.fixture
def named(monkeypatch):
    interpreter._missing_in.cache_clear()
    yield lambda path: monkeypatch.setenv(interpreter.VARIABLE, str(path))
    interpreter._missing_in.cache_clear()


def test_an_interpreter_without_the_converter_is_told_and_how_to_make_one(named, tmp_path):
    named(tmp_path / "python")
    assert "does not start" in (FORMAT.missing() or "") and "requirements-coreai.txt" in (FORMAT.missing() or "")
    bare = tmp_path / "bare"
    bare.write_text("#!/bin/sh\necho False\n")
    bare.chmod(0o755)
    named(bare)
    assert "has no coreai-torch" in (FORMAT.missing() or "")
    with pytest.raises(UserError, match="coreai packages need more"):
        export_packages(make_student(num_blocks=1), [Request("coreai")], tmp_path / "out")


def test_the_requirements_file_lies_where_the_message_says():
    wanted = (Path(__file__).resolve().parents[3] / "requirements-coreai.txt").read_text()
    assert "coreai-torch==" in wanted
