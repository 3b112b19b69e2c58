"""Grids of other widths show the same view, and what they cost is counted layer by layer."""

from __future__ import annotations

import json
import sys
from functools import partial
from itertools import count
from types import SimpleNamespace

import pytest
import torch
from short_run import load_script
from small_student import make_student

from mobiler2l_ns.student.cost import measure_cost

grids = load_script("benchmark_grids")


def test_at_its_own_width_a_student_shows_what_it_renders():
    student = make_student(sphere=True)
    camera = student.training_camera(student.capture.start_pose)
    assert torch.equal(grids.render_at(student, camera, 60), student.render(camera))


@pytest.mark.parametrize("width", [96, 128])
def test_whatever_the_width_the_camera_keeps_its_field_of_view(width):
    pitches = []

    def looks_at_directions(origins, directions, pitch):
        pitches.append(pitch)
        shown = 0.5 + 0.5 * directions.permute(0, 3, 1, 2)
        return torch.nn.functional.interpolate(shown, scale_factor=4, mode="bilinear")

    student = make_student()
    student.capture.record(intrinsics=torch.tensor([120.0, 120.0, 50.0, 30.0]), image_size=torch.tensor([60, 100]))
    camera = student.training_camera(torch.eye(4)[:3])
    looks_at_directions.config = SimpleNamespace(stride=4)
    looks_at_directions.capture = student.capture
    seen, own = (grids.render_at(looks_at_directions, camera, pixels) for pixels in (width, 100))
    assert pitches == pytest.approx([100 / width, 1.0])
    # The picture's last half block is where the pictures of blocks are no longer linear.
    assert seen.shape == (60, 100, 3) and torch.allclose(seen[4:-4, 4:-4], own[4:-4, 4:-4], atol=1e-3)


def test_grids_of_96_100_and_128_columns_are_the_usual_ones():
    assert grids.default_widths(800, 8) == [768, 800, 1024]
    assert grids.default_widths(100, 8) == [96, 100, 128]
    assert [grids.padded(columns) for columns in (96, 100, 128)] == [96, 128, 128]


def test_padding_costs_where_a_layers_last_axis_is_no_multiple_of_32(tmp_path, monkeypatch):
    method = load_script("benchmark_inference").student_of("mobiler2l-fast", 264)
    file = tmp_path / "grids.json"
    arguments = ["--methods", "mobiler2l-fast", "--widths", "256", "264", "--runs", "1", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["benchmark_grids", *arguments])
    grids.main()
    whole, odd = json.loads(file.read_text())["students"]["mobiler2l-fast"]
    assert (whole["columns"], whole["columns_padded"], odd["columns"], odd["columns_padded"]) == (32, 32, 33, 64)
    assert whole["gmac_padded"] == pytest.approx(whole["gmac"])
    # The network's own: what the volume before it costs is not on the Neural Engine.
    alone = measure_cost(method.network, 264, 264)
    assert odd["gmac"] < alone.gmac - alone.lookup_gmac
    assert odd["gmac"] == pytest.approx(whole["gmac"] * (264 / 256) ** 2)
    assert odd["gmac"] < odd["gmac_padded"] < odd["gmac"] * 64 / 33
    assert whole["ms"] > 0


def test_students_trained_at_each_width_are_seen_at_each_and_at_one_size(tmp_path, monkeypatch):
    scene, race, file = load_script("make_demo_scene"), load_script("benchmark_distillation"), tmp_path / "grids.json"
    few = partial(scene.write_scene, supersample=1)
    monkeypatch.setattr(scene, "write_scene", lambda folder, size, **_: few(folder, size, train=8, val=1, test=3))
    monkeypatch.setattr(race, "time", SimpleNamespace(process_time=partial(next, count())))  # a second a step
    monkeypatch.setattr(race, "MARKS", 1)
    monkeypatch.setattr(race, "TEST_POSES", 3)
    monkeypatch.setattr(grids, "PSEUDO_VIEWS", 4)
    monkeypatch.setattr(grids, "costs", lambda _, widths, runs: [{"width": width} for width in widths])  # seen above
    widths = [40, 48]
    arguments = ["--oracle", "--minutes", 0.2, "--runs", 1, "--cache", tmp_path, "--json", file, "--widths", *widths]
    monkeypatch.setattr(sys, "argv", ["benchmark_grids", *map(str, arguments)])
    grids.main()
    result = json.loads(file.read_text())
    assert result["shown_width"] == 48 and result["views"] == 3
    assert list(result["students"]) == [f"student of {width} pixels, 12 steps" for width in (48, 40)]
    for rows in result["students"].values():
        assert [row["width"] for row in rows] == widths
        assert all(5.0 < row["psnr"] < 40.0 for row in rows)
