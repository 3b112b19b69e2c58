"""What ns-train registers: one recipe, and the variants that replace parts of it.

This module is loaded by every ns-* command. It imports nothing that only export needs.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.configs.base_config import LoggingConfig, ViewerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig, OptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.models.nerfacto import NerfactoModelConfig
from nerfstudio.plugins.types import MethodSpecification

from mobiler2l_ns.plugin import nerfstudio_hooks
from mobiler2l_ns.pool.datamanager import MobileR2LDataManagerConfig
from mobiler2l_ns.run.console import PhaseWriterConfig
from mobiler2l_ns.run.optimizer import AdamWOptimizerConfig, MuonOptimizerConfig
from mobiler2l_ns.run.pipeline import MobileR2LPipelineConfig
from mobiler2l_ns.run.schedule import StudentSchedulerConfig
from mobiler2l_ns.run.trainer import MobileR2LTrainerConfig
from mobiler2l_ns.student.model import MobileR2LModelConfig

nerfstudio_hooks.install()


def _teacher_optimizers(lr: float, max_steps: int, camera_steps: int) -> dict[str, Any]:
    def group(lr: float, lr_final: float, steps: int) -> dict[str, Any]:
        optimizer: OptimizerConfig = AdamOptimizerConfig(lr=lr, eps=1e-15)
        return {
            "optimizer": optimizer,
            "scheduler": ExponentialDecaySchedulerConfig(lr_final=lr_final, max_steps=steps),
        }

    return {
        "proposal_networks": group(lr, 1e-4, max_steps),
        "fields": group(lr, 1e-4, max_steps),
        "camera_opt": group(1e-3, 1e-4, camera_steps),
    }


_full = MobileR2LTrainerConfig(
    method_name="mobiler2l",
    steps_per_eval_batch=500,
    steps_per_eval_image=1000,
    steps_per_save=2000,
    mixed_precision=True,
    pipeline=MobileR2LPipelineConfig(
        datamanager=MobileR2LDataManagerConfig(
            dataparser=NerfstudioDataParserConfig(), train_num_rays_per_batch=4096, eval_num_rays_per_batch=4096
        ),
        # Where a volume says what is seen, a sixth of the paper's blocks and a lighter tail do the rest.
        model=MobileR2LModelConfig(
            volume_rays=4,
            volume_cells=(192,),
            density_cells=80,
            density_bins=48,
            norm=False,
            activation="relu",
            num_blocks=5,
            sr_channels=(32, 24, 12),
            sr_blocks=1,
        ),
        # nerfstudio's own nerfacto.
        teacher=NerfactoModelConfig(
            eval_num_rays_per_chunk=1 << 15,
            average_init_density=0.01,
            camera_optimizer=CameraOptimizerConfig(mode="SO3xR3"),
        ),
    ),
    optimizers={
        **_teacher_optimizers(lr=1e-2, max_steps=200_000, camera_steps=5_000),
        "student": {
            "optimizer": MuonOptimizerConfig(lr=3e-3, block_lr=0.5, betas=(0.9, 0.99)),
            "scheduler": StudentSchedulerConfig(),
        },
    },
    viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
    # The profiler's table would stand below the commands that a run ends with.
    logging=LoggingConfig(local_writer=PhaseWriterConfig(enable=True), profiler="none"),
    vis="viewer",
)

_tiny_hash_grid = {"hidden_dim": 16, "log2_hashmap_size": 12, "num_levels": 4, "max_res": 128, "use_linear": False}

_tiny = replace(
    _full,
    method_name="mobiler2l-tiny",
    steps_per_eval_image=500,
    steps_per_save=500,
    mixed_precision=False,
    pipeline=replace(
        _full.pipeline,
        datamanager=replace(
            _full.pipeline.datamanager,
            max_image_size=128,
            train_num_rays_per_batch=512,
            eval_num_rays_per_batch=512,
            pool_views=330,
            refresh_rate=0.008,
        ),
        # What learned fastest on a CPU in a minute: a race of variants on the demo scene.
        model=replace(
            _full.pipeline.model,
            volume_cells=(128,),
            density_cells=64,
            density_bins=32,
            num_frequencies=4,
            width=128,
            num_blocks=8,
            sr_channels=(48, 32, 16),
        ),
        teacher=replace(
            _full.pipeline.teacher,
            implementation="torch",
            # What a CPU's caches hold: half again as fast as the full recipe's chunks.
            eval_num_rays_per_chunk=1 << 12,
            num_levels=8,
            max_res=256,
            log2_hashmap_size=14,
            hidden_dim=32,
            hidden_dim_color=32,
            num_proposal_iterations=1,
            num_proposal_samples_per_ray=(48,),
            num_nerf_samples_per_ray=16,
            proposal_net_args_list=[_tiny_hash_grid],
            # A short run has no time for annealing, and its photos all but the same exposure.
            use_proposal_weight_anneal=False,
            proposal_warmup=500,
            interlevel_loss_mult=0.1,
            # Thinner fog learns as slowly as the full recipe, thicker fog takes on the background's colour for good.
            average_init_density=0.1,
            use_appearance_embedding=False,
        ),
        teacher_steps=1600,
        distill_steps=3000,
        finetune_steps=300,
    ),
    optimizers={
        **_teacher_optimizers(lr=2e-2, max_steps=2000, camera_steps=2000),
        "student": {
            "optimizer": MuonOptimizerConfig(lr=3e-3, block_lr=0.5, betas=(0.9, 0.99)),
            "scheduler": StudentSchedulerConfig(warmup_steps=50, block_warmup_steps=50),
        },
    },
)

_fast = replace(
    _full,
    method_name="mobiler2l-fast",
    pipeline=replace(
        _full.pipeline,
        model=replace(
            _full.pipeline.model,
            volume_points=2,
            volume_cells=(128,),
            density_cells=64,
            density_bins=32,
            width=192,
            num_blocks=3,
            sr_channels=(24, 16, 8),
        ),
    ),
)

_paper = replace(
    _full,
    method_name="mobiler2l-paper",
    pipeline=replace(
        _full.pipeline,
        datamanager=replace(
            _full.pipeline.datamanager,
            views_per_batch=10,
            pool_views=10_000,
            pool_budget_gib=20.0,
            refresh_rate=0.0,
            shift_grid=False,
        ),
        model=replace(
            MobileR2LModelConfig(), initialisation="torch", jitter="batch", ray_bounds="planes", precision="gpu"
        ),
        growth_shares=(),
        growth_until=(),
        distill_steps=600_000,
        finetune_steps=0,
    ),
    optimizers={
        **_full.optimizers,
        "student": {
            "optimizer": AdamWOptimizerConfig(lr=5e-4),
            "scheduler": StudentSchedulerConfig(warmup_steps=200, warmup_from=0.2, shape="exponential"),
        },
    },
)


def _specification(config: MobileR2LTrainerConfig, description: str) -> MethodSpecification:
    # Variants share no mutable parts: a command line changes its own copy only.
    return MethodSpecification(config=deepcopy(config), description=description)


mobiler2l = _specification(_full, "Capture to phone: a nerfacto teacher distilled into a real-time neural light field.")
mobiler2l_tiny = _specification(_tiny, "MobileR2L at 128 pixels, sized so that a laptop CPU finishes in minutes.")
mobiler2l_fast = _specification(_fast, "MobileR2L for slower phones: a third of mobiler2l's cost.")
mobiler2l_paper = _specification(_paper, "MobileR2L as published: the official D60-SR3 network, batch and schedule.")
