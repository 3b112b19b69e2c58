"""The DataManager: rays of photos for the teacher, pseudo views and photos with low-resolution rays for the student."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager, VanillaDataManagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.utils.rich_utils import CONSOLE, ItersPerSecColumn
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from mobiler2l_ns.data.low_res_rays import as_ray_bundle, pinhole_rays
from mobiler2l_ns.data.photos import Photos, StudentView
from mobiler2l_ns.data.poses import PoseSamplerName, look_at_point, make_pose_sampler
from mobiler2l_ns.data.pseudo_views import PseudoViewPool
from mobiler2l_ns.errors import UserError
from mobiler2l_ns.phases import Phase

RenderTeacher = Callable[[Cameras], dict[str, Tensor]]
"""Renders one camera: rgb (H, W, 3) in 0..1, and where the teacher knows them depth and accumulation (H, W, 1)."""


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
    """Pictures in a training step of the student."""
    pool_views: int = 2000
    """Pseudo views kept in memory."""
    pool_budget_gib: float = 4.0
    """Most memory the pool may take in GiB; fewer views are kept if they would not fit."""
    pool_device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the pool lives; auto takes the GPU when half of its free memory holds the pool."""
    refresh_rate: float = 0.1
    """New pseudo views per training step, each replacing the oldest; 0 keeps the first ones."""
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
        self.held_out: Photos | None = None
        self.depth_quantiles: list[tuple[float, float]] = []
        self._render: RenderTeacher | None = None
        self._owed_views = 0.0
        self._generator = torch.Generator().manual_seed(torch.initial_seed() % (1 << 31))

    # Photos

    def create_train_dataset(self) -> InputDataset:
        return self._sized_dataset(self.train_dataparser_outputs)

    def create_eval_dataset(self) -> InputDataset:
        return self._sized_dataset(self.dataparser.get_dataparser_outputs(split=self.test_split))

    def _sized_dataset(self, outputs: DataparserOutputs) -> InputDataset:
        """A dataset whose longest side is at most ``max_image_size``, with intrinsics exact for the rounded sizes."""
        if bool((outputs.cameras.camera_type != CameraType.PERSPECTIVE.value).any()):
            raise UserError(
                "mobiler2l needs perspective photos, this capture has other cameras: "
                "undistort them first (ns-process-data with --camera-type perspective or pinhole)"
            )
        longest = int(torch.maximum(outputs.cameras.height, outputs.cameras.width).max())
        limit = self.config.max_image_size
        scale = self.config.camera_res_scale_factor * min(1.0, (limit / longest) if limit else 1.0)
        dataset = self.dataset_type(dataparser_outputs=outputs, scale_factor=scale)
        old, new = outputs.cameras, dataset.cameras
        if scale != 1.0:
            # nerfstudio scales the intrinsics by the factor but rounds the photo down: up to 1 % off at small sizes.
            new.width = torch.floor(old.width.double() * scale).long()
            new.height = torch.floor(old.height.double() * scale).long()
        for focal, centre, size in (("fx", "cx", "width"), ("fy", "cy", "height")):
            exact = getattr(new, size) / getattr(old, size)
            # Blender data comes with a focal length in double precision, on which ns-render spiral fails.
            setattr(new, focal, (getattr(old, focal) * exact).float())
            setattr(new, centre, (getattr(old, centre) * exact).float())
        return dataset

    def split_photos(self, count: int) -> tuple[list[int], list[int]]:
        """Training photos for fine-tuning and those held out to judge it: every eighth, at least one, at most eight."""
        if count < 2:
            return list(range(count)), list(range(count))
        step = max(8, -(-count // 8))
        held_out = list(range(min(step // 2, count - 1), count, step))
        return [index for index in range(count) if index not in held_out], held_out

    def load_photos(self, background: Float[Tensor, "3"]) -> None:
        """Bring the training photos to the student's geometry, once."""
        if self.photos is None:
            train, held_out = self.split_photos(len(self.train_dataset))
            self.photos = Photos(self.train_dataset, train, self.view, background)
            self.held_out = Photos(self.train_dataset, held_out, self.view, background)

    # Pseudo views

    def connect(self, stride: int, render: RenderTeacher | None) -> None:
        """Set the student's stride and, when training, the teacher's renderer."""
        self.view = StudentView.of(self.train_dataset.cameras, stride)
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
        free, _ = torch.cuda.mem_get_info(training)
        return training if views * height * width * 3 < free / 2 else torch.device("cpu")

    def render_view(self, pose: Float[Tensor, "3 4"]) -> None:
        """Render one pseudo view into the pool and note the range of its depths."""
        assert self._render is not None and self.pool is not None
        camera = self.view.cameras(pose[None]).to(self.device)
        outputs = self._render(camera)
        self.pool.add(pose, outputs["rgb"])
        if "depth" in outputs:
            length = as_ray_bundle(*pinhole_rays(pose[None], self.view.intrinsics(), *self.view.covered, 1))
            depth = outputs["depth"].cpu() / length.metadata["directions_norm"][0]
            solid = outputs["accumulation"].cpu() > 0.5 if "accumulation" in outputs else torch.ones_like(depth).bool()
            if int(solid.sum()) > 100:
                near, far = depth[solid][:: max(1, int(solid.sum()) // 4096)].quantile(torch.tensor([0.005, 0.995]))
                self.depth_quantiles.append((float(near), float(far)))

    def fill_pool(self, fingerprint: str = "") -> None:
        """Render the first pool, or read it from the cache folder, with a progress bar."""
        if self.pool is not None:
            return
        wanted, budget = self.config.pool_views, self.config.pool_budget_gib
        self.pool = PseudoViewPool(wanted, *self.view.covered, budget, self._pool_device(wanted))
        CONSOLE.print(self.sampler_reason)
        if self.pool.capacity < wanted:
            CONSOLE.print(f"[yellow]{wanted} pseudo views do not fit {budget} GiB: {self.pool.capacity} are kept")
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

    def _cache_file(self, fingerprint: str) -> Path | None:
        if self.config.cache_dir is None:
            return None
        poses = hashlib.sha256(self.train_poses.numpy().tobytes())
        poses.update(repr((self.view, self.config.pose_sampler, fingerprint)).encode())
        return self.config.cache_dir / f"pseudo_views_{poses.hexdigest()[:16]}.pt"

    def depth_range(self) -> tuple[float, float] | None:
        """Near and far z-depth of what the pseudo views show, with a margin; None if the teacher gives no depth."""
        if not self.depth_quantiles:
            return None
        values = torch.tensor(self.depth_quantiles)
        return float(values[:, 0].quantile(0.02)) * 0.95, float(values[:, 1].quantile(0.98)) * 1.05

    def measure_depth(self, views: int = 8) -> None:
        """Render a few views only for their depth, when the pool came from the cache."""
        pool, self.pool = self.pool, PseudoViewPool(views, *self.view.covered, 1e9, "cpu")
        for pose in self.sample_poses(views):
            self.render_view(pose)
        self.pool = pool

    # Batches

    def next_train(self, step: int) -> tuple[RayBundle, dict]:
        """A batch of the current phase: rays of photos (n,), or low-resolution rays (views, rows, columns) with the
        pictures they stand for, ``image`` (views, H, W, 3) and where photos are among them ``mask`` (views, H, W)."""
        if self.phase is Phase.TEACHER:
            return super().next_train(step)
        count = self.config.views_per_batch
        photos = 0
        if self.phase is Phase.FINETUNE:
            assert self.photos is not None
            # Rounded up and down by turns of chance, so that a small batch keeps the share on average.
            share = count * self.config.photo_share
            photos = int(share) + int(torch.rand((), generator=self._generator) < share - int(share))
        parts = []
        if photos < count:
            parts.append(self._pseudo_batch(count - photos))
        if photos:
            assert self.photos is not None
            parts.append(self.photos.draw(photos, self._generator, self.device))
        origins, directions, pictures, masks = (torch.cat(column) for column in zip(*parts, strict=True))
        batch = {"image": pictures, "mask": masks} if photos else {"image": pictures}
        return as_ray_bundle(origins, directions), batch

    def _pseudo_batch(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        assert self.pool is not None
        self._owed_views += self.config.refresh_rate
        while self._owed_views >= 1.0:
            self._owed_views -= 1.0
            self.render_view(self.sample_poses(1)[0])
        poses, pictures = self.pool.draw(count, self._generator, self.device)
        origins, directions = pinhole_rays(
            poses, self.view.intrinsics().to(self.device), *self.view.grid, self.view.stride
        )
        return origins, directions, pictures, torch.ones_like(pictures[..., 0])

    def get_train_rays_per_batch(self) -> int:
        if self.phase is Phase.TEACHER:
            return super().get_train_rays_per_batch()
        rows, columns = self.view.grid
        return self.config.views_per_batch * rows * columns
