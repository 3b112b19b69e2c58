"""Paths, names and reasons are printed as they are, whatever rich would take them for."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_student import make_student

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export.extra import Extra
from mobiler2l_ns.export.formats import all_formats
from mobiler2l_ns.export.formats.ncnn.extra import EXTRA
from mobiler2l_ns.export.formats.web import serve as serving
from mobiler2l_ns.export.package import Request, export_packages
from mobiler2l_ns.export.proof_photos import load_proof_photos
from mobiler2l_ns.plugin.export_commands import ExportAll, Lint
from mobiler2l_ns.report import packages

ODD = ["a[/b]c", "[bold]d[red]"]


def printed(capsys) -> str:
    """What went to the console, lines that it had to break in one piece."""
    return "".join(line.strip() for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize("name", ODD)
def test_an_export_into_any_folder_says_which(name, tmp_path, capsys):
    folder = tmp_path / name
    export_packages(make_student(num_blocks=1), [Request("onnx")], folder)
    said = printed(capsys)
    assert str(folder) in said and f"lint --package '{folder / 'mobiler2l.onnx'}'" in said


@pytest.mark.parametrize("name", ODD)
def test_lint_says_which_package(name, tmp_path, capsys):
    folder = tmp_path / name
    export_packages(make_student(num_blocks=1), [Request("onnx")], folder)
    capsys.readouterr()
    Lint(folder / "mobiler2l.onnx").main()
    assert str(folder / "mobiler2l.onnx") in printed(capsys)


@pytest.mark.parametrize("name", ODD)
def test_a_served_folder_is_named(name, tmp_path, capsys, monkeypatch):
    ended = SimpleNamespace(wait=lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    server = SimpleNamespace(address="http://127.0.0.1:1/", shutdown=lambda: None)
    monkeypatch.setattr(serving, "serve", lambda folder, port: server)
    monkeypatch.setattr(threading, "Event", lambda: ended)
    serving.show(tmp_path / name, 0)
    assert f"http://127.0.0.1:1/ shows {tmp_path / name}; Ctrl-C ends it" in printed(capsys)


def test_what_a_format_needs_is_printed_whole(monkeypatch, capsys):
    forms = {"ncnn": replace(all_formats()["ncnn"], extra=Extra(("no_such_module",), EXTRA.install))}
    monkeypatch.setattr("mobiler2l_ns.plugin.export_commands.all_formats", lambda: forms)
    monkeypatch.setattr(ExportAll, "export", lambda self, requests: requests)
    ExportAll(Path("config.yml"), Path("out")).main()
    assert "pip install '.[ncnn]' in this project's checkout" in printed(capsys)


@pytest.mark.parametrize("name", ODD)
def test_a_capture_that_is_gone_is_named(name, tmp_path, capsys):
    def gone():
        raise FileNotFoundError(f"no {tmp_path / name}")

    manager = SimpleNamespace(dataparser=SimpleNamespace(setup=gone), data=None)
    photos = load_proof_photos(SimpleNamespace(pipeline=SimpleNamespace(datamanager=manager)), make_student())  # type: ignore
    assert photos == [None] * 8 and f"(no {tmp_path / name})" in printed(capsys)


@pytest.mark.parametrize("name", ODD)
def test_a_report_is_named(name, tmp_path, capsys):
    export_packages(make_student(num_blocks=1), [Request("onnx")], tmp_path / "out")
    digest = json.loads((tmp_path / "out" / "manifest.json").read_text())["student_sha256"]
    capsys.readouterr()
    report = tmp_path / name / packages.NAME
    report.parent.mkdir(parents=True)
    report.write_text(f'<main data-student="{digest}">{packages.empty("command")}</main>')
    packages.add_export(report.with_name("config.yml"), tmp_path / "out")
    assert f"These packages are listed in {report}" in printed(capsys)
    assert "mobiler2l.onnx" in report.read_text()
    report.write_text("something else")
    packages.add_export(report.with_name("config.yml"), tmp_path / "out")
    assert f"{report} has no place for packages" in printed(capsys)


def test_an_error_keeps_its_brackets(tmp_path):
    with pytest.raises(UserError, match=r"There is no manifest.json beside .*a\[/b\]c"):
        Lint(tmp_path / ODD[0] / "mobiler2l.onnx").main()
