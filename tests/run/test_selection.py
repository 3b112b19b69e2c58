"""The photos that select the student: only what is visible counts, and NaN is never a good score."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from small_student import make_student
from torch import nn

from mobiler2l_ns.capture.background import Background
from mobiler2l_ns.pool.photos import PhotoPool
from mobiler2l_ns.run.selection import BestStudent, selection_psnr
from mobiler2l_ns.student.config import StudentConfig
from mobiler2l_ns.student.renderer import Student

HEIGHT, WIDTH = 44, 60


def photos_of(student, masks):
    """Photos that are the student's own pictures but for a difference of 0.1 in their left half."""
    view = student.view()
    camera = Cameras(student.capture.proof_poses[:1], *view.intrinsics, width=WIDTH, height=HEIGHT)
    with torch.no_grad():
        rendered = student.render(camera)[..., :3].clamp(0.1, 0.9)
        picture = student.render(camera)[..., :3]
    picture = torch.where(rendered == picture, picture, rendered)
    photo = picture.clone()
    photo[:, : WIDTH // 2] += 0.1
    data = [{"image": photo, "mask": mask} for mask in masks]
    cameras = Cameras(
        student.capture.proof_poses[:1].repeat(len(masks), 1, 1), *view.intrinsics, width=WIDTH, height=HEIGHT
    )
    dataset: Any = SimpleNamespace(cameras=cameras, get_data=lambda index: data[index])
    return PhotoPool(dataset, list(range(len(masks))), view, Background())


@pytest.fixture
def student():
    made = make_student(height=HEIGHT, width=WIDTH)
    # Colours in the middle, so that a difference of 0.1 stays one.
    nn.init.zeros_(made.network.out[0].weight)  # type: ignore[union-attr,arg-type]
    nn.init.zeros_(made.network.out[0].bias)  # type: ignore[union-attr,arg-type]
    return made


def mask_of(columns):
    mask = torch.zeros(HEIGHT, WIDTH, 1, dtype=torch.bool)
    mask[:, columns] = True
    return mask


def test_only_visible_pixels_count_and_hidden_photos_do_not(student):
    left, nothing = mask_of(slice(0, 10)), mask_of(slice(0, 0))
    assert selection_psnr(student, photos_of(student, [left])) == pytest.approx(20.0, abs=0.3)
    # A wholly hidden photo once scored 160 dB.
    assert selection_psnr(student, photos_of(student, [nothing, left, nothing])) == pytest.approx(20.0, abs=0.3)
    assert selection_psnr(student, photos_of(student, [nothing])) is None


def test_nan_is_never_the_best():
    student = Student(StudentConfig(width=8, num_blocks=1, volume_rays=2, density_cells=8))
    best = BestStudent(student)
    assert not best.is_known
    best.consider(student, math.nan)
    assert not best.is_known
    best.consider(student, 12.0)
    kept = {name: value.clone() for name, value in student.state_dict().items()}
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.fill_(math.nan)
    best.consider(student, math.nan)
    assert best.is_known and float(best.best) == 12.0
    best.restore(student)
    for name, value in student.state_dict().items():  # of network and volume
        assert torch.equal(value, kept[name]), name


def test_pictures_with_nan_score_nan(student):
    photos = photos_of(student, [mask_of(slice(0, WIDTH))])
    with torch.no_grad():
        student.network.out[0].bias.fill_(math.nan)
    score = selection_psnr(student, photos)
    assert score is not None and math.isnan(score)
