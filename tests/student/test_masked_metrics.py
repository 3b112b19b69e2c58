"""ns-eval's figures of photos with masks: of what is visible, by student and teacher alike."""

from __future__ import annotations

import pytest
import torch
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.models.base_model import Model

from mobiler2l_ns.metrics import LazyLPIPS
from mobiler2l_ns.student.model import MobileR2LModel, MobileR2LModelConfig


class Measuring(Model):
    """A teacher that measures what nerfstudio's do: the whole picture."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def get_image_metrics_and_images(self, outputs, batch):
        self.rgb = outputs["rgb"]
        return {"psnr": 1.0, "ssim": float((outputs["rgb"] - batch["image"]).abs().mean())}, {}


@pytest.fixture
def model(monkeypatch) -> MobileR2LModel:
    monkeypatch.setattr(LazyLPIPS, "_networks", {"alex": None})
    config = MobileR2LModelConfig(width=8, num_blocks=1, sr_channels=(8,), sr_blocks=1)
    return config.setup(scene_box=SceneBox(aabb=torch.tensor([[-1.0] * 3, [1.0] * 3])), num_train_data=1)


def masked_batch():
    photo, mask = torch.rand(16, 20, 3) * 0.5, torch.zeros(16, 20, 1, dtype=torch.bool)
    mask[:, :6] = True
    return {"image": photo, "mask": mask}, torch.where(mask, photo + 0.1, torch.ones(3))


def test_the_student_is_measured_where_the_photo_is_visible(model):
    model.student.capture.record(depth_known=torch.tensor(True), depth_range=torch.tensor([1.0, 2.0]))
    batch, rgb = masked_batch()
    outputs = {"rgb": rgb, "teacher_rgb": torch.where(batch["mask"], batch["image"] + 0.01, torch.zeros(3))}
    metrics, _ = model.get_image_metrics_and_images(outputs, batch)
    assert metrics["psnr"] == pytest.approx(20.0, abs=1e-3)
    assert metrics["teacher_psnr"] == pytest.approx(40.0, abs=1e-2)
    nothing = {**batch, "mask": torch.zeros_like(batch["mask"])}
    assert set(model.get_image_metrics_and_images(outputs, nothing)[0]) == {"psnr_to_teacher"}


def test_so_is_the_teacher_before_the_student_has_begun(model):
    model.add_teacher(Measuring(), trained_here=False)
    batch, rgb = masked_batch()
    metrics, _ = model.get_image_metrics_and_images({"rgb": rgb}, batch)
    assert metrics["teacher_psnr"] == pytest.approx(20.0, abs=1e-3)
    assert metrics["teacher_ssim"] == pytest.approx(0.1 * 6 / 20, abs=1e-4)
