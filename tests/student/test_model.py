"""What the model shows of any camera, with and without its teacher."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.models.base_model import Model

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.geometry.rays import LowResRays
from mobiler2l_ns.student.model import MobileR2LModel, MobileR2LModelConfig

BOX = SceneBox(aabb=torch.tensor([[-1.0] * 3, [1.0] * 3]))


class Grey(Model):
    """A teacher that is grey from everywhere."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.device_indicator_param = torch.nn.Parameter(torch.zeros(1))

    def get_outputs_for_camera(self, camera, obb_box=None):
        return {"rgb": torch.full((int(camera.height), int(camera.width), 3), 0.5)}


@pytest.fixture
def model() -> MobileR2LModel:
    """A small student of 20 x 16 pictures that sees 53 degrees from top to bottom, without a teacher."""
    config = MobileR2LModelConfig(width=8, num_blocks=1, sr_channels=(8,), sr_blocks=1)
    model = config.setup(scene_box=BOX, num_train_data=1)
    view = {"image_size": torch.tensor([16, 20]), "intrinsics": torch.tensor([16.0, 16.0, 10.0, 8.0])}
    model.student.capture.record(**view, depth_known=torch.tensor(True))
    return model.eval()


def camera(kind: CameraType) -> Cameras:
    pose = torch.eye(4)[None, :3].clone()
    pose[0, 2, 3] = 4.0
    return Cameras(pose, 30.0, 20.0, 15.0, 12.0, width=30, height=24, camera_type=kind)


OTHERS = [CameraType.FISHEYE, CameraType.EQUIRECTANGULAR]


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("show", ["phase", "student", "split", "error"])
def test_of_other_cameras_than_perspective_the_teacher_is_shown(model, capsys, kind, show):
    model.add_teacher(Grey(), trained_here=False)
    model.display.show = show
    for _ in range(2):
        outputs = model.get_outputs_for_camera(camera(kind))
        assert outputs["depth"].shape == outputs["accumulation"].shape == (24, 30, 1)
        assert torch.equal(outputs["rgb"], torch.full((24, 30, 3), 0.5))
    assert capsys.readouterr().out.count("renders perspective cameras only") == 1


@pytest.mark.parametrize("kind", OTHERS)
def test_a_command_without_a_teacher_ends_on_them_with_one_line(model, kind):
    with pytest.raises(UserError, match="perspective cameras only .*: give the camera path"):
        model.get_outputs_for_camera(camera(kind))


@pytest.mark.parametrize("kind", OTHERS)
def test_the_viewers_thread_lives_on_a_perspective_camera_in_their_place(model, capsys, kind):
    pictures = []

    def render() -> None:
        pictures.extend(model.get_outputs_for_camera(camera(kind))["rgb"] for _ in range(2))

    viewer = threading.Thread(target=render)
    viewer.start()
    viewer.join()
    focal = 16.0 * 24 / 16
    pose = camera(kind).camera_to_worlds
    expected = model.get_outputs_for_camera(Cameras(pose, focal, focal, 15.0, 12.0, width=30, height=24))["rgb"]
    assert len(pictures) == 2 and all(torch.equal(picture, expected) for picture in pictures)
    assert capsys.readouterr().out.count("renders perspective cameras only") == 1


SEVERAL = MobileR2LModelConfig(width=8, num_blocks=1, sr_channels=(8,), sr_blocks=1, pitches=(1.0, 1.5, 2.0))


def low_res_batch(config: MobileR2LModelConfig) -> tuple[LowResRays, dict[str, torch.Tensor]]:
    """Rays of 6 x 7 blocks of two views, random pictures, and a mask that hides a corner."""
    directions = torch.cat([torch.randn(2, 6, 7, 2), -torch.ones(2, 6, 7, 1)], dim=-1)
    height, width = 6 * config.stride, 7 * config.stride
    mask = torch.ones(2, height, width)
    mask[0, : config.stride, : config.stride] = 0.0
    rays = LowResRays(torch.randn(2, 1, 1, 3), directions)
    return rays, {"image": torch.rand(2, height, width, 3), "mask": mask}


def test_each_step_of_a_student_with_several_pitches_holds_a_coarser_one():
    model = SEVERAL.setup(scene_box=BOX, num_train_data=1)
    model.learns_coarser = True
    rays, batch = low_res_batch(SEVERAL)
    pitches = set()
    for _ in range(20):
        outputs = model(rays)
        losses = model.get_loss_dict(outputs, batch)
        cells = outputs["coarser_cells"]
        pitches.add(cells.pitch)
        seen, image, mask = outputs["coarser_rgb"], cells.pictures(batch["image"]), cells.mask(batch["mask"])
        assert seen.shape == image.shape == (*mask.shape, 3)
        directions = cells.rays(rays.directions)
        torch.testing.assert_close(
            seen, model.student(rays.origins[:, :1, :1], directions, cells.pitch).permute(0, 2, 3, 1)
        )
        expected = 0.5 * (seen - image)[mask > 0].square().mean()
        torch.testing.assert_close(losses["student_coarser_rgb_loss"], expected)
        full = (outputs["rgb"] - batch["image"])[batch["mask"] > 0].square().mean()
        torch.testing.assert_close(losses["student_rgb_loss"], full)
    assert pitches == {1.5, 2.0}


@pytest.mark.parametrize("config", [SEVERAL, replace(SEVERAL, pitches=(1.0,))])
def test_before_its_time_or_without_one_no_coarser_pitch_is_learned(config):
    model = config.setup(scene_box=BOX, num_train_data=1)
    rays, batch = low_res_batch(config)
    outputs = model(rays)
    assert set(outputs) == {"rgb"} and set(model.get_loss_dict(outputs, batch)) == {"student_rgb_loss"}
