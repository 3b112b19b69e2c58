"""torch.compile: a graph for each depth of the backbone and each pruned shape, and no others."""

import pytest
import torch
from torch._dynamo.utils import counters

from mobiler2l_ns.devices import compiles
from mobiler2l_ns.student.config import Execution, StudentConfig
from mobiler2l_ns.student.pruning import channel_moments, prune
from mobiler2l_ns.student.renderer import Student


def test_growth_and_pruning_cost_a_graph_each(device):
    if not compiles(device):
        pytest.skip("torch.compile finds no compiler for this device")
    config = StudentConfig(width=32, num_blocks=3, sr_channels=(16, 16, 8), sr_blocks=1, norm=False, activation="relu")
    student = Student(config, Execution(compile="on")).to(device).train()
    student.compile_for(torch.device(device))
    rays = student.view().window(48, 48).rays(torch.eye(4)[None, :3].to(device))

    def learn(blocks):
        student.network.active_blocks = blocks
        for _ in range(2):
            student(*rays).square().mean().backward()

    counters.clear()
    for blocks in (1, 2, 3):
        learn(blocks)
    assert counters["stats"]["unique_graphs"] == 3
    inputs, _ = student.network_inputs(*rays)
    prune(student.network, channel_moments(student.network, *inputs), 0.8 * student.network.macs())
    student.compile_for(torch.device(device))
    counters.clear()
    learn(3)
    assert counters["stats"]["unique_graphs"] == 1
