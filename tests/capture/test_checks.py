"""One look at all files: what is wrong is told before anything is trained, with the file and what to do."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image
from tiny_capture import HEIGHT, WIDTH, edit, pattern, pose, write_capture

from mobiler2l_ns.capture import checks
from mobiler2l_ns.capture.checks import lens_error
from mobiler2l_ns.errors import UserError
from mobiler2l_ns.plugin.check_command import check, dataparser_of, entrypoint


def look(folder):
    return check(dataparser_of(folder))


def masked(folder, save_mask):
    write_capture(folder, frame=lambda i: {"mask_path": f"masks/{i}.png"})
    (folder / "masks").mkdir()
    for index in range(10):
        save_mask(index, folder / f"masks/{index}.png")
    return folder


def test_a_plain_capture_has_no_problems(tmp_path):
    found = look(write_capture(tmp_path / "c"))
    assert found.problems == [] and found.notes == []
    assert found.facts["photos"] == "9 train, 1 val" and found.facts["files"] == f"{WIDTH} x {HEIGHT}"
    found.refuse()


def truncated(index, path):
    Image.fromarray(pattern(index)).save(path)
    if index in (4, 8):  # the latter is held out
        path.write_bytes(path.read_bytes()[:-40])


def missing(index, path):
    if index != 5:
        Image.fromarray(pattern(index)).save(path)


def other_shape(index, path):
    Image.fromarray(pattern(index, WIDTH, HEIGHT + 4 * (index == 7))).save(path)


@pytest.mark.parametrize(
    ("save", "lines"),
    [
        (truncated, [r"04\.png cannot be read", r"08\.png cannot be read"]),
        (missing, [r"05\.png is not there: put it back"]),
        (other_shape, [r"07\.png has 24 x 20 pixels, its camera 24 x 16: give the photo"]),
    ],
)
def test_every_photo_of_every_split_is_read_to_its_end(tmp_path, save, lines):
    found = look(write_capture(tmp_path / "c", save=save))
    assert len(found.problems) == len(lines)
    for problem in found.problems:
        assert any(__import__("re").search(line, problem) for line in lines) and "\n" not in problem
    with pytest.raises(UserError, match=r"1 more such lines: mobiler2l-check" if len(lines) > 1 else lines[0]):
        found.refuse()


def test_masks_are_looked_at_too(tmp_path):
    def wide(index, path):
        Image.new("L", (WIDTH, HEIGHT + 10 * (index == 2)), 255).save(path)

    (problem,) = look(masked(tmp_path / "wide", wide)).problems
    assert "masks/2.png has 24 x 26 pixels, its photo 24 x 16: give a mask of the same shape" in problem

    def broken(index, path):
        Image.new("L", (WIDTH, HEIGHT), 255).save(path)
        if index == 2:
            path.write_bytes(b"none")

    (problem,) = look(masked(tmp_path / "broken", broken)).problems
    assert "masks/2.png is no picture" in problem

    def one_hidden(index, path):
        Image.new("L", (WIDTH, HEIGHT), 255 * (index != 2)).save(path)

    found = look(masked(tmp_path / "one", one_hidden))
    assert found.problems == [] and found.notes == ["Wholly hidden by their masks, and so left out: 02.png"]

    (problem,) = look(masked(tmp_path / "all", lambda _, path: Image.new("L", (WIDTH, HEIGHT)).save(path))).problems
    assert "all other masks hide their whole photos: paint" in problem


def test_a_file_with_two_poses_is_refused_and_one_listed_twice_is_not(tmp_path):
    folder = edit(write_capture(tmp_path / "c"), lambda m: m["frames"].append(dict(m["frames"][3])))
    found = look(folder)
    assert found.problems == [] and found.notes == []
    edit(folder, lambda m: m.update(test_filenames=["images/03.png"], train_filenames=["images/03.png"]))
    assert look(folder).notes == ["Trained on and held out as well, so measured too well: 03.png"]
    edit(folder, lambda m: [m.pop(f"{split}_filenames") for split in ("train", "test")])
    other = pose(6).tolist()
    edit(folder, lambda m: m["frames"][-1].update(transform_matrix=other))
    (problem,) = look(folder).problems
    assert "03.png is listed with two different poses" in problem


def test_a_cut_out_is_found_wherever_it_is(tmp_path, make_config):
    def save(index, path):
        photo = Image.fromarray(pattern(index)).convert("RGBA")
        if index == 3:
            photo.putpixel((1, 1), (9, 9, 9, 0))
        photo.save(path)

    folder = write_capture(tmp_path / "c", save=save)
    manager = make_config(tmp_path).pipeline.datamanager
    manager = replace(manager, dataparser=NerfstudioDataParserConfig(data=folder), data=folder)
    dataset = manager.setup(device="cpu", test_mode="val").train_dataset
    assert "cut_out" in vars(dataset) and dataset.cut_out
    assert manager.setup(device="cpu", test_mode="test").train_dataset.cut_out


def test_only_training_looks_and_before_the_teacher_is_there(tmp_path, make_config):
    config = make_config(tmp_path)
    folder = write_capture(tmp_path / "[bold]c[/]", save=truncated)
    config.pipeline.datamanager.dataparser = NerfstudioDataParserConfig(data=folder)
    config.pipeline.datamanager.data = folder
    with pytest.raises(UserError, match=r"\[bold\]c\[/\]/images/04\.png cannot be read"):
        config.pipeline.setup(device="cpu", test_mode="val")


def lens(**values):
    order = ("k1", "k2", "k3", "k4", "p1", "p2")
    params = torch.tensor([[values.get(name, 0.0) for name in order]])
    return Cameras(torch.eye(4)[None, :3], 50.0, 50.0, 32.0, 24.0, width=64, height=48, distortion_params=params)


def test_a_lens_that_folds_the_picture_over_is_refused(tmp_path):
    assert lens_error(lens()) == 0.0
    assert lens_error(lens(k1=-0.2, k2=0.05, p1=1e-3)) < 0.01
    assert lens_error(lens(k1=-0.9)) > 1.0
    problem, *_ = look(write_capture(tmp_path / "c", k1=-0.9)).problems
    assert "lens distortion of its camera cannot be undone" in problem


def test_a_long_look_shows_how_far_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checks, "PATIENCE", -1.0)
    look(write_capture(tmp_path / "c"))
    shown = "Looking at the photos" in capsys.readouterr().out
    monkeypatch.setattr(checks, "PATIENCE", 60.0)
    look(write_capture(tmp_path / "d"))
    assert "Looking at the photos" not in capsys.readouterr().out
    assert shown or not sys.stdout.isatty()


def test_the_command_prints_a_table_and_ends_with_0_or_1(tmp_path, monkeypatch, capsys):
    def check_it(path):
        monkeypatch.setattr(sys, "argv", ["mobiler2l-check", str(path)])
        try:
            entrypoint()
        finally:
            told.append(capsys.readouterr().out)

    told = []
    check_it(write_capture(tmp_path / "good [b]") / "transforms.json")
    assert "9 train, 1 val" in told[0] and "good [b]" in told[0]
    with pytest.raises(SystemExit) as ended:
        check_it(write_capture(tmp_path / "bad", save=truncated))
    assert ended.value.code == 1 and "04.png cannot be read" in told[1] and "08.png cannot" in told[1]
    command = [str(Path(sys.executable).parent / "mobiler2l-check"), str(tmp_path)]
    none = subprocess.run(command, capture_output=True, text=True)
    assert none.returncode == 1 and f"{tmp_path} is no capture" in none.stderr and "Traceback" not in none.stderr
