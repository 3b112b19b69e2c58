"""Picture files become what a picture viewer shows, at their camera's size, or one line."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mobiler2l_ns.capture.pictures import Header, read_mask, read_photo, same_shape, shown_size
from mobiler2l_ns.errors import UserError

GREY = np.linspace(0, 255, 6 * 4).round().astype(np.uint8).reshape(4, 6)
RGB = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)
ALPHA = np.where(np.arange(6) < 3, 0, 255).astype(np.uint8)[None].repeat(4, axis=0)


def saved(tmp_path, image, name="photo.png", **settings):
    image.save(tmp_path / name, **settings)
    return tmp_path / name


def grey_rgb(values=GREY):
    return np.repeat(values[..., None], 3, axis=-1)


def with_alpha(rgb, alpha=ALPHA):
    return np.concatenate([rgb, alpha[..., None]], axis=-1)


def test_every_colour_mode_is_what_a_viewer_shows(tmp_path):
    palette = Image.fromarray((np.arange(24) % 2).astype(np.uint8).reshape(4, 6), "P")
    palette.putpalette([200, 10, 20, 30, 160, 50])
    striped = np.array([[200, 10, 20], [30, 160, 50]], np.uint8)[np.asarray(palette)]
    keyed = Image.fromarray(RGB)
    cmyk = Image.fromarray(RGB).convert("CMYK")
    cases = {
        "RGB": (Image.fromarray(RGB), {}, RGB),
        "RGBA": (Image.fromarray(with_alpha(RGB)), {}, with_alpha(RGB)),
        "L": (Image.fromarray(GREY), {}, grey_rgb()),
        "LA": (Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)]), {}, with_alpha(grey_rgb())),
        "1": (Image.fromarray(GREY > 100), {}, grey_rgb(np.where(GREY > 100, 255, 0).astype(np.uint8))),
        "P": (palette, {}, striped),
        "P with transparency": (
            palette,
            {"transparency": 0},
            with_alpha(striped, np.where(np.asarray(palette) > 0, 255, 0).astype(np.uint8)),
        ),
        "RGB with a transparent colour": (
            keyed,
            {"transparency": tuple(int(v) for v in RGB[1, 2])},
            with_alpha(RGB, np.where((RGB == RGB[1, 2]).all(-1), 0, 255).astype(np.uint8)),
        ),
        "16 bits": (Image.fromarray(GREY.astype(np.uint16) * 257), {}, grey_rgb()),
    }
    for name, (image, settings, expected) in cases.items():
        path = saved(tmp_path, image, f"{name}.png", **settings)
        got = read_photo(path, (6, 4))
        assert got.dtype == np.uint8 and np.array_equal(got, expected), name
        header = Header.read(path)
        assert header is not None and header.alpha is (expected.shape[-1] == 4), name
    path = saved(tmp_path, cmyk, "cmyk.tiff")
    assert np.array_equal(read_photo(path, (6, 4)), np.asarray(cmyk.convert("RGB")))
    path = saved(tmp_path, Image.fromarray(GREY.astype(np.float32) / 255), "float.tiff")
    assert np.array_equal(read_photo(path, (6, 4)), grey_rgb())


@pytest.mark.parametrize("wrong", [np.nan, -0.5, 200.0])
def test_floats_that_are_no_colours_are_one_line(tmp_path, wrong):
    values = GREY.astype(np.float32) / 255
    values[1, 1] = wrong
    path = saved(tmp_path, Image.fromarray(values), "photo.tiff")
    with pytest.raises(UserError, match=r"photo\.tiff cannot be read .*between 0 and 1.*: put a whole file there"):
        read_photo(path, (6, 4))


@pytest.mark.parametrize("name", ["photo.png", "photo.jpg"])
def test_a_file_that_ends_too_early_is_one_line(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=f"{name} cannot be read .*truncated"):
        read_photo(path, (64, 64))
    path.write_text("no picture")
    with pytest.raises(UserError, match=f"{name} is no picture that can be read: convert it"):
        read_photo(path, (64, 64))
    path.unlink()
    with pytest.raises(UserError, match=f"{name} is not there: put it back"):
        read_mask(path, (64, 64))


def test_sizes_fit_if_one_is_the_other_scaled_and_rounded():
    for camera in [(64, 48), (63, 47), (32, 24), (128, 96), (65, 49)]:
        assert same_shape((64, 48), camera)
    for camera in [(48, 64), (64, 64), (100, 48)]:
        assert not same_shape((64, 48), camera)
    # mip-NeRF 360's images_4 are rounded up, nerfstudio's cameras down.
    assert same_shape((1238, 822), (1237, 821))
    assert not same_shape((1238, 822), (1237, 700))


def sideways(tmp_path, orientation=6):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(tmp_path, Image.fromarray(RGB).transpose(Image.Transpose.ROTATE_90), exif=exif)


def test_a_photo_is_turned_upright_where_its_camera_is_upright(tmp_path):
    path = sideways(tmp_path)
    header = Header.read(path)
    assert header is not None and header.size == (4, 6) and header.upright == (6, 4)
    assert shown_size(header, (6, 4)) == (6, 4)
    assert np.array_equal(read_photo(path, (6, 4)), RGB)
    # Where the camera's size is that of the stored pixels, they are what it was estimated from.
    assert shown_size(header, (4, 6)) == (4, 6)
    assert np.array_equal(
        read_photo(path, (4, 6)), np.asarray(Image.fromarray(RGB).transpose(Image.Transpose.ROTATE_90))
    )


def test_masks_show_what_is_not_black_in_any_colours_and_size(tmp_path):
    seen = ALPHA > 0
    palette = Image.fromarray((~seen).astype(np.uint8), "P")
    palette.putpalette([255, 255, 255, 0, 0, 0])
    masks = {
        "L": Image.fromarray(ALPHA),
        "0 and 1": Image.fromarray(seen.astype(np.uint8)),
        "RGB": Image.fromarray(np.repeat(ALPHA[..., None], 3, -1)),
        "one channel": Image.fromarray(np.stack([ALPHA, 0 * ALPHA, 0 * ALPHA], -1)),
        "RGBA": Image.fromarray(with_alpha(np.full((4, 6, 3), 255, np.uint8))),
        "P": palette,
        "1": Image.fromarray(ALPHA).convert("1"),
        "16 bits": Image.fromarray(ALPHA.astype(np.uint16) * 257),
        "twice": Image.fromarray(ALPHA).resize((12, 8), Image.Resampling.NEAREST),
    }
    for name, mask in masks.items():
        got = read_mask(saved(tmp_path, mask, f"{name}.png"), (6, 4))
        assert got.shape == (4, 6, 1) and got.dtype == bool and np.array_equal(got[..., 0], seen), name
