"""Packages are proven before they are called done, and nothing is left of one that fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from short_run import PHASES, checkpoint_of, load_student, open_run
from small_student import MISTAKES, VARIANTS, make_student
from torch import nn

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.export import manifest, package
from mobiler2l_ns.export.extra import Extra
from mobiler2l_ns.export.formats import all_formats
from mobiler2l_ns.export.graph import PoseToImage, RaysToImage, fold_batch_norms, graph_of
from mobiler2l_ns.export.package import Request, export_packages, view_of
from mobiler2l_ns.plugin.export_commands import entrypoint
from mobiler2l_ns.student.config import StudentConfig
from mobiler2l_ns.student.model import MobileR2LModelConfig
from mobiler2l_ns.student.renderer import Student

FORMATS = all_formats()


def export(student, format_name, folder, **asked):
    """Write one package; returns its entry of the manifest."""
    (file,) = export_packages(student, [Request(format_name, **asked)], folder)
    return file


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
    view, pose = student.view(pitch), student.capture.start_pose
    graph = PoseToImage(student, view, pitch).eval()
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


def test_the_network_alone_takes_what_the_whole_graph_encodes():
    student = make_student(pitches=(1.0, 2.0), sphere=True)
    pose, intrinsics = student.capture.start_pose[None], student.capture.intrinsics[None]
    whole, alone = (graph_of(student, contract) for contract in ("pose", "encoding"))
    assert isinstance(whole, PoseToImage) and isinstance(alone, RaysToImage)
    encoded = whole.encode(pose, intrinsics)
    assert tuple(encoded.shape) == alone.inputs[0].shape == (1, 313, 6, 8)
    torch.testing.assert_close(alone(encoded), whole(pose, intrinsics), atol=1e-6, rtol=0)


def test_a_size_is_a_pitch_that_was_learned_or_another_field_of_view():
    student = make_student(pitches=(1.0, 2.0))
    assert view_of(student, 44, 60) == (student.view(), 1.0)
    assert view_of(student, 22, 30) == (student.view(2.0), 2.0)
    window, pitch = view_of(student, 60, 30)
    assert pitch == 1.0 and (window.fx, window.fy) == (70.0, 72.0)
    assert (window.cx, window.cy) == (31.0 - 15.0, 20.0 + 8.0)
    # What both show looks the same: the cells of the window's rays lie a whole number of pixels apart here.
    pose = student.capture.start_pose[None]
    full = PoseToImage(student).eval()(pose, student.capture.intrinsics[None])
    narrow, _ = view_of(student, 44, 28)
    part = PoseToImage(student, narrow).eval()(pose, torch.tensor([narrow.intrinsics]))
    torch.testing.assert_close(part[..., :, 8:-8], full[..., :, 24:-24], atol=2e-5, rtol=0)


ALWAYS = [
    name for name, form in FORMATS.items() if not form.extra and not form.missing() and "encoding" in form.contracts
]
"""Formats that every installation can write, but for pages, which have tests of their own."""
PRECISIONS = [(name, precision) for name in ALWAYS for precision in FORMATS[name].thresholds]


@pytest.mark.parametrize(
    ("format_name", "precision", "contract"),
    [(name, precision, "encoding") for name, precision in PRECISIONS] + [(name, "", "pose") for name in ALWAYS],
)
def test_every_format_at_every_precision_gives_the_students_pictures(format_name, precision, contract, tmp_path):
    student = make_student(alpha=format_name != "snapml", num_blocks=1, sr_blocks=1)
    file = export(student, format_name, tmp_path, precision=precision, contract=contract)
    form = FORMATS[format_name]
    precision = precision or form.precision
    assert file.psnr_student >= form.thresholds[precision]
    assert file.run_by == form.run_by and (file.ms is not None) == form.timed
    assert (tmp_path / file.path).exists() and file.bytes > 10_000
    assert ("encoding" in file.path) == (contract == "encoding")
    assert (precision in file.path) == (precision != form.precision)


@pytest.mark.parametrize("format_name", ALWAYS)
def test_fewer_bits_make_smaller_packages(format_name, tmp_path):
    thresholds = FORMATS[format_name].thresholds
    student = make_student(width_of_body=64, num_blocks=1, sr_blocks=1, strides=(2,), sr_channels=(16,))
    requests = [Request(format_name, "encoding", precision) for precision in thresholds]
    sizes = {file.precision: file.bytes for file in export_packages(student, requests, tmp_path)}
    bits = {"fp32": 32, "fp16": 16, "int8": 8, "palette6": 6, "palette4": 4}
    ordered = sorted(sizes, key=lambda name: -bits[name])
    assert [sizes[name] for name in ordered] == sorted(sizes.values(), reverse=True)
    assert len(list(tmp_path.glob(f"*{FORMATS[format_name].suffix}"))) == len(sizes)


@pytest.mark.parametrize("name", VARIANTS)
def test_onnx_gives_the_students_pictures(name, tmp_path):
    import onnx

    assert export(make_student(**VARIANTS[name]), "onnx", tmp_path).psnr_student >= 80
    model = onnx.load(str(tmp_path / "mobiler2l.onnx"))
    assert model.opset_import[0].version >= 17 and {node.domain for node in model.graph.node} == {""}
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {"BatchNormalization", "Gather", "GatherND"}
    assert {entry.key for entry in model.metadata_props} >= {"generator", "contract", "student_sha256"}


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_snapml_writes_lens_studios_own_gelu_and_nothing_newer_than_opset_11(activation, tmp_path):
    import onnx

    export(make_student(activation=activation), "snapml", tmp_path, contract="encoding")
    model = onnx.load(str(tmp_path / "mobiler2l-encoding.snapml.onnx"))
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 11)]
    operators = [node.op_type for node in model.graph.node]
    assert "Erf" not in operators and not model.functions
    assert operators.count("GeluSnap") == (9 if activation == "gelu" else 0)


def test_onnx_keeps_the_encoding_in_float32_at_fp16(tmp_path):
    import onnx

    export(make_student(), "onnx", tmp_path, precision="fp16")
    model = onnx.shape_inference.infer_shapes(onnx.load(str(tmp_path / "mobiler2l-fp16.onnx")))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    kinds = {
        node.op_type: {types[node.output[0]]} for node in model.graph.node if node.op_type in ("Sin", "Cos", "Conv")
    }
    assert kinds == {
        "Sin": {onnx.TensorProto.FLOAT},
        "Cos": {onnx.TensorProto.FLOAT},
        "Conv": {onnx.TensorProto.FLOAT16},
    }


def test_core_ml_computes_the_network_alone_in_half_precision_throughout(tmp_path):
    from mobiler2l_ns.export.formats.coreml.evaluator import MILProgram

    export(make_student(), "coreml", tmp_path, contract="encoding")
    program = MILProgram.load(tmp_path / "mobiler2l-encoding.mlpackage")
    assert program.ops()["cast"] == 1  # Core ML's own, into the image
    assert all(program.dtypes(op) == {"fp16"} for op in program.ops() if op != "cast")


def test_core_ml_holds_several_sizes_and_their_weights_once(tmp_path):
    small = {"num_blocks": 1, "sr_blocks": 1, "strides": (2, 2), "sr_channels": (16, 8)}
    student = make_student(pitches=(1.0, 2.0), sphere=True, width_of_body=96, **small)
    (both,) = export_packages(student, [Request("coreml", sizes=((44, 60), (22, 30)))], tmp_path)
    assert [view["function"] for view in both.views] == ["size_60x44", "size_30x22"]
    assert [view["pitch"] for view in both.views] == [1.0, 2.0]
    assert min(view["psnr_student"] for view in both.views) == both.psnr_student >= 55
    stored = (tmp_path / both.path / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size
    once = 2 * sum(p.numel() for p in fold_batch_norms(student.network).parameters())
    assert once < stored < 1.3 * once


def test_onnx_has_a_file_for_each_size(tmp_path):
    files = export_packages(make_student(), [Request("onnx", sizes=((44, 60), (24, 24)))], tmp_path)
    assert [file.path for file in files] == ["mobiler2l-60x44.onnx", "mobiler2l-24x24.onnx"]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request("onnx", precision="palette4"), "onnx packages come in fp32, fp16, int8, not palette4"),
        (Request("onnx", sizes=((8, 8), (8, 8))), "--sizes 8x8 8x8: each must be there once"),
    ],
)
def test_what_a_format_cannot_hold_is_one_clear_line(request_, message, tmp_path):
    with pytest.raises(UserError, match=message):
        export_packages(make_student(), [request_], tmp_path)


def test_a_format_whose_extra_is_not_installed_says_what_to_install(tmp_path, monkeypatch):
    extra = Extra(("no_such_module",), "pip install '.[ncnn]' in this project's checkout")
    form = replace(FORMATS["onnx"], extra=extra)
    monkeypatch.setitem(FORMATS, "onnx", form)
    with pytest.raises(UserError, match=r"pip install '\.\[ncnn\]'.*no_such_module"):
        export(make_student(), "onnx", tmp_path)


def test_the_manifest_says_all_a_client_needs(tmp_path):
    student = make_student()
    export(student, "onnx", tmp_path)
    export(student, "coreml", tmp_path, precision="fp32")
    described = json.loads((tmp_path / "manifest.json").read_text())
    assert [entry["format"] for entry in described["files"]] == ["coreml", "onnx"]
    assert described["size"] == {"height": 44, "width": 60} and described["stride"] == 8
    assert described["focal"] == {"fx": 70.0, "fy": 72.0} and described["principal_point"] == {"cx": 31.0, "cy": 20.0}
    assert (described["near"], described["far"]) == (2.0, 6.0)
    assert (described["num_points"], described["num_frequencies"]) == (8, 6)
    assert np.shape(described["start_pose"]) == (3, 4) and np.shape(described["world"]["transform"]) == (3, 4)
    assert set(described["pose_range"]) >= {"look_at", "distance", "elevation_degrees", "azimuth_degrees"}
    for entry in described["files"]:
        assert set(entry) >= {"format", "path", "contract", "precision", "bytes", "psnr_student", "psnr_photos", "ms"}
        assert set(entry["views"][0]) >= {"function", "pitch", "height", "width", "rows", "columns", "intrinsics"}
        size, sha256 = manifest.digests(tmp_path / entry["path"])
        assert (entry["bytes"], entry["sha256"]) == (size, sha256)


SAME_TWICE = [("onnx", "fp32"), ("onnx", "int8"), ("snapml", "fp32"), ("coreml", "palette4")]


@pytest.mark.parametrize(("format_name", "precision"), SAME_TWICE)
def test_exporting_twice_gives_the_same_bytes(format_name, precision, tmp_path):
    student = make_student(pitches=(1.0, 2.0), num_blocks=1, sr_blocks=1)
    sizes = ((22, 30),) if format_name == "coreml" else ((44, 60), (22, 30))  # Core ML's conversions are slow
    request = Request(format_name, "encoding", precision, sizes)
    first, second = (export_packages(student, [request], tmp_path / name) for name in ("first", "second"))
    assert [file.sha256 for file in first] == [file.sha256 for file in second]


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize(
    ("format_name", "contract"), [("coreml", "encoding"), ("onnx", "pose"), ("snapml", "encoding")]
)
def test_a_wrong_package_is_refused_and_leaves_nothing(mistake, format_name, contract, tmp_path, monkeypatch):
    student = make_student(num_blocks=1, sr_blocks=1)
    good = graph_of(student, contract)

    def planted(*_):
        mistake(good)
        return good

    monkeypatch.setattr(package, "graph_of", planted)
    with pytest.raises(UserError, match="is not the student: .* dB between them"):
        export(student, format_name, tmp_path, contract=contract)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_package_whose_numbers_overflow_is_refused_as_such(value, tmp_path, monkeypatch):
    def overflowing(self, path, function):
        return lambda inputs: np.full((3, 44, 60), value, np.float32)

    monkeypatch.setattr(type(FORMATS["onnx"]), "open", overflowing)
    with pytest.raises(UserError, match="The onnx package gives pictures with NaN or infinity: .* overflow"):
        export(make_student(), "onnx", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_half_precision_cannot_hold_are_refused_as_such(tmp_path):
    student = make_student(num_blocks=1, sr_blocks=1, norm=False, activation="relu", initialisation="torch")
    # float32 holds these weights, float16, which ends at 65504, does not; the last layer makes their work small again.
    student.network.head[0].weight.mul_(1e8)  # type: ignore[operator,union-attr]
    student.network.out[0].weight.mul_(1e-8)  # type: ignore[operator,union-attr]
    assert export(student, "onnx", tmp_path / "fp32").psnr_student >= 80
    with pytest.raises(UserError, match="NaN or infinity"):
        export(student, "onnx", tmp_path / "fp16", precision="fp16")


def test_a_student_that_has_diverged_is_not_exported(tmp_path):
    student = make_student()
    student.network.out[0].bias.fill_(float("nan"))  # type: ignore[operator,union-attr]
    with pytest.raises(UserError, match="The student's own pictures hold NaN or infinity"):
        export(student, "onnx", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_previous_package_whole(tmp_path, monkeypatch):
    student = make_student()
    export(student, "onnx", tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr(package, "prove", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            export(student, "onnx", tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("at", ["mobiler2l.mlpackage", "mobiler2l.onnx", "CLIENT.md", "manifest.json"])
def test_an_interruption_among_the_last_moves_brings_the_previous_files_back(at, tmp_path, monkeypatch):
    old = {"mobiler2l.mlpackage/weights": "of old", "mobiler2l.onnx": "old", "CLIENT.md": "old", "manifest.json": "old"}
    target, work = tmp_path / "out", tmp_path / "work"
    for folder, content in ((target, old), (work, {**dict.fromkeys(old, "new"), "new.onnx": "new"})):
        for name, text in content.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    moves = {"rename": Path.rename, "replace": Path.replace}
    waiting = {work / at}

    def interrupted(move):
        def moved(path, to):
            if path in waiting:
                waiting.clear()
                raise KeyboardInterrupt
            return move(path, to)

        return moved

    for name, move in moves.items():
        monkeypatch.setattr(Path, name, interrupted(move))
    with pytest.raises(KeyboardInterrupt):
        names = ["new.onnx", "mobiler2l.mlpackage", "mobiler2l.onnx", "CLIENT.md", "manifest.json"]
        package._move_in(work, names, target)
    files = {str(path.relative_to(target)): path.read_text() for path in target.rglob("*") if path.is_file()}
    assert files == old


@pytest.mark.parametrize("text", ['{"name": "My site", "icons": []}', "no JSON"])
def test_a_manifest_of_something_else_is_left_alone(text, tmp_path):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="is not a manifest of packages: choose another --output-dir"):
        export(make_student(), "onnx", tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"manifest.json": text}


def test_one_wrong_package_of_several_leaves_none(tmp_path, monkeypatch):
    student = make_student()
    monkeypatch.setitem(FORMATS, "snapml", replace(FORMATS["snapml"], thresholds={"fp32": 300.0}))
    with pytest.raises(UserError, match="The snapml package is not the student"):
        export_packages(student, [Request("onnx"), Request("snapml")], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_packages_of_another_student_are_not_listed(tmp_path):
    export(make_student(), "onnx", tmp_path)
    export(make_student(activation="relu"), "coreml", tmp_path)
    assert [entry["format"] for entry in json.loads((tmp_path / "manifest.json").read_text())["files"]] == ["coreml"]


def test_how_a_student_was_trained_is_no_part_of_which_student_it_is():
    shape = {"width": 24, "num_blocks": 2, "sr_channels": (16, 8, 8)}
    plain = Student(StudentConfig(**shape))
    trained = MobileR2LModelConfig(**shape, compile="on", precision="float32", prune=(0.5,), prune_between=(0.2, 0.4))
    same = Student(trained, trained)
    same.load_state_dict(plain.state_dict())
    assert manifest.student_digest(same) == manifest.student_digest(plain)
    assert manifest.describe(same) == manifest.describe(plain)
    # Settings that change no weight but the picture do count.
    elsewhere = Student(StudentConfig(**shape, depth_spacing="disparity"))
    elsewhere.load_state_dict(plain.state_dict())
    assert manifest.student_digest(elsewhere) != manifest.student_digest(plain)


def test_the_student_is_loaded_without_its_capture(finished_run, loaded_pipeline):
    student = load_student(finished_run)
    whole = loaded_pipeline.model.student.state_dict()
    for name, value in student.state_dict().items():
        assert torch.equal(value, whole[name]), name


@pytest.fixture(scope="module")
def loaded_pipeline(finished_run):
    return open_run(finished_run)[0]


@pytest.fixture
def run(finished_run, tmp_path) -> Path:
    """config.yml of a copy of the run, whose report an export may write into."""
    return shutil.copytree(finished_run.parent, tmp_path / "run") / "config.yml"


def test_a_student_that_is_not_trained_yet_is_refused(run):
    newest = checkpoint_of(run)
    torch.save({**torch.load(newest), "step": 3}, newest)
    begin = PHASES["teacher"]
    message = f"not trained yet: the checkpoint is at step 3, distillation begins at step {begin}"
    with pytest.raises(UserError, match=message):
        load_student(run)


def test_the_console_script_needs_no_mesh_libraries(run, tmp_path):
    script = """
import sys
for missing in ("open3d", "pymeshlab", "xatlas"):
    sys.modules[missing] = None
from mobiler2l_ns.plugin.export_commands import entrypoint
entrypoint()
"""
    arguments = ["onnx", "--load-config", str(run), "--output-dir", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"mobiler2l.onnx", "manifest.json", "CLIENT.md"}
    assert "dB to photos" in " ".join(done.stdout.split())
    (entry,) = json.loads((tmp_path / "out/manifest.json").read_text())["files"]
    assert f"{entry['psnr_photos']:.2f}" in done.stdout


def test_ns_export_runs_ours(run, tmp_path):
    ns_export = str(Path(sys.executable).parent / "ns-export")
    arguments = ["mobiler2l-onnx", "--load-config", str(run), "--output-dir", str(tmp_path / "out")]
    done = subprocess.run([ns_export, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"mobiler2l.onnx", "manifest.json", "CLIENT.md"}


def test_a_wrong_path_is_one_clear_line(tmp_path, monkeypatch):
    arguments = ["onnx", "--load-config", str(tmp_path / "none.yml"), "--output-dir", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["mobiler2l-export", *arguments])
    with pytest.raises(UserError, match=r"^No run at .*none\.yml"):
        entrypoint()
    assert not (tmp_path / "out").exists()
