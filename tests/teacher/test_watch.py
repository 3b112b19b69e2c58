"""A teacher that learns nothing is seen, and nothing else is."""

from __future__ import annotations

import math

import pytest
import torch

from mobiler2l_ns.teacher.watch import WINDOW, Finding, TeacherWatch

COLOURS = torch.tensor([[1.0, 1.0, 1.0]] * 15 + [[0.1, 0.1, 0.2]])
"""A thin dark object before white."""


def verdict(shown, photos=COLOURS, accumulation: float = 0.0, steps: int = WINDOW) -> Finding | None:
    watch = TeacherWatch()
    torch.manual_seed(0)
    for _ in range(steps):
        photo = photos[torch.randint(len(photos), (512,))]
        watch.see(shown(photo), photo, torch.full((512, 1), accumulation))
    return watch.verdict()


def test_a_white_picture_scores_what_one_colour_does():
    finding = verdict(torch.ones_like)
    assert finding is not None and finding.has_failed
    assert finding.psnr == pytest.approx(finding.one_colour, abs=0.5)
    assert "dB where one colour has" in str(finding) and str(finding).endswith("it is empty everywhere")


def test_the_mean_colour_is_no_better():
    finding = verdict(lambda photo: COLOURS.mean(0).expand_as(photo), accumulation=1.0)
    assert finding is not None and finding.has_failed and str(finding).endswith("fog")
    assert finding.psnr == pytest.approx(finding.one_colour, abs=0.1)


@pytest.mark.parametrize("steps", [WINDOW, 3 * WINDOW])
def test_a_blurred_object_is_something(steps):
    finding = verdict(lambda photo: 0.5 * photo + 0.5, steps=steps)
    assert finding is not None and not finding.has_failed
    assert finding.psnr == pytest.approx(finding.one_colour + 20 * math.log10(2), abs=0.6)


def test_only_the_last_steps_count():
    watch = TeacherWatch()
    for step in range(2 * WINDOW):
        photo = COLOURS[torch.randint(len(COLOURS), (512,))]
        watch.see(torch.ones_like(photo) if step < WINDOW else photo, photo, torch.ones(512, 1))
    finding = watch.verdict()
    assert finding is not None and finding.psnr > 100.0


def test_what_is_no_number_has_failed():
    finding = verdict(lambda photo: torch.full_like(photo, math.nan))
    assert finding is not None and finding.has_failed and str(finding) == "its pictures are not numbers"


def test_photos_of_one_colour_and_few_steps_say_nothing():
    assert verdict(torch.ones_like, photos=torch.ones(4, 3)) is None
    assert verdict(torch.ones_like, steps=WINDOW - 1) is None
