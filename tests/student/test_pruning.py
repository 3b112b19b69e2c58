"""Pruning removes whole channels and blocks: the network is smaller, and what was of no use is what went."""

from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import cast

import pytest
import torch
from torch import nn

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export.package import Request, export_packages
from mobiler2l_ns.run.distributed import mean_of_ranks
from mobiler2l_ns.run.optimizer import MuonOptimizerConfig
from mobiler2l_ns.run.selection import BestStudent
from mobiler2l_ns.student.config import PruningSchedule, StudentConfig
from mobiler2l_ns.student.cost import measure_cost
from mobiler2l_ns.student.network import ResidualBlock, StudentNetwork
from mobiler2l_ns.student.pruning import Pruning, channel_moments, choose, importance, prune, remove, smallest_macs
from mobiler2l_ns.student.renderer import Student

SMALL = StudentConfig(
    num_points=2, num_frequencies=2, width=24, num_blocks=3, activation="relu", sr_channels=(16, 16, 8), sr_blocks=1
)
VARIANTS = {
    "no norm": replace(SMALL, norm=False),
    "norm": SMALL,
    "mlp": replace(SMALL, layer="mlp", activation="gelu"),
    "no super-resolution": replace(SMALL, strides=(), norm=False),
    "stride 6": replace(SMALL, strides=(2, 3), sr_blocks=2),
}


@pytest.fixture(params=VARIANTS)
def config(request) -> StudentConfig:
    return VARIANTS[request.param]


def trained(config: StudentConfig) -> StudentNetwork:
    """A network whose weights and batch norms are as unlike the initial ones as training makes them."""
    network = StudentNetwork(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for block, _ in network.residual_blocks():
        for layer in (block.body[0], block.tail[0]):
            nn.init.normal_(layer.weight, std=0.3)  # type: ignore[arg-type]
            nn.init.normal_(layer.bias, std=0.3)  # type: ignore[arg-type]
        for norm in (module for module in block.modules() if isinstance(module, nn.BatchNorm2d)):
            assert norm.running_mean is not None and norm.running_var is not None
            for tensor in (norm.weight, norm.bias, norm.running_mean):
                nn.init.normal_(tensor, 0.2, 0.3)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
    nn.init.normal_(network.out[0].weight, std=1.0)  # type: ignore[arg-type]
    return network.eval()


def encoded(config: StudentConfig, views: int = 2) -> torch.Tensor:
    return torch.randn(views, config.input_channels, 5, 4)


def zeros(network: StudentNetwork) -> list[torch.Tensor]:
    return [torch.zeros(block.hidden) for block, _ in network.residual_blocks()]


def every_other_channel(network: StudentNetwork) -> list[torch.Tensor]:
    return [torch.arange(0, block.hidden, 2) for block, _ in network.residual_blocks()]


def cost_of_a_channel(block: ResidualBlock, scale: int) -> int:
    """Multiply-accumulates for one ray."""
    width = len(cast(torch.Tensor, block.tail[0].weight))
    return 2 * width * scale**2


# Removal


def test_a_pruned_network_is_the_whole_one_with_those_channels_held_at_zero(config):
    network, keeps = trained(config), []
    pruned, whole = deepcopy(network), deepcopy(network)
    for block, _ in whole.residual_blocks():
        keep = torch.arange(0, block.hidden, 2)
        keeps.append(keep)
        rest = torch.ones(block.hidden, dtype=torch.bool)
        rest[keep] = False
        block.tail[0].weight.data[:, rest] = 0.0  # type: ignore[index,operator]
    remove(pruned, keeps, zeros(pruned))
    inputs = encoded(config)
    assert all(block.hidden == len(keep) for (block, _), keep in zip(pruned.residual_blocks(), keeps, strict=True))
    torch.testing.assert_close(pruned(inputs), whole(inputs), atol=1e-6, rtol=0)
    assert not torch.allclose(network(inputs), whole(inputs), atol=1e-2)
    torch.testing.assert_close(pruned.train()(inputs), whole.train()(inputs), atol=1e-5, rtol=0)


def test_channels_that_never_change_cost_nothing_to_remove(config):
    network, inputs = trained(config), encoded(config)
    for block, _ in network.residual_blocks():  # every other channel ignores the ray
        block.body[0].weight.data[1::2] = 0.0  # type: ignore[index,operator]
    moments = channel_moments(network, inputs)
    for values in map(importance, moments):
        assert float(values[1::2].max()) < 1e-5 * float(values[::2].max())
    # Not only channels, a whole block behind the backbone's first may be constant.
    last = network.body[-1]
    assert isinstance(last, ResidualBlock)
    last.body[0].weight.data.zero_()  # type: ignore[operator]
    before, moments = network(inputs), channel_moments(network, inputs)
    keeps = every_other_channel(network)
    keeps[config.num_blocks - 1] = torch.arange(0)
    remove(network, keeps, [values[3] for values in moments])
    assert last.hidden == 0 and sum(p.numel() for p in last.parameters()) == 0
    torch.testing.assert_close(network(inputs), before, atol=1e-5, rtol=0)


def test_a_super_resolution_block_that_goes_leaves_its_mean_to_the_upsampling():
    network, inputs = trained(SMALL), encoded(SMALL)
    block = list(network.residual_blocks())[-1][0]
    block.body[0].weight.data.zero_()  # type: ignore[operator]
    before, moments = network(inputs), channel_moments(network, inputs)
    keeps = [torch.arange(block.hidden) for block, _ in network.residual_blocks()]
    keeps[-1] = torch.arange(0)
    remove(network, keeps, [values[3] for values in moments])
    assert block.hidden == 0
    torch.testing.assert_close(network(inputs), before, atol=1e-5, rtol=0)


# Training goes on


def _adamw(**settings):
    return lambda network: torch.optim.AdamW(network.parameter_groups(), lr=1e-3, **settings)


OPTIMIZERS = {
    "plain": (_adamw(), "exp_avg"),
    "foreach": (_adamw(foreach=True), "exp_avg"),
    "fused": (_adamw(fused=True), "exp_avg"),
    "muon": (lambda network: MuonOptimizerConfig(lr=1e-3).setup(network.parameter_groups()), "momentum"),
}


@pytest.mark.parametrize(("make", "mean"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_optimizer_goes_on_with_what_it_knows_of_the_channels_that_stay(make, mean):
    network = trained(SMALL).train()
    optimizer = make(network)
    inputs, target = encoded(SMALL), torch.rand(2, 3, 40, 32)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = ((network(inputs) - target) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    before_the_round = step()  # its graph lives on, as in nerfstudio's training loop
    held = list(network.parameters())
    first = next(network.residual_blocks())[0].body[0].weight
    momentum = optimizer.state[first][mean].clone()  # type: ignore[index]
    keeps = every_other_channel(network)
    keeps[2], keeps[-1] = torch.arange(0), torch.arange(0)
    remove(network, keeps, zeros(network), optimizer)
    assert all(a is b for a, b in zip(held, network.parameters(), strict=True))
    assert torch.equal(optimizer.state[first][mean], momentum[::2])  # type: ignore[index]
    for parameter in network.parameters():
        for value in optimizer.state[parameter].values():
            assert value.shape in ((), parameter.shape)
            assert value.shape == () or value.stride() == parameter.stride()
    weights = [p.clone() for p in network.parameters()]
    assert torch.isfinite(step()) and torch.isfinite(before_the_round)
    assert all((a != b).any() for a, b in zip(weights, network.parameters(), strict=True) if a.numel())

    # A new optimizer of a pruned network takes the state of a resumed run.
    other = StudentNetwork(SMALL)
    resumed = make(other)
    other.load_state_dict(network.state_dict())
    resumed.load_state_dict(optimizer.state_dict())
    for ours, theirs in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        known = optimizer.state[ours]
        assert known.keys() == resumed.state[theirs].keys() and known
        assert all(torch.equal(value, resumed.state[theirs][name]) for name, value in known.items())


def test_a_state_of_a_pruned_network_opens_in_a_whole_one(config):
    pruned, inputs = trained(config), encoded(config)
    keeps = every_other_channel(pruned)
    keeps[1] = torch.arange(0)
    remove(pruned, keeps, zeros(pruned))
    opened = StudentNetwork(config).eval()
    student = Student(StudentConfig(**vars(config)))
    remembered = BestStudent(Student(StudentConfig(**vars(config))))
    opened.load_state_dict(pruned.state_dict())
    student.network.load_state_dict(pruned.state_dict())
    remembered.consider(student, 1.0)
    torch.testing.assert_close(opened(inputs), pruned(inputs))
    torch.testing.assert_close(remembered.network.eval()(inputs), pruned(inputs))
    other = StudentNetwork(replace(config, width=16))
    with pytest.raises(RuntimeError, match="size mismatch for head.0.weight"):
        other.load_state_dict(pruned.state_dict())


# Cost


def test_multiply_accumulates_are_counted_exactly(config):
    network = trained(config)
    for _ in range(2):
        cost = measure_cost(network, 48, 96)
        rays = cost.input_shape[2] * cost.input_shape[3]
        assert cost.gmac * 1e9 == network.macs() * rays
        assert cost.params == sum(p.numel() for p in network.parameters())
        keeps = every_other_channel(network)
        keeps[2] = torch.arange(0)
        remove(network, keeps, zeros(network))
    assert measure_cost(network, 48, 96).gmac < measure_cost(config, 48, 96).gmac


def test_a_round_leaves_what_it_may_and_hardly_less(config):
    network = trained(config)
    whole = network.macs()
    for share in (0.1, 0.2, 0.25):
        wanted = (1.0 - share) * whole
        prune(network, channel_moments(network, encoded(config)), wanted)
        step = 8 * max(cost_of_a_channel(block, scale) for block, scale in network.residual_blocks())
        assert wanted - step < network.macs() <= wanted
        assert all(block.hidden % 8 == 0 for block, _ in network.residual_blocks())


def test_the_smallest_network_keeps_a_group_in_the_first_block(config):
    network = trained(config)
    prune(network, channel_moments(network, encoded(config)), 0.0)
    assert [block.hidden for block, _ in network.residual_blocks()][0] == 8
    assert sum(block.hidden for block, _ in network.residual_blocks()) == 8
    assert network.macs() == smallest_macs(trained(config))
    assert torch.isfinite(network(encoded(config))).all()


# Importance


def held_at_mean(_, values, channel: int, ray: int, scale: int, mean: torch.Tensor):
    """The input of a block's second layer with one channel at its mean in the pixels of one of 2 x 2 rays."""
    changed = values[0].clone()
    rows, columns = (slice(place * scale, (place + 1) * scale) for place in divmod(ray, 2))
    changed[:, channel, rows, columns] = mean[channel]
    return (changed,)


def test_importance_is_what_the_picture_loses(config):
    """The fast estimate against the plain one: hold a channel at its mean in one ray after the other, and look."""
    torch.manual_seed(1)
    network = trained(replace(config, activation="none", norm=False)).double()
    network.out[0].weight.data.mul_(1e-3)  # type: ignore[operator]  # where the sigmoid is straight
    inputs = torch.randn(1, config.input_channels, 2, 2).double()
    moments = channel_moments(network, inputs.expand(400, -1, -1, -1))  # as many draws of signs
    blocks = list(network.residual_blocks())
    picture = network(inputs)
    for index in (0, len(blocks) - 1):
        (block, scale), estimate, mean = blocks[index], importance(moments[index]), moments[index][3]
        for channel in (0, 3):
            lost = 0.0
            for ray in range(4):
                hold = partial(held_at_mean, channel=channel, ray=ray, scale=scale, mean=mean)
                hook = block.tail[0].register_forward_pre_hook(hold)
                lost += float(((network(inputs) - picture) ** 2).mean())
                hook.remove()
            assert float(estimate[channel]) == pytest.approx(lost, rel=0.2)


def test_planted_useless_channels_are_the_ones_removed(config):
    network = trained(replace(config, activation="gelu"))  # ReLUs may be dead, and useless too
    planted = []
    for block, _ in network.residual_blocks():
        useless = torch.randperm(block.hidden)[:8]
        block.tail[0].weight.data[:, useless] *= 1e-4  # type: ignore[index,operator]
        planted.append(set(useless.tolist()))
    cost = sum(8 * cost_of_a_channel(block, scale) for block, scale in network.residual_blocks())
    values = [importance(moments) for moments in channel_moments(network, encoded(config, 4))]
    keeps = choose(network, values, network.macs() - cost)
    for (block, _), keep, useless in zip(network.residual_blocks(), keeps, planted, strict=True):
        assert set(range(block.hidden)) - set(keep.tolist()) == useless


def test_of_two_equally_important_channels_the_costlier_goes():
    network = trained(SMALL)
    values = [torch.ones(block.hidden) for block, _ in network.residual_blocks()]
    keeps = choose(network, values, network.macs() - 1)
    costs = [cost_of_a_channel(block, scale) for block, scale in network.residual_blocks()]
    gone = [block.hidden - len(keep) for (block, _), keep in zip(network.residual_blocks(), keeps, strict=True)]
    assert [index for index, channels in enumerate(gone) if channels] == [costs.index(max(costs))]


def test_measuring_leaves_the_network_as_it_was():
    network = trained(SMALL).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    channel_moments(network, encoded(SMALL))
    assert network.training and all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(block.tail[0]._forward_pre_hooks for block, _ in network.residual_blocks())


def test_a_single_device_averages_nothing():
    values = [torch.randn(4, 3), torch.zeros(4, 0)]
    assert all(a is b for a, b in zip(mean_of_ranks(values), values, strict=True))


# The schedule


def test_one_share_is_reached_in_four_rounds():
    pruning = Pruning(SMALL, PruningSchedule(prune=(0.2,), prune_between=(0.6, 0.9)))
    progress, shares = zip(*pruning.rounds(), strict=True)
    assert progress == pytest.approx((0.6, 0.7, 0.8, 0.9)) and shares == pytest.approx((0.05, 0.1, 0.15, 0.2))
    assert [pruning.share(progress) for progress in (-1.0, 0.0, 0.59, 0.65, 0.95)] == [0.0, 0.0, 0.0, 0.05, 0.2]


def test_a_schedule_is_one_round_a_share_and_due_until_the_network_is_that_small():
    pruning = Pruning(SMALL, PruningSchedule(prune=(0.1, 0.25)))
    network = trained(SMALL)
    whole = network.macs()
    assert pruning.rounds() == [(0.65, 0.1), (0.85, 0.25)]
    assert pruning.due(network, 0.64) is None
    wanted = pruning.due(network, 0.7)
    assert wanted is not None and wanted == pytest.approx(0.9 * whole)
    prune(network, channel_moments(network, encoded(SMALL)), wanted)
    assert pruning.due(network, 0.84) is None and pruning.due(network, 0.86) == pytest.approx(0.75 * whole)


def test_the_backbone_is_grown_before_the_first_round():
    assert Pruning(SMALL, PruningSchedule()).until((0.4, 0.6, 0.8)) == (0.4, 0.6, 0.8)
    pruning = Pruning(SMALL, PruningSchedule(prune=(0.2,), prune_between=(0.5, 0.7)))
    assert pruning.until((0.4, 0.6, 0.8)) == pytest.approx((0.225, 0.3375, 0.45))
    assert pruning.until((0.2, 0.4)) == (0.2, 0.4) and pruning.until(()) == ()


@pytest.mark.parametrize("shares", [(), (0.0,)])
def test_without_a_share_nothing_is_ever_due(shares):
    pruning = Pruning(SMALL, PruningSchedule(prune=shares))
    assert pruning.due(StudentNetwork(SMALL), 1.0) is None and pruning.rounds() == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prune": (1.0,)}, r"--pipeline.model.prune \(1.0,\): give shares from 0 to 1 that increase"),
        ({"prune": (-0.1,)}, "give shares from 0 to 1"),
        ({"prune": (0.3, 0.2)}, "that increase"),
        ({"prune": (0.9,)}, "--pipeline.model.prune 0.9: at most 0.27 of this network lies in channels that can go"),
        ({"prune": (0.2,), "prune_between": (0.8, 0.6)}, "--pipeline.model.prune-between 0.8 0.6: they must lie"),
        ({"prune": (0.2,), "prune_between": (0.5, 1.0)}, "they must lie between 0 and 1"),
    ],
)
def test_what_cannot_be_pruned_is_one_clear_line(settings, message):
    with pytest.raises(UserError, match=message):
        Pruning(SMALL, PruningSchedule(**settings))


# Export


@pytest.mark.parametrize("name", ["no norm", "norm", "mlp"])
def test_the_exported_network_is_smaller_and_still_the_student(name, tmp_path):
    import onnx

    config = VARIANTS[name]

    def exported(student: Student, folder: str) -> tuple[int, int, int]:
        (package,) = export_packages(student, [Request("onnx", precision="fp32")], tmp_path / folder)
        assert package.psnr_student >= 80
        file = tmp_path / folder / "mobiler2l.onnx"
        graph = onnx.load(str(file)).graph
        shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        assert all(0 not in shape for shape in shapes.values())
        layers = [node for node in graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]
        return file.stat().st_size, sum(torch.Size(shape).numel() for shape in shapes.values()), len(layers)

    student = Student(config)
    student.network.load_state_dict(trained(config).state_dict())
    poses = torch.eye(4)[:3].repeat(8, 1, 1)
    poses[:, :, 3] = torch.randn(8, 3) + torch.tensor([0.0, 0.0, 4.0])
    student.capture.record(
        image_size=torch.tensor([44, 60]), intrinsics=torch.tensor([70.0, 72.0, 31.0, 20.0]), proof_poses=poses
    )
    whole_size, whole_weights, whole_layers = exported(student.eval(), "whole")
    network, before = student.network, measure_cost(student.network, 44, 60)
    keeps = every_other_channel(network)
    keeps[1], keeps[-1] = torch.arange(0), torch.arange(0)
    remove(network, keeps, zeros(network))
    cost = measure_cost(network, 44, 60)
    size, weights, layers = exported(student, "pruned")
    assert size < whole_size and cost.gmac < before.gmac
    assert whole_weights - weights == before.params_folded - cost.params_folded
    assert layers == whole_layers - 4
