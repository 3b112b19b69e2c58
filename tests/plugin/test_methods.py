"""What a nerfstudio user sees once the plugin is installed, and what it must never break."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields, is_dataclass
from importlib.metadata import entry_points
from typing import Any

import pytest
from short_run import load_script

from mobiler2l_ns.plugin import methods
from mobiler2l_ns.student.cost import measure_cost

METHODS: dict[str, Any] = {
    "mobiler2l": methods.mobiler2l,
    "mobiler2l-fast": methods.mobiler2l_fast,
    "mobiler2l-tiny": methods.mobiler2l_tiny,
    "mobiler2l-paper": methods.mobiler2l_paper,
}


def test_the_methods_are_registered():
    found = {entry.name: entry.load() for entry in entry_points(group="nerfstudio.method_configs")}
    for name, specification in METHODS.items():
        assert found[name] is specification
        assert specification.config.method_name == name
        assert "\n" not in specification.description and 20 < len(specification.description) < 100


def test_they_are_listed_on_a_machine_without_the_export_libraries():
    # What every ns-* command imports first.
    script = """
import sys
for missing in ("coremltools", "onnx", "onnxruntime", "open3d", "pymeshlab", "xatlas"):
    sys.modules[missing] = None
from nerfstudio.configs.method_configs import all_methods, all_descriptions
ours = ("mobiler2l", "mobiler2l-fast", "mobiler2l-tiny", "mobiler2l-paper")
assert {*ours, "nerfacto", "splatfacto"} <= set(all_methods)
for name in ours:
    print(name, "-", all_descriptions[name])
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stdout.splitlines() if line.startswith("mobiler2l")]) == 4


def test_the_papers_method_is_the_papers_network_and_recipe():
    config = METHODS["mobiler2l-paper"].config
    cost = measure_cost(config.pipeline.model, 800, 800)
    assert (cost.params, cost.params_folded) == (4_305_539, 4_274_691)
    student = config.optimizers["student"]
    assert (student["optimizer"].lr, student["optimizer"].weight_decay) == (5e-4, 0.01)
    assert config.pipeline.datamanager.views_per_batch == 10
    assert config.pipeline.datamanager.pool_views == 10_000 and config.pipeline.datamanager.refresh_rate == 0
    assert (config.pipeline.distill_steps, config.pipeline.finetune_steps) == (600_000, 0)
    model = config.pipeline.model
    assert (model.initialisation, model.jitter, model.ray_bounds) == ("torch", "batch", "planes")
    assert config.pipeline.growth().active(0.0) == 29


@pytest.mark.parametrize(("name", "share"), [("mobiler2l", 1.0), ("mobiler2l-fast", 0.5)])
def test_a_students_cost_is_bounded_by_the_papers(name, share):
    cost = measure_cost(METHODS[name].config.pipeline.model, 800, 800)
    assert cost.gmac <= share * 50.6 and cost.params_folded <= share * 4_310_000


@pytest.mark.parametrize("name", METHODS)
def test_the_length_follows_from_the_phases(name):
    config = METHODS[name].config
    pipeline = config.pipeline
    assert config.max_num_iterations == pipeline.teacher_steps + pipeline.distill_steps + pipeline.finetune_steps


def test_variants_share_no_mutable_parts():
    def parts(config, seen):
        for field in fields(config):
            value = getattr(config, field.name)
            if is_dataclass(value) and not isinstance(value, type):
                seen.add(id(value))
                parts(value, seen)
        return seen

    ids = [parts(specification.config, set()) for specification in METHODS.values()]
    assert not ids[0] & ids[1] and not ids[0] & ids[2] and not ids[1] & ids[2]


def test_every_option_has_its_help():
    """nerfstudio shows the docstring under a field; one that is missing shows nothing."""
    import inspect

    for specification in METHODS.values():
        for config in (specification.config, specification.config.pipeline, specification.config.pipeline.model):
            for base in type(config).__mro__:
                if is_dataclass(base) and base.__module__.startswith("mobiler2l_ns"):
                    source = inspect.getsource(base)
                    own = [name for name in base.__annotations__ if f"    {name}:" in source]
                    for name in own:
                        after = source.split(f"    {name}:", 1)[1].split("\n", 1)[1].lstrip()
                        assert after.startswith('"""'), f"{base.__name__}.{name} has no docstring"


def test_the_command_line_reaches_every_part(tmp_path):
    import tyro
    from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion

    arguments = (
        "mobiler2l --data here --pipeline.teacher-steps 5 --pipeline.distill-steps 6 --pipeline.finetune-steps 7"
    )
    arguments += " --pipeline.teacher.log2-hashmap-size 15 --pipeline.model.strides 2 2 3 --pipeline.model.norm False"
    arguments += " --pipeline.datamanager.pool-views 9 --pipeline.datamanager.refresh-rate 0.5"
    arguments += " --optimizers.student.scheduler.warmup-steps 3 blender-data --scale-factor 2"
    config = tyro.cli(AnnotatedBaseConfigUnion, args=arguments.split())
    assert config.max_num_iterations == 18
    assert config.pipeline.teacher.log2_hashmap_size == 15
    assert config.pipeline.model.strides == (2, 2, 3) and not config.pipeline.model.norm
    assert config.pipeline.datamanager.pool_views == 9 and config.pipeline.datamanager.refresh_rate == 0.5
    assert config.optimizers["student"]["scheduler"].warmup_steps == 3
    assert config.pipeline.datamanager.dataparser.scale_factor == 2.0


def test_teacher_settings_for_objects_come_with_blender_data_only():
    from mobiler2l_ns.teacher.objects import for_objects

    config = for_objects(METHODS["mobiler2l"].config.pipeline.teacher)
    assert (config.background_color, config.near_plane, config.far_plane) == ("white", 2.0, 6.0)
    assert config.disable_scene_contraction and config.camera_optimizer.mode == "off"
    assert not METHODS["mobiler2l"].config.pipeline.teacher.disable_scene_contraction


@pytest.mark.parametrize(
    ("arguments", "params", "folded"),
    [
        ([], 4_305_539, 4_274_691),
        (["--width", "1008", "--height", "756", "--strides", "2", "2", "3"], 4_298_371, 4_267_523),
    ],
)
def test_describe_student(arguments, params, folded, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["describe_student.py", "mobiler2l-paper", "--json", *arguments])
    load_script("describe_student").main()
    cost = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (cost["params"], cost["params_folded"], cost["fp16_bytes"]) == (params, folded, 2 * folded)
    assert cost["gmac"] == pytest.approx(50.64 if not arguments else 26.64, abs=0.01)
