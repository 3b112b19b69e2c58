"""Photos with an alpha channel: teacher, pseudo views, photos and figures all have them over the same background."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from nerfstudio.configs.method_configs import method_configs
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.models.base_model import Model
from PIL import Image
from torch.nn import functional

from mobiler2l_ns.capture.background import Background, is_cut_out, lay_over
from mobiler2l_ns.capture.splits import selection_split
from mobiler2l_ns.errors import UserError
from mobiler2l_ns.teacher.loaded import LoadedTeacher, check_teacher
from mobiler2l_ns.teacher.render import render_like_photo, render_pseudo_view

WHITE, BLACK = torch.ones(3), torch.zeros(3)


@pytest.fixture(scope="module")
def cut_outs(demo_scene, tmp_path_factory):
    """The demo scene as ns-process-data would write it: a transforms.json and RGBA photos."""
    folder = tmp_path_factory.mktemp("cut_outs") / "capture"
    shutil.copytree(demo_scene / "train", folder / "train")
    meta = json.loads((demo_scene / "transforms_train.json").read_text())
    frames = [{**frame, "file_path": f"{frame['file_path']}.png"} for frame in meta["frames"]]
    focal = 26.0 / torch.tensor(meta["camera_angle_x"] / 2).tan().item()
    camera = {"fl_x": focal, "fl_y": focal, "cx": 26.0, "cy": 26.0, "w": 52, "h": 52, "camera_model": "PINHOLE"}
    (folder / "transforms.json").write_text(json.dumps({**camera, "frames": frames}))
    return folder


def opaque_copy(capture, folder, mode):
    """The capture without transparent pixels."""
    shutil.copytree(capture, folder)
    for path in folder.glob("train/*.png"):
        photo = Image.open(path)
        photo.putalpha(255)
        photo.convert(mode).save(path)
    return folder


def dataset_of(make_config, tmp_path, dataparser):
    manager = make_config(tmp_path).pipeline.datamanager
    return replace(manager, dataparser=dataparser).setup(device="cpu", test_mode="val").train_dataset


def test_cut_outs_are_photos_whose_alpha_nobody_has_used_yet(make_config, cut_outs, demo_scene, tmp_path):
    assert is_cut_out(dataset_of(make_config, tmp_path, NerfstudioDataParserConfig(data=cut_outs)))
    assert is_cut_out(dataset_of(make_config, tmp_path, BlenderDataParserConfig(data=demo_scene, alpha_color=None)))
    assert not is_cut_out(dataset_of(make_config, tmp_path, BlenderDataParserConfig(data=demo_scene)))
    for mode in ("RGBA", "RGB"):
        opaque = NerfstudioDataParserConfig(data=opaque_copy(cut_outs, tmp_path / mode, mode))
        assert not is_cut_out(dataset_of(make_config, tmp_path, opaque))


@pytest.mark.parametrize("background", ["white", "black"])
@pytest.mark.parametrize(("preset", "alpha"), [("scene", False), ("object", False), ("scene", True)])
def test_a_teacher_learns_cut_outs_over_the_students_background(
    make_config, cut_outs, tmp_path, preset, alpha, background
):
    config = make_config(tmp_path, teacher_preset=preset)
    config.pipeline.model = replace(config.pipeline.model, alpha=alpha, background_color=background)
    # Before it is trained a teacher is fog, here one to look through.
    config.pipeline.teacher = replace(config.pipeline.teacher, average_init_density=1e-3)
    config.pipeline.datamanager = replace(
        config.pipeline.datamanager, dataparser=NerfstudioDataParserConfig(data=cut_outs)
    )
    pipeline = config.pipeline.setup(device="cpu", test_mode="val")
    model = pipeline.model
    assert model.teacher.renderer_rgb.background_color == ("random" if alpha else background)
    # To look at, to measure and to learn, its pictures stand over what the photos stand over.
    camera = pipeline.datamanager.train_dataset.cameras[:1]
    outputs = render_pseudo_view(model.teacher, camera, Background(alpha=True))
    rgba = outputs["picture"]
    expected = rgba[..., :3] + (1.0 - rgba[..., 3:]) * model.config.background.rgb
    assert 1e-4 < float(rgba[..., 3].mean()) < 0.99
    model.display.show = "teacher"
    for rgb in (model.get_outputs_for_camera(camera)["rgb"], model.render_teacher(camera)["rgb"]):
        torch.testing.assert_close(rgb, expected, atol=1e-5, rtol=0)
    photo = pipeline.datamanager.load_selection_photos().take(torch.tensor([0]), "cpu").pictures
    corner = photo[0, 0, 0]  # where the photos are transparent
    assert torch.equal(corner, torch.zeros(4) if alpha else model.config.background.rgb)


def test_opaque_photos_leave_the_teachers_background_alone(make_config, cut_outs, tmp_path):
    dataparser = NerfstudioDataParserConfig(data=opaque_copy(cut_outs, tmp_path / "opaque", "RGB"))
    config = make_config(tmp_path)
    config.pipeline.datamanager = replace(config.pipeline.datamanager, dataparser=dataparser)
    pipeline = config.pipeline.setup(device="cpu", test_mode="val")
    assert pipeline.model.teacher.config.background_color == "last_sample"


@pytest.mark.parametrize(("dataparsers", "students"), [("white", "black"), ("black", "white")])
def test_two_backgrounds_are_one_clear_line(make_config, demo_scene, tmp_path, dataparsers, students):
    config = make_config(tmp_path)
    config.pipeline.model = replace(config.pipeline.model, background_color=students)
    config.pipeline.datamanager.dataparser = BlenderDataParserConfig(data=demo_scene, alpha_color=dataparsers)
    with pytest.raises(UserError, match=f"photos over {dataparsers}, the student another .* --alpha-color and to"):
        config.pipeline.setup(device="cpu", test_mode="val")
    config.pipeline.model.background_color = dataparsers
    pipeline = config.pipeline.setup(device="cpu", test_mode="val")
    assert pipeline.model.teacher.config.background_color == dataparsers


# Teachers from elsewhere


class Knowing(Model):
    """Shows the photos themselves, over a colour, or if it was trained over random ones as splatfacto does."""

    def __init__(self, dataset, colour: torch.Tensor, config=None) -> None:
        torch.nn.Module.__init__(self)
        self.device_indicator_param = torch.nn.Parameter(torch.zeros(1))
        self.dataset, self.colour = dataset, colour
        self.config = config  # type: ignore[assignment]

    def get_outputs_for_camera(self, camera, obb_box=None):
        poses = self.dataset.cameras.camera_to_worlds
        index = int((poses - camera.camera_to_worlds).abs().sum((1, 2)).argmin())
        size = (int(camera.height), int(camera.width))
        rgba = self.dataset.get_data(index)["image"].permute(2, 0, 1)[None]
        rgba = functional.interpolate(rgba, size, mode="area")[0].permute(1, 2, 0)
        background = {} if self.config is None else {"background": self.colour.expand(*size, 3)}
        return {"rgb": lay_over(rgba, self.colour), "accumulation": rgba[..., 3:], **background}


@pytest.mark.parametrize("colour", ["white", "black"])
def test_a_teacher_of_cut_outs_is_judged_over_its_own_background(make_config, cut_outs, tmp_path, colour):
    background = Background(colour).rgb
    dataset = dataset_of(make_config, tmp_path, NerfstudioDataParserConfig(data=cut_outs))
    grey = torch.full((3,), 0.4)
    anywhere = Knowing(dataset, grey, SimpleNamespace(background_color="random"))
    for teacher in (Knowing(dataset, background), anywhere):
        check_teacher(LoadedTeacher(teacher, dataset._dataparser_outputs, None), dataset, Background(colour))
    camera = dataset.cameras[:1]
    photo = lay_over(dataset.get_data(0)["image"], background)
    torch.testing.assert_close(render_like_photo(anywhere, camera, background)["rgb"], photo, atol=1e-5, rtol=0)


def nerfacto_config(folder, dataparser, background_color):
    """The config.yml of a run that would be stock nerfacto."""
    config: Any = deepcopy(method_configs["nerfacto"])
    config.pipeline.datamanager = VanillaDataManagerConfig(dataparser=dataparser)
    config.pipeline.model.background_color = background_color
    folder.mkdir(exist_ok=True)
    (folder / "config.yml").write_text(yaml.dump(config))
    return folder / "config.yml"


@pytest.mark.parametrize(
    ("learned", "asked", "expected"),
    [
        ("white", "black", "white"),
        ("last_sample", "white", "black"),
        ("black", "white", "black"),
        ("random", "black", "black"),
    ],
)
def test_a_teachers_background_is_taken_over(make_config, demo_scene, tmp_path, learned, asked, expected):
    teacher = nerfacto_config(tmp_path, BlenderDataParserConfig(data=demo_scene, alpha_color=None), learned)
    config = make_config(tmp_path, teacher_load_config=teacher).pipeline
    config.model.background_color = asked
    for _ in range(2):
        config.adopt_teacher()
        assert config.model.background_color == expected
    # From photos that the dataparser has laid over a colour a teacher learns nothing about that.
    nerfacto_config(tmp_path, BlenderDataParserConfig(data=demo_scene), learned)
    config.model.background_color = asked
    config.adopt_teacher()
    assert config.model.background_color == asked


def test_a_run_with_a_teacher_of_cut_outs_has_one_background(make_config, cut_outs, tmp_path, monkeypatch, capsys):
    dataparser = NerfstudioDataParserConfig(data=cut_outs)
    dataset = dataset_of(make_config, tmp_path, dataparser)
    config = make_config(tmp_path, teacher_load_config=nerfacto_config(tmp_path, dataparser, "last_sample")).pipeline
    config.datamanager.data = None
    config.adopt_teacher()
    loaded = LoadedTeacher(Knowing(dataset, BLACK), dataset._dataparser_outputs, None)
    monkeypatch.setattr("mobiler2l_ns.run.pipeline.load_run", lambda *_: loaded)
    pipeline = config.setup(device="cpu", test_mode="val")
    assert "Transparent photos are laid over black, as by the teacher" in " ".join(capsys.readouterr().out.split())
    photo = pipeline.datamanager.load_selection_photos().take(torch.tensor([0]), "cpu").pictures
    _, (index, *_) = selection_split(len(dataset))
    picture = pipeline._render(dataset.cameras[index : index + 1])["picture"]
    torch.testing.assert_close(picture, photo[0, :52, :52], atol=0.5 / 255 + 1e-6, rtol=0)
