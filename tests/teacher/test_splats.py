"""Splats teach: in whatever frame their file is, and whatever renders them."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nerfstudio.cameras.lie_groups import exp_map_SO3xR3
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.data.scene_box import OrientedBox, SceneBox
from short_run import open_run, train
from splat_scenes import SIZE, as_it_is, camera, cloud, fields, photograph, poses, write_capture, write_ply

from mobiler2l_ns.capture.background import Background
from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export.proof_photos import load_proof_photos
from mobiler2l_ns.metrics import psnr
from mobiler2l_ns.saved_run import SavedRun
from mobiler2l_ns.teacher import splat_teacher
from mobiler2l_ns.teacher.corrections import learned_corrections
from mobiler2l_ns.teacher.render import fingerprint, render_like_photo, render_pseudo_view, render_teacher
from mobiler2l_ns.teacher.splat_cloud import SplatCloud
from mobiler2l_ns.teacher.splat_file import read_splats
from mobiler2l_ns.teacher.splat_teacher import SplatTeacher, SplatTeacherConfig
from mobiler2l_ns.teacher.splats import load_run, load_splats, splat_frames

COLMAP_TURN = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0]])
"""What ns-process-data does to COLMAP's world."""
BOX = SceneBox(aabb=torch.tensor([[-1.0] * 3, [1.0] * 3]))


def teacher_of(splats: SplatCloud, **settings) -> SplatTeacher:
    return SplatTeacher(splats, SplatTeacherConfig(**settings), BOX).eval()


# The model


def test_a_teacher_of_splats_is_laid_over_what_is_asked_for():
    splats, view = cloud(), camera(poses(1)[0])
    teacher = teacher_of(splats)
    torch.testing.assert_close(render_like_photo(teacher, view, torch.ones(3))["rgb"], photograph(splats, poses(1)[0]))
    over_black, over_red = (render_teacher(teacher, view, torch.tensor(rgb)) for rgb in ([0.0] * 3, [1.0, 0.0, 0.0]))
    left = 1.0 - over_black["accumulation"]
    expected = (over_black["rgb"] + left * torch.tensor([1.0, 0.0, 0.0])).clamp(max=1.0)
    torch.testing.assert_close(over_red["rgb"], expected, atol=1e-5, rtol=0.0)
    picture = render_pseudo_view(teacher, view, Background(alpha=True))["picture"]
    torch.testing.assert_close(picture[..., 3:], over_black["accumulation"])
    white = teacher_of(splats, background_color="white")
    torch.testing.assert_close(render_teacher(white, view)["rgb"], photograph(splats, poses(1)[0]))
    assert not any(parameter.requires_grad and parameter.numel() for parameter in teacher.parameters())


def test_depths_are_distances_to_what_is_seen():
    pose, view = poses(1)[0], camera(poses(1)[0])
    point = -0.3 * pose[:, 2] + 0.4 * pose[:, 0]
    splat = SplatCloud(
        point[None], torch.tensor([[1.0, 0, 0, 0]]), torch.full((1, 3), 0.05), torch.ones(1), torch.ones(1, 1, 3)
    )
    outputs = render_teacher(teacher_of(splat), view)
    seen = outputs["accumulation"][..., 0].argmax()
    assert float(outputs["depth"].flatten()[seen]) == pytest.approx(float((point - pose[:, 3]).norm()), rel=0.02)
    nothing = render_teacher(teacher_of(splat), camera(torch.cat([-pose[:, :3], pose[:, 3:]], dim=1)))
    assert float(nothing["depth"].min()) > 9 and not nothing["accumulation"].any()


def test_a_box_crops_the_splats():
    splats, view = cloud(), camera(poses(1)[0])
    whole = OrientedBox(R=torch.eye(3), T=torch.zeros(3), S=torch.full((3,), 20.0))
    empty = OrientedBox(R=torch.eye(3), T=torch.full((3,), 50.0), S=torch.ones(3))
    teacher = teacher_of(splats)
    expected = teacher.get_outputs_for_camera(view)
    assert torch.equal(teacher.get_outputs_for_camera(view, whole)["rgb"], expected["rgb"])
    assert not teacher.get_outputs_for_camera(view, empty)["accumulation"].any()


def test_other_splats_are_another_teacher_and_a_photo_measures_it():
    teacher = teacher_of(cloud())
    assert fingerprint(teacher) == fingerprint(teacher_of(cloud())) != fingerprint(teacher_of(cloud(seed=1)))
    outputs = teacher.get_outputs_for_camera(camera(poses(1)[0]))
    photo = torch.cat([outputs["rgb"], torch.ones(SIZE, SIZE, 1)], dim=-1)
    metrics, images = teacher.get_image_metrics_and_images(outputs, {"image": photo})
    assert metrics["psnr"] > 100 and images["img"].shape == (SIZE, 2 * SIZE, 3)


def test_on_cuda_gsplat_is_given_the_same_splats(monkeypatch):
    given: dict[str, Any] = {}

    def rasterization(**arguments):
        given.update(arguments)
        size = arguments["height"], arguments["width"]
        return torch.full((1, *size, 4), 0.5), torch.full((1, *size, 1), 0.5), {}

    monkeypatch.setattr("gsplat.rendering.rasterization", rasterization)
    monkeypatch.setattr(splat_teacher, "renderer_for", lambda device: splat_teacher.render_by_gsplat)
    splats, view = cloud(), camera(poses(1)[0])
    outputs = teacher_of(splats).get_outputs_for_camera(view)
    assert outputs["rgb"].shape == (SIZE, SIZE, 3) and outputs["depth"].shape == (SIZE, SIZE, 1)
    for name, value in {"means": splats.means, "quats": splats.quaternions, "colors": splats.sh}.items():
        assert torch.equal(given[name], value)
    assert torch.equal(given["scales"], splats.scales) and torch.equal(given["opacities"], splats.opacities)
    assert given["viewmats"].shape == (1, 4, 4) and given["Ks"].shape == (1, 3, 3) and given["sh_degree"] == 3
    assert given["render_mode"] == "RGB+ED" and given["rasterize_mode"] == "classic"


@pytest.mark.parametrize("compiled", [None, "broken", object()])
def test_where_gsplat_is_not_compiled_the_reference_stands_in(monkeypatch, capsys, compiled):
    def load(name):
        if compiled == "broken":
            raise RuntimeError("Error building extension")
        return SimpleNamespace(_C=compiled)

    monkeypatch.setattr(splat_teacher, "import_module", load)
    splat_teacher._gsplat_is_compiled.cache_clear()
    found = [splat_teacher.renderer_for(torch.device("cuda")) for _ in range(2)]
    splat_teacher._gsplat_is_compiled.cache_clear()
    warnings = " ".join(capsys.readouterr().out.split()).count("gsplat cannot be compiled")
    if compiled in (None, "broken"):
        assert found == [splat_teacher.splat_reference.render] * 2 and warnings == 1
    else:
        assert found == [splat_teacher.render_by_gsplat] * 2 and warnings == 0


# The frame of a file


def dataset_of(config) -> InputDataset:
    return InputDataset(config.setup().get_dataparser_outputs(split="train"))


@pytest.fixture(scope="module")
def turned(tmp_path_factory):
    """A capture that ns-process-data has turned and nerfstudio turns again, and files of its splats in each frame."""
    splats = cloud(degree=3)
    folder = write_capture(tmp_path_factory.mktemp("turned") / "scene", splats, applied=COLMAP_TURN)
    dataset = dataset_of(NerfstudioDataParserConfig(data=folder))
    outputs = dataset._dataparser_outputs
    clouds = {
        "capture": splats,
        "transforms": splats.moved(COLMAP_TURN),
        "world": splats.moved(outputs.dataparser_transform, outputs.dataparser_scale),
    }
    files = {name: write_ply(folder / f"{name}.ply", fields(each)) for name, each in clouds.items()}
    assert abs(outputs.dataparser_scale - 1) > 0.1
    return dataset, folder, files


@pytest.mark.parametrize("frame", ["capture", "transforms", "world"])
def test_splats_show_the_photos_in_each_frame(turned, frame):
    dataset, folder, files = turned
    loaded = load_splats(files[frame], frame, dataset, folder, "cpu", Background())
    assert isinstance(loaded.model, SplatTeacher)
    for index in (0, 5, 11):
        picture = render_like_photo(loaded.model, dataset.cameras[index : index + 1], torch.ones(3))["rgb"]
        assert float(psnr(picture, dataset.get_data(index)["image"])) > 45


@pytest.mark.parametrize("frame, other", [("capture", "world"), ("transforms", "capture"), ("world", "transforms")])
def test_a_wrong_frame_is_one_line_that_names_the_right_one(turned, frame, other):
    dataset, folder, files = turned
    with pytest.raises(UserError, match=rf"frame '{frame}' .* give --pipeline.teacher-splats-frame {other}, where"):
        load_splats(files[other], frame, dataset, folder, "cpu", Background())


def test_splats_of_another_axis_convention_or_another_scene_are_refused(turned, tmp_path):
    dataset, folder, files = turned
    upside_down = read_splats(files["capture"]).moved(torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])))
    path = write_ply(tmp_path / "up.ply", fields(upside_down))
    with pytest.raises(UserError, match="with y and z turned round they would in the frame 'capture'"):
        load_splats(path, "capture", dataset, folder, "cpu", Background())
    count = len(dataset)
    dark = SplatCloud(
        means=torch.zeros(count, 3),
        quaternions=upside_down.quaternions[:count],
        scales=torch.ones(count, 3),
        opacities=torch.ones(count),
        sh=torch.full((count, 1, 3), -5.0),
    )
    with pytest.raises(UserError, match="they do in no frame"):
        load_splats(write_ply(path, fields(dark)), "capture", dataset, folder, "cpu", Background())
    # For looking only nothing is compared.
    assert load_splats(path, "capture", dataset, folder, "cpu").model is not None


def test_frames_that_are_the_same_are_not_told_apart(tmp_path):
    splats = cloud()
    folder = write_capture(tmp_path / "scene", splats)
    dataset, path = dataset_of(as_it_is(folder)), write_ply(tmp_path / "scene.ply", fields(splats))
    for frame in ("capture", "transforms", "world"):
        load_splats(path, frame, dataset, folder, "cpu", Background())
    assert set(splat_frames(dataset, None)) == {"capture", "world"}
    with pytest.raises(UserError, match="no transforms.json"):
        load_splats(path, "transforms", dataset, None, "cpu")
    with pytest.raises(UserError, match="give one of capture, transforms, world"):
        load_splats(path, "sideways", dataset, folder, "cpu")  # type: ignore[arg-type]


def test_fisheye_captures_are_refused(tmp_path):
    splats = cloud()
    folder = write_capture(tmp_path / "scene", splats)
    meta = json.loads((folder / "transforms.json").read_text())
    (folder / "transforms.json").write_text(json.dumps({**meta, "camera_model": "OPENCV_FISHEYE"}))
    path = write_ply(tmp_path / "scene.ply", fields(splats))
    with pytest.raises(UserError, match="pinhole cameras, which this capture's are not"):
        load_splats(path, "capture", dataset_of(as_it_is(folder)), folder, "cpu", Background())


# splatfacto


@pytest.fixture(scope="module")
def splatfacto_run(tmp_path_factory):
    """A splatfacto run as nerfstudio leaves it behind, of splats that are already known."""
    from nerfstudio.configs.method_configs import method_configs
    from nerfstudio.models.splatfacto import SplatfactoModel

    from mobiler2l_ns.teacher.nerfacto import lazy_lpips

    splats = cloud()
    root = tmp_path_factory.mktemp("splatfacto")
    folder = write_capture(root / "scene", splats)
    config: Any = deepcopy(method_configs["splatfacto"])
    config.pipeline.datamanager.dataparser = NerfstudioDataParserConfig(data=folder, load_3D_points=True)
    config.data, config.output_dir, config.timestamp, config.experiment_name = folder, root / "outputs", "run", "scene"
    outputs = NerfstudioDataParserConfig(data=folder).setup().get_dataparser_outputs(split="train")
    moved = splats.moved(outputs.dataparser_transform, outputs.dataparser_scale)
    config.pipeline.model.num_random, config.pipeline.model.random_init = 100, True
    with lazy_lpips():
        model = SplatfactoModel(config.pipeline.model, scene_box=outputs.scene_box, num_train_data=16)
    parameters = {
        "means": moved.means,
        "quats": 2.0 * moved.quaternions,
        "scales": moved.scales.log(),
        "opacities": moved.opacities.logit()[:, None],
        "features_dc": moved.sh[:, 0],
        "features_rest": moved.sh[:, 1:],
    }
    for name, value in parameters.items():
        model.gauss_params[name] = torch.nn.Parameter(value)
    run = config.get_base_dir()
    config.save_config()
    outputs.save_dataparser_transform(run / "dataparser_transforms.json")
    (run / config.relative_model_dir).mkdir()
    state = {f"_model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"step": 29999, "pipeline": state}, run / config.relative_model_dir / "step-000029999.ckpt")
    return run / "config.yml"


def test_a_splatfacto_run_is_rendered_without_cuda(splatfacto_run):
    loaded = load_run(splatfacto_run, None, "cpu")
    assert isinstance(loaded.model, SplatTeacher) and loaded.recorded_frame is not None
    dataset = InputDataset(loaded.outputs)
    for index in (0, 7):
        picture = render_like_photo(loaded.model, dataset.cameras[index : index + 1], torch.ones(3))["rgb"]
        assert float(psnr(picture, dataset.get_data(index)["image"])) > 45


def test_a_splatfacto_runs_corrections_of_its_cameras_are_known_without_cuda(splatfacto_run, tmp_path):
    run = shutil.copytree(splatfacto_run.parent, tmp_path / "run")
    text = (run / "config.yml").read_text()
    assert text.count("mode: 'off'") == 1
    (run / "config.yml").write_text(text.replace("mode: 'off'", "mode: SO3xR3"))
    (checkpoint,) = (run / "nerfstudio_models").iterdir()
    state = torch.load(checkpoint)
    moves = 0.1 * torch.randn(16, 6)
    state["pipeline"]["_model.camera_optimizer.pose_adjustment"] = moves
    torch.save(state, checkpoint)
    learned = learned_corrections(load_run(run / "config.yml", None, "cpu").model)
    assert learned is not None
    torch.testing.assert_close(learned, exp_map_SO3xR3(moves))


def test_a_splatfacto_run_whose_photos_have_moved_is_pointed_at_them(splatfacto_run, tmp_path):
    run = shutil.copytree(splatfacto_run.parent, tmp_path / "run")
    text = (run / "config.yml").read_text()
    (run / "config.yml").write_text(text.replace("- scene\n", "- gone\n"))
    scene = splatfacto_run.parents[4] / "scene"
    assert (scene / "transforms.json").exists()
    loaded = load_run(run / "config.yml", scene, "cpu")
    assert loaded.outputs.image_filenames[0].is_relative_to(scene)
    with pytest.raises(UserError, match="The capture of the teacher's run .* cannot be read"):
        load_run(run / "config.yml", tmp_path / "nowhere", "cpu")


def test_a_splatfacto_without_harmonics_has_the_colours_it_learned(splatfacto_run):
    from mobiler2l_ns.teacher.splats import splats_of_run

    splats = cloud(3, degree=0)
    state = {
        "_model.gauss_params.means": splats.means,
        "_model.gauss_params.quats": splats.quaternions,
        "_model.gauss_params.scales": splats.scales.log(),
        "_model.gauss_params.opacities": splats.opacities.logit()[:, None],
        "_model.gauss_params.features_dc": torch.full((3, 3), 1.5),
        "_model.gauss_params.features_rest": torch.zeros(3, 0, 3),
    }
    found = splats_of_run(splatfacto_run, state)
    torch.testing.assert_close(found.colours(torch.zeros(3)), torch.full((3, 3), 1.5).sigmoid())
    with pytest.raises(UserError, match="holds no splats"):
        splats_of_run(splatfacto_run, {"_model.gauss_params.means": splats.means})
    state["_model.gauss_params.features_rest"] = torch.zeros(3, 24, 3)
    with pytest.raises(UserError, match="degree 4"):
        splats_of_run(splatfacto_run, state)


# Whole runs


def splat_config(make_config, tmp_path, folder, **pipeline):
    settings = {"distill_steps": 6, "finetune_steps": 2, **pipeline}
    config = make_config(tmp_path / "outputs", **settings)
    config.pipeline.datamanager.dataparser = NerfstudioDataParserConfig(data=folder)
    config.data = folder
    return config


def test_splats_teach_a_run_from_its_first_step_to_its_last(make_config, tmp_path, capsys):
    splats = cloud()
    folder = write_capture(tmp_path / "scene", splats, applied=COLMAP_TURN)
    path = write_ply(tmp_path / "scene.ply", fields(splats))
    trained = train(splat_config(make_config, tmp_path, folder, teacher_splats=path))
    pipeline, step = open_run(trained)
    assert step == 7  # no teacher phase
    assert pipeline.config.teacher_splats == path.resolve() and pipeline.config.plan().teacher == 0
    assert isinstance(pipeline.model.find_teacher(), SplatTeacher)
    assert not any("teacher" in name for name in torch.load(pipeline_checkpoint(trained))["pipeline"])
    view = pipeline.datamanager.train_dataset.cameras[:1]
    photo = pipeline.datamanager.train_dataset.get_data(0)["image"]
    assert float(psnr(pipeline.model.render_teacher(view)["rgb"].cpu(), photo)) > 45
    # Near and far as they are in nerfstudio's frame, where the farthest camera stands one unit from the middle.
    near, far = pipeline.model.student.capture.depth_range.tolist()
    assert 0.2 < near < 1.0 < far < 2.0
    path.unlink()
    capsys.readouterr()
    assert open_run(trained)[0].model.find_teacher() is None
    assert "Only the student is shown. No splats at" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("named", [True, False], ids=["photos that are gone", "photos without names"])
def test_splats_teach_by_cameras_alone_where_there_are_no_photos(make_config, tmp_path, capsys, named):
    splats = cloud()
    folder = write_capture(tmp_path / "scene", splats, applied=COLMAP_TURN)
    shutil.rmtree(folder / "photos")
    if not named:
        meta = json.loads((folder / "transforms.json").read_text())
        for frame in meta["frames"]:
            del frame["file_path"]
        (folder / "transforms.json").write_text(json.dumps(meta))
    path = write_ply(tmp_path / "scene.ply", fields(splats))
    config = splat_config(make_config, tmp_path, folder, teacher_splats=path)
    config.report_views = 2
    trained = train(config)
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("There are cameras and no photos: the student is not fine-tuned") == 1
    assert "This capture holds out no views to measure" in said
    pipeline, step = open_run(trained)
    assert step == 5 and pipeline.config.plan().finetune == 0 and pipeline.datamanager.config.cameras_only
    assert float(pipeline.model.student.capture.depth_range[1]) < 2.0
    view = pipeline.datamanager.train_dataset.cameras[:1]
    shown = photograph(splats, poses(16)[int(pipeline.datamanager.train_dataset.image_filenames[0].stem[-2:])])
    assert float(psnr(pipeline.model.render_teacher(view)["rgb"].cpu(), shown)) > 45
    assert pipeline.get_average_eval_image_metrics() == {}
    camera, _ = pipeline.datamanager.eval_dataloader.get_camera(0)
    assert pipeline.model.get_outputs_for_camera(camera)["rgb"].shape == (SIZE, SIZE, 3)
    assert load_proof_photos(SavedRun.open(trained).config, pipeline.model.student, trained.parent) == [None] * 8


def test_cameras_without_photos_need_splats(make_config, tmp_path):
    folder = write_capture(tmp_path / "scene", cloud())
    shutil.rmtree(folder / "photos")
    with pytest.raises(UserError, match=r"photos/\d\d\.png is not there"):
        train(splat_config(make_config, tmp_path, folder, teacher_steps=2))
    asked = splat_config(make_config, tmp_path, folder, teacher_steps=2)
    asked.pipeline.datamanager.cameras_only = True
    with pytest.raises(UserError, match="without photos splats must teach, give them to --pipeline.teacher-splats"):
        train(asked)


def test_cameras_without_photos_must_be_sound(make_config, tmp_path):
    splats = cloud()
    folder = write_capture(tmp_path / "scene", splats)
    shutil.rmtree(folder / "photos")
    meta = json.loads((folder / "transforms.json").read_text())
    meta["k1"] = -9.0
    (folder / "transforms.json").write_text(json.dumps(meta))
    path = write_ply(tmp_path / "scene.ply", fields(splats))
    with pytest.raises(UserError, match="the lens distortion of its camera cannot be undone"):
        train(splat_config(make_config, tmp_path, folder, teacher_splats=path))


def pipeline_checkpoint(config_path):
    return next((config_path.parent / "nerfstudio_models").glob("*.ckpt"))


def test_a_splatfacto_run_teaches_without_cuda(make_config, splatfacto_run, tmp_path):
    config = splat_config(make_config, tmp_path, None, teacher_load_config=splatfacto_run, finetune_steps=0)
    pipeline, step = open_run(train(config))
    assert step == 5 and isinstance(pipeline.model.find_teacher(), SplatTeacher)


def test_what_is_wrong_with_the_splats_ends_the_run_before_it_begins(make_config, splatfacto_run, tmp_path):
    splats = cloud()
    folder = write_capture(tmp_path / "scene", splats, applied=COLMAP_TURN)
    path = write_ply(tmp_path / "scene.ply", fields(splats))
    wrong = splat_config(make_config, tmp_path, folder, teacher_splats=path, teacher_splats_frame="world")
    with pytest.raises(UserError, match="give --pipeline.teacher-splats-frame capture"):
        train(wrong)
    with pytest.raises(UserError, match="No splats at"):
        train(splat_config(make_config, tmp_path, folder, teacher_splats=tmp_path / "nowhere.ply"))
    both = splat_config(make_config, tmp_path, folder, teacher_splats=path, teacher_load_config=splatfacto_run)
    with pytest.raises(UserError, match="Two teachers"):
        train(both)
