"""What the tests share: four captures, a short run of all phases on each, and a run of another method.

Two processes share them out between themselves; what one has made, the other finds. Shared things are left as they are:
a test that changes one copies it first.
"""

from __future__ import annotations

import os
import runpy
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

GPU_TESTS = os.environ.get("MOBILER2L_TEST_DEVICE")
"""cuda: the tests of cuda/ are collected, and torch sees the GPU; cpu: they are rehearsed on the CPU; not given: they
are left out."""
# Before torch and nerfstudio read them.
if GPU_TESTS != "cuda":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # Processes that compile for a GPU start beside each process that imports torch's compiler, and import torch.
    os.environ.setdefault("TORCH_WARM_POOL", "0")
os.environ.setdefault("MPLBACKEND", "agg")
if "PYTEST_XDIST_WORKER" in os.environ:
    # The processes share the cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# So do the processes that tests start; see there.
QUICK_START = str(Path(__file__).parent / "quick_start")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [QUICK_START, os.environ.get("PYTHONPATH")]))
runpy.run_path(f"{QUICK_START}/sitecustomize.py")

from captures import CAPTURES, Capture  # noqa: E402
from short_run import PHASES, train  # noqa: E402

if TYPE_CHECKING:
    from nerfstudio.models.nerfacto import NerfactoModelConfig

LONGEST_FIRST = (
    "tests/export/formats/test_litert.py",
    "tests/run/test_captures.py",
    "tests/export/formats/test_coreml.py",
    "tests/run/test_distributed.py",
    "tests/scripts/test_benchmarks.py",
    "tests/export/test_package.py",
    "tests/viewer/test_panel.py",
    "tests/export/formats/test_web_page.py",
    "tests/export/formats/test_web.py",
    "tests/plugin/test_nerfstudio_hooks.py",
    "tests/run/test_alpha.py",
    "tests/run/test_nerfstudio_commands.py",
    "tests/export/test_volume.py",
    "tests/scripts/test_kill_and_resume.py",
    "tests/export/formats/test_web_volume.py",
    "tests/run/test_timekeeper.py",
    "tests/export/test_reference_client.py",
    "tests/export/test_lint.py",
    "tests/student/test_renderer.py",
    "tests/fleet/test_drive.py",
)
"""A file is one process's. The longest are begun first, in this order, so that both processes end together."""


LONG_TESTS = "MOBILER2L_TEST_LONG" in os.environ
collect_ignore = [*([] if GPU_TESTS else ["cuda"]), *([] if LONG_TESTS else ["long"])]


def pytest_report_header() -> list[str]:
    gpu = "tests/cuda is left out: MOBILER2L_TEST_DEVICE=cuda runs it where there is a GPU"
    long = "tests/long is left out: MOBILER2L_TEST_LONG=1 runs it, which takes minutes"
    return [line for line, given in ((gpu, GPU_TESTS), (long, LONG_TESTS)) if not given]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.nodeid.split("::")[0], len(places)))


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], Any]], Path]:
    """Has a folder written once for all processes: ``once(name, write)``."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"

    def make(name: str, write: Callable[[Path], Any]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                write(folder)
                done.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def capture_of(once) -> Callable[[str], Capture]:
    """One of ``CAPTURES`` by its name."""

    def get(name: str) -> Capture:
        read, write = CAPTURES[name]
        return read(once(f"captures/{name}", write))

    return get


@pytest.fixture(scope="session")
def demo_scene(capture_of) -> Path:
    """The demo scene in Blender's format at 52 pixels, which a stride of 8 does not divide."""
    return capture_of("blender").folder


def small_teacher() -> NerfactoModelConfig:
    """A nerfacto that renders a picture of 52 pixels in a tenth of a second."""
    from mobiler2l_ns.plugin import methods

    tiny: NerfactoModelConfig = methods.mobiler2l_tiny.config.pipeline.teacher  # type: ignore[attr-defined]
    return replace(
        tiny,
        num_levels=3,
        max_res=64,
        log2_hashmap_size=12,
        num_proposal_samples_per_ray=(24,),
        num_nerf_samples_per_ray=12,
        proposal_net_args_list=[{**tiny.proposal_net_args_list[0], "num_levels": 2}],
    )


@pytest.fixture(scope="session")
def make_config(capture_of):
    """Builds the config of a short mobiler2l-tiny run, on the demo scene or another capture; further keyword arguments
    replace fields of its pipeline."""
    from mobiler2l_ns.plugin import methods

    def make(output_dir: Path, timestamp: str = "run", capture: Capture | None = None, **pipeline):
        capture = capture or capture_of("blender")
        config = deepcopy(methods.mobiler2l_tiny.config)
        model = replace(config.pipeline.model, width=24, num_blocks=2, sr_channels=(16, 8, 8))
        datamanager = replace(
            config.pipeline.datamanager,
            dataparser=deepcopy(capture.dataparser),
            train_num_rays_per_batch=512,
            eval_num_rays_per_batch=64,
            pool_views=6,
            refresh_rate=0.2,
            refresh_share=1.0,
        )
        settings = {
            "model": model,
            "datamanager": datamanager,
            "teacher": small_teacher(),
            "teacher_preset": capture.preset,
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
            data=capture.folder,
            vis="tensorboard",
            machine=replace(config.machine, device_type="cpu"),
            steps_per_save=1000,
            steps_per_eval_batch=10,
            steps_per_eval_image=30,
            report_views=0,
            logging=replace(config.logging, steps_per_log=2),
        )
        # As much as can be learned in so few steps.
        student = config.optimizers["student"]
        config.optimizers["student"] = {
            "optimizer": replace(student["optimizer"], lr=2e-2),
            "scheduler": replace(student["scheduler"], warmup_steps=4, block_warmup_steps=4),
        }
        config.viewer.quit_on_train_completion = True
        return config

    return make


@pytest.fixture(scope="session")
def run_of(once, capture_of, make_config) -> Callable[[str], Path]:
    """config.yml of a run on one of ``CAPTURES`` that went through all phases, and has a report."""

    def get(name: str) -> Path:
        def write(folder: Path) -> None:
            config = make_config(folder, capture=capture_of(name))
            config.report_views = 32
            train(config)

        return once(f"runs/{name}", write) / "demo" / "mobiler2l-tiny" / "run" / "config.yml"

    return get


@pytest.fixture(scope="session")
def finished_run(run_of) -> Path:
    """config.yml of the run on the demo scene."""
    return run_of("blender")


@pytest.fixture(scope="session")
def nerfacto_run(once, demo_scene) -> Path:
    """config.yml of a stock nerfacto run: another method, trained by ns-train itself."""
    from nerfstudio.configs.method_configs import method_configs
    from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
    from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig

    from mobiler2l_ns.teacher.nerfacto import lazy_lpips
    from mobiler2l_ns.teacher.objects import for_objects

    def write(folder: Path) -> None:
        config: Any = deepcopy(method_configs["nerfacto"])
        config.pipeline.datamanager = VanillaDataManagerConfig(
            dataparser=BlenderDataParserConfig(data=demo_scene, scale_factor=0.5),
            train_num_rays_per_batch=512,
            eval_num_rays_per_batch=64,
        )
        config.pipeline.model = for_objects(small_teacher())
        config.pipeline.model.near_plane, config.pipeline.model.far_plane = 1.0, 3.0
        config.data, config.output_dir = demo_scene, folder
        config.experiment_name, config.timestamp = "demo", "run"
        config.max_num_iterations, config.vis, config.machine.device_type = 120, "tensorboard", "cpu"
        config.viewer.quit_on_train_completion = True
        config.mixed_precision = False
        with lazy_lpips():
            train(config)

    return once("runs/nerfacto", write) / "demo" / "nerfacto" / "run" / "config.yml"
