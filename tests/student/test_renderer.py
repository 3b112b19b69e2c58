"""The student renders any camera by what it knows: cells of one angular size."""

from dataclasses import replace

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import nn
from torch._dynamo.testing import CompileCounter

from mobiler2l_ns.devices import compiles
from mobiler2l_ns.errors import UserError
from mobiler2l_ns.geometry.rays import camera_rays
from mobiler2l_ns.student.config import Execution, StudentConfig
from mobiler2l_ns.student.network import StudentNetwork
from mobiler2l_ns.student.renderer import Student

CONFIG = StudentConfig(width=16, num_blocks=2, sr_channels=(8, 8, 4))
POSE = torch.tensor([[1.0, 0.0, 0.0, 0.1], [0.0, 1.0, 0.0, -0.2], [0.0, 0.0, 1.0, 4.0]])


@pytest.fixture
def student():
    torch.manual_seed(0)
    student = Student(CONFIG).eval()
    student.capture.record(
        image_size=torch.tensor([60, 84]),
        intrinsics=torch.tensor([90.0, 95.0, 40.0, 31.0]),
        depth_range=torch.tensor([2.0, 6.0]),
    )
    return student


class Directions(nn.Module):
    """Stands in for the network: colours are the ray's x and y at depth 1, spread bilinearly over its block."""

    def forward(self, encoded):
        points = encoded[:, 12::13]  # identity channels, depth-major xyz
        towards = points[:, 3:6] - points[:, 0:3]  # direction times the depth step
        picture = towards / towards[:, 2:].abs()
        return nn.functional.interpolate(picture, scale_factor=8, mode="bilinear") / 4 + 0.5


def camera(width, height, fx, fy=None, cx=None, cy=None):
    cx, cy = width / 2 if cx is None else cx, height / 2 if cy is None else cy
    return Cameras(POSE[None], fx, fy or fx, cx, cy, width=width, height=height)


def test_a_training_camera_is_only_cropped(student):
    view = camera(84, 60, 90.0, 95.0, 40.0, 31.0)
    raw = student(*camera_rays(view, 8))
    assert raw.shape == (1, 3, 64, 88)
    torch.testing.assert_close(student.render(view), raw[0, :, :60, :84].permute(1, 2, 0))


SIZES = [(1, 1), (7, 3), (10, 200), (200, 10), (33, 47), (84, 60), (60, 84), (128, 128), (99, 101), (250, 130)]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("focal", [35.0, 90.0, 400.0])
def test_any_size_and_field_of_view_comes_out_exactly(student, width, height, focal):
    with torch.no_grad():
        picture = student.render(camera(width, height, focal))
    assert picture.shape == (height, width, 3)
    assert bool(picture.isfinite().all())


@pytest.mark.parametrize(
    "view",
    [
        camera(84, 60, 90.0, 95.0, 40.0, 31.0),
        camera(120, 100, 130.0, 110.0, 55.5, 60.25),  # longer focal: rendered smaller, then enlarged
        camera(50, 40, 40.0, 40.0, 20.0, 10.0),  # shorter focal: rendered larger, then reduced
    ],
    ids=["training", "longer", "shorter"],
)
def test_every_pixel_shows_its_own_direction(student, view):
    student.network = Directions()
    picture = (student.render(view) - 0.5) * 4
    height, width = picture.shape[:2]
    u, v = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    expected_x = (u - float(view.cx)) / float(view.fx)
    expected_y = -(v - float(view.cy)) / float(view.fy)
    # Away from the border, where the stand-in's upsampling has nothing to interpolate towards.
    inner = slice(8, -8)
    torch.testing.assert_close(
        picture[inner, inner, 0], expected_x.expand(height, width)[inner, inner], atol=5e-3, rtol=0
    )
    torch.testing.assert_close(
        picture[inner, inner, 1], expected_y[:, None].expand(height, width)[inner, inner], atol=5e-3, rtol=0
    )


def test_rendering_leaves_the_camera_alone(student):
    view = camera(50, 40, 40.0)
    before = {name: getattr(view, name).clone() for name in ("fx", "fy", "cx", "cy", "width", "height")}
    student.render(view)
    assert all(torch.equal(getattr(view, name), value) for name, value in before.items())


def test_a_very_wide_view_is_rendered_within_bounds(student):
    with torch.no_grad():
        assert student.render(camera(64, 64, 1.0)).shape == (64, 64, 3)


def test_other_camera_models_are_refused(student):
    view = camera(20, 20, 10.0)
    view.camera_type = torch.tensor([[CameraType.FISHEYE.value]])
    with pytest.raises(ValueError, match="perspective cameras only"):
        student.render(view)


def test_points_are_jittered_in_training_only(student):
    student.config = replace(CONFIG, jitter="ray")
    rays = camera_rays(camera(84, 60, 90.0), 8)
    assert torch.equal(student.encode_rays(*rays), student.encode_rays(*rays))
    student.train()
    assert not torch.equal(student.encode_rays(*rays), student.encode_rays(*rays))


def test_contraction_follows_the_capture(student):
    assert not student.is_contracted()
    student.capture.record(unbounded=torch.tensor(True))
    assert student.is_contracted()
    steps = (1 / student.t_values()).diff()
    torch.testing.assert_close(steps, steps[:1].expand(7))  # spaced in disparity


def test_points_are_sampled_where_the_scene_is(student):
    student.capture.record(scene_centre=torch.tensor([0.1, 0.0, 0.0]), scene_radius=torch.tensor(1.2))
    assert student.in_sphere()
    points = student.encode_rays(*camera_rays(camera(84, 60, 90.0), 8))[:, 12::13]
    ends = torch.stack([points[:, :3], points[:, -3:]]).norm(dim=2)
    # Entry and exit are on the sphere, for all rays that meet it.
    meets = (ends > 1.0 - 1e-4) & (ends < 1.0 + 1e-4)
    assert 0.3 < float(meets.float().mean()) and torch.equal(meets[0], meets[1])
    student.capture.record(unbounded=torch.tensor(True))
    assert not student.in_sphere()  # the contraction has its own bounds


def test_what_decides_the_course_survives_saving(student):
    student.capture.record(scene_radius=torch.tensor(1.2))
    loaded = Student(CONFIG)
    loaded.load_state_dict(student.state_dict())
    assert loaded.in_sphere() and not loaded.is_contracted()


def test_the_capture_refuses_values_of_another_shape(student):
    with pytest.raises(ValueError, match=r"intrinsics has shape \(3,\), expected \(4,\)"):
        student.capture.record(intrinsics=torch.ones(3))


PITCHES = StudentConfig(width=16, num_blocks=2, sr_channels=(8, 8, 4), pitches=(1.0, 1.5, 2.0, 4.0))


@pytest.mark.parametrize(("focal", "pitch"), [(180, 1.0), (90, 1.0), (70, 1.0), (60, 1.5), (45, 2.0), (20, 4.0)])
def test_a_camera_is_rendered_at_the_coarsest_pitch_that_is_fine_enough(focal, pitch):
    assert Student(PITCHES).pitch_for(90.0 / focal) == pitch


@pytest.mark.parametrize("size", [(51, 25), (25, 51), (17, 19), (50, 26)])
def test_small_sizes_are_rounded_to_whole_pixels_and_still_rendered_at_their_pitch(size):
    student = Student(PITCHES).eval()
    height, width = size
    student.capture.record(
        image_size=torch.tensor(size), intrinsics=torch.tensor([60.0, 61.0, width / 2, height / 2]),
        depth_range=torch.tensor([2.0, 6.0]),
    )  # fmt: skip
    for pitch in PITCHES.pitches:
        camera = student.training_camera(POSE, pitch)
        assert student.pitch_for(60.0 / float(camera.fx)) == pitch
        raw = student(*camera_rays(camera, 8), pitch)[0].permute(1, 2, 0)
        rows, columns = round(height / pitch), round(width / pitch)
        assert torch.equal(student.render(camera), raw[:rows, :columns])


@pytest.mark.parametrize("pitch", PITCHES.pitches)
def test_at_each_of_its_sizes_a_student_is_only_cropped(pitch):
    student = Student(PITCHES).eval()
    student.capture.record(image_size=torch.tensor([60, 84]), intrinsics=torch.tensor([90.0, 95.0, 40.0, 31.0]))
    view = student.training_camera(POSE, pitch)
    raw = student(*camera_rays(view, 8), pitch)
    height, width = round(60 / pitch), round(84 / pitch)
    torch.testing.assert_close(student.render(view), raw[0, :, :height, :width].permute(1, 2, 0))
    assert not torch.equal(raw, student(*camera_rays(view, 8), 3.0))  # the pitch is heard


def test_bfloat16_is_for_training_and_leaves_pictures_as_they_are(monkeypatch):
    rays = camera_rays(camera(84, 60, 90.0, 95.0, 40.0, 31.0), 8)
    exact, dtypes = Student(CONFIG, Execution(precision="float32")), []
    for precision, native in (("auto", True), ("auto", False), ("gpu", True), ("float32", True)):
        monkeypatch.setattr("mobiler2l_ns.student.renderer.multiplies_bfloat16", lambda _, native=native: native)
        student = Student(CONFIG, Execution(precision=precision))  # type: ignore[arg-type]
        student.load_state_dict(exact.state_dict())
        student.network.body[0].register_forward_hook(lambda *seen: dtypes.append(seen[-1].dtype))
        learned, expected = student.train()(*rays), exact.train()(*rays)
        assert learned.dtype == torch.float32
        torch.testing.assert_close(learned, expected, atol=0.02, rtol=0)
        learned.sum().backward()
        assert {p.grad.dtype for p in student.parameters() if p.grad is not None} == {torch.float32}
        torch.testing.assert_close(student.eval()(*rays), exact.eval()(*rays))
    assert dtypes == [torch.bfloat16] + 7 * [torch.float32]


def test_a_compiled_student_learns_the_same():
    student = Student(replace(CONFIG, norm=False), Execution(compile="on")).train()
    rays = camera_rays(camera(84, 60, 90.0, 95.0, 40.0, 31.0), 8)

    def gradient():
        student.zero_grad()
        student(*rays).square().sum().backward()
        return student.network.head[0].weight.grad.clone()  # type: ignore[union-attr,operator]

    expected = gradient()
    student.compile_for(torch.device("cpu"))
    torch.testing.assert_close(gradient(), expected, atol=1e-4, rtol=1e-3)
    assert student.eval().render(camera(33, 21, 50.0)).shape == (21, 33, 3)  # any size, without compiling it


def test_where_torch_compile_fails_a_student_is_trained_without_it(monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("Failed to find C compiler.\nPlease specify one")

    monkeypatch.setattr("mobiler2l_ns.student.renderer.find_spec", lambda _: "triton")
    monkeypatch.setattr(torch, "compile", fail)
    compiles.cache_clear()
    compiled = []
    for compile in ("auto", "auto", "off"):
        student = Student(CONFIG, Execution(compile=compile))
        monkeypatch.setattr(student.network, "compile", lambda: compiled.append(True))
        student.compile_for(torch.device("cuda"))
    compiles.cache_clear()
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("without torch.compile, which fails here: Failed to find C compiler.") == 1
    assert not compiled and "Please specify" not in printed


def test_a_growing_student_is_compiled_once_a_stage_and_size_and_as_a_whole():
    network = StudentNetwork(
        StudentConfig(width=16, num_blocks=6, sr_channels=(8, 8, 4), norm=False, pitches=(1.0, 2.0))
    )
    channels = network.config.input_channels
    counter = CompileCounter()
    torch.compiler.reset()
    network.compile(backend=counter, fullgraph=True)  # which fails where a graph breaks
    for blocks in (1, 2, 4, 6):
        network.active_blocks = blocks
        for _ in range(3):
            for rows in (12, 6, 5):
                network(torch.randn(2, channels, rows, rows)).mean().backward()
    # Far from the limit beyond which torch compiles no more.
    assert counter.frame_count <= 5 < torch._dynamo.config.cache_size_limit
    torch.compiler.reset()


@pytest.mark.parametrize("pitches", [(), (2.0, 4.0), (1.0, 4.0, 2.0), (1.0, 1.0)])
def test_pitches_that_cannot_be_are_refused(pitches):
    with pytest.raises(UserError, match="must begin with 1 and increase"):
        Student(replace(CONFIG, pitches=pitches))
