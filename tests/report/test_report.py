"""report.html, the page that a run ends with."""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from html_page import Page
from nerfstudio.utils import writer
from PIL import Image
from short_run import PHASES, checkpoint_of, load_script, load_student, open_run, train

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.plugin.export_commands import NS_EXPORT_COMMANDS
from mobiler2l_ns.progress.records import FILE, read_log
from mobiler2l_ns.report import charts, packages
from mobiler2l_ns.report.history import History
from mobiler2l_ns.report.measure import spread
from mobiler2l_ns.student.cost import measure_cost


@pytest.fixture(scope="module")
def text(finished_run) -> str:
    return (finished_run.parent / "report.html").read_text(encoding="utf8")


@pytest.fixture(scope="module")
def page(text) -> Page:
    return Page(text)


@pytest.fixture(scope="module")
def evaluation(finished_run) -> dict[str, float]:
    """What ns-eval gives."""
    return open_run(finished_run)[0].get_average_eval_image_metrics()


@pytest.fixture
def run(finished_run, tmp_path) -> Path:
    """config.yml of a copy of the run."""
    return shutil.copytree(finished_run.parent, tmp_path / "run") / "config.yml"


def assert_mean_is(page: Page, evaluation: dict[str, float]) -> None:
    columns, mean = page.rows["metrics"][:2]
    shown = dict(zip(columns, mean, strict=True))
    assert shown["view"] == "mean"
    assert shown["student dB"] == f"{evaluation['psnr']:.2f}"
    assert shown["student SSIM"] == f"{evaluation['ssim']:.4f}"
    assert shown["student to teacher dB"] == f"{evaluation['psnr_to_teacher']:.2f}"
    assert shown["teacher dB"] == f"{evaluation['teacher_psnr']:.2f}"
    assert shown["teacher SSIM"] == f"{evaluation['teacher_ssim']:.4f}"


def test_its_table_holds_the_figures_of_ns_eval_view_by_view(page, evaluation):
    assert_mean_is(page, evaluation)
    columns, mean, *views = page.rows["metrics"]
    assert len(views) == 3 and len({view[0] for view in views}) == 3
    for column in range(1, len(columns)):
        values = [float(view[column]) for view in views]
        assert float(mean[column]) == pytest.approx(sum(values) / 3, abs=0.011)


def test_it_needs_nothing_but_itself(page, text):
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
    for address in page.attributes("src", "href", "srcset", "data", "action", "poster", "background", "xlink:href"):
        assert address.startswith("data:image/")
    assert "url(" not in text and "@import" not in text


def test_it_shows_the_photos_themselves_beside_teacher_student_and_error(page, finished_run):
    pictures = [(str(a["alt"]), str(a["src"])) for tag, a in page.elements if tag == "img"]
    assert [name.split(",")[0] for name, _ in pictures] == ["photo", "teacher", "student", "error"] * 3
    _, _, encoded = pictures[0][1].partition("base64,")
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))), dtype=np.float32)
    dataset = open_run(finished_run)[0].datamanager.eval_dataset
    assert pictures[0][0] == f"photo, {dataset.image_filenames[0].name}"
    photo = dataset.get_numpy_image(0).astype(np.float32)
    over_white = photo[..., :3] * photo[..., 3:] / 255 + 255 - photo[..., 3:]
    assert np.abs(shown - over_white).max() <= 1


def test_it_draws_the_curves_of_all_phases_over_time_and_the_cameras(page, finished_run):
    curves = {a["class"]: a["points"] for tag, a in page.elements if tag == "polyline"}
    assert set(curves) == {"teacher", "distil", "fine-tune", "selection"}
    for points in curves.values():
        places = [float(point.split(",")[0]) for point in str(points).split()]
        assert len(places) > 5 and places == sorted(places)
    maps = [a for tag, a in page.elements if tag == "svg" and a["class"] == "map"]
    assert len(maps) == 2
    assert "6 pseudo views20 photos3 test views" in "".join(page.text)


def test_it_tells_sizes_timings_versions_and_the_exact_settings(page, finished_run):
    said = "".join(page.text)
    cost = measure_cost(load_student(finished_run).network, 52, 52)
    assert f"{cost.params:,}" in said and f"{cost.gmac:.3g} GMAC" in said
    timings = {row[0]: row[3] for row in page.rows[""] if len(row) == 5}
    assert [timings[phase] for phase in ("teacher", "distil", "fine-tune")] == [str(steps) for steps in PHASES.values()]
    assert f"torch {torch.__version__}" in said and "nerfstudio 1.1.5" in said
    assert finished_run.read_text(encoding="utf8") in said


def test_the_curve_of_the_selection_photos_ends_with_the_student_that_was_kept(finished_run):
    history = History.of(read_log(finished_run.parent / FILE))
    state = torch.load(checkpoint_of(finished_run))["pipeline"]
    assert history.psnr["selection"][-1][1] == pytest.approx(float(state["best_student.best"]))
    assert len(history.psnr["selection"]) > 20


def test_curves_survive_a_kill_and_a_resumption_elsewhere(make_config, tmp_path):
    steps = {"teacher_steps": 3, "distill_steps": 5, "finetune_steps": 2}
    killed = make_config(tmp_path, "killed", **steps)
    trainer = killed.setup()
    killed.save_config()
    trainer.setup()
    train_iteration = trainer.train_iteration

    def until_killed(step: int):
        if step == 5:
            trainer.save_checkpoint(4)
        if step == 6:
            raise KeyboardInterrupt
        return train_iteration(step)

    trainer.train_iteration = until_killed
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    writer.EVENT_WRITERS.clear()
    resumed = make_config(tmp_path, "resumed", **steps)
    resumed.load_dir, resumed.report_views = killed.get_checkpoint_dir(), 2
    run = train(resumed).parent
    trained = [record["step"] for record in read_log(run / FILE) if record["event"] == "train"]
    assert trained == list(range(10))
    page = Page((run / "report.html").read_text(encoding="utf8"))
    assert {a["class"] for tag, a in page.elements if tag == "polyline"} == {
        "teacher",
        "distil",
        "fine-tune",
        "selection",
    }
    timings = {row[0]: row[3] for row in page.rows[""] if len(row) == 5}
    assert [timings[phase] for phase in ("teacher", "distil", "fine-tune")] == ["3", "5", "2"]
    said = "".join(page.text)
    assert said.count("started on ") == 1 and said.count("resumed at step 5 on ") == 1


# Packages


def test_an_export_lists_its_packages_and_replaces_what_it_listed_before(run, tmp_path):
    report = run.parent / "report.html"
    # Other tests export the same run.
    earlier = Page(report.read_text(encoding="utf8")).attributes("data-folder")

    def folders() -> list[str]:
        found = Page(report.read_text(encoding="utf8")).attributes("data-folder")
        assert set(earlier) <= set(found)
        return [folder for folder in found if folder not in earlier]

    command = NS_EXPORT_COMMANDS["mobiler2l-onnx"][0](load_config=run, output_dir=tmp_path / "packages")
    command.main()
    described = json.loads((tmp_path / "packages" / "manifest.json").read_text())
    (entry,) = described["files"]
    page = Page(report.read_text(encoding="utf8"))
    assert folders() == [str(tmp_path / "packages")]
    row = [row for row in page.rows[""] if "mobiler2l.onnx" in row][-1]
    assert row[4:7] == [f"{entry['bytes'] / 1e6:.2f}", f"{entry['psnr_student']:.1f}", f"{entry['psnr_photos']:.2f}"]

    student = described["student_sha256"]
    assert packages.add(report, tmp_path / "packages", student, "<p>again</p>") is None
    assert packages.add(report, Path('a "folder" & more'), student, "<p>elsewhere</p>") is None
    assert packages.add(report, Path('a "folder" & more'), student, "<p>there again</p>") is None
    assert folders() == [str(tmp_path / "packages"), 'a "folder" & more']
    said = "".join(Page(report.read_text(encoding="utf8")).text)
    assert "again" in said and "there again" in said and "elsewhere" not in said


def test_packages_of_another_student_stay_out_and_an_export_needs_no_report(run, tmp_path):
    report = run.parent / "report.html"
    before = report.read_text(encoding="utf8")
    problem = packages.add(report, tmp_path, "0" * 64, "<p>other</p>")
    assert problem is not None and "scripts/report.py --load-config" in problem
    assert report.read_text(encoding="utf8") == before
    assert packages.add(tmp_path / "report.html", tmp_path, "0" * 64, "") is None
    assert not (tmp_path / "report.html").exists()


# Older runs


def test_an_older_run_without_a_log_gets_its_page_which_keeps_its_packages(run, evaluation, monkeypatch, capsys):
    report = run.parent / "report.html"
    student = re.findall('data-student="(.*?)"', report.read_text(encoding="utf8"))[0]
    packages.add(report, Path("folder"), student, "<p>kept</p>")
    (run.parent / FILE).unlink()
    monkeypatch.setattr("sys.argv", ["report.py", "--load-config", str(run)])
    load_script("report").main()
    page = Page(report.read_text(encoding="utf8"))
    assert_mean_is(page, evaluation)
    said = "".join(page.text)
    assert "kept" in page.text
    # Its tensorboard files have the curves of the phases.
    assert {a["class"] for tag, a in page.elements if tag == "polyline"} == {"teacher", "distil", "fine-tune"}
    assert "300 poses drawn as for pseudo views" in said
    assert str(report) in capsys.readouterr().out


def test_a_run_that_is_not_there_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["report.py", "--load-config", str(tmp_path / "config.yml")])
    with pytest.raises(UserError, match="No run at .*: give the config.yml of a nerfstudio run"):
        load_script("report").main()


# The console


def test_a_report_that_fails_does_not_lose_the_run_which_ends_with_commands_to_paste(
    make_config, tmp_path, monkeypatch, capsys
):
    def fails(*_):
        raise OSError("no space\nleft")

    monkeypatch.setattr("mobiler2l_ns.report.write.collect", fails)
    config = make_config(tmp_path / "with a space", teacher_steps=2, distill_steps=2, finetune_steps=0)
    config.report_views = 2
    path = train(config)
    assert (path.parent / "nerfstudio_models" / "step-000000003.ckpt").is_file()
    printed = capsys.readouterr().out
    assert "The run is saved, its report could not be written: OSError: no space left" in " ".join(printed.split())
    commands = [shlex.split(line, comments=True) for line in printed.splitlines()[-3:]]
    assert [command[0] for command in commands] == ["ns-viewer", "ns-eval", "mobiler2l-export"]
    assert all(command[command.index("--load-config") + 1] == str(path) for command in commands)
    for phase in ("teacher", "distil"):
        table = printed[printed.index(f" {phase}: 2 steps of 4 ") :]
        assert re.search(r"^ 100 % +2 / 2 +\d+:\d\d:\d\d +0:00:00 +\d+\.\d\d", table, re.MULTILINE)
    assert "\x1b[" not in printed


def test_a_run_may_go_without_a_report(make_config, tmp_path):
    config = make_config(tmp_path, teacher_steps=0, distill_steps=1, finetune_steps=0)
    path = train(config)
    assert (path.parent / FILE).is_file() and not (path.parent / "report.html").exists()


# Drawing


def test_ticks_are_round_and_units_of_time_fit():
    assert charts.ticks(0.0, 9.0, 5) == [0, 2, 4, 6, 8]
    assert charts.ticks(17.3, 17.9, 6) == pytest.approx([17.3, 17.4, 17.5, 17.6, 17.7, 17.8, 17.9])
    assert charts.ticks(3.0, 3.0, 5) == [3.0]
    assert [charts.time_unit(seconds)[1] for seconds in (100, 1000, 20_000, 1_000_000)] == ["s", "min", "h", "d"]


def test_a_logarithmic_chart_leaves_out_what_it_cannot_show():
    line = charts.Line("loss", [(0.0, 0.0), (1.0, 0.1), (2.0, 0.01)], "distil")
    drawn = charts.line_chart("a < b", [line], [], 400, 200, "wide", True)
    page = Page(drawn)
    (points,) = page.attributes("points")
    assert len(points.split()) == 2
    assert page.attributes("aria-label") == ["a < b"]
    assert charts.line_chart("nothing", [], [], 400, 200, "wide", False) == ""


def test_views_are_spread_over_all():
    assert spread(3, 8) == [0, 1, 2]
    assert spread(200, 4) == [0, 66, 133, 199]
