"""transforms.json as people have it: nerfstudio's own dataparser then gives the right cameras, or one line says why
not."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image
from tiny_capture import HEIGHT, WIDTH, edit, pattern, pose, write_capture

from mobiler2l_ns.capture.checks import look_at
from mobiler2l_ns.capture.parsing import evaluation_splits, held_out, of_split, parse, reading
from mobiler2l_ns.capture.photos import sized_dataset
from mobiler2l_ns.errors import UserError


def parsed(folder, **settings):
    return parse(NerfstudioDataParserConfig(data=folder, **settings).setup(), "train")


def same_cameras(outputs, other):
    for name in ("camera_to_worlds", "fx", "fy", "cx", "cy", "width", "height"):
        assert torch.equal(getattr(outputs.cameras, name), getattr(other.cameras, name)), name
    assert torch.equal(outputs.dataparser_transform, other.dataparser_transform)
    assert outputs.dataparser_scale == other.dataparser_scale


@pytest.fixture
def plain(tmp_path):
    return write_capture(tmp_path / "plain")


def test_a_plain_capture_is_read_as_nerfstudio_reads_it(plain):
    ours, theirs = parsed(plain), NerfstudioDataParserConfig(data=plain).setup().get_dataparser_outputs("train")
    same_cameras(ours, theirs)
    assert ours.image_filenames == theirs.image_filenames
    for cameras in (ours.cameras, theirs.cameras):
        assert cameras.distortion_params is not None and not cameras.distortion_params.any()


def without_suffix(meta):
    for frame in meta["frames"]:
        frame["file_path"] = frame["file_path"].removesuffix(".png")


def with_backslashes(meta):
    for frame in meta["frames"]:
        frame["file_path"] = frame["file_path"].replace("/", "\\")


def as_text(meta):
    meta.update(fl_x=str(meta["fl_x"]), w=str(float(WIDTH)), h=float(HEIGHT))


def by_angle(meta):
    meta["camera_angle_x"] = 2 * np.arctan(WIDTH / 2 / meta["fl_x"])
    for key in ("fl_x", "fl_y", "cx", "cy", "w", "h"):
        del meta[key]


def model_of_its_own(meta):
    for frame in meta["frames"]:
        frame["camera_model"] = "OPENCV"


def rows_of_three(meta):
    for frame in meta["frames"]:
        frame["transform_matrix"] = frame["transform_matrix"][:3]


CHANGES = [
    without_suffix,
    with_backslashes,
    as_text,
    by_angle,
    model_of_its_own,
    rows_of_three,
    lambda meta: meta.update(camera_model="FULL_OPENCV", k4=0.0, k5=0.0),
    lambda meta: meta.update(applied_transform=np.eye(4).tolist()),
]


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_said_otherwise_gives_the_same_cameras(plain, tmp_path, change):
    other = edit(write_capture(tmp_path / "other"), change)
    same_cameras(parsed(other), parsed(plain))
    assert [path.name for path in parsed(other).image_filenames] == [f.name for f in parsed(plain).image_filenames]


def test_a_byte_order_mark_is_no_obstacle(plain):
    before = parsed(plain)
    file = plain / "transforms.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    same_cameras(parsed(plain), before)


def test_what_stands_in_a_frame_counts_before_what_stands_for_all(tmp_path):
    folder = write_capture(tmp_path / "c", frame=lambda i: {"fl_x": 40.0, "k4": 0.01} if i == 3 else {})
    cameras = parsed(folder, eval_mode="all").cameras
    assert cameras.fx[:, 0].tolist() == [20.0] * 3 + [40.0] + [20.0] * 6
    assert cameras.distortion_params is not None
    assert cameras.distortion_params[:, 3].tolist() == pytest.approx([0.0] * 3 + [0.01] + [0.0] * 6)


def test_a_scale_in_the_rotations_is_taken_out(plain, tmp_path):
    scaled = write_capture(tmp_path / "scaled", pose=lambda i: np.diag([1.7, 1.7, 1.7, 1.0]) @ pose(i))
    outputs = parsed(scaled)
    torch.testing.assert_close(outputs.cameras.camera_to_worlds, parsed(plain).cameras.camera_to_worlds)


def test_cameras_far_from_zero_keep_their_digits(plain, tmp_path):
    there = np.array([468000.0, 5278000.0, 410.0])

    def far(index):
        moved = pose(index)
        moved[:3, 3] = moved[:3, 3] * 0.01 + there
        return moved

    folder = write_capture(tmp_path / "far", pose=far)
    with reading(config := NerfstudioDataParserConfig(data=folder)) as notes:
        outputs = config.setup().get_dataparser_outputs("train")
    assert notes and "moved to zero" in notes[0]
    expected = parsed(plain)
    torch.testing.assert_close(outputs.cameras.camera_to_worlds, expected.cameras.camera_to_worlds, atol=1e-5, rtol=0)
    # The transform still begins at the file's own frame.
    moved = outputs.dataparser_transform.double() @ torch.tensor([*there, 1.0]).double()
    plain_zero = expected.dataparser_transform.double()[:, 3] * 0.01
    torch.testing.assert_close(moved, plain_zero, atol=0.5, rtol=0)
    with pytest.raises(UserError, match="too far from zero .*--center-method poses"):
        parsed(folder, center_method="none")


def test_cameras_at_one_place_are_not_scaled_by_their_extent(tmp_path):
    def turned(index):
        there = pose(index)
        there[:3, 3] = [1.0, 2.0, 3.0]
        return there

    config = NerfstudioDataParserConfig(data=write_capture(tmp_path / "c", pose=turned))
    outputs = parse(config.setup(), "train")
    assert outputs.dataparser_scale == 1.0 and config.auto_scale_poses
    assert outputs.cameras.camera_to_worlds.isfinite().all() and (outputs.cameras.camera_to_worlds[..., 3] == 0).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(frames=[]), r"transforms\.json lists no photos"),
        (lambda m: m.pop("frames"), r"transforms\.json lists no photos"),
        (lambda m: m["frames"][2].pop("file_path"), "frame 2 has no file_path"),
        (lambda m: m["frames"][2].pop("transform_matrix"), r"images/02\.png has no transform_matrix"),
        (lambda m: m["frames"][2]["transform_matrix"][0].__setitem__(0, float("nan")), r"images/02\.png.* NaN"),
        (lambda m: m.pop("fl_x") and m.pop("fl_y"), "has no focal length: give fl_x"),
        (lambda m: m.update(fl_x="long"), "fl_x is 'long', which is no number"),
        (lambda m: m.update(fl_x=-3.0), "must be above zero"),
        (lambda m: m.update(camera_model="THIN_PRISM"), "knows no camera model THIN_PRISM"),
        (lambda m: m.update(camera_model="FULL_OPENCV", k5=0.1), "k4, k5 or k6 .* not zero"),
        (lambda m: m["frames"][1].update(camera_model="OPENCV_FISHEYE"), "mixes camera models"),
        (lambda m: m.update(applied_transform=[1, 2]), "applied_transform does not hold"),
        (lambda m: m.update(orientation_override="sideways"), r"transforms\.json cannot be used: .*sideways"),
        (lambda m: m["frames"][0].update(file_path="images/none.png"), r"none\.png is not there\. Put it back"),
    ],
)
def test_what_a_file_does_not_say_is_one_line(plain, change, words):
    with pytest.raises(UserError, match=words) as refused:
        parsed(edit(plain, change))
    assert "\n" not in str(refused.value) and refused.value.code == str(refused.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"{", "is no JSON"), (b"[]", "holds no camera"), ("{}".encode("utf-16"), "not written in UTF-8")],
)
def test_a_file_that_cannot_be_read_is_one_line(plain, content, words):
    (plain / "transforms.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"transforms\.json .*{words}|transforms\.json {words}"):
        parsed(plain)
    (plain / "transforms.json").unlink()
    with pytest.raises(UserError, match=r"transforms\.json cannot be opened .*--data"):
        parsed(plain)


def test_an_error_of_our_own_stays_what_it_is(plain):
    with pytest.raises(KeyError), reading(NerfstudioDataParserConfig(data=plain)):
        raise KeyError("a mistake")


# Splits


def names(outputs):
    return None if outputs is None else [int(path.stem) for path in outputs.image_filenames]


@pytest.mark.parametrize(
    ("lists", "train", "out"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6, 7, 9], [8]),
        ({"train": range(8), "test": [8, 9]}, list(range(8)), [8, 9]),
        ({"val": [3]}, [0, 1, 2, 4, 5, 6, 7, 8, 9], [3]),
        ({"train": range(10), "val": [], "test": []}, list(range(10)), None),
    ],
)
def test_splits_stand_in_for_each_other(plain, lists, train, out):
    def listed(meta):
        for split, photos in lists.items():
            meta[f"{split}_filenames"] = [f"images/{i:02d}.png" for i in photos]

    parser = NerfstudioDataParserConfig(data=edit(plain, listed)).setup()
    assert names(parse(parser, "train")) == train
    for split in ("val", "test"):
        assert names(held_out(parser, split)) == out
    assert [names(outputs) for outputs in evaluation_splits(parser).values()] == ([] if out is None else [out])


def blender(folder, splits=("train", "val", "test"), **meta):
    for split in splits:
        write_capture(folder / split, 3, fl_x=None, fl_y=None, cx=None, cy=None, w=None, h=None)
        (folder / split / "transforms.json").rename(folder / f"transforms_{split}.json")

        def change(made, split=split):
            made.update(camera_angle_x=0.8)
            made.update(meta)
            for frame in made["frames"]:
                frame["file_path"] = f"./{split}/{frame['file_path'].removesuffix('.png')}"

        edit(folder, change, f"transforms_{split}.json")
    return folder


def test_a_blender_split_without_photos_is_none(tmp_path):
    folder = blender(tmp_path / "c", ("train", "test"))
    parser = BlenderDataParserConfig(data=folder).setup()
    assert of_split(parser, "val") is None
    assert names(held_out(parser, "val")) == [0, 1, 2]
    for path in (folder / "test/images").iterdir():
        path.unlink()
    assert of_split(parser, "test") is None and held_out(parser, "val") is None


@pytest.mark.parametrize("named", [True, False], ids=["with their suffix", "without"])
@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".png", ".webp"])
def test_a_blender_captures_photos_are_found_whatever_they_are(tmp_path, suffix, named):
    folder = blender(tmp_path / "c")
    expected = parse(BlenderDataParserConfig(data=folder).setup(), "train").cameras
    for split in ("train", "val", "test"):
        for path in sorted((folder / split / "images").iterdir()):
            Image.open(path).convert("RGB").save(path.with_suffix(suffix))
            if suffix != ".png":
                path.unlink()

        def rename(meta):
            for frame in meta["frames"]:
                name = frame["file_path"].removesuffix(".png")
                frame["file_path"] = f"{name}{suffix}" if named else name

        edit(folder, rename, f"transforms_{split}.json")
    config = BlenderDataParserConfig(data=folder)
    for split in ("train", "val"):
        outputs = of_split(config.setup(), split)
        assert outputs is not None and all(path.suffix == suffix for path in outputs.image_filenames)
        found = look_at({"train": sized_dataset(outputs, None)})
        assert found.problems == [] and sized_dataset(outputs, None).get_data(0)["image"].shape == (HEIGHT, WIDTH, 3)
    torch.testing.assert_close(parse(config.setup(), "train").cameras.fx, expected.fx)


def test_blenders_field_of_view_may_be_a_focal_length(tmp_path):
    focal = WIDTH / 2 / np.tan(0.4)
    plain = parse(BlenderDataParserConfig(data=blender(tmp_path / "a")).setup(), "train")
    other = parse(
        BlenderDataParserConfig(data=blender(tmp_path / "b", camera_angle_x=None, fl_x=focal)).setup(), "train"
    )
    torch.testing.assert_close(other.cameras.fx, plain.cameras.fx)
    config = BlenderDataParserConfig(data=blender(tmp_path / "c", fl_x=2 * focal))
    with reading(config) as notes:
        torch.testing.assert_close(config.setup().get_dataparser_outputs("train").cameras.fx, plain.cameras.fx)
    assert "camera_angle_x counts" in notes[0]
    with pytest.raises(UserError, match=r"transforms_train\.json has no camera_angle_x"):
        parse(BlenderDataParserConfig(data=blender(tmp_path / "d", camera_angle_x=None)).setup(), "train")


# Photos and their cameras


@pytest.mark.parametrize("factor", [0.5, 1, 2])
def test_cameras_of_photos_that_were_scaled_are_scaled_with_them(tmp_path, factor):
    camera = {"fl_x": 20.0 * factor, "fl_y": 20.0 * factor, "cx": 11.0 * factor, "cy": 9.0 * factor}
    folder = write_capture(tmp_path / "c", **camera, w=int(WIDTH * factor), h=int(HEIGHT * factor))
    dataset = sized_dataset(parsed(folder), None)
    assert dataset.get_numpy_image(0).shape == (HEIGHT, WIDTH, 3)
    assert np.array_equal(dataset.get_numpy_image(1), pattern(1))
    got = [
        float(value[0]) for value in (dataset.cameras.fx, dataset.cameras.fy, dataset.cameras.cx, dataset.cameras.cy)
    ]
    assert got == pytest.approx([20.0, 20.0, 11.0, 9.0])


def test_photos_that_are_a_pixel_off_are_scaled_to_their_camera(tmp_path):
    def save(index, path):
        Image.fromarray(pattern(index, WIDTH + index % 2, HEIGHT + index % 2)).save(path)

    dataset = sized_dataset(parsed(write_capture(tmp_path / "c", save=save)), None)
    assert {dataset.get_numpy_image(index).shape for index in range(len(dataset))} == {(HEIGHT, WIDTH, 3)}
    assert np.abs(dataset.get_numpy_image(1).astype(int) - pattern(1)).max() < 12
    assert not dataset.cameras.is_jagged


def test_one_photo_with_alpha_gives_all_of_them_some(tmp_path):
    def save(index, path):
        photo = Image.fromarray(pattern(index))
        if index == 4:
            photo.putalpha(
                Image.fromarray(np.where(np.arange(WIDTH) < 5, 0, 255).astype(np.uint8)[None].repeat(HEIGHT, 0))
            )
        photo.save(path)

    dataset = sized_dataset(parsed(write_capture(tmp_path / "c", save=save)), None)
    assert dataset.alpha and dataset.cut_out
    assert {dataset.get_numpy_image(index).shape[-1] for index in range(len(dataset))} == {4}
    assert dataset.get_numpy_image(0)[..., 3].min() == 255 and dataset.get_own_image(0).shape[-1] == 3
    assert dataset.get_data(4)["image"][..., 3].min() == 0.0


def masked(index, hidden=8, width=WIDTH, height=HEIGHT):
    mask = np.full((height, width), 255, np.uint8)
    mask[:, :hidden] = 0
    return Image.fromarray(mask)


def with_masks(folder, mask=masked, of=lambda index: True, count=10):
    folder = write_capture(folder, count, frame=lambda i: {"mask_path": f"masks/{i:02d}.png"} if of(i) else {})
    (folder / "masks").mkdir()
    for index in range(count):
        mask(index).save(folder / f"masks/{index:02d}.png")
    return folder


def test_masks_may_be_coloured_of_another_size_or_missing(tmp_path):
    def odd(index):
        return masked(index).convert("RGB") if index % 2 else masked(index, 16, 2 * WIDTH, 2 * HEIGHT)

    folder = with_masks(tmp_path / "c", odd, of=lambda index: index != 3)
    dataset = sized_dataset(parsed(folder), 12)
    for index in range(len(dataset)):
        data = dataset.get_data(index)
        assert data["mask"].shape == (HEIGHT // 2, WIDTH // 2, 1) and data["image"].shape[:2] == data["mask"].shape[:2]
        expected = torch.arange(WIDTH // 2) >= (0 if index == 3 else 4)
        assert torch.equal(data["mask"][..., 0], expected.expand(HEIGHT // 2, -1))
    assert json.loads((folder / "transforms.json").read_text())["frames"][3].get("mask_path") is None
