"""A full disk or a read-only folder ends a run in one line, and breaks nothing that was there."""

from __future__ import annotations

import errno
import os
import resource
from contextlib import contextmanager

import pytest
import torch
from short_run import train
from small_student import make_student

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export.formats import all_formats
from mobiler2l_ns.export.package import Request, export_packages
from mobiler2l_ns.progress.log import RunLog
from mobiler2l_ns.progress.phases import PhasePlan
from mobiler2l_ns.saved_run import read_checkpoint


@contextmanager
def files_of_at_most(size: int):
    """A file system on which a file may have so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 50_000])
def test_a_checkpoint_for_which_there_is_no_space_leaves_the_one_before(make_config, tmp_path, size):
    config = make_config(tmp_path)
    config.save_config()
    trainer = config.setup()
    trainer.setup()
    trainer.save_checkpoint(1)
    with files_of_at_most(size), pytest.raises(UserError) as raised:
        trainer.save_checkpoint(2)
    said = str(raised.value)
    assert "\n" not in said and "nerfstudio_models cannot be written (" in said
    assert said.endswith(f"free some space, or make it writable, and resume with --load-dir {trainer.base_dir}")
    (kept,) = trainer.checkpoint_dir.iterdir()
    assert read_checkpoint(kept)["step"] == 1
    assert not [path for path in trainer.base_dir.iterdir() if path.name.startswith(".unfinished")]
    trainer.save_checkpoint(3)
    assert [path.name for path in trainer.checkpoint_dir.iterdir()] == ["step-000000003.ckpt"]


def test_without_a_checkpoint_there_is_nothing_to_resume(make_config, tmp_path):
    config = make_config(tmp_path)
    config.save_config()
    trainer = config.setup()
    trainer.setup()
    with files_of_at_most(0), pytest.raises(UserError, match="and start again$"):
        trainer.save_checkpoint(1)


def test_another_failure_while_saving_is_told_as_it_is(make_config, tmp_path, monkeypatch):
    config = make_config(tmp_path)
    config.save_config()
    trainer = config.setup()
    trainer.setup()

    def fail(*_):
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="CUDA error"):
        trainer.save_checkpoint(1)


def test_a_folder_that_cannot_be_written_is_one_line_before_anything_is_trained(make_config, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"mobiler2l-tiny/run cannot be written \(Not a directory\): .* --output-dir$"):
        train(make_config(tmp_path / "file"))


def test_a_log_that_cannot_be_written_is_one_line(tmp_path):
    log = RunLog(PhasePlan(teacher=1, distil=1, finetune=1))
    log.open(tmp_path / "progress.jsonl")
    before = (tmp_path / "progress.jsonl").read_text()
    with files_of_at_most(len(before)), pytest.raises(UserError, match=r"progress\.jsonl cannot be written \(File too"):
        log.note("phase", 1)
    assert (tmp_path / "progress.jsonl").read_text() == before


def test_a_package_for_which_there_is_no_space_leaves_the_one_before(tmp_path, monkeypatch):
    student, form = make_student(), all_formats()["onnx"]
    export_packages(student, [Request("onnx", "pose")], tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    convert = type(form).convert

    def half(self, graphs, path, *args):
        convert(self, graphs, path, *args)
        os.truncate(path, 100)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(form), "convert", half)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\): free some space"):
        export_packages(student, [Request("onnx", "pose")], tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
