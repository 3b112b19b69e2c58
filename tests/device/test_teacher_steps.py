"""A nerfacto's step and its pictures on a GPU, from rays on. nerfstudio's rays of cameras choose pixels by masks, whose
counts the host waits for: they cannot be faked, and stand here ready-made."""

from typing import Any

import pytest
import torch
from conftest import small_teacher
from fake_gpu import GPU, backward_passes, fake_gpu
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import SceneBox
from torchmetrics import Metric

from mobiler2l_ns.teacher.hash_grids import HashGrids
from mobiler2l_ns.teacher.nerfacto import lazy_lpips
from mobiler2l_ns.teacher.render import render_teacher
from mobiler2l_ns.teacher.watch import TeacherWatch


@pytest.fixture
def teacher():
    with lazy_lpips():
        box = SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3]))
        model = small_teacher().setup(scene_box=box, num_train_data=3, metadata={}, device="cpu")
    HashGrids(model)
    return model


def rays(*shape):
    return RayBundle(
        origins=torch.rand(*shape, 3, device=GPU),
        directions=torch.rand(*shape, 3, device=GPU),
        pixel_area=torch.rand(*shape, 1, device=GPU),
        camera_indices=torch.zeros(*shape, 1, dtype=torch.long, device=GPU),
        metadata={"directions_norm": torch.ones(*shape, 1, device=GPU)},
    )


def move(model):
    """To the GPU, each parameter once: a fake one cannot be moved again, and nerfstudio's field has its grid twice."""
    for module in model.modules():
        module._apply(lambda values: values.to(GPU), **({} if isinstance(module, Metric) else {"recurse": False}))


@backward_passes
def test_it_learns_on_the_gpu_alone(teacher, monkeypatch):
    # nerfstudio's camera optimizer brings its metrics to the host in every step.
    monkeypatch.setattr(teacher.camera_optimizer, "get_metrics_dict", lambda metrics: None)
    with fake_gpu():
        move(teacher)
        teacher.train()
        outputs = teacher(rays(64))
        batch = {"image": torch.rand(64, 3, device=GPU)}
        metrics = teacher.get_metrics_dict(outputs, batch)
        losses = teacher.get_loss_dict(outputs, batch, metrics)
        loss: Any = sum(losses.values())
        loss.backward()
        TeacherWatch().see(outputs["rgb"], batch["image"], outputs["accumulation"])
        assert all(value.device == GPU for value in losses.values())


def test_its_pictures_stay_there(teacher, monkeypatch):
    bundle: Any = type("Camera", (), {"to": lambda self, _: self})()
    with fake_gpu():
        move(teacher)
        monkeypatch.setattr(
            teacher,
            "get_outputs_for_camera",
            lambda camera, obb_box: teacher.get_outputs_for_camera_ray_bundle(rays(8, 12)),
        )
        outputs = render_teacher(teacher, bundle, torch.ones(3))
        for name, channels in (("rgb", 3), ("depth", 1), ("accumulation", 1)):
            assert outputs[name].shape == (8, 12, channels) and outputs[name].device == GPU
