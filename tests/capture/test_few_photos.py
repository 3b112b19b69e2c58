"""Captures that hold nothing out, of one photo or from one place: all of them train and are measured where they can
be."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image
from short_run import open_run, train
from tiny_capture import HEIGHT, WIDTH, pose, write_capture

from mobiler2l_ns.capture.pose_samplers import camera_spacing, describe_poses, look_at_point, make_pose_sampler
from mobiler2l_ns.errors import UserError
from mobiler2l_ns.geometry.pose_range import pose_range


def short_config(make_config, tmp_path, folder, **dataparser):
    config = make_config(tmp_path / "outputs", teacher_steps=2, distill_steps=2, finetune_steps=2)
    config.pipeline.datamanager = replace(
        config.pipeline.datamanager, dataparser=NerfstudioDataParserConfig(data=folder, **dataparser), data=folder
    )
    config.data, config.steps_per_eval_batch, config.steps_per_eval_image = folder, 1, 1
    return config


def masked_capture(folder, count, visible=lambda index: True):
    write_capture(folder, count, frame=lambda i: {"mask_path": f"masks/{i}.png"})
    (folder / "masks").mkdir()
    for index in range(count):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[2:5, 3:6] = 255 * visible(index)
        Image.fromarray(mask).save(folder / f"masks/{index}.png")
    return folder


@pytest.mark.parametrize("count", [1, 3])
def test_a_capture_that_holds_nothing_out_trains_and_says_what_is_left_out(make_config, tmp_path, capsys, count):
    config_path = train(short_config(make_config, tmp_path, write_capture(tmp_path / "c", count)))
    said = " ".join(capsys.readouterr().out.split())
    assert "No photo is held out" in said and "dB kept" in said
    pipeline, _ = open_run(config_path)
    assert len(pipeline.datamanager.eval_dataset) == 0
    assert pipeline.get_average_eval_image_metrics(get_std=True) == {}
    assert "nothing is measured" in " ".join(capsys.readouterr().out.split())
    camera, _ = pipeline.datamanager.eval_dataloader.get_camera(0)  # where ns-render's spiral begins
    assert pipeline.model.get_outputs_for_camera(camera)["rgb"].isfinite().all()


def test_a_split_of_everything_holds_nothing_out(make_config, tmp_path):
    config = short_config(make_config, tmp_path, write_capture(tmp_path / "c"), train_split_fraction=1.0)
    pipeline = config.pipeline.setup(device="cpu", test_mode="val")
    assert len(pipeline.datamanager.train_dataset) == 10 and len(pipeline.datamanager.eval_dataset) == 0


def test_a_split_that_trains_on_nothing_is_one_line(make_config, tmp_path):
    config = short_config(make_config, tmp_path, write_capture(tmp_path / "c", 1), eval_mode="interval")
    with pytest.raises(UserError, match=r"transforms\.json: no photo is left to train on"):
        config.pipeline.setup(device="cpu", test_mode="val")


def test_masks_with_one_held_out_photo_and_few_visible_pixels_train(make_config, tmp_path, capsys):
    folder = masked_capture(tmp_path / "c", 10, visible=lambda index: index != 4)
    config_path = train(short_config(make_config, tmp_path, folder))
    assert "Wholly hidden by their masks, and so left out: 04.png" in capsys.readouterr().out
    pipeline, _ = open_run(config_path)
    assert math.isfinite(pipeline.get_average_eval_image_metrics()["psnr"])
    batch = pipeline.datamanager.next_train(0)[1]
    assert batch["mask"].all() and (batch["indices"][:, 0] != 4).all()
    rows, columns = batch["indices"][:, 1], batch["indices"][:, 2]
    assert set(rows.tolist()) == {2, 3, 4} and set(columns.tolist()) == {3, 4, 5}


def test_hidden_photos_of_several_sizes_are_not_drawn_from(make_config, tmp_path):
    folder = masked_capture(tmp_path / "c", 10, visible=lambda index: index not in (4, 8))
    Image.new("RGB", (2 * WIDTH, 2 * HEIGHT)).save(folder / "images/02.png")
    pipeline = short_config(make_config, tmp_path, folder).pipeline.setup(device="cpu", test_mode="val")
    batch = pipeline.datamanager.next_train(0)[1]
    assert len(batch["indices"]) > 0 and (batch["indices"][:, 0] != 4).all()
    # The only photo that is held out is hidden, too.
    assert len(pipeline.datamanager.eval_dataset) == 0


def poses_of(kind):
    poses = torch.from_numpy(np.stack([pose(i)[:3] for i in range(6)])).float()
    if kind == "one":
        return poses[:1]
    if kind == "all alike":
        return poses[:1].repeat(6, 1, 1)
    if kind == "repeated":
        return poses.repeat_interleave(3, dim=0)
    poses[:, :, 3] = 0.0
    return poses


@pytest.mark.parametrize("kind", ["one", "all alike", "repeated", "tripod"])
@pytest.mark.parametrize("name", ["auto", "orbit", "forward-facing", "interpolate"])
def test_pose_samplers_draw_poses_from_any_cameras(kind, name):
    poses = poses_of(kind)
    sampler, reason = make_pose_sampler(name, poses)
    drawn = sampler.sample(64, torch.Generator().manual_seed(0))
    assert drawn.isfinite().all() and "nan" not in reason and "inf" not in reason
    rotation = drawn[:, :, :3]
    identity = torch.eye(3).expand(64, 3, 3)
    torch.testing.assert_close(rotation.transpose(1, 2) @ rotation, identity, atol=1e-4, rtol=0)
    assert all(math.isfinite(value) for value in vars(describe_poses(poses)).values())
    assert look_at_point(poses).isfinite().all()
    reach = pose_range(drawn, look_at_point(poses))
    assert all(value.isfinite().all() for value in vars(reach).values())


def test_several_photos_from_one_place_are_one_camera():
    single = poses_of("other")[:0]
    assert len(single) == 0
    apart = torch.from_numpy(np.stack([pose(i)[:3] for i in range(6)])).float()
    assert float(camera_spacing(apart.repeat_interleave(3, dim=0))) == pytest.approx(float(camera_spacing(apart)))
    assert float(camera_spacing(apart[:1])) == 0.0
    sampler, _ = make_pose_sampler("interpolate", apart.repeat_interleave(2, dim=0))
    assert (sampler.neighbours != torch.arange(12)[:, None]).all()  # type: ignore[attr-defined]
