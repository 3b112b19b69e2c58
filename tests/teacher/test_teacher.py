"""Any nerfstudio model can teach."""

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.models.base_model import Model
from nerfstudio.models.nerfacto import NerfactoModelConfig

from mobiler2l_ns.capture.background import Background
from mobiler2l_ns.geometry.bounds import SceneExtent
from mobiler2l_ns.geometry.picture import PictureGeometry
from mobiler2l_ns.metrics import LazyLPIPS
from mobiler2l_ns.teacher.nerfacto import lazy_lpips
from mobiler2l_ns.teacher.objects import for_objects
from mobiler2l_ns.teacher.render import fingerprint, render_pseudo_view, render_teacher


class CoarseToFine(Model):
    """Names its outputs like vanilla-nerf, and colours beyond 1."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.device_indicator_param = torch.nn.Parameter(torch.zeros(1))

    def get_outputs_for_camera(self, camera, obb_box=None):
        assert not self.training
        shape = (int(camera.height), int(camera.width))
        return {"rgb_fine": torch.full((*shape, 3), 1.5), "depth_fine": torch.ones(*shape, 1)}


def camera() -> Cameras:
    return Cameras(torch.eye(4)[None, :3], 10.0, 10.0, 4.0, 3.0, width=8, height=6)


def test_a_teacher_is_rendered_in_evaluation_mode_whatever_its_outputs_are_called():
    teacher = CoarseToFine().train()
    outputs = render_teacher(teacher, camera())
    assert outputs["rgb"].shape == (6, 8, 3) and float(outputs["rgb"].max()) == 1.0
    assert outputs["depth"].shape == (6, 8, 1)
    assert teacher.training


class InHalfPrecision(Model):
    """A teacher of matrix products, as splatfacto's camera goes through one."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.device_indicator_param = torch.nn.Parameter(torch.zeros(1))

    def get_outputs_for_camera(self, camera, obb_box=None):
        generator = torch.Generator().manual_seed(0)
        colours = torch.rand(48, 8, generator=generator) @ torch.rand(8, 3, generator=generator) / 8
        return {"rgb": colours.reshape(6, 8, 3)}


def test_a_teacher_is_rendered_in_full_precision_also_during_training():
    expected = render_teacher(InHalfPrecision(), camera())["rgb"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(render_teacher(InHalfPrecision(), camera())["rgb"], expected)


class Splats(Model):
    """A wall of half opaque red at z = -3, rendered as splatfacto does: over a colour of its own, with z-depths."""

    BACKGROUND = torch.tensor([0.1, 0.2, 0.4])

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.device_indicator_param = torch.nn.Parameter(torch.zeros(1))

    def get_outputs_for_camera(self, camera, obb_box=None):
        shape = (int(camera.height), int(camera.width))
        over = torch.tensor([0.5, 0.0, 0.0]) + 0.5 * self.BACKGROUND
        return {
            "rgb": over.expand(*shape, 3),
            "depth": torch.full((*shape, 1), 3.0),
            "accumulation": torch.full((*shape, 1), 0.5),
            "background": self.BACKGROUND.expand(*shape, 3),
        }


def test_splats_are_laid_over_the_colour_that_is_asked_for():
    for colour in (torch.zeros(3), torch.ones(3)):
        rgb = render_teacher(Splats(), camera(), colour)["rgb"]
        torch.testing.assert_close(rgb, (torch.tensor([0.5, 0.0, 0.0]) + 0.5 * colour).expand(6, 8, 3))
    premultiplied = render_pseudo_view(Splats(), camera(), background=Background(alpha=True))["picture"]
    torch.testing.assert_close(premultiplied, torch.tensor([0.5, 0.0, 0.0, 0.5]).expand(6, 8, 4))


def test_depths_of_splats_are_distances_along_the_rays():
    outputs = render_teacher(Splats(), camera())
    rays = camera().generate_rays(camera_indices=0, keep_shape=True)
    points = rays.origins + outputs["depth"] * rays.directions
    torch.testing.assert_close(points[..., 2], torch.full((6, 8), -3.0))
    view = PictureGeometry(96, 128, 40.0, 40.0, 64.0, 48.0, 8)
    solid = {**render_teacher(Splats(), view.cameras(torch.eye(4)[None, :3])), "accumulation": torch.ones(96, 128, 1)}
    extent = SceneExtent()
    extent.add(torch.eye(4)[:3], view, solid)
    near, far = extent.planes() or (0.0, 0.0)
    assert near == pytest.approx(3.0 * 0.95) and far == pytest.approx(3.0 * 1.05)


def build(**settings):
    box = SceneBox(aabb=torch.tensor([[-1.0] * 3, [1.0] * 3]))
    config = NerfactoModelConfig(implementation="torch", num_levels=2, log2_hashmap_size=6, **settings)
    with lazy_lpips():
        return for_objects(config).setup(scene_box=box, num_train_data=2, device="cpu")


def test_stock_nerfacto_is_built_without_a_network(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("torchmetrics.functional.image.lpips._LPIPS.__init__", refuse)
    teacher = build()
    assert isinstance(teacher.lpips, LazyLPIPS)
    assert not any("lpips" in name for name in teacher.state_dict())


def test_torchmetrics_own_lpips_is_back_afterwards():
    import torchmetrics.image.lpip

    build()
    assert torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity is not LazyLPIPS


def test_weights_of_any_layout_have_a_fingerprint():
    teacher = CoarseToFine()
    teacher.scalar = torch.nn.Parameter(torch.tensor(1.0))
    # One row of one value out of a wider tensor: contiguous, with a stride that is not 1.
    teacher.register_buffer("strided", torch.randn(1, 128).as_strided((1, 1), (128, 128)))
    assert len(fingerprint(teacher)) == 64


def test_the_fingerprint_tells_teachers_apart():
    teacher = CoarseToFine()
    before = fingerprint(teacher)
    assert fingerprint(teacher) == before
    torch.nn.init.ones_(teacher.device_indicator_param)
    assert fingerprint(teacher) != before
