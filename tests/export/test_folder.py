"""The folder of packages: its manifest lists what is there, whole and of this student, whatever happened before."""

from __future__ import annotations

import json
from typing import Any

import pytest
from filelock import FileLock
from small_student import make_student

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export.contract import MANIFEST
from mobiler2l_ns.export.package import Request, export_packages, lock_of

ONNX, INT8 = Request("onnx"), Request("onnx", precision="int8")
SMALL: dict[str, Any] = {"width_of_body": 8, "num_blocks": 1, "height": 16, "width": 16}


def listed(folder) -> list[str]:
    return [entry["path"] for entry in json.loads((folder / MANIFEST).read_text())["files"]]


def test_packages_of_an_earlier_student_leave_the_manifest_and_are_named(tmp_path, capsys):
    export_packages(make_student(**SMALL), [ONNX, INT8], tmp_path)
    assert listed(tmp_path) == ["mobiler2l-int8.onnx", "mobiler2l.onnx"]
    export_packages(make_student(**{**SMALL, "num_blocks": 2}), [ONNX], tmp_path)
    assert listed(tmp_path) == ["mobiler2l.onnx"] and (tmp_path / "mobiler2l-int8.onnx").exists()
    said = " ".join(capsys.readouterr().out.split())
    assert "of an earlier student or their entry is damaged: mobiler2l-int8.onnx. Export them again" in said


def test_damaged_entries_and_packages_that_are_gone_are_not_kept(tmp_path, capsys):
    student = make_student(**SMALL)
    export_packages(student, [ONNX, INT8], tmp_path)
    described = json.loads((tmp_path / MANIFEST).read_text())
    int8 = next(entry for entry in described["files"] if entry["precision"] == "int8")
    del int8["views"]
    gone = {**described["files"][-1], "path": "gone.onnx"}
    described["files"] += ["nonsense", gone, {}]
    (tmp_path / MANIFEST).write_text(json.dumps(described))
    export_packages(student, [ONNX], tmp_path)
    assert listed(tmp_path) == ["mobiler2l.onnx"]
    said = " ".join(capsys.readouterr().out.split())
    assert "damaged: mobiler2l-int8.onnx. Export" in said and "gone.onnx" not in said


def test_two_exports_into_one_folder_are_one_after_the_other(tmp_path):
    student = make_student(**SMALL)
    with FileLock(lock_of(tmp_path)), pytest.raises(UserError, match="Another export is writing to .*: wait for it"):
        export_packages(student, [ONNX], tmp_path)
    assert list(tmp_path.iterdir()) == []
    export_packages(student, [ONNX], tmp_path)
    assert listed(tmp_path) == ["mobiler2l.onnx"]


def test_what_a_killed_export_left_goes(tmp_path):
    leftover = tmp_path / ".unfinished-abc"
    leftover.mkdir()
    (leftover / "mobiler2l.onnx").write_text("half")
    export_packages(make_student(**SMALL), [ONNX], tmp_path)
    assert not leftover.exists() and not list(tmp_path.glob(".unfinished*"))
