"""Two ranks with a GPU each."""

from dataclasses import replace

import pytest
import torch
from small_student import VOLUME
from two_ranks import train_on_two_ranks


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two GPUs")
def test_both_have_the_same_weights_after_every_phase(make_config, tmp_path):
    config = make_config(tmp_path, "run", teacher_steps=10, distill_steps=10, finetune_steps=10)
    config.machine = replace(config.machine, device_type="cuda", num_devices=2)
    config.pipeline.model = replace(config.pipeline.model, **VOLUME)
    ((first, second),) = train_on_two_ranks([config], tmp_path)
    for ours, theirs in zip(first["states"], second["states"], strict=True):
        different = [name for name in ours if not torch.equal(ours[name].cpu(), theirs[name].cpu())]
        assert different == ["_extra_state"]
