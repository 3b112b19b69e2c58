"""The teacher that is trained in a run: a nerfacto, with settings that suit the capture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.models.base_model import Model
from nerfstudio.models.nerfacto import NerfactoModelConfig

from mobiler2l_ns.capture.background import Background, BackgroundColour, is_cut_out
from mobiler2l_ns.metrics import LazyLPIPS

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


def for_objects(config: NerfactoModelConfig, background_color: BackgroundColour = "white") -> NerfactoModelConfig:
    """nerfacto's settings for synthetic objects: those of nerfstudio's own Blender benchmark, where the background is
    white."""
    return replace(
        config,
        background_color=background_color,
        near_plane=2.0,
        far_plane=6.0,
        proposal_initial_sampler="uniform",
        distortion_loss_mult=0.0,
        disable_scene_contraction=True,
        use_average_appearance_embedding=False,
        camera_optimizer=CameraOptimizerConfig(mode="off"),
    )


def shows_an_object(dataparser: DataParserConfig) -> bool:
    """Whether a capture is of a synthetic object, bounded and without surroundings: Blender data."""
    return isinstance(dataparser, BlenderDataParserConfig)


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
        preset: object: ``for_objects`` replaces some; scene: as asked for; auto: object for Blender data.
        dataparser, dataset: the capture.
        background: of transparent photos.
    """
    if preset == "object" or (preset == "auto" and shows_an_object(dataparser)):
        config = for_objects(config, background.colour)
    if is_cut_out(dataset):
        config = replace(config, background_color=background.of_teacher)
    return config


def build(config: NerfactoModelConfig, dataset: InputDataset, device: str, grad_scaler: Any) -> Model:
    """A teacher to be trained on a dataset."""
    with lazy_lpips():
        teacher = config.setup(
            scene_box=dataset.scene_box,
            num_train_data=len(dataset),
            metadata=dataset.metadata,
            device=device,
            grad_scaler=grad_scaler,
            seed_points=None,
        )
    return teacher.to(device)
