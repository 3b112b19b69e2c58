"""How the races compare students: PSNR and SSIM over cameras and the pictures they should give."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def score(pairs: list[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Mean PSNR in dB and SSIM of pictures against those they should be."""
    from mobiler2l_ns.metrics import psnr, ssim

    scores = [(float(psnr(a, b)), ssim(a, b)) for a, b in pairs]
    return statistics.fmean(a for a, _ in scores), statistics.fmean(b for _, b in scores)


def judge(student: Any, pairs: list[tuple[Any, Tensor]]) -> tuple[float, float]:
    """Mean PSNR in dB and SSIM of the student over cameras and their pictures."""
    student.eval()
    with torch.no_grad():
        rendered = [student.render(camera).cpu() for camera, _ in pairs]
    student.train()
    return score([(a, b) for a, (_, b) in zip(rendered, pairs, strict=True)])


def judge_lpips(student: Any, pairs: list[tuple[Any, Tensor]], lpips: nn.Module) -> float:
    """Mean LPIPS of the student over cameras and their pictures, of their first three channels."""
    student.eval()
    distances = []
    with torch.no_grad():
        for camera, picture in pairs:
            shown, wanted = (rgb.cpu()[None, ..., :3].permute(0, 3, 1, 2) for rgb in (student.render(camera), picture))
            distances.append(float(lpips(shown.clamp(0.0, 1.0), wanted, normalize=True).mean()))
    student.train()
    return statistics.fmean(distances)


def judge_pitches(student: Any, pairs: list[tuple[Any, Tensor]]) -> dict[str, dict[str, float]]:
    """PSNR of a student's smaller pictures, one entry a coarser pitch: rendered at that pitch, and rendered at full
    size and then averaged, which costs a device the full size's time."""
    measured = {}
    for pitch in student.config.pitches[1:]:
        size = student.view(pitch)

        def smaller(picture: Tensor, height: int = size.height, width: int = size.width) -> Tensor:
            chw = picture.permute(2, 0, 1)[None].cpu()
            return functional.interpolate(chw, (height, width), mode="bilinear", antialias=True)[0].permute(1, 2, 0)

        cameras = [student.training_camera(camera.camera_to_worlds.reshape(3, 4), pitch) for camera, _ in pairs]
        targets = [smaller(picture) for _, picture in pairs]
        student.eval()
        with torch.no_grad():
            full = [smaller(student.render(camera)) for camera, _ in pairs]
        psnr, ssim = judge(student, list(zip(cameras, targets, strict=True)))
        averaged = score(list(zip(full, targets, strict=True)))
        measured[f"{pitch:g}"] = {
            "psnr": psnr,
            "ssim": ssim,
            "psnr_averaged": averaged[0],
            "ssim_averaged": averaged[1],
        }
    return measured
