"""The DataManager: rays of photos for the teacher, pseudo views and photos with low-resolution rays for the student."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager, VanillaDataManagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.utils import comms
from nerfstudio.utils.rich_utils import CONSOLE, ItersPerSecColumn
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from mobiler2l_ns.capture.photos import Photos, photo_with_alpha, sized_dataset
from mobiler2l_ns.capture.pose_samplers import PoseSamplerName, look_at_point, make_pose_sampler
from mobiler2l_ns.errors import UserError
from mobiler2l_ns.geometry.bounds import SceneExtent
from mobiler2l_ns.geometry.picture import PictureGeometry
from mobiler2l_ns.geometry.rays import as_ray_bundle
from mobiler2l_ns.pool.pseudo_views import BYTES_PER_GIB, PseudoViewPool
from mobiler2l_ns.pool.refresh import TimeShare
from mobiler2l_ns.progress.phases import Phase
from mobiler2l_ns.student.config import StudentConfig

RenderTeacher = Callable[[Cameras], dict[str, Tensor]]
"""Renders one camera: ``picture`` (H, W, 3) RGB or (H, W, 4) premultiplied RGBA in 0..1, and where the teacher knows
them ``depth`` and ``accumulation`` (H, W, 1)."""


@dataclass
class MobileR2LDataManagerConfig(VanillaDataManagerConfig):
    """Photos, pseudo views and where they come from."""

    _target: type = field(default_factory=lambda: MobileR2LDataManager)
    """Target class to instantiate."""
    max_image_size: int | None = 1008
    """Longest side of photos and of the student's pictures in pixels; larger photos are scaled down. None: as they
    are."""
    pose_sampler: PoseSamplerName = "auto"
    """Where pseudo views are taken from: the cameras' shell, their box, between neighbours, or what fits them."""
    views_per_batch: int = 4
    """Pictures in a training step of the student, on each device."""
    pool_views: int = 2000
    """Pseudo views kept in memory; several devices share them out among themselves."""
    pool_budget_gib: float = 4.0
    """Most memory the pool may take in GiB, on all devices together; fewer views are kept if they would not fit."""
    pool_device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the pool lives; auto takes the GPU when half of its free memory holds the pool."""
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


class MobileR2LDataManager(VanillaDataManager):
    """Serves each phase its batches. The pipeline connects the teacher's renderer; without one (viewer, eval, export)
    nothing is ever rendered here."""

    config: MobileR2LDataManagerConfig

    def __init__(self, config: MobileR2LDataManagerConfig, *args, **kwargs) -> None:
        super().__init__(config, *args, **kwargs)
        self.phase = Phase.TEACHER
        self.pool: PseudoViewPool | None = None
        self.photos: Photos | None = None
        self.selection_photos: Photos | None = None
        self.extent = SceneExtent()
        self._render: RenderTeacher | None = None
        self._owed_views = 0.0
        self._refresh = TimeShare(config.refresh_share)
        self._generator = torch.Generator().manual_seed(torch.initial_seed() % (1 << 31))

    # Photos

    def create_train_dataset(self) -> InputDataset:
        return self.sized(self.train_dataparser_outputs)

    def create_eval_dataset(self) -> InputDataset:
        return self.sized(self.dataparser.get_dataparser_outputs(split=self.test_split))

    def sized(self, outputs: DataparserOutputs) -> InputDataset:
        """A dataset whose photos are no larger than the student's pictures may be."""
        config = self.config
        return sized_dataset(outputs, config.max_image_size, config.camera_res_scale_factor, self.dataset_type)

    def split_photos(self, count: int) -> tuple[list[int], list[int]]:
        """Training photos for fine-tuning and those held out to judge it: every eighth, at least one, at most eight."""
        if count < 2:
            return list(range(count)), list(range(count))
        step = max(8, -(-count // 8))
        selection = list(range(min(step // 2, count - 1), count, step))
        return [index for index in range(count) if index not in selection], selection

    def check_photos(self) -> None:
        """See that the photos can fine-tune the student, before anything is trained.

        Raises:
            UserError: if the student is to learn alpha and the photos have none.
        """
        if not self._photos_fit():
            raise UserError(
                "A student with alpha is fine-tuned on photos with an alpha channel, these have none: "
                "cut the object out, or set --pipeline.finetune-steps 0"
            )

    def check_background(self, background: Float[Tensor, "3"]) -> None:
        """See that photos and student are laid over the same colour.

        Raises:
            UserError: if the dataparser lays the photos over another one.
        """
        over = self.train_dataparser_outputs.alpha_color
        if over is not None and not torch.allclose(over.cpu().float(), background):
            colour = getattr(self.dataparser_config, "alpha_color", over)
            raise UserError(
                f"The dataparser lays transparent photos over {colour}, the student another colour: "
                "give the same to the dataparser's --alpha-color and to --pipeline.model.background-color"
            )

    def check_pitches(self) -> None:
        """See that a cell of the coarsest pitch fits the pictures.

        Raises:
            UserError: if it does not.
        """
        coarsest = max(self.student.pitches)
        if coarsest > 1.0 and min(self.view.grid) - self._shifts_grid() < coarsest:
            raise UserError(
                f"Pictures of {self.view.width} x {self.view.height} pixels are too small to be learned at pitch "
                f"{coarsest:g} as well: leave it out of --pipeline.model.pitches"
            )

    def _photos_fit(self) -> bool:
        return not self.student.alpha or photo_with_alpha(self.train_dataset, 0).shape[-1] == 4

    def load_selection_photos(self, background: Float[Tensor, "3"]) -> bool:
        """Bring the photos that judge the student to its geometry, once; False if they have no alpha to judge by."""
        if self.selection_photos is None and self._photos_fit():
            over = None if self.student.alpha else background
            _, selection = self.split_photos(len(self.train_dataset))
            self.selection_photos = Photos(self.train_dataset, selection, self.view, over)
        return self.selection_photos is not None

    def load_photos(self, background: Float[Tensor, "3"]) -> None:
        """Bring the training photos to the student's geometry, once."""
        if self.photos is not None:
            return
        over = None if self.student.alpha else background
        train, _ = self.split_photos(len(self.train_dataset))
        self.photos = Photos(self.train_dataset, train, self.view, over)
        self.load_selection_photos(background)

    # Pseudo views

    def connect(self, student: StudentConfig, render: RenderTeacher | None) -> None:
        """Set what the student renders and, when training, the teacher's renderer."""
        self.student = student
        self.view = PictureGeometry.of(self.train_dataset.cameras, student.stride)
        self.train_poses = self.train_dataset.cameras.camera_to_worlds.cpu()
        self.look_at = look_at_point(self.train_poses)
        self.sampler, self.sampler_reason = make_pose_sampler(self.config.pose_sampler, self.train_poses)
        self._render = render

    def sample_poses(self, count: int) -> Float[Tensor, "n 3 4"]:
        """Poses of new pseudo views."""
        return self.sampler.sample(count, self._generator)

    def _pool_device(self, views: int) -> torch.device:
        training = torch.device(self.device)
        if self.config.pool_device != "auto" or training.type != "cuda":
            return training if self.config.pool_device == "cuda" else torch.device("cpu")
        height, width = self.view.covered
        wanted = views * height * width * self.student.output_channels
        budget = self.config.pool_budget_gib * BYTES_PER_GIB / comms.get_world_size()
        torch.cuda.empty_cache()  # what the teacher's training has left to torch is free as well
        free, _ = torch.cuda.mem_get_info(training)
        return training if min(wanted, budget) < free / 2 else torch.device("cpu")

    def _empty_pool(self, views: int, budget_gib: float, device: torch.device) -> PseudoViewPool:
        seed = torch.initial_seed() % (1 << 31)
        return PseudoViewPool(views, *self.view.covered, budget_gib, device, self.student.output_channels, seed)

    def render_view(self, pose: Float[Tensor, "3 4"]) -> None:
        """Render one pseudo view into the pool and note how far the scene reaches in it."""
        assert self._render is not None and self.pool is not None
        outputs = self._render(self.view.cameras(pose[None]).to(self.device))
        self.pool.add(pose, outputs["picture"])
        self.extent.add(pose, self.view, outputs)

    def fill_pool(self, fingerprint: str = "") -> None:
        """Render this rank's share of the first pool, or read it from the cache folder, with a progress bar."""
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
        if cache is not None and cache.exists():
            self.pool.load(cache)
            CONSOLE.print(f"{len(self.pool)} pseudo views read from {cache}")
        missing = self.pool.capacity - len(self.pool)
        if missing:
            columns = (
                TextColumn("Rendering pseudo views"),
                BarColumn(),
                MofNCompleteColumn(),
                ItersPerSecColumn(suffix="views/s"),
                TextColumn("ETA"),
                TimeRemainingColumn(elapsed_when_finished=False, compact=True),
                TimeElapsedColumn(),
            )
            with Progress(*columns, console=CONSOLE) as progress:
                for pose in progress.track(self.sample_poses(missing)):
                    self.render_view(pose)
            if cache is not None:
                self.pool.save(cache)
        if self.student.alpha and self.pool.is_opaque():
            CONSOLE.print(
                "[yellow]The teacher renders nothing transparent, and neither will the student. A teacher that was "
                "trained over one colour has learned to paint it: let this method train one, or give its run "
                "--pipeline.model.background-color random"
            )

    def _cache_file(self, fingerprint: str) -> Path | None:
        if self.config.cache_dir is None:
            return None
        poses = hashlib.sha256(self.train_poses.numpy().tobytes())
        poses.update(repr((self.view, self.config.pose_sampler, self.student.alpha, fingerprint)).encode())
        ranks = comms.get_world_size()
        share = f"_{comms.get_rank()}_of_{ranks}" if ranks > 1 else ""
        return self.config.cache_dir / f"pseudo_views_{poses.hexdigest()[:16]}{share}.pt"

    def measure_extent(self, views: int = 8) -> SceneExtent:
        """How far the scene reaches; when the pool came from the cache a few views are rendered only to see that."""
        if not self.extent.depth_quantiles:
            pool, self.pool = self.pool, self._empty_pool(views, 1e9, torch.device("cpu"))
            for pose in self.sample_poses(views):
                self.render_view(pose)
            self.pool = pool
        return self.extent

    # Batches

    def next_train(self, step: int) -> tuple[RayBundle, dict]:
        """A batch of the current phase: rays of photos (n,), or low-resolution rays (views, rows, columns) with the
        pictures they stand for, ``image`` (views, H, W, channels), and where those do not fill their blocks ``mask``
        (views, H, W)."""
        if self.phase is Phase.TEACHER:
            return super().next_train(step)
        count, photos = self.config.views_per_batch, 0
        if self.phase is Phase.FINETUNE:
            # Rounded up and down by turns of chance, so that a small batch keeps the share on average.
            share = count * self.config.photo_share
            photos = int(share) + int(torch.rand((), generator=self._generator) < share - int(share))
        place = self._draw_place()
        parts = []
        if photos < count:
            parts.append(self._pseudo_batch(count - photos, place))
        if photos:
            assert self.photos is not None
            parts.append(self.photos.draw(photos, self._generator, self.device, place))
        origins, directions, pictures = (torch.cat([part[i] for part in parts]) for i in range(3))
        batch = {"image": pictures}
        masks = [part[3] for part in parts]
        if any(mask is not None for mask in masks):
            full = zip(masks, parts, strict=True)
            batch["mask"] = torch.cat([torch.ones_like(p[2][..., 0]) if mask is None else mask for mask, p in full])
        return as_ray_bundle(origins, directions), batch

    def _shifts_grid(self) -> bool:
        return self.config.shift_grid and min(self.view.grid) > 1

    def _draw_place(self) -> tuple[int, int] | None:
        """Where within a block the grid of rays begins, down and right in pixels; None if it is not moved."""
        if not self._shifts_grid():
            return None
        down, right = torch.randint(self.view.stride, (2,), generator=self._generator).tolist()
        return down, right

    def _pseudo_batch(self, count: int, place: tuple[int, int] | None) -> tuple[Tensor, Tensor, Tensor, None]:
        assert self.pool is not None
        self._owed_views += self.config.refresh_rate
        while self._owed_views >= 1.0:
            self._owed_views -= 1.0
            if self._refresh.has_room():
                with self._refresh.taking(self.device):
                    self.render_view(self.sample_poses(1)[0])
        poses, pictures = self.pool.draw(count, self.device)
        view = self.view
        if place is not None:
            down, right = place
            view = view.beginning_at(down, right)
            pictures = pictures[:, down : down + view.height, right : right + view.width]
        return *view.rays(poses), pictures, None

    def get_train_rays_per_batch(self) -> int:
        if self.phase is Phase.TEACHER:
            return super().get_train_rays_per_batch()
        rows, columns = (size - self._shifts_grid() for size in self.view.grid)
        return self.config.views_per_batch * rows * columns
