"""The comparison with splats measures what it can and says what it cannot."""

from __future__ import annotations

import json
import os

import pytest
from short_run import load_script
from small_student import make_student
from splat_scenes import as_it_is, cloud, fields, write_capture, write_ply

from mobiler2l_ns.capture.photos import CaptureDataset
from mobiler2l_ns.export.package import Request, export_packages

compare = load_script("compare_splats")

COPY = """#!/bin/sh
# Stands for the packing program: options first, then what is read and what is written.
for last; do before="$file"; file="$last"; done
case "$file" in *.spz) echo "no such format" >&2; exit 1;; esac
cp "$before" "$file"
"""


@pytest.fixture
def scene(tmp_path):
    """A file of splats, and photos of them."""
    splats = cloud()
    data = write_capture(tmp_path / "capture", splats, count=4)
    dataset = CaptureDataset(as_it_is(data).setup().get_dataparser_outputs("train"))
    ply = write_ply(tmp_path / "scene.ply", fields(splats))
    return ply, lambda path: compare.measure_splats(path, "world", dataset, [0, 2], data, "cpu")


def test_splats_are_measured_on_the_captures_views_as_they_are_and_packed(scene, tmp_path, capsys):
    ply, measured_by = scene
    tool = tmp_path / "tool"
    tool.write_text(COPY)
    os.chmod(tool, 0o755)
    plain, sog, spz, small = compare.splat_rows(ply, str(tool), 7.0, measured_by)
    assert plain["psnr"] > 45 and plain["ssim"] > 0.99 and plain["ms"] > 0 and plain["minutes"] == 7.0
    assert plain["mb"] == ply.stat().st_size / 1e6 == sog["mb"] == small["mb"]
    assert sog["psnr"] == pytest.approx(plain["psnr"])
    assert spz["mb"] is None and spz["psnr"] is None and "no such format" in capsys.readouterr().out


def test_without_the_packing_program_nothing_is_made_up(scene):
    ply, measured_by = scene
    rows = compare.splat_rows(ply, None, None, measured_by)
    lines = compare.table(rows).splitlines()
    assert lines[3] == "| splats, SOG | not measured | not measured | not measured | not measured |  | not measured |"


def test_packages_are_listed_with_the_students_figures(tmp_path):
    export_packages(make_student(num_blocks=1), [Request("onnx")], tmp_path)
    (line,) = compare.student_rows(tmp_path, {"psnr": 24.5, "ssim": 0.9}, 30.0)
    (file,) = json.loads((tmp_path / "manifest.json").read_text())["files"]
    assert line["what"].startswith("student, onnx fp32 (pose; ") and line["mb"] == file["bytes"] / 1e6
    assert (line["psnr"], line["ssim"], line["minutes"], line["by"]) == (24.5, 0.9, 30.0, "onnxruntime")


def test_the_page_is_what_its_results_give():
    found = sorted((compare.DOCS / "results").glob("comparison_*.json"))
    page = compare.page([json.loads(path.read_text()) for path in found])
    assert page == (compare.DOCS / "comparison.md").read_text(), "run scripts/compare_splats.py"
    assert ("Nothing has been measured" in page) == (not found)
    result = {"title": "t", "views": 2, "split": "test", "device": "d", "rows": [compare.row("x", mb=1.0)]}
    assert "### t" in compare.page([result]) and "| x | 1.00 | not measured" in compare.page([result])
