"""Ideas for distillation that the race did not keep, each a few lines around the default recipe.

    python scripts/distillation_ideas.py --oracle --resolution 96 --minutes 1.75 --network small \\
        --recipes default,default~average,default~total_variation

``RECIPE~IDEA`` is a recipe of ``benchmark_distillation.py`` with one of these; all its options hold here. The ideas on
photos and on the teacher's doubts ask for a real teacher (``--data``), the one on LPIPS for its weights in ``--cache``
(lpips_weights.py). ``--step-ms 60`` counts each step as 60 ms, however long it takes: recipes of the same cost then
race for as many steps, on a busy machine too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
import benchmark_distillation as benchmark  # noqa: E402
from volume_ideas import VOLUME_IDEAS  # noqa: E402

Idea = Callable[[Any], None]


def _with_loss(pipeline: Any, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Replace the loss by a function of pictures and targets, (views, H, W, colours)."""
    pipeline.model.get_loss_dict = lambda outputs, batch, metrics=None: {"loss": loss(outputs["rgb"], batch["image"])}


def average(pipeline: Any) -> None:
    """Judge an exponential moving average of the weights over some 200 steps."""
    student = pipeline.model.student
    averaged = deepcopy(student.network).eval()
    pseudo_batch, render = pipeline.datamanager.pseudo_batch, student.render

    step = 0

    def with_update() -> Any:
        nonlocal step
        with torch.no_grad():
            decay = min(0.995, (step + 1) / (step + 10))
            step += 1
            for mean, now in zip(averaged.parameters(), student.network.parameters(), strict=True):
                mean.lerp_(now, 1.0 - decay)
        averaged.active_blocks = student.network.active_blocks
        return pseudo_batch()

    def rendered(camera: Any) -> Tensor:
        trained, student.network = student.network, averaged
        try:
            return render(camera)
        finally:
            student.network = trained

    pipeline.datamanager.pseudo_batch, student.render = with_update, rendered


def charbonnier(pipeline: Any) -> None:
    """Charbonnier's loss: the square root of the squared error and 1e-3 squared."""
    _with_loss(pipeline, lambda a, b: ((a - b).square() + 1e-6).sqrt().mean())


def ssim(pipeline: Any) -> None:
    """The squared error and a hundredth of 1 - SSIM."""
    from pytorch_msssim import ssim as similarity

    def loss(a: Tensor, b: Tensor) -> Tensor:
        a, b = a.permute(0, 3, 1, 2), b.permute(0, 3, 1, 2)
        return (a - b).square().mean() + 0.01 * (1.0 - similarity(a, b, data_range=1.0))

    _with_loss(pipeline, loss)


def lpips(pipeline: Any) -> None:
    """The squared error and a hundredth of LPIPS."""
    from lpips_weights import load_lpips

    distance = load_lpips(pipeline.datamanager.config.cache_dir)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        perceived = distance(a.permute(0, 3, 1, 2), b.permute(0, 3, 1, 2), normalize=True)
        return (a - b).square().mean() + 0.01 * perceived.mean()

    _with_loss(pipeline, loss)


def hard_cells(pipeline: Any) -> None:
    """Hard cells count twice: each ray's cell is weighted by 0.5 plus its share of the batch's absolute error."""

    def loss(a: Tensor, b: Tensor) -> Tensor:
        squared = (a - b).square().mean(-1)
        stride = pipeline.model.student.config.stride
        cells = torch.nn.functional.avg_pool2d(squared.detach()[:, None], stride).sqrt()
        weight = 0.5 + 0.5 * cells / cells.mean()
        return (squared * torch.nn.functional.interpolate(weight, scale_factor=stride)[:, 0]).mean()

    _with_loss(pipeline, loss)


def hard_views(pipeline: Any) -> None:
    """Draw views in proportion to the student's last error on them, above a quarter of the mean."""
    pool, model = pipeline.datamanager.pool, pipeline.model
    errors = torch.full((len(pool),), 1.0)
    drawn = torch.zeros(0, dtype=torch.long)

    def draw(count: int, device: Any) -> tuple[Tensor, Tensor]:
        nonlocal drawn
        drawn = torch.multinomial(errors + 0.25 * errors.mean(), count, generator=pool.generator)
        return pool.poses[drawn].to(device), pool.pictures[drawn].to(device).float() / 255.0

    def loss(outputs: Any, batch: Any, metrics: Any = None) -> dict[str, Tensor]:
        each = (outputs["rgb"] - batch["image"]).square().mean((1, 2, 3))
        if len(each) == len(drawn):
            # Views never drawn keep an error of 1, so all of them come before any comes often.
            errors[drawn] = each.detach().sqrt().cpu()
        return {"loss": each.mean()}

    pool.draw, model.get_loss_dict = draw, loss


def _new_tail(pipeline: Any, kernel: int, up: Callable[[nn.Conv2d, int], nn.Module], shuffled: bool) -> None:
    """Replace the transposed convolutions by convolutions, with a channel for each sub-pixel if they are shuffled."""
    for stage in pipeline.model.student.network.super_resolution:
        inputs, outputs, stride = stage.up.in_channels, stage.up.out_channels, stage.up.stride[0]
        copies = stride**2 if shuffled else 1
        conv = nn.Conv2d(inputs, outputs * copies, kernel, padding=kernel // 2)
        # Like the default: the sub-pixels of a ray begin alike, as a random mixture of its features.
        nn.init.zeros_(conv.weight)
        mixture = torch.randn(outputs, inputs) / inputs**0.5
        conv.weight.data[..., kernel // 2, kernel // 2] = mixture.repeat_interleave(copies, 0)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        stage.up = up(conv, stride)


def pixel_shuffle(pipeline: Any) -> None:
    """A 1x1 convolution and a pixel shuffle in place of each transposed convolution: a quarter of its cost."""
    _new_tail(pipeline, 1, lambda conv, stride: nn.Sequential(conv, nn.PixelShuffle(stride)), shuffled=True)


def pixel_shuffle_3x3(pipeline: Any) -> None:
    """A 3x3 convolution and a pixel shuffle in place of each transposed convolution: 2.25 times its cost."""
    _new_tail(pipeline, 3, lambda conv, stride: nn.Sequential(conv, nn.PixelShuffle(stride)), shuffled=True)


def bilinear_3x3(pipeline: Any) -> None:
    """Bilinear upsampling and a 3x3 convolution in place of each transposed convolution: 2.25 times its cost."""

    def up(conv: nn.Conv2d, stride: int) -> nn.Module:
        return nn.Sequential(nn.Upsample(scale_factor=stride, mode="bilinear"), conv)

    _new_tail(pipeline, 3, up, shuffled=False)


def photos(pipeline: Any) -> None:
    """Half of the views are photos, from the start."""
    pipeline.datamanager.load_photos()
    pipeline.datamanager.pseudo_batch = pipeline.datamanager.mixed_batch


def doubts(pipeline: Any) -> None:
    """Pixels count less where the teacher's median and expected depth disagree: weight exp(-10 |log ratio|)."""
    from rich.progress import track

    manager, pool = pipeline.datamanager, pipeline.datamanager.pool
    if manager.config.shift_grid:
        raise SystemExit("doubts are of whole pictures: give default+datamanager.shift_grid=False~doubts")
    teacher = pipeline.model.find_teacher()
    teacher = getattr(teacher, "teacher", teacher)  # of a run of this method, the nerfacto inside
    weights = []
    for pose in track(pool.poses[: len(pool)], "The teacher's doubts"):
        with torch.no_grad():
            outputs = teacher.get_outputs_for_camera(manager.view.cameras(pose[None]).to(manager.device))
        ratio = (outputs["depth"] / outputs["expected_depth"]).clamp(0.1, 10.0).log().abs()[..., 0]
        weights.append(torch.exp(-10.0 * ratio))
    weight = torch.stack(weights)
    drawn = torch.zeros(0, dtype=torch.long)

    def draw(count: int, device: Any) -> tuple[Tensor, Tensor]:
        nonlocal drawn
        drawn = torch.randperm(len(pool), generator=pool.generator)[:count]
        return pool.poses[drawn].to(device), pool.pictures[drawn].to(device).float() / 255.0

    def loss(outputs: Any, batch: Any, metrics: Any = None) -> dict[str, Tensor]:
        of_views = weight[drawn] if len(drawn) == len(batch["image"]) else torch.ones(())
        squared = (outputs["rgb"] - batch["image"]).square().mean(-1)
        return {"loss": (squared * of_views).mean() / weight.mean()}

    pool.draw, pipeline.model.get_loss_dict = draw, loss


def given_cameras(pipeline: Any) -> None:
    """Fine-tune on photos whose cameras are where the capture has them, not where the teacher has found them."""
    pipeline.camera_corrections = lambda: None


IDEAS: dict[str, Idea] = {
    idea.__name__: idea
    for idea in (
        average,
        charbonnier,
        ssim,
        lpips,
        hard_cells,
        hard_views,
        pixel_shuffle,
        pixel_shuffle_3x3,
        bilinear_3x3,
        photos,
        doubts,
        given_cameras,
    )
} | VOLUME_IDEAS


def adamw(config: Any) -> None:
    """AdamW for the matrices too, two pictures a step."""
    from dataclasses import fields

    from mobiler2l_ns.run.optimizer import AdamWOptimizerConfig

    muon = config.optimizers["student"]["optimizer"]
    shared = {
        field.name: getattr(muon, field.name) for field in fields(AdamWOptimizerConfig) if field.name != "_target"
    }
    config.optimizers["student"] = {**config.optimizers["student"], "optimizer": AdamWOptimizerConfig(**shared)}
    config.pipeline.datamanager.views_per_batch = 2


def short_stride(config: Any) -> None:
    """Cells of 4 x 4 pixels, and half as wide a backbone for four times as many; as many rays a pixel."""
    model = config.pipeline.model
    model.strides, model.sr_channels, model.width = (2, 2), model.sr_channels[-2:], model.width // 2
    model.volume_rays //= 2


CONFIG_IDEAS: dict[str, Idea] = {idea.__name__: idea for idea in (adamw, short_stride)}
"""Ideas that change the recipe's config, and not the pipeline that is made from it."""


class RaceOfIdeas(benchmark.Race):
    """The race, with an idea put into the pipeline before it trains."""

    idea: Idea | None = None

    def recipe(self, name: str) -> Any:
        name, _, idea = name.partition("~")
        if idea and idea not in IDEAS | CONFIG_IDEAS:
            raise SystemExit(f"There is no idea {idea}: give {', '.join(IDEAS | CONFIG_IDEAS)}")
        self.idea = IDEAS.get(idea)
        config = super().recipe(name)
        if idea in CONFIG_IDEAS:
            CONFIG_IDEAS[idea](config)
        return config

    def pipeline(self, config: Any) -> Any:
        pipeline = super().pipeline(config)
        if self.idea is not None:
            self.idea(pipeline)
        return pipeline


class StepClock:
    """In place of ``time``: goes on by a step's time whenever a race reads it, which is when a step begins and ends."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.reads = seconds, 0

    def perf_counter(self) -> float:
        self.reads += 1
        return self.reads * self.seconds

    process_time = perf_counter


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--step-ms", type=float)
    known, sys.argv[1:] = parser.parse_known_args()
    if known.step_ms is not None:
        benchmark.time = StepClock(known.step_ms / 1000.0)  # type: ignore[assignment]
    benchmark.main(__doc__, RaceOfIdeas)


if __name__ == "__main__":
    main()
