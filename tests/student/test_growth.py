"""The backbone grows during distillation, and no picture changes when it does."""

from dataclasses import replace

import pytest
import torch

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.student.config import StudentConfig
from mobiler2l_ns.student.growth import Growth
from mobiler2l_ns.student.network import StudentNetwork

TINY = StudentConfig(width=16, num_blocks=6, sr_channels=(8, 8, 4), norm=False)


def test_blocks_join_in_stages():
    growth = Growth(blocks=29, shares=(0.07, 0.2, 0.5), until=(0.4, 0.6, 0.8))
    progress = (-3.0, 0.0, 0.39, 0.4, 0.59, 0.6, 0.79, 0.8, 1.0)
    assert [growth.active(p) for p in progress] == [3, 3, 3, 6, 6, 15, 15, 29, 29]
    assert [growth.born(block) for block in (0, 2, 3, 5, 6, 14, 15, 28)] == [0, 0, 0.4, 0.4, 0.6, 0.6, 0.8, 0.8]


def test_without_stages_all_blocks_are_there_from_the_start():
    growth = Growth(blocks=5)
    assert growth.active(0.0) == 5 and growth.born(4) == 0.0


@pytest.mark.parametrize(("shares", "until"), [((0.5,), ()), ((0.5, 0.2), (0.1, 0.2)), ((0.1, 0.2), (0.6, 0.3))])
def test_stages_that_cannot_be_are_refused(shares, until):
    with pytest.raises(UserError, match="both must increase and be equally long"):
        Growth(5, shares, until)


def train(network, steps=3):
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    encoded, picture = torch.randn(2, 312, 3, 3), torch.rand(2, 3, 24, 24)
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        ((network(encoded) - picture) ** 2).mean().backward()
        optimizer.step()
    return encoded


@pytest.mark.parametrize("norm", [False, True])
def test_a_block_that_joins_changes_nothing_until_it_learns(norm):
    network = StudentNetwork(replace(TINY, norm=norm))
    network.active_blocks = 2
    encoded = train(network)
    network.eval()
    before = network(encoded)
    network.active_blocks = 6
    torch.testing.assert_close(network(encoded), before)
    network.train()
    train(network)
    network.eval()
    whole = network(encoded)
    network.active_blocks = 2
    assert not torch.allclose(whole, network(encoded))


def test_blocks_that_are_not_active_are_left_alone():
    network = StudentNetwork(TINY)
    network.active_blocks = 2
    before = {name: value.clone() for name, value in network.body.named_parameters()}
    train(network)
    moved = {int(name.split(".")[0]) for name, p in network.body.named_parameters() if (p != before[name]).any()}
    assert moved == {0, 1}
