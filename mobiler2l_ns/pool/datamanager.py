"""The DataManager: rays of photos for the teacher, pseudo views and photos with low-resolution rays for the student."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from filelock import FileLock
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils import comms
from nerfstudio.utils.rich_utils import CONSOLE, ItersPerSecColumn
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from mobiler2l_ns.capture.background import Background, without_alpha
from mobiler2l_ns.capture.pose_samplers import PoseSamplerName, look_at_point, make_pose_sampler
from mobiler2l_ns.capture.splits import selection_split
from mobiler2l_ns.errors import UserError
from mobiler2l_ns.geometry.bounds import SceneExtent
from mobiler2l_ns.geometry.picture import PictureGeometry
from mobiler2l_ns.pool.batch import StudentBatch
from mobiler2l_ns.pool.capture_manager import CaptureDataManager, CaptureDataManagerConfig
from mobiler2l_ns.pool.photos import PhotoPool
from mobiler2l_ns.pool.pseudo_views import BYTES_PER_GIB, PseudoViewPool
from mobiler2l_ns.pool.refresh import TimeShare

FIRST_VIEWS = 30
"""Pseudo views of all devices that the student begins with."""

RenderTeacher = Callable[[Cameras], dict[str, Tensor]]
"""Renders one camera: ``picture`` (H, W, 3) RGB or (H, W, 4) premultiplied RGBA in 0..1, and where the teacher knows
them ``depth`` and ``accumulation`` (H, W, 1)."""


@dataclass
class MobileR2LDataManagerConfig(CaptureDataManagerConfig):
    """Photos, pseudo views and where they come from."""

    _target: type = field(default_factory=lambda: MobileR2LDataManager)
    """Target class to instantiate."""
    pose_sampler: PoseSamplerName = "auto"
    """Where pseudo views are taken from: the cameras' shell, their box, between neighbours, or what fits them."""
    views_per_batch: int = 4
    """Pictures in a training step of the student, on each device."""
    pool_views: int = 2000
    """Pseudo views kept in memory; several devices share them out among themselves."""
    pool_budget_gib: float = 4.0
    """Most memory the pool may take in GiB, on all devices together; fewer views are kept if they would not fit."""
    fill_share: float = 0.2
    """Share of distillation in which the first pool is filled, while the student already learns from what is there,
    30 views at first; 0 fills the pool before the first step, and so does a cache folder, whose pool others may wait
    for."""
    pool_device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the pool and the photos of fine-tuning live; auto takes the GPU when half of its free memory holds them."""
    refresh_rate: float = 0.2
    """New pseudo views per training step and device, each replacing the oldest; 0 keeps the first ones."""
    refresh_share: float = 0.2
    """Most of the student's training time that rendering those may take: a slow teacher gives fewer of them."""
    shift_grid: bool = True
    """Lay each batch's grid of rays over the pictures at another place within a block: a picture then teaches
    stride x stride sets of rays in place of one, each one row and column smaller."""
    photo_share: float = 0.5
    """Share of photos in a batch of the fine-tuning phase; the rest are pseudo views."""
    cache_dir: Path | None = None
    """Folder that keeps the first pool of a teacher for later runs; None writes nothing."""


class MobileR2LDataManager(CaptureDataManager):
    """Serves each phase its batches. The pipeline connects the teacher's renderer; without one (viewer, eval, export)
    nothing is ever rendered here."""

    config: MobileR2LDataManagerConfig

    def __init__(self, config: MobileR2LDataManagerConfig, *args, **kwargs) -> None:
        super().__init__(config, *args, **kwargs)
        self.pool: PseudoViewPool | None = None
        self.photos: PhotoPool | None = None
        self._selection_photos: PhotoPool | None = None
        self.photo_poses: Float[Tensor, "n 3 4"] | None = None
        """Where the teacher has found the training photos to be taken from; None: where the capture says."""
        self.extent = SceneExtent()
        self._render: RenderTeacher | None = None
        self._owed_views = 0.0
        self._refresh = TimeShare(config.refresh_share)
        self.generator = torch.Generator().manual_seed(torch.initial_seed() % (1 << 31))

    # Photos

    def check_photos(self) -> None:
        """See that the photos can fine-tune the student, before anything is trained.

        Raises:
            UserError: if the student is to learn alpha and photos have none.
        """
        if not self._photos_fit():
            raise UserError(
                "A student with alpha is fine-tuned on photos with an alpha channel, "
                f"{without_alpha(self.train_dataset)[0]} has none: "
                "cut the object out, or set --pipeline.finetune-steps 0"
            )

    def check_pitches(self, coarsest: float) -> None:
        """See that a cell of the coarsest pitch fits the pictures.

        Raises:
            UserError: if it does not.
        """
        if coarsest > 1.0 and min(self.view.grid) - self._shifts_grid() < coarsest:
            raise UserError(
                f"Pictures of {self.view.width} x {self.view.height} pixels are too small to be learned at pitch "
                f"{coarsest:g} as well: leave it out of --pipeline.model.pitches"
            )

    def _photos_fit(self) -> bool:
        return not self.background.alpha or not without_alpha(self.train_dataset)

    def _split(self) -> tuple[list[int], list[int]]:
        """Indices of the photos that fine-tune and that select, none of them wholly hidden."""
        visible = self.train_dataset.visible
        chosen, selection = selection_split(len(visible))
        return [visible[index] for index in chosen], [visible[index] for index in selection]

    def load_selection_photos(self) -> PhotoPool | None:
        """The photos that select the student, in its geometry; None if there are none, or they have no alpha to judge
        it by."""
        if self._selection_photos is None and self._photos_fit() and not self.config.cameras_only:
            _, selection = self._split()
            self._selection_photos = self._pool_of(selection)
        return self._selection_photos

    def load_photos(self) -> None:
        """Bring the photos that fine-tune the student to its geometry, once."""
        if self.photos is None:
            chosen, _ = self._split()
            self.photos = self._pool_of(chosen)

    def _pool_of(self, photos: list[int]) -> PhotoPool:
        pool = PhotoPool(self.train_dataset, photos, self.view, self.background, self.photo_poses)
        return pool.to(self._pool_device(pool.pictures.nbytes))

    # Pseudo views

    def connect(self, stride: int, background: Background, render: RenderTeacher | None) -> None:
        """Set what the student renders and, when training, the teacher's renderer.

        Args:
            stride: pixels of a low-resolution ray's block, each way.
            background: of transparent photos.
            render: None where nothing is trained.
        """
        self.background = background
        self.view = PictureGeometry.of(self.train_dataset.cameras, stride)
        self.train_poses = self.train_dataset.cameras.camera_to_worlds.cpu()
        self.look_at = look_at_point(self.train_poses)
        self.sampler, self.sampler_reason = make_pose_sampler(self.config.pose_sampler, self.train_poses)
        self._render = render

    def sample_poses(self, count: int) -> Float[Tensor, "n 3 4"]:
        """Poses of new pseudo views."""
        return self.sampler.sample(count, self.generator)

    @property
    def _channels(self) -> int:
        return 4 if self.background.alpha else 3

    def _view_bytes(self, views: int) -> float:
        """What so many pseudo views will take of this device's share of the budget."""
        height, width = self.view.covered
        budget = self.config.pool_budget_gib * BYTES_PER_GIB / comms.get_world_size()
        return min(views * height * width * self._channels, budget)

    def _pool_device(self, wanted: float) -> torch.device:
        """Where so many bytes of pictures go."""
        training = torch.device(self.device)
        if self.config.pool_device != "auto" or training.type != "cuda":
            return training if self.config.pool_device == "cuda" else torch.device("cpu")
        torch.cuda.empty_cache()  # what the teacher's training has left to torch is free as well
        free, _ = torch.cuda.mem_get_info(training)
        return training if wanted < free / 2 else torch.device("cpu")

    def _empty_pool(self, views: int, budget_gib: float, device: torch.device) -> PseudoViewPool:
        seed = torch.initial_seed() % (1 << 31)
        return PseudoViewPool(views, *self.view.covered, budget_gib, device, self._channels, seed)

    def render_view(self, pose: Float[Tensor, "3 4"]) -> None:
        """Render one pseudo view into the pool and note how far the scene reaches in it."""
        assert self._render is not None and self.pool is not None
        outputs = self._render(self.view.cameras(pose[None]).to(self.device))
        self.pool.add(pose, outputs["picture"])
        self.extent.add(pose, self.view, outputs)

    def fill_pool(self, fingerprint: str = "", progress: float = 1.0) -> None:
        """Have this rank's part of the first pool, read from the cache folder or rendered with a progress bar.

        Args:
            fingerprint: of the teacher, for the cache folder.
            progress: share of distillation that is done, 0..1. Without a cache folder, what need not be there yet is
                left to ``fill_further``.
        """
        if self.pool is not None:
            return
        ranks, wanted, budget = comms.get_world_size(), self.config.pool_views, self.config.pool_budget_gib
        share = -(-wanted // ranks)
        self.pool = self._empty_pool(share, budget / ranks, self._pool_device(share))
        CONSOLE.print(self.sampler_reason)
        if self.pool.capacity < share:
            kept = ranks * self.pool.capacity
            CONSOLE.print(f"[yellow]{wanted} pseudo views do not fit {budget} GiB: {kept} are kept")
        cache = self._cache_file(fingerprint)
        if cache is None:
            self._render_with_a_bar(self.missing_views(progress))
        elif cache.exists():
            self._read_and_render(cache)
        else:
            cache.parent.mkdir(parents=True, exist_ok=True)
            # Students of one teacher that begin together: one of them renders, the others read what it has rendered.
            with FileLock(cache.with_suffix(".lock")):
                self._read_and_render(cache)
        if self.background.alpha and self.pool.is_opaque():
            CONSOLE.print(
                "[yellow]The teacher renders nothing transparent, and neither will the student. A teacher that was "
                "trained over one colour has learned to paint it: let this method train one, or give its run "
                "--pipeline.model.background-color random"
            )
        if self.missing_views():
            CONSOLE.print(f"The other {self.missing_views() * ranks} pseudo views come while the student learns")

    def _read_and_render(self, cache: Path) -> None:
        assert self.pool is not None
        if cache.exists():
            self.pool.load(cache, self.extent)
            CONSOLE.print(f"{len(self.pool)} pseudo views read from {cache}")
        if missing := self.missing_views():
            self._render_with_a_bar(missing)
            self.pool.save(cache, self.extent)

    def _render_with_a_bar(self, missing: int) -> None:
        if not missing:
            return
        columns = (
            TextColumn("Rendering pseudo views"),
            BarColumn(),
            MofNCompleteColumn(),
            ItersPerSecColumn(suffix="views/s"),
            TextColumn("ETA"),
            TimeRemainingColumn(elapsed_when_finished=False, compact=True),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=CONSOLE) as bar:
            for pose in bar.track(self.sample_poses(missing)):
                self.render_view(pose)

    def missing_views(self, progress: float = 1.0) -> int:
        """How many views this rank lacks of those that must be there when ``progress`` of distillation is done."""
        assert self.pool is not None
        capacity, share = self.pool.capacity, self.config.fill_share
        there = capacity
        if progress < share:
            first = min(-(-FIRST_VIEWS // comms.get_world_size()), capacity)
            there = first + int((capacity - first) * progress / share)
        return max(0, there - len(self.pool))

    def fill_further(self, progress: float) -> None:
        """Render what the first pool lacks when ``progress`` of distillation is done."""
        if missing := self.missing_views(progress):
            for pose in self.sample_poses(missing):
                self.render_view(pose)

    @contextmanager
    def rehearsing(self, views: int) -> Iterator[None]:
        """Within it there is a small pool, to be filled; after it all is as if nothing had been drawn or rendered."""
        names = ("pool", "extent", "_refresh", "_owed_views", "_rays_in_batch", "train_count")
        before, drawn = {name: getattr(self, name) for name in names}, self.generator.get_state()
        self.pool = self._empty_pool(views, 1e9, self._pool_device(self._view_bytes(views)))
        self.extent, self._owed_views = SceneExtent(), -math.inf
        try:
            yield
        finally:
            for name, value in before.items():
                setattr(self, name, value)
            self.generator.set_state(drawn)
            self.draw_photos_anew()

    def _cache_file(self, fingerprint: str) -> Path | None:
        if self.config.cache_dir is None:
            return None
        poses = hashlib.sha256(self.train_poses.numpy().tobytes())
        poses.update(repr((self.view, self.config.pose_sampler, self.background.alpha, fingerprint)).encode())
        ranks = comms.get_world_size()
        share = f"_{comms.get_rank()}_of_{ranks}" if ranks > 1 else ""
        return self.config.cache_dir / f"pseudo_views_{poses.hexdigest()[:16]}{share}.pt"

    def measure_extent(self, views: int = 8) -> SceneExtent:
        """How far the scene reaches; when the pool came from the cache a few views are rendered only to see that."""
        if not self.extent.measured:
            pool, self.pool = self.pool, self._empty_pool(views, 1e9, torch.device("cpu"))
            for pose in self.sample_poses(views):
                self.render_view(pose)
            self.pool = pool
        return self.extent

    # Batches

    def pseudo_batch(self) -> StudentBatch:
        """Pseudo views for the student."""
        return self._counted(self._draw_pseudo_views(self.config.views_per_batch, self._draw_offset()))

    def mixed_batch(self) -> StudentBatch:
        """Photos and pseudo views, ``photo_share`` of them photos on average."""
        count, assigned = self.config.views_per_batch, self.config.views_per_batch * self.config.photo_share
        # Rounded up and down by turns of chance, so that a small batch keeps the share on average.
        photos = int(assigned) + int(torch.rand((), generator=self.generator) < assigned - int(assigned))
        offset = self._draw_offset()
        parts = []
        if photos < count:
            parts.append(self._draw_pseudo_views(count - photos, offset))
        if photos:
            assert self.photos is not None
            parts.append(self.photos.draw(photos, self.generator, self.device, offset))
        return self._counted(StudentBatch.join(parts))

    def _counted(self, batch: StudentBatch) -> StudentBatch:
        self._rays_in_batch = batch.rays.count
        return batch

    def _shifts_grid(self) -> bool:
        return self.config.shift_grid and min(self.view.grid) > 1

    def _draw_offset(self) -> tuple[int, int] | None:
        """Where within the first block the grid of rays begins, down and right in pixels; None if it is not moved.

        A whole block is one of the places, too: only from there are the last row and column of pixels learned.
        """
        if not self._shifts_grid():
            return None
        down, right = torch.randint(self.view.stride + 1, (2,), generator=self.generator).tolist()
        return down, right

    def _draw_pseudo_views(self, count: int, offset: tuple[int, int] | None) -> StudentBatch:
        assert self.pool is not None
        if not self.missing_views():
            self._owed_views += self.config.refresh_rate
        while self._owed_views >= 1.0:
            self._owed_views -= 1.0
            if self._refresh.has_room():
                with self._refresh.taking(self.device):
                    self.render_view(self.sample_poses(1)[0])
        poses, pictures = self.pool.draw(count, self.device)
        view = self.view
        if offset is not None:
            down, right = offset
            view = view.beginning_at(down, right)
            pictures = pictures[:, down : down + view.height, right : right + view.width]
        return StudentBatch(view.rays(poses), pictures)
