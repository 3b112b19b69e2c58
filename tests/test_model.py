"""What the model shows of any camera, with and without its teacher."""

from __future__ import annotations

import threading

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.models.base_model import Model

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.model import MobileR2LModel, MobileR2LModelConfig

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
    model.show = show
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
