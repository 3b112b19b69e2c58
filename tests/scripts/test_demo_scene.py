"""The demo capture: what it writes, that it repeats itself byte for byte, and that its surfaces gleam."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_demo_scene.py"
SIZE, COUNTS = 24, {"train": 4, "val": 1, "test": 2}

spec = importlib.util.spec_from_file_location("make_demo_scene", SCRIPT)
assert spec is not None and spec.loader is not None
demo = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = demo  # dataclasses look their module up
spec.loader.exec_module(demo)


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors gain nothing from threads, and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("demo") / "new" / "scene"
    demo.write_scene(target, SIZE, supersample=2, **COUNTS)
    return target


def test_nerfstudio_loads_it(scene: Path):
    parser = BlenderDataParserConfig(data=scene).setup()
    for split, count in COUNTS.items():
        outputs = parser.get_dataparser_outputs(split)
        assert len(outputs.image_filenames) == count and all(path.is_file() for path in outputs.image_filenames)
        assert torch.equal(outputs.cameras.camera_to_worlds, demo.sample_cameras(split, count))
        assert outputs.cameras.fx[0].item() == pytest.approx(0.5 * SIZE / math.tan(0.5 * demo.FOV_X))


def test_only_the_scene_is_left_behind(scene: Path):
    names = {f"{split}/r_{i}.png" for split, count in COUNTS.items() for i in range(count)}
    assert set(digests(scene)) == names | {f"transforms_{split}.json" for split in COUNTS} | {"scene.json"}
    assert list(scene.parent.iterdir()) == [scene]


def test_same_settings_give_the_same_bytes(scene: Path, tmp_path: Path):
    again = tmp_path / "again"
    again.mkdir()  # an empty folder may be filled
    torch.set_num_threads(2)
    demo.write_scene(again, SIZE, supersample=2, **COUNTS)
    assert torch.get_num_threads() == 2
    assert digests(again) == digests(scene)


def test_a_complete_scene_is_kept(scene: Path):
    before = {path: path.stat().st_mtime_ns for path in scene.rglob("*")}
    assert "already complete" in demo.write_scene(scene, SIZE, supersample=2, **COUNTS)
    assert {path: path.stat().st_mtime_ns for path in scene.rglob("*")} == before


def test_images_match_render_and_fit_the_frame(scene: Path):
    focal = 0.5 * SIZE / math.tan(0.5 * demo.FOV_X)
    for i, pose in enumerate(demo.sample_cameras("train", COUNTS["train"])):
        stored = np.asarray(Image.open(scene / f"train/r_{i}.png"))
        assert stored.shape == (SIZE, SIZE, 4)
        assert np.array_equal(stored, (demo.render(pose, SIZE, SIZE, focal, 2) * 255).round().byte().numpy())
        alpha = stored[..., 3]
        assert 0.15 < (alpha == 255).mean() < 0.6 and ((alpha > 0) & (alpha < 255)).any()
        assert not stored[alpha == 0].any()
        colour = stored[alpha == 255][:, :3].astype(float)
        assert colour.std(axis=0).min() > 20 and colour.std(axis=1).mean() > 10  # varied, and not grey


def test_every_default_view_holds_the_whole_scene():
    """The silhouette of the table and of each bounding sphere, at all default poses."""
    turn = torch.linspace(0, math.tau, 64)
    rims = [torch.stack((1.1 * turn.cos(), 1.1 * turn.sin(), torch.full_like(turn, z))) for z in (-0.45, -0.6)]
    limit = math.tan(0.5 * demo.FOV_X) * (1 - 2 / 128)
    for split, count in (("train", 100), ("val", 8), ("test", 8)):
        for pose in demo.sample_cameras(split, count):
            rim = pose[:, :3].T @ (torch.cat(rims, dim=1) - pose[:, 3:])
            assert (rim[:2] / -rim[2]).abs().max() < limit
            for solid in demo.SOLIDS[1:]:
                x, y, z = (pose[:, :3].T @ (torch.tensor(solid.center) - pose[:, 3])).tolist()
                spread = math.asin(solid.radius / math.hypot(x, y, z))
                assert math.atan2(math.hypot(x, y), -z) + spread < math.atan(limit)


def test_cameras_stand_on_the_shell_and_look_at_the_scene():
    poses = demo.sample_cameras("train", 100)
    eyes = poses[:, :, 3]
    elevation = torch.rad2deg(torch.asin(eyes[:, 2] / eyes.norm(dim=1)))
    assert 5 <= elevation.min() < 10 and 65 < elevation.max() <= 75
    assert 3.8 < eyes.norm(dim=1).min() and eyes.norm(dim=1).max() < 4.25
    azimuth = torch.atan2(eyes[:, 1], eyes[:, 0]).sort().values
    assert azimuth.diff().max() < 0.3
    rotation = poses[:, :, :3]
    assert torch.allclose(rotation.mT @ rotation, torch.eye(3).expand(100, 3, 3), atol=1e-5)
    assert torch.linalg.det(rotation).min() > 0
    assert ((-rotation[:, :, 2]) * -eyes / eyes.norm(dim=1, keepdim=True)).sum(1).min() > 0.99
    assert torch.equal(demo.sample_cameras("train", 10), poses[:10])


def test_splits_share_no_camera():
    train, val, test = (demo.sample_cameras(split, 100)[:, :, 3] for split in ("train", "val", "test"))
    for first, second in ((train, val), (train, test), (val, test)):
        assert torch.cdist(first, second).min() > 1e-3


@pytest.mark.parametrize("solid", demo.SOLIDS[1:3], ids=["ceramic", "steel"])
def test_a_glossy_point_changes_with_the_viewpoint(solid):
    """The centre pixel of cameras aimed at one surface point sees that point; its colour must not stay the same."""
    normal = torch.nn.functional.normalize(torch.tensor([0.1, -0.2, 1.0]), dim=0)
    point = torch.tensor(solid.center) + solid.radius * normal
    colours = []
    for eye in ([2.5, -1.5, 2.5], [-2.5, 1.0, 2.5], [1.7, -1.9, 3.4]):
        pixel = demo.render(demo.look_at(torch.tensor(eye), point), 9, 9, 900.0, 1)[4, 4]
        assert pixel[3] == 1
        colours.append(pixel[:3])
    spread = torch.stack(colours).amax(0) - torch.stack(colours).amin(0)
    assert spread.max() > 0.04


def test_the_tracer_agrees_with_the_sphere_formula():
    ball = demo.SOLIDS[1]
    eye, noise = torch.tensor([0.5, -3.0, 1.5]), torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    aims = torch.tensor(ball.center) + 0.9 * ball.radius * torch.nn.functional.normalize(noise, dim=1)
    rays = torch.nn.functional.normalize(aims - eye, dim=1)
    distance = ball.intersect(eye[:, None].expand(3, 200), rays.T)
    offset = (eye - torch.tensor(ball.center)).double()
    b = rays.double() @ offset
    exact = -b - torch.sqrt(b**2 - offset @ offset + ball.radius**2)
    assert torch.allclose(distance.double(), exact, atol=2e-4)


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    command = [sys.executable, str(SCRIPT), str(tmp_path), "--size", "8", "--train", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1 and str(tmp_path) in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_other_settings_and_missing_images_are_refused(tmp_path: Path):
    target = tmp_path / "scene"
    demo.write_scene(target, 8, 1, 1, 1, 1)
    before = digests(target)
    with pytest.raises(FileExistsError, match="settings"):
        demo.write_scene(target, 16, 1, 1, 1, 1)
    assert digests(target) == before
    (target / "test" / "r_0.png").unlink()
    with pytest.raises(FileExistsError):
        demo.write_scene(target, 8, 1, 1, 1, 1)
    with pytest.raises(ValueError, match="at least 1"):
        demo.write_scene(tmp_path / "none", 8, train=0)
    assert not (tmp_path / "none").exists()


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_):
        raise RuntimeError("out of paint")

    monkeypatch.setattr(demo, "render", fail)
    with pytest.raises(RuntimeError, match="out of paint"):
        demo.write_scene(tmp_path / "scene", 8, 2, 1, 1, 1)
    assert not list(tmp_path.iterdir())


def test_the_command_says_where_the_scene_is(tmp_path: Path):
    target = tmp_path / "scene"
    command = [sys.executable, str(SCRIPT), str(target), "--size", "8", "--train", "1", "--val", "1", "--test", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith(f"Scene written to {target} in ") and len(done.stdout.splitlines()) == 1
    settings = json.loads((target / "scene.json").read_text())
    assert settings["size"] == 8 and settings["supersample"] == 3


# The scene of thin things


@pytest.fixture(scope="module")
def thin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("thin") / "scene"
    demo.write_scene(target, SIZE, supersample=2, scene="thin", **COUNTS)
    return target


def test_thin_things_are_thin_and_within_the_same_frame():
    limit = math.atan(math.tan(0.5 * demo.FOV_X) * (1 - 2 / 128))
    poses = demo.sample_cameras("train", 100)
    for solid in demo.THIN_SOLIDS:
        assert 2 * (solid.rounding + solid.width) < 2 * 1.27 / 30
        along = torch.tensor([0.0, 0.0, 1.0]) if solid.axis is None else solid.rows[2]
        thick = solid.ring + solid.width + solid.rounding
        for end in (torch.tensor(solid.center) + side * solid.height * along for side in (-1, 1)):
            assert end.norm() + thick < 1.27
            x, y, z = (poses[:, :, :3].mT @ (end - poses[:, :, 3])[..., None])[..., 0].T
            spread = torch.asin(thick / torch.stack((x, y, z)).norm(dim=0))
            assert bool((torch.atan2(torch.hypot(x, y), -z) + spread < limit).all())


def test_the_thin_scenes_images_are_of_its_own_solids_dark_and_nearly_empty(thin: Path):
    focal = 0.5 * SIZE / math.tan(0.5 * demo.FOV_X)
    for i, pose in enumerate(demo.sample_cameras("train", COUNTS["train"])):
        stored = np.asarray(Image.open(thin / f"train/r_{i}.png"))
        expected = demo.render(pose, SIZE, SIZE, focal, 2, demo.THIN_SOLIDS)
        assert np.array_equal(stored, (expected * 255).round().byte().numpy())
        alpha = stored[..., 3] / 255.0
        assert 0.03 < alpha.mean() < 0.2
        colour = (stored[..., :3] * alpha[..., None]).sum((0, 1)) / alpha.sum()
        assert colour.max() < 110  # before a white background it is a dark object


def test_the_thin_scene_repeats_itself_and_is_never_taken_for_the_other(thin: Path, tmp_path: Path):
    again = tmp_path / "again"
    demo.write_scene(again, SIZE, supersample=2, scene="thin", **COUNTS)
    assert digests(again) == digests(thin)
    assert "already complete" in demo.write_scene(thin, SIZE, supersample=2, scene="thin", **COUNTS)
    with pytest.raises(FileExistsError, match="settings"):
        demo.write_scene(thin, SIZE, supersample=2, **COUNTS)
    assert digests(again) == digests(thin)


def test_the_command_writes_the_thin_scene(tmp_path: Path):
    target = tmp_path / "scene"
    counts = ["--train", "1", "--val", "1", "--test", "1"]
    command = [sys.executable, str(SCRIPT), str(target), "--size", "8", *counts, "--scene", "thin"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((target / "scene.json").read_text())["scene"] == "thin"
    done = subprocess.run([*command[:-1], "thick"], capture_output=True, text=True)
    assert done.returncode != 0 and "still-life" in done.stdout + done.stderr
