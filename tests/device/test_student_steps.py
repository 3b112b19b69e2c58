"""A student's step on a GPU, from rays to new weights: no tensor is on the wrong device, and the host never waits.

Not faked, since their results' sizes or the host's next step depend on values: counting the volume's density and
measuring the scene (once a run, ``bincount`` and masks), the choice of channels to prune, selection photos, and
gradient scalers (the teacher's). Nor kernels, their numbers and their speed, torch.compile, cuDNN and DDP: tests/cuda.
"""

from typing import Any

import pytest
import torch
from fake_gpu import GPU, backward_passes, fake_gpu
from small_student import VOLUME, VOLUMES, make_student

from mobiler2l_ns.run.optimizer import AdamWOptimizerConfig, MuonOptimizerConfig
from mobiler2l_ns.student.losses import colour_psnr, training_losses, training_outputs
from mobiler2l_ns.student.pruning import channel_moments, remove

STUDENTS = {
    "light field": {},
    "norm, jitter, several pitches": {"norm": True, "jitter": "ray", "pitches": (1.0, 1.5)},
    "mlp, unbounded": {"layer": "mlp", "contraction": "on", "jitter": "batch"},
    **VOLUMES,
}
OPTIMIZERS = {"adamw": AdamWOptimizerConfig(lr=1e-3), "muon": MuonOptimizerConfig(lr=1e-3)}


def two_views(student: Any):
    poses = torch.eye(4)[:3].repeat(2, 1, 1)
    poses[:, 2, 3] = 4.0
    return student.view().rays(poses.to(GPU))


def learn(student, optimizer, mask):
    """One step; returns its losses and metric."""
    outputs: dict[str, Any] = training_outputs(student, two_views(student), coarser=len(student.config.pitches) > 1)
    batch = {"image": torch.rand(*outputs["rgb"].shape, device=GPU)}
    if mask:
        batch["mask"] = (torch.rand(*outputs["rgb"].shape[:3], device=GPU) > 0.5).float()
    losses = training_losses(outputs, batch, 0.5)
    loss: Any = sum(losses.values())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {**losses, "psnr": colour_psnr(outputs["rgb"], batch["image"], batch.get("mask"))}


def on_gpu(**settings) -> Any:
    return make_student(**settings).train().requires_grad_(True).to(GPU)


@backward_passes
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_learns_on_the_gpu_alone(name, mask):
    with fake_gpu():
        student = on_gpu(**STUDENTS[name])
        optimizer = OPTIMIZERS["muon"].setup(student.parameter_groups())
        values = learn(student, optimizer, mask)
        assert ("volume_rgb_loss" in values) == (student.volume is not None)
        assert all(value.device == GPU for value in values.values())


@backward_passes
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_keeps_what_it_knows_beside_its_parameters(name):
    with fake_gpu():
        student = on_gpu(**VOLUME)
        optimizer = OPTIMIZERS[name].setup(student.parameter_groups())
        for _ in range(2):
            learn(student, optimizer, mask=False)
        assert optimizer.defaults["fused"]
        for parameter, state in optimizer.state.items():
            moments = [value for value in state.values() if value.shape == parameter.shape]
            assert moments and all(value.device == GPU for value in moments)


def test_the_network_runs_in_bfloat16_and_the_rest_in_float32(monkeypatch):
    with fake_gpu():
        student = on_gpu(sphere=True, **VOLUME)
        seen = []
        student.network.out[0].register_forward_hook(lambda _, inputs, output: seen.append(output.dtype))
        (encoded, features), composited = student.network_inputs(*two_views(student))
        assert encoded.dtype == features.dtype == composited.colours.dtype == torch.float32
        assert student(*two_views(student)).dtype == torch.float32 and seen == [torch.bfloat16]


@backward_passes
def test_what_pruning_measures_and_removes_stays_on_the_gpu():
    with fake_gpu():
        student = on_gpu(norm=True, **VOLUME)
        optimizer = OPTIMIZERS["muon"].setup(student.parameter_groups())
        learn(student, optimizer, mask=False)
        inputs, _ = student.network_inputs(*two_views(student))
        moments = channel_moments(student.network, *inputs)
        assert all(values.device == GPU for values in moments)
        # The first block keeps some channels, the second none.
        keeps = [torch.arange(8), *(torch.arange(0) for _ in moments[1:])]
        remove(student.network, keeps, [values[3] for values in moments], optimizer)
        assert [block.hidden for block, _ in student.network.residual_blocks()] == [8, *[0] * (len(moments) - 1)]
        learn(student, optimizer, mask=True)


def test_a_camera_is_shown_with_all_its_numbers_read_on_the_host():
    student = make_student(sphere=True, pitches=(1.0, 2.0), **VOLUME)
    camera = student.training_camera(torch.eye(4)[:3])
    other = student.training_camera(torch.eye(4)[:3])
    other.fx, other.fy = other.fx * 0.7, other.fy * 0.7
    with fake_gpu(), torch.no_grad():
        student.to(GPU)
        for each in (camera, other):
            shown: Any = student.render_geometry(each)
            assert shown.picture.shape == (44, 60, 3) and shown.depth.shape == shown.accumulation.shape == (44, 60, 1)
            assert {value.device for value in shown} == {GPU}
