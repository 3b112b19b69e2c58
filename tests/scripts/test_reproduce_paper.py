"""The paper's tables: which runs they need, and what is made of their results."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from short_run import load_script

from mobiler2l_ns.fleet.plan import plan_fleet
from mobiler2l_ns.fleet.spec import read_fleet


@pytest.fixture(scope="module")
def script():
    return load_script("reproduce_paper")


@pytest.fixture
def data(tmp_path) -> Path:
    for name in ("nerf_synthetic/lego", "nerf_synthetic/mic", "llff/fern_504x378"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "transforms.json").write_text("{}")
    (tmp_path / "data" / "nerf_synthetic" / "legopeople").mkdir()
    return tmp_path / "data"


def run(script, monkeypatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["reproduce_paper.py", *map(str, words)])
    script.main()


def test_tables_are_runs_of_the_scenes_that_are_there(script, data, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    tables = ("--table", "1", "4", "5", "8bit", "--minutes", "10", "--resolution", "96", "--write-only")
    run(script, monkeypatch, "--data", data, "--output", out, *tables)
    said = capsys.readouterr().out
    assert "Missing in" in said and "chair, drums" in said and "LPIPS is left out" in said
    scenes, design = (plan_fleet(read_fleet(out / f"{name}.yaml")) for name in ("scenes", "design"))
    labels = {job.label for job in scenes.jobs if not job.is_teacher}
    assert labels == {"published", "mobiler2l"} and {job.capture for job in scenes.jobs} == {"lego", "mic", "fern"}
    for job in scenes.jobs:
        words = " ".join(job.arguments)
        assert ("--pipeline.model.strides 2 2 3" in words) == (job.capture == "fern")
        assert "--pipeline.datamanager.max-image-size 96" in words
        assert job.is_teacher or ("--pipeline.minutes 10.0" in words and job.exports[1] == "onnx --precision int8")
    of_lego = {job.label: " ".join(job.arguments) for job in design.jobs if job.capture == "lego"}
    assert len(of_lego) == 5 + 6 + 2
    assert "--pipeline.model.layer mlp" in of_lego["4-mlp"] and "activation none" in of_lego["4-mlp"]
    assert "--pipeline.model.num-blocks 49" in of_lego["5-d-100"]
    assert "--pipeline.teacher-steps 3200" in of_lego["teacher-longer"]
    teacher = next(job.teacher for job in design.jobs if job.capture == "lego" and job.label == "5-teacher")
    assert teacher is not None and "teacher-longer" in teacher


def test_the_network_of_the_short_recipe_is_the_published_one(script):
    from dataclasses import replace

    from mobiler2l_ns.plugin import methods
    from mobiler2l_ns.student.cost import measure_cost

    ours, published = (getattr(methods, name).config.pipeline.model for name in ("mobiler2l", "mobiler2l_paper"))
    settings = {name.rpartition(".")[2].replace("-", "_"): value for name, value in script.PUBLISHED_NETWORK.items()}
    settings["sr_channels"] = tuple(settings["sr_channels"])
    assert measure_cost(replace(ours, **settings), 800, 800) == measure_cost(published, 800, 800)


def test_rows_stand_beside_the_published_figures_and_orders_are_compared(script, data):
    scenes = {"lego": data}
    packages = [{"precision": "fp16", "mb": 8.5, "ms": 7.0, "psnr_student": 70.0, "psnr_photos": 29.0}]
    results = {"4-mlp": 20.0, "4-1x1-conv": 19.0, "4-plus-relu": 26.0}
    done = {name: {"psnr": db, "packages": packages, "steps": 2000} for name, db in results.items()}
    runs = {("lego", name): {"result": result, "step": 1999} for name, result in done.items()}
    rows = script.design_rows(runs, scenes, "4", ["MLP", "1x1 CONV", "+ ReLU", "+ GELU"])
    assert [row["lego dB"] for row in rows] == [20.0, 19.0, 26.0, None]
    assert rows[2]["paper dB"] == 26.82 and rows[0]["ms here"] == 7.0
    (line,) = script.order_lines("4", rows)
    assert line == "Table 4, lego dB: the order of 3 rows is the paper's but for MLP and 1x1 CONV"
    page = script.markdown({"4": rows, "5": []}, [line], {"table": ["4", "5"], "teacher_steps": 9, "minutes": 10.0})
    assert "reproduce_paper.py --data FOLDER --table 4 5 --teacher-steps 9 --minutes 10.0\n" in page
    assert "## Table 4\n\n| row | lego dB | SSIM | LPIPS |" in page and "## Table 5" not in page
    assert "| + ReLU | 26.000 |  |  |  | 7.000 | 2000 | 26.820 | 16.200 |" in page and page.endswith(f"- {line}\n")
    runs = {("lego", "published"): {"result": {"psnr": 30.0, "packages": packages}}}
    mean, lego = script.scene_rows(runs, scenes)
    assert (mean["scene"], mean["paper dB"], lego["paper dB"]) == ("synthetic, 1 of 8", None, 32.18)
    assert mean["published dB"] == lego["published dB"] == 30.0 and lego["mobiler2l dB"] is None
    assert [row["MB"] for row in script.storage_rows(runs, scenes)[-2:]] == [8.5, None]


def test_a_folder_without_scenes_and_an_unknown_scene_are_one_line(script, data, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    for words, said in (
        (("--data", tmp_path / "nowhere"), "There is no folder"),
        (("--data", tmp_path / "empty"), "None of the scenes is in"),
        (("--data", data, "--scenes", "bunny"), "No scenes of the paper: bunny"),
    ):
        with pytest.raises(SystemExit, match=said):
            run(script, monkeypatch, *words, "--write-only", "--output", tmp_path / "o")
