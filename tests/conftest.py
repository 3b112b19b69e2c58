"""What the tests share: a small demo scene, and one short run of all phases on it."""

from __future__ import annotations

import os
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

# Before torch and nerfstudio read them.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("MPLBACKEND", "agg")
if "PYTEST_XDIST_WORKER" in os.environ:
    # The processes share the cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from short_run import PHASES, load_script, train  # noqa: E402


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def demo_scene(tmp_path_factory) -> Path:
    """The demo scene at 52 pixels, which a stride of 8 does not divide."""
    folder = tmp_path_factory.mktemp("capture") / "scene"
    load_script("make_demo_scene").write_scene(folder, size=52, train=20, val=2, test=3, supersample=1)
    return folder


@pytest.fixture(scope="session")
def make_config(demo_scene):
    """Builds the config of a short mobiler2l-tiny run; keyword arguments replace fields of its pipeline."""
    from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig

    from mobiler2l_ns.plugin import methods

    def make(output_dir: Path, timestamp: str = "run", **pipeline):
        config = deepcopy(methods.mobiler2l_tiny.config)
        model = replace(config.pipeline.model, width=24, num_blocks=2, sr_channels=(16, 8, 8))
        datamanager = replace(
            config.pipeline.datamanager,
            dataparser=BlenderDataParserConfig(data=demo_scene),
            train_num_rays_per_batch=128,
            eval_num_rays_per_batch=64,
            pool_views=6,
            refresh_rate=0.2,
            refresh_share=1.0,
        )
        settings = {
            "model": model,
            "datamanager": datamanager,
            "teacher_steps": PHASES["teacher"],
            "distill_steps": PHASES["distil"],
            "finetune_steps": PHASES["finetune"],
            **pipeline,
        }
        config = replace(
            config,
            pipeline=replace(config.pipeline, **settings),
            output_dir=output_dir,
            experiment_name="demo",
            timestamp=timestamp,
            data=demo_scene,
            vis="tensorboard",
            machine=replace(config.machine, device_type="cpu"),
            steps_per_save=1000,
            steps_per_eval_batch=10,
            steps_per_eval_image=30,
            report_views=0,
            logging=replace(config.logging, steps_per_log=2),
        )
        config.viewer.quit_on_train_completion = True
        return config

    return make


@pytest.fixture(scope="session")
def finished_run(make_config, tmp_path_factory) -> Path:
    """config.yml of a run that went through all phases, and has a report."""
    config = make_config(tmp_path_factory.mktemp("outputs"))
    config.report_views = 32
    return train(config)


@pytest.fixture(scope="session")
def nerfacto_run(demo_scene, tmp_path_factory):
    """A stock nerfacto run: another method, trained by ns-train itself."""
    from nerfstudio.configs.method_configs import method_configs
    from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
    from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig

    from mobiler2l_ns.plugin import methods
    from mobiler2l_ns.teacher.nerfacto import for_objects, lazy_lpips

    config: Any = deepcopy(method_configs["nerfacto"])
    config.pipeline.datamanager = VanillaDataManagerConfig(
        dataparser=BlenderDataParserConfig(data=demo_scene, scale_factor=0.5),
        train_num_rays_per_batch=512,
        eval_num_rays_per_batch=64,
    )
    config.pipeline.model = for_objects(methods.mobiler2l_tiny.config.pipeline.teacher)  # type: ignore[attr-defined]
    config.pipeline.model.near_plane, config.pipeline.model.far_plane = 1.0, 3.0
    config.data, config.output_dir, config.timestamp = demo_scene, tmp_path_factory.mktemp("teacher"), "run"
    config.max_num_iterations, config.vis, config.machine.device_type = 120, "tensorboard", "cpu"
    config.viewer.quit_on_train_completion = True
    config.mixed_precision = False
    with lazy_lpips():
        return train(config)
