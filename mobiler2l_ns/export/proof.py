"""A package counts as done when a real runtime gives the student's own pictures."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track
from torch import Tensor

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export.contract import Contract, DepthRunner, Runner
from mobiler2l_ns.export.depth import MOST_WRONG, expected_depth, relative_error
from mobiler2l_ns.export.graph import PoseToImage
from mobiler2l_ns.export.proof_photos import ProofPhoto
from mobiler2l_ns.export.volume_graph import with_volume_in_half
from mobiler2l_ns.geometry.picture import PictureGeometry
from mobiler2l_ns.student.renderer import Student

MOST = 200.0
"""PSNR in dB that equal pictures count as."""


@dataclass
class Proof:
    """How near a package is to the student, and to the photos."""

    psnr: float
    """PSNR in dB between the package and the PyTorch student over all proof cameras."""
    psnr_photos: float | None
    """Mean PSNR in dB between the package and the proof photos; None without photos."""
    ms: float
    """Median milliseconds of a frame after the first."""
    cameras: int
    """Proof cameras compared."""
    depth_error: float | None = None
    """Mean error of its depth, in depths; None of a package that gives none."""


@dataclass
class Reference:
    """The student's own pictures on the proof cameras, and the photos taken there.

    Args:
        student: in evaluation mode.
        photos: one for each of the student's proof poses, None where there is none; no list: no photos at all.
    """

    student: Student
    photos: Sequence[ProofPhoto | None] = ()
    _pictures: dict[PictureGeometry, list[Tensor]] = field(default_factory=dict)

    def pictures(self, view: PictureGeometry) -> list[Float[Tensor, "channels h w"]]:
        """The student's picture at each proof pose, rendered once.

        Raises:
            UserError: if they hold NaN or infinity.
        """
        if view not in self._pictures:
            fx, fy, cx, cy = view.intrinsics
            poses = self.student.capture.proof_poses
            rendered = []
            with torch.no_grad():
                for pose in track(poses, "Rendering the student", console=CONSOLE, transient=True):
                    camera = Cameras(pose[None].cpu(), fx, fy, cx, cy, view.width, view.height)
                    rendered.append(self.student.render(camera).permute(2, 0, 1).cpu())
            if not all(bool(picture.isfinite().all()) for picture in rendered):
                raise UserError(
                    "The student's own pictures hold NaN or infinity, in PyTorch already: its training has diverged, "
                    "there is nothing to export"
                )
            self._pictures[view] = rendered
        return self._pictures[view]

    def psnr_to_photo(self, index: int, picture: Float[Tensor, "channels h w"], view: PictureGeometry) -> float | None:
        """PSNR in dB of a picture to the photo of a proof pose, RGBA over white; None without that photo."""
        photo = self.photos[index] if self.photos else None
        if photo is None:
            return None
        expected, mask = photo.at(view, self.student.view())
        if expected.shape[0] == 4:
            expected, picture = (rgba[:3] + 1.0 - rgba[3:] for rgba in (expected, picture))
        squared = ((picture.double() - expected.double()).square() * mask).sum() / (3 * mask.sum().clamp(min=1.0))
        return _decibel(float(squared))

    def psnr_photos(self) -> float | None:
        """Mean PSNR in dB of the student itself to the proof photos; None without photos."""
        if not self.photos:
            return None
        view = self.student.view()
        return _mean([self.psnr_to_photo(i, picture, view) for i, picture in enumerate(self.pictures(view))])


def prove(
    reference: Reference,
    run: Runner,
    contract: Contract,
    view: PictureGeometry,
    threshold: float,
    what: str,
    pitch: float = 1.0,
    depth: bool = False,
) -> Proof:
    """Compare a package with the student on the proof cameras.

    Args:
        reference: the PyTorch student's pictures.
        run: the package in a runtime.
        contract: what it is asked with.
        view: what it renders.
        threshold: least PSNR in dB.
        what: names the package in messages.
        pitch: of its rays.
        depth: whether it gives depth, which is compared as well.

    Raises:
        UserError: if the package falls short.
    """
    expected = reference.pictures(view)
    encoder = PoseToImage(reference.student, view, pitch).eval()
    if contract == "features":
        encoder = with_volume_in_half(encoder)  # what the client has
    intrinsics = torch.tensor([view.intrinsics])
    squared, count, photos, seconds, depth_errors = 0.0, 0, [], [], []
    poses = reference.student.capture.proof_poses.cpu()
    for index, pose in enumerate(track(poses, f"Proving {what}", console=CONSOLE, transient=True)):
        if contract == "pose":
            inputs = {"camera_to_world": pose[None].numpy(), "intrinsics": intrinsics.numpy()}
        else:
            with torch.no_grad():
                given = encoder.network_inputs(pose[None], intrinsics)
                inputs = {name: value.numpy() for name, value in given.items()}
        began = time.perf_counter()
        answer, given_depth = cast(DepthRunner, run).with_depth(inputs) if depth else (run(inputs), None)
        seconds.append(time.perf_counter() - began)
        got = torch.from_numpy(answer)
        if got.shape != expected[index].shape:
            raise UserError(
                f"{what} gives pictures of shape {tuple(got.shape)}, the student {tuple(expected[index].shape)}"
            )
        if not got.isfinite().all():
            raise UserError(
                f"{what} gives pictures with NaN or infinity: numbers of the network overflow at its precision; one of "
                "a wider range may hold them, such as fp32"
            )
        squared += float((got.double() - expected[index].double()).square().sum())
        count += got.numel()
        photos.append(reference.psnr_to_photo(index, got, view))
        if given_depth is not None:
            wanted = expected_depth(reference.student, view, pitch, pose)
            depth_errors.append(relative_error(torch.from_numpy(given_depth), wanted))
    psnr = _decibel(squared / count)
    if not psnr >= threshold:
        raise UserError(f"{what} is not the student: {psnr:.1f} dB between them, at least {threshold:.0f} dB needed")
    depth_error = statistics.fmean(depth_errors) if depth else None
    if depth_error is not None and not depth_error <= MOST_WRONG:
        raise UserError(f"{what} does not give the student's depth: it is off by {100.0 * depth_error:.1f} % of it")
    ms = 1000.0 * statistics.median(seconds[1:] or seconds)
    return Proof(psnr, _mean(photos), ms, len(poses), depth_error)


def _decibel(squared: float) -> float:
    """PSNR in dB of a mean squared error; NaN stays NaN."""
    if math.isnan(squared):
        return squared
    return min(MOST, -10.0 * math.log10(max(squared, 1e-20)))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
