"""The teacher's pixels, drawn from what the masks leave of the photos, however little and in however few photos."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from nerfstudio.data.pixel_samplers import PixelSampler
from torch import Tensor


class VisiblePixelSampler(PixelSampler):
    """nerfstudio 1.1.5's sampler, which ends a run with masks where there is one photo, as for each photo of a capture
    of several sizes, or fewer visible pixels than rays."""

    def rejection_sample_mask(
        self,
        mask: Bool[Tensor, "n h w 1"],
        num_samples: int,
        num_images: int,
        image_height: int,
        image_width: int,
        device: torch.device | str,
    ) -> Int[Tensor, "num_samples 3"]:
        """Photo, row and column of random visible pixels."""
        size = torch.tensor([num_images, image_height, image_width], device=device)
        indices = (torch.rand(num_samples, 3, device=device) * size).long()
        valid = self._seen(mask, indices)
        for _ in range(self.config.max_num_iterations):
            missing = int((~valid).sum())
            if missing == 0:
                return indices
            indices[~valid] = (torch.rand(missing, 3, device=device) * size).long()
            valid = self._seen(mask, indices)
        # What was found is drawn evenly from all that is visible, and so is a draw from it.
        found = indices[valid]
        if len(found) == 0:
            found = torch.nonzero(mask[..., 0], as_tuple=False).to(device)
        indices[~valid] = found[torch.randint(len(found), (int((~valid).sum()),), device=device)]
        return indices

    @staticmethod
    def _seen(mask: Tensor, indices: Tensor) -> Tensor:
        photo, row, column = indices.to(mask.device).T
        return mask[photo, row, column, 0].bool().to(indices.device)

    def collate_image_dataset_batch_list(self, batch: dict, num_rays_per_batch: int, keep_full_image: bool = False):
        """As nerfstudio's, without the photos that are wholly hidden."""
        if "mask" in batch:
            kept = [index for index, mask in enumerate(batch["mask"]) if bool(mask.any())]
            batch = {
                key: [value[index] for index in kept] if isinstance(value, list) else value[kept]
                for key, value in batch.items()
            }
        return super().collate_image_dataset_batch_list(batch, num_rays_per_batch, keep_full_image)
