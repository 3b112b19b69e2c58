"""A run on disk opens as what it is, or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from short_run import load_script
from torch import nn

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.saved_run import SavedRun, check_weights, newest_checkpoint, read_checkpoint

RELEASED = Path(__file__).resolve().parent / "released" / "v0.1.0"
CHECKPOINT = RELEASED / "nerfstudio_models" / "step-000000079.ckpt"


class Field(nn.Module):
    """A model of two layers, and an LPIPS that was not built here."""

    def __init__(self, grid: str = "hash_table") -> None:
        super().__init__()
        self.register_parameter(grid, nn.Parameter(torch.zeros(2)))
        self.colour = nn.Linear(2, 3)


def state_of(model: nn.Module, prefix: str = "_model.") -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in model.state_dict().items()}


@pytest.mark.parametrize("prefix", ["_model.", "_model.module."])
def test_a_checkpoint_with_all_weights_fits(prefix):
    check_weights(Field(), {**state_of(Field(), prefix), "best_student.best": torch.zeros(())}, "x")
    check_weights(Field(), {**state_of(Field()), "_model.lpips.net.weight": torch.zeros(3)}, "x")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: state.pop("_model.colour.bias"), "it lacks 1 weights, colour.bias first"),
        (lambda state: state.update({"_model.more": torch.zeros(1)}), "it has in addition 1 weights, more first"),
    ],
)
def test_missing_and_unexpected_weights_are_refused(change, reason):
    state = state_of(Field())
    change(state)
    with pytest.raises(UserError, match=f"The checkpoint of runs/lego does not fit: {reason}"):
        check_weights(Field(), state, Path("runs/lego"))


def test_a_run_of_another_machines_hash_grids_says_so():
    tcnn, torch_ = Field("tcnn_encoding_params"), Field()
    with pytest.raises(UserError, match="it was trained with tiny-cuda-nn, which is not used here"):
        check_weights(torch_, state_of(tcnn), "x")
    with pytest.raises(UserError, match="it was trained without tiny-cuda-nn, which is used here"):
        check_weights(tcnn, state_of(torch_), "x")


def test_a_truncated_checkpoint_is_one_line(tmp_path):
    for size in (0, 100, CHECKPOINT.stat().st_size // 2):
        broken = tmp_path / CHECKPOINT.name
        broken.write_bytes(CHECKPOINT.read_bytes()[:size])
        with pytest.raises(UserError, match=r"step-000000079.ckpt cannot be read \(.*\): it is damaged"):
            read_checkpoint(broken)


def test_the_newest_checkpoint_is_found_in_a_runs_folder_too(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    folder = tmp_path / "nerfstudio_models"
    folder.mkdir()
    for step in (5, 1200, 90):
        (folder / f"step-{step:09d}.ckpt").touch()
    assert newest_checkpoint(folder) == newest_checkpoint(tmp_path) == folder / "step-000001200.ckpt"


def test_a_config_from_another_system_is_read(tmp_path):
    run = shutil.copytree(RELEASED, tmp_path / "run") / "config.yml"
    run.write_text(run.read_text().replace("pathlib.PosixPath", "pathlib.WindowsPath"))
    opened = SavedRun.open(run)
    assert opened.step == 79 and opened.config.method_name == "mobiler2l-tiny"


@pytest.fixture
def capture(tmp_path):
    """The capture of the run that version 0.1.0 trained."""
    folder = tmp_path / "capture"
    load_script("make_demo_scene").write_scene(folder, size=36, train=10, val=2, test=2, supersample=1)
    return folder


def trainer_that_resumes(capture: Path, tmp_path: Path, **datamanager):
    from dataclasses import replace

    from mobiler2l_ns.plugin import methods  # noqa: F401  nerfstudio's checkpoints become readable

    config = SavedRun.open(RELEASED / "config.yml").config
    parser = replace(config.pipeline.datamanager.dataparser, data=capture)  # type: ignore[attr-defined]
    config.pipeline.datamanager = replace(config.pipeline.datamanager, data=capture, dataparser=parser, **datamanager)
    config.data, config.output_dir, config.timestamp, config.load_dir = capture, tmp_path, "resumed", RELEASED
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer


def test_a_runs_folder_may_stand_for_its_checkpoints(capture, tmp_path):
    assert trainer_that_resumes(capture, tmp_path)._start_step == 80


def test_resuming_at_another_size_is_one_line(capture, tmp_path):
    with pytest.raises(UserError, match="checkpoint is of pictures of 36 x 36 pixels, these are 32 x 32: resume with"):
        trainer_that_resumes(capture, tmp_path, max_image_size=32)


def test_resuming_on_another_capture_is_one_line(tmp_path):
    other = tmp_path / "other"
    load_script("make_demo_scene").write_scene(other, size=36, train=11, val=2, test=2, supersample=1)
    transforms = other / "transforms_train.json"
    import json

    cameras = json.loads(transforms.read_text())
    cameras["frames"] = cameras["frames"][1:]
    transforms.write_text(json.dumps(cameras))
    with pytest.raises(UserError, match="The checkpoint is of another capture, whose cameras are not these"):
        trainer_that_resumes(other, tmp_path)


def test_random_numbers_go_on_where_the_checkpoint_left_them(capture, tmp_path):
    trainer = trainer_that_resumes(capture, tmp_path)
    trainer.checkpoint_dir = tmp_path / "checkpoints"
    trainer.save_checkpoint(80)
    poses, numbers = trainer.pipeline.datamanager.sample_poses(3), torch.rand(3)
    again = trainer_that_resumes(capture, tmp_path)
    again.pipeline.load_pipeline(read_checkpoint(tmp_path / "checkpoints" / "step-000000080.ckpt")["pipeline"], 80)
    torch.testing.assert_close(again.pipeline.datamanager.sample_poses(3), poses)
    torch.testing.assert_close(torch.rand(3), numbers)
