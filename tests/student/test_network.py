"""The student network: the official one to the parameter, and every variant of the paper's tables."""

from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import nn

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.student.config import StudentConfig
from mobiler2l_ns.student.cost import measure_cost
from mobiler2l_ns.student.network import ResidualBlock, StudentNetwork

PAPER = StudentConfig()
TINY = StudentConfig(width=16, num_blocks=2, sr_channels=(8, 8, 4))


@pytest.mark.parametrize(
    ("strides", "size", "params", "folded", "gmac"),
    [((2, 2, 2), (800, 800), 4_305_539, 4_274_691, 50.64), ((2, 2, 3), (756, 1008), 4_298_371, 4_267_523, 26.64)],
)
def test_the_papers_network_to_the_parameter(strides, size, params, folded, gmac):
    cost = measure_cost(replace(PAPER, strides=strides), *size)
    assert (cost.params, cost.params_folded, cost.fp16_bytes) == (params, folded, 2 * folded)
    assert cost.gmac == pytest.approx(gmac, abs=0.005)
    assert cost.output_shape == (1, 3, *size)


@pytest.mark.parametrize(
    "strides", [(), (2,), (3,), (2, 2), (2, 3), (3, 3), (2, 2, 2), (2, 2, 3), (2, 2, 2, 2)], ids=str
)
def test_strides_from_one_to_sixteen(strides):
    config = replace(TINY, strides=strides)
    picture = StudentNetwork(config).eval()(torch.randn(2, 312, 3, 5))
    assert picture.shape == (2, 3, 3 * config.stride, 5 * config.stride)
    assert bool((picture >= 0).all() and (picture <= 1).all())


@pytest.mark.parametrize("strides", [(4,), (2, 5), (3, 3, 3), (2, 2, 2, 2, 2)], ids=str)
def test_strides_that_cannot_be_are_refused(strides):
    with pytest.raises(UserError, match="must be 2 or 3 and their product at most 16"):
        StudentNetwork(replace(TINY, strides=strides))


def test_channels_align_at_the_end():
    assert replace(PAPER, strides=(2, 2)).stage_channels() == (64, 16)
    assert replace(PAPER, strides=(2, 2, 2, 2)).stage_channels() == (64, 64, 64, 16)


TABLES = {
    "Table 4: MLP": replace(TINY, layer="mlp", activation="none", norm=False),
    "Table 4: 1x1 conv": replace(TINY, activation="none", norm=False),
    "Table 4: + ReLU": replace(TINY, activation="relu", norm=False),
    "Table 4: + GELU": replace(TINY, norm=False),
    "Table 4: + GELU + BN": TINY,
    "Table 5: K16 L10": replace(TINY, num_points=16, num_frequencies=10),
    "Table 5: D100": replace(TINY, num_blocks=4),
    "Table 5: 200 x 200 input": replace(TINY, strides=(2, 2)),
    "R2L": replace(TINY, num_points=16, num_frequencies=10, layer="mlp", activation="relu", norm=False, strides=()),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_row_of_the_papers_tables_trains(name):
    config = TABLES[name]
    network = StudentNetwork(config)
    channels = 3 * config.num_points * (2 * config.num_frequencies + 1)
    picture = network(torch.randn(2, channels, 4, 4))
    picture.mean().backward()
    assert picture.shape == (2, 3, 4 * config.stride, 4 * config.stride)
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_mlp_and_convolution_are_the_same_map():
    convolution, mlp = StudentNetwork(TINY).eval(), StudentNetwork(replace(TINY, layer="mlp")).eval()
    weights = convolution.state_dict()
    mlp.load_state_dict({k: weights[k].reshape(v.shape) for k, v in mlp.state_dict().items()})
    encoded = torch.randn(1, 312, 5, 4)
    torch.testing.assert_close(mlp(encoded), convolution(encoded), atol=1e-5, rtol=1e-5)


def test_a_residual_block_ends_with_the_sum():
    block = ResidualBlock(8, "gelu", norm=True).eval()
    x = torch.randn(1, 8, 3, 3)
    first, norm1, _, second, norm2 = block.body
    expected = x + norm2(second(torch.nn.functional.gelu(norm1(first(x)))))
    torch.testing.assert_close(block(x), expected)


def test_training_and_evaluation_compute_the_same_map():
    network = StudentNetwork(replace(TINY, norm=False))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    encoded = torch.randn(2, 312, 5, 4, requires_grad=True)
    in_training = network.train()(encoded)
    (gradient,) = torch.autograd.grad(in_training.square().sum(), encoded)
    in_evaluation = network.eval()(encoded)
    torch.testing.assert_close(in_training, in_evaluation)
    torch.testing.assert_close(gradient, torch.autograd.grad(in_evaluation.square().sum(), encoded)[0])


def test_a_new_student_paints_the_mean_colour_and_low_frequencies_weigh_more():
    network = StudentNetwork(PAPER).eval()
    network.begin_with(torch.tensor([0.2, 0.5, 0.9]))
    picture = network(torch.zeros(1, 312, 2, 2))
    torch.testing.assert_close(picture.mean((0, 2, 3)), torch.tensor([0.2, 0.5, 0.9]), atol=1e-5, rtol=0)
    size = network.head[0].weight[:, :13].flatten(1).std(0)  # type: ignore[index,union-attr]
    torch.testing.assert_close(size[:6] / size[12], 0.5 ** torch.arange(6), atol=0.02, rtol=0.25)
    torch.testing.assert_close(size[6:12] / size[12], 0.5 ** torch.arange(6), atol=0.02, rtol=0.25)


def test_torchs_own_initialisation_is_there_for_the_published_recipe():
    block = StudentNetwork(replace(TINY, initialisation="torch")).body[0]
    assert all(bool((p != 0).any()) for name, p in block.named_parameters() if "weight" in name)


def test_alpha_and_pitch_are_one_channel_each():
    assert (PAPER.input_channels, PAPER.output_channels) == (312, 3)
    config = replace(TINY, alpha=True, pitches=(1.0, 2.0))
    assert StudentNetwork(config)(torch.randn(1, 313, 2, 3)).shape == (1, 4, 16, 24)


def test_the_body_has_one_skip_over_all_of_it():
    network = StudentNetwork(TINY).eval()
    encoded = torch.randn(1, 312, 3, 3)
    features = network.head(encoded)
    expected = network.out(network.super_resolution(features + network.body(features)))
    torch.testing.assert_close(network(encoded), expected)


def test_norms_of_several_devices_count_as_norms():
    network = StudentNetwork(StudentConfig(width=16, num_blocks=2))
    alone = measure_cost(network, 16, 16)
    together = measure_cost(cast(StudentNetwork, nn.SyncBatchNorm.convert_sync_batchnorm(network)), 16, 16)
    assert together == alone and alone.params_folded < alone.params
