"""Photos of the teacher's rays: as many bytes as they have, and only while rays are drawn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image
from short_run import train
from tiny_capture import HEIGHT, WIDTH, pattern, write_capture

from mobiler2l_ns.capture.background import Background
from mobiler2l_ns.capture.photos import sized_dataset
from mobiler2l_ns.geometry.picture import PictureGeometry
from mobiler2l_ns.pool.photo_bytes import PhotoBytes
from mobiler2l_ns.pool.photos import PhotoPool


def datamanager_of(make_config, folder, tmp_path, test_mode: Any = "val", **settings) -> Any:
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    config = make_config(tmp_path / "outputs").pipeline.datamanager
    config.dataparser, config.data = NerfstudioDataParserConfig(data=folder), folder
    for name, value in settings.items():
        setattr(config, name, value)
    return config.setup(device="cpu", test_mode=test_mode)


@pytest.fixture
def reads(monkeypatch) -> list[int]:
    """Grows with every time that photos are read for rays, by their number."""
    found, read = [], PhotoBytes._read

    def noting(self):
        found.append(self.count)
        return read(self)

    monkeypatch.setattr(PhotoBytes, "_read", noting)
    return found


def half_as_large(index, path):
    scale = 1 + (index % 2)
    Image.fromarray(pattern(index, scale * WIDTH, scale * HEIGHT)).save(path)


@pytest.mark.parametrize("save", [None, half_as_large], ids=["one size", "two sizes"])
def test_rays_carry_the_photos_own_colours_and_cost_the_photos_own_bytes(make_config, tmp_path, save):
    manager = datamanager_of(make_config, write_capture(tmp_path / "c", save=save), tmp_path)
    dataset = manager.train_dataset
    for rays, batch in (manager.next_train(0), manager.next_eval(0)):
        assert batch["image"].dtype == torch.float32 and len(rays) == len(batch["image"])
    _, batch = manager.next_train(1)
    photos = [dataset.get_data(index)["image"] for index in range(len(dataset))]
    expected = torch.stack([photos[i][row, column] for i, row, column in batch["indices"].tolist()])
    assert torch.equal(batch["image"], expected)
    kept = manager._train_photos.next()["image"]
    assert sum(photo.nbytes for photo in kept) == sum(photo.numel() for photo in photos)
    assert len({photo.untyped_storage().data_ptr() for photo in kept}) == (1 if save is None else len(dataset))


def test_rays_of_transparent_photos_keep_their_alpha(capture_of, make_config, tmp_path):
    see_through = replace(capture_of("blender").dataparser, alpha_color=None)
    config = replace(make_config(tmp_path).pipeline.datamanager, dataparser=see_through)
    manager: Any = config.setup(device="cpu", test_mode="val")
    _, batch = manager.next_train(0)
    index, row, column = batch["indices"][0].tolist()
    expected = manager.train_dataset.get_data(index)["image"][row, column]
    assert batch["image"].shape[-1] == 4 and torch.equal(batch["image"][0], expected)


def test_photos_that_the_dataparser_lays_over_a_colour_are_rounded_to_bytes(capture_of, tmp_path):
    outputs = capture_of("blender").dataparser.setup().get_dataparser_outputs(split="train")
    outputs.alpha_color = torch.tensor([1.0, 0.5, 0.0])
    dataset = sized_dataset(outputs, None)
    exact, bytes_ = dataset.get_image_float32(0), dataset.get_image_uint8(0)
    assert bytes_.dtype == torch.uint8
    torch.testing.assert_close(bytes_ / 255.0, exact, atol=0.5 / 255 + 1e-6, rtol=0)


@pytest.mark.parametrize("test_mode", ["val", "test", "inference"])
def test_no_photo_is_read_for_rays_before_there_are_any(make_config, tmp_path, reads, test_mode):
    manager = datamanager_of(make_config, write_capture(tmp_path / "c"), tmp_path, test_mode)
    assert reads == []
    if test_mode == "val":
        manager.next_train(0)
        manager.next_train(1)
        assert reads == [9]


def test_some_photos_at_a_time_are_drawn_anew_as_often_as_asked(make_config, tmp_path, reads):
    few = {"train_num_images_to_sample_from": 2, "train_num_times_to_repeat_images": 2}
    manager = datamanager_of(make_config, write_capture(tmp_path / "c"), tmp_path, **few)
    seen = [set(manager.next_train(step)[1]["indices"][:, 0].tolist()) for step in range(30)]
    assert reads == [2] * 10
    assert all(seen[step] == seen[step - step % 3] for step in range(30)) and len(set().union(*seen)) > 4


def test_the_memory_is_given_back_when_the_teacher_is_trained(make_config, tmp_path, reads):
    config = make_config(tmp_path, teacher_steps=2, distill_steps=2, finetune_steps=2)
    config.steps_per_eval_batch = 1
    trainers = []
    setup = type(config).setup

    def noting(self, **kwargs):
        trainers.append(setup(self, **kwargs))
        return trainers[-1]

    config.setup = noting.__get__(config)
    train(config)
    manager = trainers[0].pipeline.datamanager
    assert reads == [len(manager.train_dataset), len(manager.eval_dataset)]
    assert not manager._train_photos.is_loaded and not manager._eval_photos.is_loaded


def test_a_loaded_teacher_needs_no_rays_of_photos(make_config, finished_run, tmp_path, reads):
    settings = {"teacher_load_config": finished_run, "distill_steps": 2, "finetune_steps": 2}
    train(make_config(tmp_path, **settings))
    assert reads == []


@pytest.mark.parametrize("hidden", [None, 2])
def test_photos_that_fine_tune_have_one_mask_where_all_have_the_same(make_config, tmp_path, hidden):
    folder = write_capture(tmp_path / "c", frame=lambda index: {"mask_path": f"masks/{index}.png"})
    (folder / "masks").mkdir()
    for index in range(10):
        Image.new("L", (WIDTH, HEIGHT), 255).save(folder / f"masks/{index}.png")
    if hidden is not None:
        Image.new("L", (WIDTH, HEIGHT), 0).save(folder / f"masks/{hidden}.png")
    manager = datamanager_of(make_config, folder, tmp_path)
    view = PictureGeometry.of(manager.train_dataset.cameras, 8)
    pool = PhotoPool(manager.train_dataset, [0, 1, 2, 3], view, Background())
    height, width = view.covered
    assert pool.pictures.dtype == torch.uint8
    assert pool.masks.untyped_storage().nbytes() == height * width * (1 if hidden is None else 4)
    masks = pool.take(torch.arange(4), "cpu").masks
    assert masks is not None and masks.dtype == torch.float32
    seen = masks[:, :HEIGHT, :WIDTH].mean((1, 2)).tolist()
    assert seen == [float(index != hidden) for index in range(4)]
