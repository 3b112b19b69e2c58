"""The capture as nerfstudio's DataManager: its photos, one look at all of them, and rays of them for a teacher."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager, VanillaDataManagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.data.pixel_samplers import PixelSampler
from nerfstudio.data.utils.dataloaders import FixedIndicesEvalDataloader, RandIndicesEvalDataloader
from nerfstudio.model_components.ray_generators import RayGenerator
from nerfstudio.utils import comms
from nerfstudio.utils.rich_utils import CONSOLE

from mobiler2l_ns.capture.checks import look_at, look_at_cameras
from mobiler2l_ns.capture.parsing import capture_file, evaluation_splits, held_out, reading
from mobiler2l_ns.capture.photos import CamerasOnly, CaptureDataset, NoCamerasHeldOut, NoneHeldOut, sized_dataset
from mobiler2l_ns.capture.visible_pixels import VisiblePixelSampler
from mobiler2l_ns.errors import UserError
from mobiler2l_ns.pool.photo_bytes import PhotoBytes, random_rays


@dataclass
class CaptureDataManagerConfig(VanillaDataManagerConfig):
    """Photos and where they come from."""

    max_image_size: int | None = 1008
    """Longest side of photos and of the student's pictures in pixels; larger photos are scaled down. None: as they
    are."""
    cameras_only: bool = False
    """No photo is looked for: there are cameras only, and splats that teach. A run with --pipeline.teacher-splats sets
    it itself where none of the capture's photos is there."""


class CaptureDataManager(VanillaDataManager):
    """Serves a teacher the rays of photos, and nerfstudio's commands the photos that are held out."""

    config: CaptureDataManagerConfig
    train_dataset: CaptureDataset
    eval_dataset: CaptureDataset

    def __init__(self, config: CaptureDataManagerConfig, *args, **kwargs) -> None:
        if config.cameras_only and getattr(config.dataparser, "downscale_factor", 1) is None:
            config.dataparser.downscale_factor = 1  # type: ignore[attr-defined]  or photos are opened for it
        with reading(config.dataparser) as self._notes:
            super().__init__(config, *args, **kwargs)
        if len(self.eval_dataset) == 0:  # which nerfstudio leaves out
            self.setup_eval()
        self._rays_in_batch = 0

    # The photos

    def create_train_dataset(self) -> CaptureDataset:
        if len(self.train_dataparser_outputs.image_filenames) == 0:
            raise UserError(
                f"{capture_file(self.dataparser_config)}: no photo is left to train on: list some, or hold fewer out"
            )
        return self.sized(self.train_dataparser_outputs)

    def create_eval_dataset(self) -> CaptureDataset:
        config, train = self.config, self.train_dataparser_outputs
        if config.cameras_only:
            return sized_dataset(train, config.max_image_size, config.camera_res_scale_factor, NoCamerasHeldOut)
        outputs = held_out(self.dataparser, "test" if self.test_split == "test" else "val")
        dataset = None if outputs is None else self.sized(outputs)
        if dataset is not None and dataset.visible:
            return dataset
        if self.test_mode == "val":
            self._notes.append("No photo is held out, or visible: what is measured on such photos is left out")
        return sized_dataset(train, config.max_image_size, config.camera_res_scale_factor, NoneHeldOut)

    def sized(self, outputs: DataparserOutputs) -> CaptureDataset:
        """A dataset whose photos are no larger than the student's pictures may be."""
        config, kind = self.config, CamerasOnly if self.config.cameras_only else CaptureDataset
        return sized_dataset(outputs, config.max_image_size, config.camera_res_scale_factor, kind)

    def setup_train(self) -> None:
        if self.test_mode == "val":
            self._look_at_all_files()
        config = self.config
        count, repeats = config.train_num_images_to_sample_from, config.train_num_times_to_repeat_images
        self._train_photos = PhotoBytes(self.train_dataset, self._photo_device, count, repeats)
        self.train_pixel_sampler = self._get_pixel_sampler(self.train_dataset, config.train_num_rays_per_batch)
        self.train_ray_generator = RayGenerator(self.train_dataset.cameras.to(self.device))

    def setup_eval(self) -> None:
        config, dataset = self.config, self.eval_dataset
        count, repeats = config.eval_num_images_to_sample_from, config.eval_num_times_to_repeat_images
        self._eval_photos = PhotoBytes(dataset, self._photo_device, count, repeats)
        self.eval_pixel_sampler = self._get_pixel_sampler(dataset, config.eval_num_rays_per_batch)
        self.eval_ray_generator = RayGenerator(dataset.cameras.to(self.device))
        # Without photos nerfstudio's commands still ask for something to go through, and for a camera to begin at.
        self.fixed_indices_eval_dataloader = FixedIndicesEvalDataloader(dataset, device=self.device)
        self.fixed_indices_eval_dataloader.image_indices = dataset.visible
        self.eval_dataloader = RandIndicesEvalDataloader(dataset, device=self.device)

    @property
    def _photo_device(self) -> torch.device | str:
        return "cpu" if "image" in self.exclude_batch_keys_from_device else self.device

    def next_eval_image(self, step: int) -> tuple[Cameras, dict]:
        """A random photo that is held out and not wholly hidden."""
        return self.eval_dataloader.get_camera(random.choice(self.fixed_indices_eval_dataloader.image_indices))

    def _get_pixel_sampler(self, dataset: InputDataset, num_rays_per_batch: int) -> PixelSampler:
        sampler = super()._get_pixel_sampler(dataset, num_rays_per_batch)
        # Another one that was asked for stays.
        return VisiblePixelSampler(sampler.config, **sampler.kwargs) if type(sampler) is PixelSampler else sampler

    def _look_at_all_files(self) -> None:
        """Read every photo and mask once.

        Raises:
            UserError: with the first that cannot be trained on.
        """
        if self.config.cameras_only:
            found = look_at_cameras(self.train_dataset)
        else:
            held = {name: self.sized(outputs) for name, outputs in evaluation_splits(self.dataparser).items()}
            found = look_at({"train": self.train_dataset, **held})
        found.refuse()
        if comms.is_main_process():
            for note in [*self._notes, *found.notes]:
                CONSOLE.print(note, style="yellow", markup=False, highlight=False, soft_wrap=True)

    # Rays of them

    def next_train(self, step: int) -> tuple[RayBundle, dict]:
        """Rays of photos (n,) for the teacher."""
        self.train_count += 1
        sampler = self.train_pixel_sampler
        assert sampler is not None
        rays, batch = random_rays(self._train_photos, sampler, self.train_ray_generator)
        self._rays_in_batch = len(rays)
        return rays, batch

    def next_eval(self, step: int) -> tuple[RayBundle, dict]:
        """Rays of photos (n,) that are held out."""
        self.eval_count += 1
        assert self.eval_pixel_sampler is not None
        return random_rays(self._eval_photos, self.eval_pixel_sampler, self.eval_ray_generator)

    def free_photos_of_rays(self) -> None:
        """Give the memory back that the teacher's photos take; they are read again where rays are asked for again."""
        self._train_photos.free()
        self._eval_photos.free()

    def draw_photos_anew(self) -> None:
        """Forget which photos rays are drawn from, where they are a part of all."""
        if self._train_photos.count < len(self.train_dataset):
            self._train_photos.free()

    def get_train_rays_per_batch(self) -> int:
        """Rays in the newest batch, for nerfstudio's measure of speed."""
        return self._rays_in_batch
