"""Short runs on a device: ten steps of each phase, wherever the pool lives, and from one device to the other."""

from dataclasses import replace

import pytest
import torch
from short_run import checkpoint_of, train

from mobiler2l_ns.progress.log import read_log

STEPS = {"teacher_steps": 10, "distill_steps": 10, "finetune_steps": 10}


def configured(make_config, folder, name, device, pool="auto", **steps):
    config = make_config(folder, name, **{**STEPS, **steps})
    config.machine = replace(config.machine, device_type=device)
    config.pipeline.datamanager = replace(config.pipeline.datamanager, pool_device=pool, pool_views=4)
    return config


def losses(config_path):
    return [record["loss"] for record in read_log(config_path.parent / "progress.jsonl") if record["event"] == "train"]


@pytest.fixture(scope="module")
def run(make_config, device, tmp_path_factory):
    """config.yml of a run on the device."""
    folder = tmp_path_factory.mktemp("device")
    config = configured(make_config, folder, "run", device)
    config.mixed_precision = device == "cuda"
    return train(config)


def test_each_phase_learns_for_ten_steps(run):
    found = losses(run)
    assert len(found) >= 10 and all(loss is not None for loss in found)


@pytest.mark.parametrize("pool", ["cpu", "cuda"])
def test_the_pool_may_live_on_host_and_device(make_config, device, tmp_path, pool):
    found = losses(train(configured(make_config, tmp_path, "run", device, pool, teacher_steps=2)))
    assert all(loss is not None for loss in found)


def test_a_run_goes_on_on_the_cpu_and_back(make_config, device, run, tmp_path):
    from_path = run
    for name, where, more in (("cpu", "cpu", 2), ("back", device, 4)):
        config = configured(make_config, tmp_path, name, where, finetune_steps=10 + more)
        config.load_dir = checkpoint_of(from_path).parent
        from_path = train(config)
        state = torch.load(checkpoint_of(from_path), map_location="cpu", weights_only=False)
        assert state["step"] == 29 + more
        assert all(value.isfinite().all() for value in state["pipeline"].values() if value.is_floating_point())
