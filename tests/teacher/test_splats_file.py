"""Files of splats are read as they were written, and what is wrong with one is one line that names it."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from splat_scenes import cloud, fields, write_ply

from mobiler2l_ns.errors import UserError
from mobiler2l_ns.teacher.splat_cloud import SplatCloud
from mobiler2l_ns.teacher.splat_file import SPZ_TO_PLY, read_splats


def assert_same(found: SplatCloud, expected: SplatCloud, atol: float = 1e-5) -> None:
    for name in ("means", "quaternions", "scales", "opacities", "sh"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=atol, rtol=1e-4)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_ply_of_any_degree_is_read_as_it_was_written(tmp_path, degree):
    splats = cloud(7, degree)
    found = read_splats(write_ply(tmp_path / "scene.ply", fields(splats)))
    assert found.degree == degree and len(found) == 7
    assert_same(found, splats)


def test_other_types_byte_orders_and_elements_are_read(tmp_path):
    splats = cloud(5, 1)
    columns = fields(splats)
    kind = np.dtype([(name, ">f8") for name in columns])
    header = "ply\r\nformat binary_big_endian 1.0\r\ncomment made\r\nelement camera 2\r\nproperty uchar id\r\n"
    header += "element vertex 5\r\n" + "".join(f"property double {name}\r\n" for name in columns) + "end_header\r\n"
    rows = np.array(list(zip(*columns.values(), strict=True)), kind)
    (tmp_path / "big.ply").write_bytes(header.encode() + b"\x01\x02" + rows.tobytes())
    assert_same(read_splats(tmp_path / "big.ply"), splats)
    text = header.replace("\r\n", "\n").replace("binary_big_endian", "ascii") + "1\n2\n"
    text += "".join(" ".join(map(repr, map(float, row))) + "\n" for row in zip(*columns.values(), strict=True))
    (tmp_path / "text.ply").write_text(text)
    assert_same(read_splats(tmp_path / "text.ply"), splats)


def test_faces_after_the_splats_and_quaternions_of_any_length_do_not_matter(tmp_path):
    splats = cloud(4)
    columns = fields(splats)
    for index in range(4):
        columns[f"rot_{index}"] = columns[f"rot_{index}"] * 3
        columns[f"rot_{index}"][3] = 0.0
    columns["opacity"][0] = np.inf
    path = write_ply(tmp_path / "scene.ply", columns)
    text = path.read_bytes().replace(b"end_header", b"element face 0\nproperty list uchar int vertices\nend_header")
    path.write_bytes(text)
    found = read_splats(path)
    torch.testing.assert_close(found.quaternions[:3], splats.quaternions[:3])
    assert found.quaternions[3].tolist() == [1, 0, 0, 0] and float(found.opacities[0]) == 1.0


def refusal(path) -> str:
    with pytest.raises(UserError) as error:
        read_splats(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def test_what_is_wrong_with_a_file_is_one_line(tmp_path):
    assert "No splats at" in refusal(tmp_path / "nowhere.ply")
    assert "No splats at" in refusal(tmp_path)
    other = tmp_path / "scene.splat"
    other.write_bytes(b"123")
    assert "give a .ply or .spz" in refusal(other)
    path = tmp_path / "scene.ply"
    for content in (b"", b"solid stl\n", b"\x1f\x8b" + bytes(100)):
        path.write_bytes(content)
        assert "is not a PLY file" in refusal(path)
    path.write_bytes(b"ply\nformat binary_little_endian 1.0\nelement vertex 3\nproperty float x\n")
    assert "its header has no end" in refusal(path)
    path.write_bytes(b"ply\nformat binary_little_endian 1.0\nelement face 0\nproperty float a\nend_header\n")
    assert "it has no vertices" in refusal(path)


def test_a_point_cloud_is_told_what_it_lacks(tmp_path):
    points = {name: np.zeros(3, "<f4") for name in ("x", "y", "z", "red", "green", "blue")}
    message = refusal(write_ply(tmp_path / "points.ply", points))
    assert "a PLY without splats: its vertices have no f_dc_0, f_dc_1, f_dc_2, opacity, scale_0" in message
    columns = fields(cloud(3))
    del columns["f_rest_44"]
    assert "44 fields f_rest_*, where splats have 0, 9, 24, 45" in refusal(write_ply(tmp_path / "odd.ply", columns))


def test_empty_cut_off_and_broken_files_are_told_apart(tmp_path):
    columns = fields(cloud(6))
    path = write_ply(tmp_path / "scene.ply", {name: value[:0] for name, value in columns.items()})
    assert "holds no splats" in refusal(path)
    write_ply(path, columns)
    path.write_bytes(path.read_bytes()[:-100])
    assert "is cut off: 5 of its 6 splats are there" in refusal(path)
    text = path.read_bytes().replace(b"element vertex 6", b"element vertex 600000000000")
    path.write_bytes(text)
    assert "is cut off: 5 of its 600000000000" in refusal(path)
    for name, value in (("x", np.nan), ("scale_1", np.inf), ("f_rest_7", np.nan), ("opacity", np.nan)):
        broken = {key: column.copy() for key, column in columns.items()}
        broken[name][[1, 4]] = value
        assert "is damaged: 2 of its 6 splats are not finite numbers" in refusal(write_ply(path, broken))


def test_without_its_reader_a_packed_file_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gsply", None)
    path = tmp_path / "scene.spz"
    path.write_bytes(b"\x1f\x8b")
    assert "pip install 'mobiler2l-ns[splats]'" in refusal(path)
    packed = tmp_path / "scene.compressed.ply"
    packed.write_bytes(
        b"ply\nformat binary_little_endian 1.0\nelement chunk 1\nproperty float min_x\n"
        b"element vertex 1\nproperty uint packed_position\nend_header\n" + bytes(8)
    )
    assert "pip install 'mobiler2l-ns[splats]'" in refusal(packed)


def columns_of_gsply(splats: SplatCloud) -> tuple[np.ndarray, ...]:
    quaternions = splats.quaternions * splats.quaternions[:, :1].sign()
    values = splats.means, splats.scales.log(), quaternions, splats.opacities.logit(), splats.sh[:, 0], splats.sh[:, 1:]
    return tuple(np.ascontiguousarray(value.numpy()) for value in values)


@pytest.mark.parametrize("version", [3, 4])
def test_an_spz_is_read_with_y_down_as_if_it_were_a_ply(tmp_path, version):
    gsply = pytest.importorskip("gsply")
    splats = cloud(40)
    upright = splats.moved(SPZ_TO_PLY)
    data = gsply.GSData.from_arrays(*columns_of_gsply(upright), format="ply")
    gsply.write_spz(tmp_path / "scene.spz", data, version=version)
    found = read_splats(tmp_path / "scene.spz")
    torch.testing.assert_close(found.means, splats.means, atol=1e-3, rtol=0.0)
    torch.testing.assert_close(found.scales, splats.scales, atol=0.0, rtol=0.05)
    torch.testing.assert_close(found.opacities, splats.opacities, atol=0.01, rtol=0.0)
    torch.testing.assert_close(found.sh, splats.sh, atol=0.1, rtol=0.0)
    assert ((found.quaternions * splats.quaternions).sum(-1).abs() > 0.999).all()


def test_a_packed_ply_is_read(tmp_path):
    gsply = pytest.importorskip("gsply")
    splats = cloud(40)
    gsply.plywrite(tmp_path / "scene.ply", *columns_of_gsply(splats), compressed=True)
    found = read_splats(next(tmp_path.glob("*.compressed.ply")))
    # gsply sorts them.
    nearest = torch.cdist(splats.means, found.means).argmin(dim=1)
    torch.testing.assert_close(found.means[nearest], splats.means, atol=5e-3, rtol=0.0)
    torch.testing.assert_close(found.opacities[nearest], splats.opacities, atol=0.01, rtol=0.0)
    torch.testing.assert_close(found.sh[nearest], splats.sh, atol=0.1, rtol=0.0)


def test_a_damaged_spz_is_one_line(tmp_path):
    pytest.importorskip("gsply")
    path = tmp_path / "scene.spz"
    path.write_bytes(b"\x1f\x8b" + bytes(30))
    assert "cannot be read by gsply" in refusal(path)
