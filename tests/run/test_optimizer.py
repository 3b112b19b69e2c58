"""Muon moves matrices by their orthogonalised momentum, and everything else as AdamW does."""

import pytest
import torch

from mobiler2l_ns.run import optimizer as optimizers
from mobiler2l_ns.run.optimizer import AdamWOptimizerConfig, MuonOptimizerConfig, orthogonalised
from mobiler2l_ns.student.config import StudentConfig
from mobiler2l_ns.student.network import StudentNetwork

SMALL = StudentConfig(width=16, num_blocks=3, sr_channels=(12, 8, 6), sr_blocks=1)
FIRST = "body.0.body.0.weight"


@pytest.fixture(params=["float32", "bfloat16"])
def arithmetic(request, monkeypatch):
    monkeypatch.setattr(optimizers, "multiplies_bfloat16", lambda device: request.param == "bfloat16")
    return request.param


def trained(optimizer, network, steps=2, seed=0):
    """Steps on random gradients; returns the last ones."""
    torch.manual_seed(seed)
    for _ in range(steps):
        for parameter in network.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("shape", [(5, 32, 32), (3, 20, 48), (3, 48, 20)], ids=["square", "wide", "tall"])
def test_singular_values_become_one_and_singular_vectors_stay(shape, arithmetic):
    torch.manual_seed(0)
    matrices = torch.randn(shape) * torch.tensor([1e-6, 1.0, 1e6, 3.0, 0.1])[: shape[0], None, None]
    found = orthogonalised(matrices)
    assert found.shape == shape and found.dtype == torch.float32
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    well_posed = values > 0.1 * values[:, :1]
    now = torch.linalg.svdvals(found)
    assert 0.6 < now[:, : int(well_posed.sum(1).min())].min() and now.max() < 1.3
    # In the old singular vectors it is diagonal.
    turned = left.mT @ found @ right.mT
    off = turned - torch.diag_embed(turned.diagonal(dim1=1, dim2=2))
    assert off.abs().max() < (2e-3 if arithmetic == "float32" else 0.1)


def test_a_matrix_without_gradient_stays_where_it_is(arithmetic):
    assert orthogonalised(torch.zeros(2, 8, 8)).abs().max() == 0.0


def test_a_step_of_all_matrices_is_that_of_each_alone(arithmetic):
    network = StudentNetwork(SMALL).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = MuonOptimizerConfig(lr=1e-3, block_lr=0.5, matrix_lr=0.02, weight_decay=0.1).setup(
        network.parameter_groups()
    )
    trained(optimizer, network, steps=1)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    momenta = {name: optimizer.state[p]["momentum"].clone() for name, p in network.named_parameters() if moves(name, p)}
    gradients = trained(optimizer, network, steps=1, seed=1)
    assert len(momenta) == 1 + 3 * 2 + 3 * 3  # the head; two in each block; upsampling and a block in each module
    for name, parameter in network.named_parameters():
        if name not in momenta:
            continue
        momentum = 0.95 * momenta[name] + 0.05 * gradients[name]
        ahead = (0.05 * gradients[name] + 0.95 * momentum).flatten(1)
        step = orthogonalised(ahead[None])[0] * max(1.0, ahead.shape[0] / ahead.shape[1]) ** 0.5
        decay = 1.0 - 0.1 * (5e-4 if name.startswith("body.") else 1e-3)
        expected = decay * before[name] - 0.02 * step.reshape(parameter.shape)
        torch.testing.assert_close(parameter.detach(), expected, atol=1e-5 if arithmetic == "float32" else 5e-4, rtol=0)
        assert parameter.grad is not None  # for those who log it


def moves(name, parameter):
    return parameter.dim() > 1 and not name.startswith("out.")


def test_everything_else_moves_as_with_adamw():
    torch.manual_seed(0)
    ours, theirs = (StudentNetwork(SMALL) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    settings = {"lr": 1e-3, "block_lr": 0.5, "betas": (0.9, 0.99)}
    trained(MuonOptimizerConfig(**settings).setup(ours.parameter_groups()), ours)
    trained(AdamWOptimizerConfig(**settings).setup(theirs.parameter_groups()), theirs)
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b) != moves(name, a), name


def test_matrices_follow_the_schedule():
    def moved(factor):
        torch.manual_seed(0)
        network = StudentNetwork(SMALL)
        optimizer = MuonOptimizerConfig(lr=1e-3, weight_decay=0.0).setup(network.parameter_groups())
        for group in optimizer.param_groups:
            group["lr"] *= factor
        before = network.get_parameter(FIRST).detach().clone()
        trained(optimizer, network, steps=1)
        return network.get_parameter(FIRST).detach() - before

    torch.testing.assert_close(moved(0.25), 0.25 * moved(1.0), atol=1e-6, rtol=0)
    assert torch.linalg.svdvals(moved(1.0).flatten(1)).max() == pytest.approx(0.01, rel=0.25)


def test_blocks_of_no_rate_are_left_alone():
    network = StudentNetwork(SMALL)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    trained(MuonOptimizerConfig(lr=1e-3, block_lr=0.0).setup(network.parameter_groups()), network)
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith("body."), name


def test_a_checkpoint_of_adamw_goes_on_with_muon():
    network = StudentNetwork(SMALL)
    old = AdamWOptimizerConfig(lr=1e-3).setup(network.parameter_groups())
    trained(old, network)
    new = MuonOptimizerConfig(lr=1e-3).setup(network.parameter_groups())
    new.load_state_dict(old.state_dict())
    trained(new, network)
    assert "momentum" in new.state[network.get_parameter(FIRST)]


def test_a_checkpoint_goes_on_as_if_nothing_had_happened():
    whole, halved = (StudentNetwork(SMALL) for _ in range(2))
    halved.load_state_dict(whole.state_dict())
    first, second, third = (MuonOptimizerConfig(lr=1e-3).setup(n.parameter_groups()) for n in (whole, halved, halved))
    trained(first, whole, steps=2)
    trained(first, whole, steps=2, seed=1)
    trained(second, halved, steps=2)
    third.load_state_dict(second.state_dict())
    trained(third, halved, steps=2, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), halved.parameters(), strict=True))


def test_hooks_are_called_once_a_step():
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])  # torch wraps a class's step when it is first made
    network = StudentNetwork(SMALL)
    optimizer = MuonOptimizerConfig(lr=1e-3).setup(network.parameter_groups())
    called = []
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))
    trained(optimizer, network, steps=2)
    assert called == ["before", "after"] * 2


def test_closures_are_refused():
    optimizer = MuonOptimizerConfig(lr=1e-3).setup(StudentNetwork(SMALL).parameter_groups())
    for call in (lambda: optimizer.step(lambda: 0.0), lambda: optimizer.step(closure=lambda: 0.0)):
        with pytest.raises(NotImplementedError, match="closure"):
            call()


def test_gradient_scalers_unscale_before_the_step():
    network = StudentNetwork(SMALL)
    optimizer = MuonOptimizerConfig(lr=1e-3).setup(network.parameter_groups())
    scaler = torch.amp.grad_scaler.GradScaler("cpu", init_scale=2.0**10)

    def backward():
        scaler.scale(torch.stack([p.sum() for p in network.parameters()]).sum()).backward()

    backward()
    before = [p.detach().clone() for p in network.parameters()]
    head = network.get_parameter("head.0.weight")
    assert head.grad is not None
    head.grad.mul_(float("inf"))
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))  # that step is skipped
    optimizer.zero_grad(set_to_none=True)
    backward()
    scaler.step(optimizer)
    assert all((a != b).any() for a, b in zip(before, network.parameters(), strict=True))
    torch.testing.assert_close(optimizer.state[head]["momentum"], torch.full_like(head, 0.05))
