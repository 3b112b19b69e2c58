"""Splats that are fitted here are files like any other, and show the capture."""

from __future__ import annotations

import sys

import pytest
import torch
from short_run import load_script

from mobiler2l_ns.teacher import splat_reference
from mobiler2l_ns.teacher.splat_file import read_splats

fit = load_script("fit_splats")
INTRINSICS = torch.tensor([[40.0, 0.0, 12.0], [0.0, 40.0, 12.0], [0.0, 0.0, 1.0]])


def fitted(data, output, monkeypatch, capsys, *settings):
    """dB on the photos that the script says it has reached."""
    arguments = ["--data", data, "--output", output, "--size", 24, "--splats", 60, *settings]
    monkeypatch.setattr(sys, "argv", ["fit_splats", *map(str, arguments)])
    fit.main()
    printed = capsys.readouterr().out
    return float(printed.split(" dB")[0].rsplit(" ", 1)[1])


def test_what_is_written_is_what_was_learned(tmp_path):
    torch.manual_seed(0)
    cloud = fit.Cloud(torch.randn(30, 3) * 0.3, 0.2, degree=2)
    for parameter in (cloud.sh, cloud.directional):
        torch.nn.init.normal_(parameter, std=0.3)
    view = torch.eye(4)
    view[2, 3] = 2.0
    cloud.write(tmp_path / "cloud.ply")
    rgb, _, alpha = splat_reference.render(read_splats(tmp_path / "cloud.ply"), view, INTRINSICS, 24, 24)
    learned = cloud(view, INTRINSICS, 24, 24)
    assert learned.std() > 0.05 and torch.allclose(torch.cat([rgb, alpha], dim=-1), learned, atol=1e-5)


def test_steps_bring_the_splats_closer_to_the_photos(demo_scene, tmp_path, monkeypatch, capsys):
    few = fitted(demo_scene, tmp_path / "few.ply", monkeypatch, capsys, "--steps", 1)
    more = fitted(demo_scene, tmp_path / "more.ply", monkeypatch, capsys, "--steps", 40)
    assert more > few + 1.0
    assert len(read_splats(tmp_path / "more.ply")) == 60


def test_a_capture_in_another_format_is_one_clear_line(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        fitted(tmp_path, tmp_path / "none.ply", monkeypatch, capsys)
    assert "is no capture in Blender format: it has no transforms_train.json" in capsys.readouterr().err
