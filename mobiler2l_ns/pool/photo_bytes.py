"""The photos that the teacher's rays are drawn from: bytes, read when they are first asked for, and given back."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.data.pixel_samplers import PixelSampler
from nerfstudio.model_components.ray_generators import RayGenerator
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track
from torch import Tensor

Batch = dict[str, Any]


class PhotoBytes:
    """Photos as nerfstudio's pixel samplers take them, except that they are bytes.

    nerfstudio 1.1.5 keeps them as float32, has them twice while it stacks them, reads them whenever a run is opened,
    be it to export it, and never gives them back.

    Args:
        dataset: the photos; ``image`` and ``mask`` of what it gives are kept.
        device: where to keep them.
        count: how many are kept at a time, drawn at random; -1 for all.
        repeats: how often those are given again before others are drawn; -1 for always.
    """

    def __init__(self, dataset: InputDataset, device: torch.device | str, count: int = -1, repeats: int = -1) -> None:
        self.dataset, self.device = dataset, device
        self.count = len(dataset) if count == -1 else min(count, len(dataset))
        self.repeats = repeats
        self._batch: Batch | None = None
        self._given = 0

    @property
    def is_loaded(self) -> bool:
        """Whether any photos are in memory."""
        return self._batch is not None

    def next(self) -> Batch:
        """``image`` (n, h, w, channels) uint8, ``image_idx`` (n,) and, if the capture has masks, ``mask`` (n, h, w, 1)
        bool; lists of n where the photos have several sizes."""
        others = self.count < len(self.dataset) and 0 <= self.repeats < self._given
        if self._batch is None or others:
            self._batch = None  # not beside the new ones
            self._batch, self._given = self._read(), 0
        self._given += 1
        return self._batch

    def free(self) -> None:
        """Give the memory back; they are read again if they are asked for again."""
        self._batch = None

    def _read(self) -> Batch:
        chosen = sorted(random.sample(range(len(self.dataset)), self.count))
        cameras = self.dataset.cameras
        shapes = [(int(cameras.height[index]), int(cameras.width[index])) for index in chosen]
        first = self.dataset.get_data(chosen[0], "uint8")
        kept = {name: first[name] for name in ("image", "mask") if name in first}

        def empty(name: str, shape: tuple[int, ...]) -> Tensor:
            return torch.empty(*shape, kept[name].shape[-1], dtype=kept[name].dtype, device=self.device)

        batch: Batch = {"image_idx": torch.tensor(chosen)}
        alike = len(set(shapes)) == 1
        for name in kept:
            if alike:
                batch[name] = empty(name, (len(chosen), *shapes[0]))
            else:
                batch[name] = [empty(name, shape) for shape in shapes]

        def read(place: int) -> None:
            data = self.dataset.get_data(chosen[place], "uint8")
            for name in kept:
                batch[name][place][...] = data[name]

        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            done = pool.map(read, range(len(chosen)))
            for _ in track(done, "Reading photos", total=len(chosen), console=CONSOLE, transient=True):
                pass
        return batch


def random_rays(photos: PhotoBytes, sampler: PixelSampler, generator: RayGenerator) -> tuple[RayBundle, dict]:
    """Random rays (n,) of photos, and what the photos show there in 0..1."""
    batch = sampler.sample(photos.next())
    batch["image"] = batch["image"].float() / 255.0
    return generator(batch["indices"]), batch
