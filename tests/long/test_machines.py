"""A run that goes on on another number of machines: ``--machine.num-machines 2`` through nerfstudio's launcher."""

from __future__ import annotations

import pytest
import torch
from short_run import PHASES, TOTAL, checkpoint_of, open_run, train
from two_machines import train_on_two_machines

from mobiler2l_ns.progress.records import FILE, read_log

MORE = 3


@pytest.fixture(scope="module")
def runs(make_config, finished_run, tmp_path_factory):
    """config.yml of a run on one device, gone on with on two machines, and of that again on one device."""
    folder = tmp_path_factory.mktemp("machines")

    def resumed(name, earlier, more):
        config = make_config(folder, name, finetune_steps=PHASES["finetune"] + more)
        config.load_dir = earlier.parent / "nerfstudio_models"
        return config

    wider = resumed("wider", finished_run, MORE)
    said = train_on_two_machines(wider, folder)
    two = wider.get_base_dir() / "config.yml"
    return {"one": finished_run, "two": two, "one again": train(resumed("narrower", two, 2 * MORE)), "said": said}


def test_two_machines_are_one_run(runs):
    speaking, silent = runs["said"]
    assert "fine-tune" in speaking and "All DDP" not in silent
    assert [record["devices"] for record in read_log(runs["two"].with_name(FILE)) if record["event"] == "start"] == [
        1,
        2,
    ]
    assert torch.load(checkpoint_of(runs["two"]))["step"] == TOTAL + MORE - 1


@pytest.mark.parametrize(
    ("name", "starts", "end"), [("two", [0, TOTAL], MORE), ("one again", [0, TOTAL, TOTAL + MORE], 2 * MORE)]
)
def test_a_run_on_another_number_of_devices_keeps_its_steps(runs, name, starts, end):
    log = read_log(runs[name].with_name(FILE))
    assert [record["step"] for record in log if record["event"] == "start"] == starts
    steps = [record["step"] for record in log if record["event"] == "train"]
    assert steps == sorted(set(steps)) and steps[-1] == TOTAL + end - 1
    _, step = open_run(runs[name])
    assert step == TOTAL + end - 1
