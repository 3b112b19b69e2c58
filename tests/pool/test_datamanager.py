"""The DataManager: exact photo sizes, and pseudo views only where they are wanted."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.utils import comms
from torch.nn import functional

from mobiler2l_ns.capture.background import Background
from mobiler2l_ns.errors import UserError
from mobiler2l_ns.pool.datamanager import MobileR2LDataManagerConfig

STRIDE = 8


class CountingTeacher:
    """Paints where the camera stands, and counts its pictures."""

    def __init__(self) -> None:
        self.pictures = 0

    def __call__(self, camera):
        self.pictures += 1
        shape = (int(camera.height), int(camera.width))
        colour = camera.camera_to_worlds[0, :, 3] / 12 + 0.5
        return {"picture": colour.expand(*shape, 3), "depth": torch.full((*shape, 1), 4.0)}


@pytest.fixture
def config(demo_scene):
    return MobileR2LDataManagerConfig(
        dataparser=BlenderDataParserConfig(data=demo_scene), pool_views=5, views_per_batch=3, refresh_rate=0.0
    )


def set_up(config, teacher=None, test_mode="val", background=Background()):  # noqa: B008
    datamanager = config.setup(device="cpu", test_mode=test_mode)
    datamanager.connect(STRIDE, background, teacher)
    return datamanager


@pytest.mark.parametrize("limit", [None, 52, 48, 33, 7])
def test_photos_are_scaled_with_exact_intrinsics(config, limit):
    full = set_up(replace(config, max_image_size=None)).train_dataset
    dataset = set_up(replace(config, max_image_size=limit)).train_dataset
    size = limit or 52
    photo = dataset.get_data(0)["image"]
    assert photo.shape[:2] == (size, size) == (int(dataset.cameras.height[0]), int(dataset.cameras.width[0]))
    # The field of view is that of the whole photo, to the last digit.
    torch.testing.assert_close(dataset.cameras.fx / size, full.cameras.fx / 52)
    torch.testing.assert_close(dataset.cameras.cx, torch.full_like(dataset.cameras.cx, size / 2))


@pytest.mark.parametrize(("free_gib", "device"), [(3.0, "cpu"), (9.0, "cuda")])
def test_the_pool_goes_to_the_gpu_if_what_is_kept_of_it_fits(config, monkeypatch, free_gib, device):
    datamanager = set_up(replace(config, pool_budget_gib=4.0))
    datamanager.device = "cuda"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(free_gib * 2**30), 0))
    assert datamanager._pool_device(datamanager._view_bytes(10_000_000)).type == device


def test_the_pool_is_filled_once_and_bounded(config):
    teacher = CountingTeacher()
    datamanager = set_up(config, teacher)
    datamanager.fill_pool()
    datamanager.fill_pool()
    assert teacher.pictures == 5 == len(datamanager.pool)


@pytest.mark.parametrize(("ranks", "shares"), [(1, [30, 35, 40, 45, 50, 50]), (2, [15, 17, 20, 22, 25, 25])])
def test_the_pool_is_filled_while_the_student_learns(config, monkeypatch, ranks, shares):
    monkeypatch.setattr(comms, "get_world_size", lambda: ranks)
    teacher = CountingTeacher()
    datamanager = set_up(replace(config, pool_views=50, fill_share=0.4, refresh_rate=1.0), teacher)
    datamanager.fill_pool(progress=0.0)
    rendered = []
    for progress in (0.0, 0.1, 0.2, 0.3, 0.4, 0.9):
        datamanager.fill_further(progress)
        rendered.append(teacher.pictures)
        assert datamanager.missing_views(progress) == 0
        assert datamanager.missing_views() == shares[-1] - shares[len(rendered) - 1]
        if datamanager.missing_views():
            datamanager.pseudo_batch()  # which replaces no view as long as some are missing
    assert rendered == shares


def test_a_run_that_is_resumed_begins_with_the_views_it_had(config):
    teacher = CountingTeacher()
    datamanager = set_up(replace(config, pool_views=50, fill_share=0.4), teacher)
    datamanager.fill_pool(progress=0.3)
    assert teacher.pictures == 45


def test_without_a_share_the_pool_is_filled_beforehand(config):
    teacher = CountingTeacher()
    set_up(replace(config, pool_views=40, fill_share=0.0), teacher).fill_pool(progress=0.0)
    assert teacher.pictures == 40


def test_a_pool_that_is_cached_is_filled_beforehand(config, tmp_path):
    config = replace(config, pool_views=34, cache_dir=tmp_path)
    datamanager = set_up(config, CountingTeacher())
    datamanager.fill_pool(progress=0.0)
    assert len(datamanager.pool) == 34
    teacher = CountingTeacher()
    again = set_up(config, teacher)
    again.fill_pool(progress=0.0)
    assert teacher.pictures == 0 and len(again.pool) == 34


@pytest.mark.parametrize(("alpha", "warned"), [(1.0, True), (0.2, False)])
def test_a_student_with_alpha_of_an_opaque_teacher_is_announced(config, capsys, alpha, warned):
    def paint(camera):
        shape = (int(camera.height), int(camera.width))
        return {"picture": torch.full((*shape, 4), alpha), "depth": torch.full((*shape, 1), 4.0)}

    set_up(config, paint, background=Background(alpha=True)).fill_pool()
    assert ("nothing transparent" in " ".join(capsys.readouterr().out.split())) is warned


def test_a_batch_pairs_pictures_with_the_rays_of_their_poses(config):
    datamanager = set_up(replace(config, shift_grid=False), CountingTeacher())
    datamanager.fill_pool()
    rays, pictures, masks = datamanager.pseudo_batch()
    assert rays.directions.shape == (3, 7, 7, 3) and pictures.shape == (3, 56, 56, 3)
    colour = rays.origins[:, 0, 0] / 12 + 0.5
    torch.testing.assert_close(pictures[:, 10, 20], colour, atol=0.5 / 255 + 1e-6, rtol=0)
    assert datamanager.get_train_rays_per_batch() == 3 * 7 * 7


def paint_directions(camera):
    """A teacher whose colours say where each pixel looks; a block's mean colour is then its centre's."""
    rays = camera.generate_rays(camera_indices=0, keep_shape=True)
    directions = rays.directions * rays.metadata["directions_norm"]
    return {"picture": directions / 4 + 0.5, "depth": torch.full_like(directions[..., :1], 4.0)}


@pytest.mark.parametrize("shift", [True, False])
def test_a_shifted_grids_rays_go_through_the_middle_of_their_blocks(config, shift):
    datamanager = set_up(replace(config, shift_grid=shift), paint_directions)
    datamanager.fill_pool()
    for _ in range(8):
        rays, pictures, masks = datamanager.pseudo_batch()
        rows = 7 - shift
        assert datamanager.get_train_rays_per_batch() == 3 * rows * rows
        assert rays.directions.shape == (3, rows, rows, 3) and pictures.shape == (3, 8 * rows, 8 * rows, 3)
        blocks = functional.avg_pool2d(pictures.permute(0, 3, 1, 2), 8).permute(0, 2, 3, 1)
        torch.testing.assert_close(rays.directions, 4 * (blocks - 0.5), atol=6e-3, rtol=0)
        assert masks is None


@pytest.mark.parametrize(("shift", "places"), [(True, 16), (False, 1)])
def test_a_shifted_grid_lies_elsewhere_in_every_step(config, shift, places):
    datamanager = set_up(replace(config, shift_grid=shift, pool_views=1, views_per_batch=1), paint_directions)
    datamanager.fill_pool()
    corners = {tuple(datamanager.pseudo_batch().rays.directions[0, 0, 0].tolist()) for _ in range(40)}
    assert len(corners) >= places


def test_every_pixel_of_a_picture_is_learned_now_and_then(config):
    rows = torch.arange(56.0)[:, None].expand(56, 56)

    def paint_places(camera):
        places = torch.stack([rows, rows.T, torch.zeros(56, 56)], dim=-1) / 255.0
        return {"picture": places, "depth": torch.full((56, 56, 1), 4.0)}

    datamanager = set_up(replace(config, pool_views=1, views_per_batch=1), paint_places)
    datamanager.fill_pool()
    seen = torch.zeros(56, 56, dtype=torch.bool)
    for _ in range(300):
        places = (datamanager.pseudo_batch().pictures[0] * 255).round().long()
        seen[places[..., 0], places[..., 1]] = True
    assert bool(seen.all())


@pytest.mark.parametrize("shift", [True, False])
def test_photos_and_pseudo_views_of_a_batch_share_its_grid(config, shift):
    datamanager = set_up(replace(config, shift_grid=shift, photo_share=0.5, views_per_batch=2), paint_directions)
    datamanager.fill_pool()
    datamanager.load_photos()
    rows = 7 - shift
    for _ in range(4):
        rays, pictures, masks = datamanager.mixed_batch()
        assert rays.directions.shape == (2, rows, rows, 3) and pictures.shape == (2, 8 * rows, 8 * rows, 3)
        assert datamanager.get_train_rays_per_batch() == 2 * rows * rows
        # Photo and pseudo view have the same camera, turned: the angles between their rays are the same.
        unit = functional.normalize(rays.directions, dim=-1)
        first, second = (view @ view[0, 0] for view in unit)
        torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 0), (0.25, 2), (1.0, 8), (1.5, 12)])
def test_the_pool_is_refreshed_at_its_rate(config, rate, expected):
    teacher = CountingTeacher()
    datamanager = set_up(replace(config, refresh_rate=rate, refresh_share=1.0), teacher)
    datamanager.fill_pool()
    for _ in range(8):
        datamanager.pseudo_batch()
    assert teacher.pictures == 5 + expected and len(datamanager.pool) == 5


def test_a_slow_teacher_refreshes_the_pool_in_its_share_of_the_time_only(config, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def paint_slowly(camera):
        clock[0] += 3.0
        return paint_directions(camera)

    datamanager = set_up(replace(config, refresh_rate=1.0, refresh_share=0.25), paint_slowly)
    datamanager.fill_pool()
    filled, begun = datamanager.pool.rendered, clock[0]
    for _ in range(200):
        datamanager.pseudo_batch()
        clock[0] += 1.0
    rendering = 3.0 * (datamanager.pool.rendered - filled)
    assert rendering / (clock[0] - begun) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_fine_tuning_mixes_photos_and_pseudo_views(config, share, expected):
    datamanager = set_up(replace(config, photo_share=share, shift_grid=False), CountingTeacher())
    datamanager.fill_pool()
    datamanager.load_photos()
    photos = total = 0
    for _ in range(200):
        masks = datamanager.mixed_batch().masks
        total += 3
        if masks is not None:
            photos += int((masks.mean((1, 2)) < 1).sum())  # 52 of 56 pixels are photo
    assert photos / total == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize(("coarsest", "shift", "fits"), [(6.0, True, True), (7.0, True, False), (7.0, False, True)])
def test_a_pitch_whose_cell_is_larger_than_the_picture_is_refused(config, coarsest, shift, fits):
    datamanager = set_up(replace(config, shift_grid=shift), CountingTeacher())
    if fits:
        return datamanager.check_pitches(coarsest)
    with pytest.raises(UserError, match="52 x 52 pixels are too small to be learned at pitch 7 as well"):
        datamanager.check_pitches(coarsest)


def test_a_cached_pool_is_measured_on_the_views_it_holds(config, tmp_path):
    config = replace(config, cache_dir=tmp_path)
    set_up(config, CountingTeacher()).fill_pool()
    teacher = CountingTeacher()
    datamanager = set_up(config, teacher)
    datamanager.fill_pool()
    pool = datamanager.pool
    assert datamanager.measure_extent().planes() is not None
    assert teacher.pictures == 0 and datamanager.pool is pool


def test_a_pool_that_an_earlier_version_has_cached_is_measured_on_a_few_views(config, tmp_path):
    config = replace(config, cache_dir=tmp_path)
    set_up(config, CountingTeacher()).fill_pool()
    (file,) = tmp_path.glob("pseudo_views_*.pt")
    torch.save({name: value for name, value in torch.load(file).items() if name != "extent"}, file)
    teacher = CountingTeacher()
    datamanager = set_up(config, teacher)
    datamanager.fill_pool()
    assert datamanager.measure_extent().planes() is not None
    assert teacher.pictures == 8


def test_alpha_needs_photos_that_have_it(config):
    datamanager = set_up(config, CountingTeacher(), background=Background(alpha=True))
    datamanager.load_photos()
    straight = torch.from_numpy(datamanager.train_dataset.get_numpy_image(0)) / 255.0
    expected = torch.cat([straight[..., :3] * straight[..., 3:], straight[..., 3:]], dim=-1)
    premultiplied = datamanager.photos.take(torch.tensor([0]), "cpu").pictures
    torch.testing.assert_close(premultiplied[0, :52, :52], expected, atol=0.5 / 255 + 1e-6, rtol=0)
    datamanager.check_photos()
    headers = datamanager.train_dataset.headers
    headers[3] = replace(headers[3], alpha=False)
    with pytest.raises(UserError, match=r"photos with an alpha channel, .*r_3\.png has none: cut the object out"):
        datamanager.check_photos()


def test_a_cache_folder_keeps_the_pool_for_the_same_teacher(config, tmp_path):
    first, second, other = CountingTeacher(), CountingTeacher(), CountingTeacher()
    config = replace(config, cache_dir=tmp_path)
    set_up(config, first).fill_pool("teacher a")
    datamanager = set_up(config, second)
    datamanager.fill_pool("teacher a")
    assert (first.pictures, second.pictures, len(datamanager.pool)) == (5, 0, 5)
    set_up(config, other).fill_pool("teacher b")
    assert other.pictures == 5


def test_ranks_cache_their_own_shares_of_the_pool(config, tmp_path, monkeypatch):
    config = replace(config, cache_dir=tmp_path)
    monkeypatch.setattr(comms, "get_world_size", lambda: 2)
    for rank, expected in ((0, 3), (1, 3), (0, 0), (1, 0)):
        monkeypatch.setattr(comms, "get_rank", lambda rank=rank: rank)
        teacher = CountingTeacher()
        set_up(config, teacher).fill_pool()
        assert teacher.pictures == expected
    assert len(list(tmp_path.glob("*.pt"))) == 2


def test_students_that_begin_together_render_a_shared_pool_once(config, tmp_path):
    config = replace(config, cache_dir=tmp_path)
    teachers = [CountingTeacher() for _ in range(3)]
    managers = [set_up(config, teacher) for teacher in teachers]
    with ThreadPoolExecutor(len(managers)) as threads:
        list(threads.map(lambda manager: manager.fill_pool("teacher"), managers))
    assert sorted(teacher.pictures for teacher in teachers) == [0, 0, 5]
    assert all(len(manager.pool) == 5 for manager in managers)


def test_nothing_is_written_without_a_cache_folder(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    datamanager = set_up(config, CountingTeacher())
    datamanager.fill_pool()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("test_mode", ["test", "inference"])
def test_viewer_eval_and_render_set_up_without_rendering(config, test_mode):
    datamanager = set_up(config, None, test_mode)
    assert datamanager.pool is None and datamanager.sample_poses(3).shape == (3, 3, 4)


def test_other_cameras_than_perspective_are_one_clear_line(config, monkeypatch):
    from nerfstudio.data.dataparsers.blender_dataparser import Blender

    original = Blender._generate_dataparser_outputs

    def fisheye(self, split="train"):
        outputs = original(self, split)
        outputs.cameras.camera_type = torch.full_like(outputs.cameras.camera_type, CameraType.FISHEYE.value)
        return outputs

    monkeypatch.setattr(Blender, "_generate_dataparser_outputs", fisheye)
    with pytest.raises(UserError, match="needs perspective photos, .*: undistort them first"):
        config.setup(device="cpu", test_mode="val")
