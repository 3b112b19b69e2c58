"""Packages are proven before they are called done, and nothing is left of one that fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from short_run import open_run
from torch import nn

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export import manifest, package
from mobiler2l_ns.export.graph import PoseToImage, fold_batch_norms
from mobiler2l_ns.export.load_student import load_student
from mobiler2l_ns.export.package import export_package
from mobiler2l_ns.student.network import StudentConfig
from mobiler2l_ns.student.student import Student


def make_student(sphere=False, **config) -> Student:
    """A small student whose batch norms have seen something."""
    torch.manual_seed(0)
    student = Student(StudentConfig(width=24, num_blocks=2, sr_channels=(16, 8, 8), **config))
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.weight, 1.0, 0.2)
            nn.init.normal_(module.bias, std=0.2)
    # Strong colours, so that a wrong picture is far away.
    nn.init.normal_(student.network.out[0].weight, std=2.0)  # type: ignore[union-attr,arg-type]
    poses = torch.eye(4)[:3].repeat(8, 1, 1)
    poses[:, :, 3] = torch.randn(8, 3) + torch.tensor([0.0, 0.0, 4.0])
    student.capture.record(
        image_size=torch.tensor([44, 60]),
        intrinsics=torch.tensor([70.0, 72.0, 31.0, 20.0]),
        depth_range=torch.tensor([2.0, 6.0]),
        proof_poses=poses,
        start_pose=poses[0],
        scene_centre=torch.tensor([0.2, -0.1, 0.3]),
        scene_radius=torch.tensor(1.3 if sphere else 0.0),
    )
    return student.eval().requires_grad_(False)


VARIANTS = {
    "paper": {},
    "stride 12": {"strides": (2, 2, 3)},
    "relu, no norm": {"activation": "relu", "norm": False},
    "mlp": {"layer": "mlp"},
    "unbounded": {"contraction": "on"},
    "no super-resolution": {"strides": ()},
    "sphere": {"sphere": True},
    "alpha, several pitches": {"alpha": True, "pitches": (1.0, 1.5, 2.0), "sphere": True},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_graph_is_the_student(name):
    student = make_student(**VARIANTS[name])
    graph = PoseToImage(student).eval()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in graph.modules())
    for pose in student.capture.proof_poses[:3]:
        expected = student.render(student.training_camera(pose)).permute(2, 0, 1)
        got = graph(pose[None], student.capture.intrinsics[None])[0]
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("pitch", [1.0, 1.5, 2.0])
def test_the_graph_of_a_pitch_is_the_student_at_that_size(pitch):
    student = make_student(pitches=(1.0, 1.5, 2.0))
    graph, view, pose = PoseToImage(student, pitch).eval(), student.view(pitch), student.capture.start_pose
    got = graph(pose[None], torch.tensor([view.intrinsics]))[0]
    assert got.shape == (3, round(44 / pitch), round(60 / pitch))
    expected = student.render(student.training_camera(pose, pitch)).permute(2, 0, 1)
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("layer", ["conv1x1", "mlp"])
def test_folding_changes_nothing_but_the_parameter_count(layer):
    student = make_student(layer=layer)
    folded = fold_batch_norms(student.network)
    encoded = torch.randn(2, 312, 4, 5)
    torch.testing.assert_close(folded(encoded), student.network(encoded), atol=1e-5, rtol=0)
    norms = sum(p.numel() for m in student.network.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    assert sum(p.numel() for p in folded.parameters()) == sum(p.numel() for p in student.parameters()) - norms


@pytest.mark.parametrize("name", VARIANTS)
def test_onnx_gives_the_students_pictures(name, tmp_path):
    import onnx

    proof = export_package(make_student(**VARIANTS[name]), "onnx", "fp32", tmp_path)
    assert proof.psnr >= 80 and proof.cameras == 8
    model = onnx.load(str(tmp_path / "mobiler2l.onnx"))
    assert model.opset_import[0].version >= 17 and {node.domain for node in model.graph.node} == {""}
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {"BatchNormalization", "Gather", "GatherND"}
    assert {entry.key for entry in model.metadata_props} >= {"generator", "contract", "student_sha256"}


@pytest.mark.parametrize("name", ["paper", "alpha, several pitches"])
def test_coreml_gives_the_students_pictures(name, tmp_path):
    student = make_student(**VARIANTS[name])
    proof = export_package(student, "coreml", "fp16", tmp_path)
    assert proof.psnr >= 55
    described = json.loads((tmp_path / "manifest.json").read_text())
    assert described["files"][0]["precision"] == "fp16"


def test_the_manifest_says_all_a_client_needs(tmp_path):
    student = make_student()
    export_package(student, "onnx", "fp32", tmp_path)
    export_package(student, "coreml", "fp32", tmp_path)
    described = json.loads((tmp_path / "manifest.json").read_text())
    assert [entry["format"] for entry in described["files"]] == ["coreml", "onnx"]
    assert described["size"] == {"height": 44, "width": 60} and described["stride"] == 8
    assert described["focal"] == {"fx": 70.0, "fy": 72.0} and described["principal_point"] == {"cx": 31.0, "cy": 20.0}
    assert (described["near"], described["far"]) == (2.0, 6.0)
    assert (described["num_points"], described["num_frequencies"]) == (8, 6)
    assert np.shape(described["start_pose"]) == (3, 4) and np.shape(described["world"]["transform"]) == (3, 4)
    assert set(described["pose_range"]) >= {"look_at", "distance", "elevation_degrees", "azimuth_degrees"}
    for entry in described["files"]:
        size, sha256 = manifest.digests(tmp_path / entry["path"])
        assert (entry["bytes"], entry["sha256"]) == (size, sha256)


def test_exporting_twice_gives_the_same_bytes(tmp_path):
    student = make_student()
    for name in ("first", "second"):
        export_package(student, "onnx", "fp32", tmp_path / name)
    first, second = (tmp_path / name / "mobiler2l.onnx" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


def wrong_weight(graph: PoseToImage) -> None:
    graph.network.head[0].weight[3] += 0.5  # type: ignore[operator]


def wrong_activation(graph: PoseToImage) -> None:
    graph.network.head[1] = nn.ReLU()


def swapped_channels(graph: PoseToImage) -> None:
    out = graph.network.out[0]
    out.weight.copy_(out.weight.flip(0))  # type: ignore[operator,union-attr]


@pytest.mark.parametrize("mistake", [wrong_weight, wrong_activation, swapped_channels])
@pytest.mark.parametrize(("format_name", "precision"), [("onnx", "fp32"), ("coreml", "fp16")])
def test_a_wrong_package_is_refused_and_leaves_nothing(mistake, format_name, precision, tmp_path, monkeypatch):
    student = make_student()
    good = PoseToImage(student).eval()

    def planted(*_):
        mistake(good)
        return good

    monkeypatch.setattr(package, "PoseToImage", planted)
    with pytest.raises(UserError, match="is not the student: .* dB between them"):
        export_package(student, format_name, precision, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_previous_package_whole(tmp_path, monkeypatch):
    student = make_student()
    export_package(student, "onnx", "fp32", tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr(package, "prove", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            export_package(student, "onnx", "fp32", tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_packages_of_another_student_are_not_listed(tmp_path):
    export_package(make_student(), "onnx", "fp32", tmp_path)
    export_package(make_student(activation="relu"), "coreml", "fp32", tmp_path)
    assert [entry["format"] for entry in json.loads((tmp_path / "manifest.json").read_text())["files"]] == ["coreml"]


def test_the_student_is_loaded_without_its_capture(finished_run, loaded_pipeline):
    student = load_student(finished_run)
    theirs = loaded_pipeline.model.student
    for name, value in student.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name


@pytest.fixture(scope="module")
def loaded_pipeline(finished_run):
    return open_run(finished_run)[0]


def test_a_student_that_is_not_trained_yet_is_refused(finished_run, tmp_path):
    import shutil

    run = shutil.copytree(finished_run.parent, tmp_path / "run")
    (newest,) = (run / "nerfstudio_models").glob("*.ckpt")
    torch.save({**torch.load(newest), "step": 3}, newest)
    with pytest.raises(UserError, match="not trained yet: the checkpoint is at step 3, distillation begins at step 30"):
        load_student(run / "config.yml")


def test_the_console_script_needs_no_mesh_libraries(finished_run, tmp_path):
    script = """
import sys
for missing in ("open3d", "pymeshlab", "xatlas"):
    sys.modules[missing] = None
from mobiler2l_ns.export.commands import entrypoint
entrypoint()
"""
    arguments = ["onnx", "--load-config", str(finished_run), "--output-dir", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"mobiler2l.onnx", "manifest.json"}
    assert "dB to the student" in " ".join(done.stdout.split())


def test_ns_export_lists_and_runs_ours(finished_run, tmp_path):
    ns_export = str(Path(sys.executable).parent / "ns-export")
    listed = subprocess.run([ns_export, "--help"], capture_output=True, text=True).stdout
    for name in ("mobiler2l-coreml", "mobiler2l-onnx", "pointcloud", "gaussian-splat"):
        assert name in listed
    arguments = ["mobiler2l-coreml", "--load-config", str(finished_run), "--output-dir", str(tmp_path / "out")]
    done = subprocess.run([ns_export, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"mobiler2l.mlpackage", "manifest.json"}


def test_a_wrong_path_is_one_clear_line(tmp_path):
    script = str(Path(sys.executable).parent / "mobiler2l-export")
    arguments = ["onnx", "--load-config", str(tmp_path / "none.yml"), "--output-dir", str(tmp_path / "out")]
    done = subprocess.run([script, *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("No run at ") and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
