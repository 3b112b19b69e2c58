"""What the student's two phases share: a filled pool, a measured scene, and an eye on the selection photos."""

from __future__ import annotations

import math
from typing import Any

import torch
from nerfstudio.utils import comms
from nerfstudio.utils.rich_utils import CONSOLE

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.run import distributed
from mobiler2l_ns.run.phase import Losses, Run, TrainingPhase
from mobiler2l_ns.run.selection import BestStudent, selection_psnr
from mobiler2l_ns.student.losses import colour_psnr
from mobiler2l_ns.teacher.corrections import corrected
from mobiler2l_ns.teacher.empty_space import EmptySpace
from mobiler2l_ns.teacher.render import fingerprint, render_pseudo_view

SELECTION_CHECKS = 10
"""How often in each phase of the student it is measured on the selection photos."""

TRIED_VIEWS, TRIED_PIXELS = 6, 96
"""Pictures that a teacher's empty space is tried on, and how large they are."""


def find_empty_space(run: Run) -> None:
    """Look once where the teacher, which learns no more, has nothing to show: pseudo views leave it out."""
    if run.knows_empty_space:
        return
    run.knows_empty_space = True
    teacher, manager, background = run.model.find_teacher(), run.datamanager, run.model.config.background
    assert teacher is not None
    poses = manager.train_poses[torch.linspace(0, len(manager.train_poses) - 1, TRIED_VIEWS).long()]
    tried = manager.view.at(max(1.0, max(manager.view.covered) / TRIED_PIXELS))
    cameras = [tried.cameras(pose[None]) for pose in poses]
    # Each rank looks for itself, and finds the same.
    rays = manager.config.pool_views / comms.get_world_size() * math.prod(manager.view.covered)
    with CONSOLE.status("Looking for empty space in the teacher"):
        found = run.empty_space = EmptySpace.find(
            teacher, cameras, lambda camera: render_pseudo_view(teacher, camera, background)["picture"], rays
        )
    if found is not None:
        share = 100.0 * found.asked / found.points
        CONSOLE.print(f"Pseudo views skip empty space: {share:.0f} % of their points are left to be rendered")


def measure_scene(run: Run) -> None:
    """Write into the student how far the scene reaches, and so where it samples its points; once, since it is part of
    what it learns.

    Raises:
        UserError: if the teacher gives no depth, or shows nothing, and no depth is set.
    """
    model, datamanager = run.model, run.datamanager
    capture, config = model.student.capture, model.config
    if capture.is_measured:
        return
    assert datamanager.pool is not None
    extent, colour = datamanager.measure_extent(), datamanager.pool.mean_colour().cpu()
    # Every rank has seen views of its own.
    planes, sphere, colour, has_depth = distributed.from_rank_0(
        (extent.planes(), extent.sphere(), colour, extent.has_depth)
    )
    near, far = (
        given if given is not None else measured
        for given, measured in zip((config.near, config.far), planes or (None, None), strict=True)
    )
    if near is None or far is None:
        if has_depth:
            raise UserError(
                "The teacher shows nothing where pseudo views are taken: train it longer (--pipeline.teacher-steps), "
                "or look at the cameras' poses and at what --pipeline.teacher.near-plane and .far-plane cut off"
            )
        raise UserError("The teacher gives no depth: set --pipeline.model.near and --pipeline.model.far")
    if not 0.0 < near < far:
        raise UserError(f"Near {near:.3g} and far {far:.3g} are no depth range: set --pipeline.model.near and .far")
    capture.record(depth_range=torch.tensor([near, far]), depth_known=torch.tensor(True))
    if config.initialisation == "identity":
        model.student.network.begin_with(colour)
    if sphere is not None and config.near is None and config.far is None:
        centre, radius = sphere
        nearest = (datamanager.train_poses[:, :, 3] - centre).norm(dim=-1).min()
        # From inside the sphere half of a ray's piece would lie behind the camera.
        if float(nearest) > float(radius):
            capture.record(scene_centre=centre, scene_radius=radius)
    count_density(run, keep_box=False)
    if model.student.in_sphere():
        CONSOLE.print(f"The student samples points in a sphere of radius {float(capture.scene_radius):.3g}")
    else:
        CONSOLE.print(f"The student samples depths from {near:.3g} to {far:.3g}")


def count_density(run: Run, keep_box: bool) -> None:
    """Let the student's volume know where the rays of the pseudo views so far end.

    Args:
        run: with its pool.
        keep_box: whether the planes, which lie in the volume's box, have begun to learn.
    """
    model, rays = run.model, run.datamanager.extent.rays()
    if model.student.volume is None:
        return
    if rays is not None:
        # Where the student is: moved away and back, its parameters would lose the hooks that average their gradients.
        model.student.count_density(*(part.to(model.device) for part in rays), keep_box=keep_box)
    # Of all ranks' views those of the first count, and not the mean, whose boxes would differ.
    proposals = model.student.volume.proposals
    box, density = distributed.from_rank_0((proposals.box.cpu(), proposals.density.cpu()))
    proposals.box.copy_(box)
    proposals.density.copy_(density)


class Learn(TrainingPhase):
    """A phase of the student."""

    reference: str
    """What the student's metric compares it with."""

    def enter(self, step: int) -> None:
        run = self.run
        run.datamanager.free_photos_of_rays()
        run.wrap(run.model.student)
        teacher, config = run.model.find_teacher(), run.datamanager.config
        assert teacher is not None
        named = ""
        if config.cache_dir is not None:
            named = f"{fingerprint(teacher)} {run.model.config.background_color}"
        find_empty_space(run)
        run.datamanager.fill_pool(named, self.pool_progress(step))
        measure_scene(run)
        given, corrections = run.datamanager.train_poses, run.camera_corrections()
        run.datamanager.photo_poses = None if corrections is None else corrected(given, corrections)

    def pool_progress(self, step: int) -> float:
        """Share of distillation, 0..1, that the pool must be enough for in a step."""
        return 1.0

    def loss(self, outputs: dict[str, Any], batch: dict[str, Any]) -> tuple[Losses, Losses]:
        model = self.run.model
        mask = batch["mask"].to(model.device) if "mask" in batch else None
        psnr = colour_psnr(outputs["rgb"], batch["image"].to(model.device), mask)
        return model.get_loss_dict(outputs, batch), {f"student_psnr_to_{self.reference}": psnr}

    def end_step(self, step: int) -> None:
        done, length = self.steps_done(step), self.run.plan.length(self.name)
        if done < length and done % max(1, length // SELECTION_CHECKS) == 0:
            self.look_at_selection_photos(step)

    def look_at_selection_photos(self, step: int) -> float | None:
        """Measure the student in dB, on rank 0, and note it; None where there is no photo to measure by, or no visible
        pixel in any."""
        if not comms.is_main_process():
            return None
        photos = self.run.datamanager.load_selection_photos()
        if photos is None:
            return None
        score = selection_psnr(self.run.model.student, photos)
        if score is not None:
            self.run.log.selection(step, score)
        return score

    def remember_best(self, step: int) -> float | None:
        """Measure the student in dB on all ranks, and keep a copy of it if it is the best so far; None where nothing
        can be measured."""
        run = self.run
        score = distributed.from_rank_0(self.look_at_selection_photos(step))
        if run.best_student is None:
            run.best_student = BestStudent(run.model.student)
        if score is not None:
            run.best_student.consider(run.model.student, score)
        return score
