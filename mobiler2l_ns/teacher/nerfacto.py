"""The teacher that is trained in a run: a nerfacto, with settings that suit the capture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.models.base_model import Model
from nerfstudio.models.nerfacto import NerfactoModelConfig

from mobiler2l_ns.capture.background import Background, is_cut_out
from mobiler2l_ns.metrics import LazyLPIPS
from mobiler2l_ns.teacher.objects import ObjectBounds, for_objects, shows_an_object

TeacherPreset = Literal["auto", "object", "scene"]


@contextmanager
def lazy_lpips() -> Iterator[None]:
    """Let nerfstudio models be built without a network: their LPIPS fetches its weights when first called."""
    import torchmetrics.image
    import torchmetrics.image.lpip as lpip

    real = lpip.LearnedPerceptualImagePatchSimilarity
    modules = [module for module in (lpip, torchmetrics.image) if hasattr(module, real.__name__)]
    for module in modules:
        setattr(module, real.__name__, LazyLPIPS)
    try:
        yield
    finally:
        for module in modules:
            setattr(module, real.__name__, real)


def settled_config(
    config: NerfactoModelConfig,
    preset: TeacherPreset,
    dataparser: DataParserConfig,
    dataset: InputDataset,
    background: Background,
) -> NerfactoModelConfig:
    """The settings that a teacher is really trained with.

    Args:
        config: as asked for.
        preset: object: ``for_objects`` sets what was not asked for; scene: as asked for; auto: object for Blender data
            whose cameras look at one point.
        dataparser, dataset: the capture.
        background: of transparent photos.
    """
    bounds = ObjectBounds.seen_by(dataset.cameras)
    if preset == "object" or (preset == "auto" and shows_an_object(dataparser) and bounds is not None):
        config = for_objects(config, background.colour, bounds or ObjectBounds())
    if is_cut_out(dataset):
        config = replace(config, background_color=background.of_teacher)
    return config


def build(config: NerfactoModelConfig, dataset: InputDataset, device: str, grad_scaler: Any) -> Model:
    """A teacher to be trained on a dataset."""
    bounds = ObjectBounds.seen_by(dataset.cameras) if config.disable_scene_contraction else None
    with lazy_lpips():
        teacher = config.setup(
            scene_box=dataset.scene_box if bounds is None else bounds.box(dataset.scene_box),
            num_train_data=len(dataset),
            metadata=dataset.metadata,
            device=device,
            grad_scaler=grad_scaler,
            seed_points=None,
        )
    return teacher.to(device)
