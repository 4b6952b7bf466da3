"""Image files: every format becomes upright RGB, and a file is read again only if it may have changed."""

import errno
import io
import os
import re
import struct
import subprocess
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from pipeline.data.image_files import (
    CorruptImageError,
    PixelTypeError,
    UnreadableError,
    read_image,
    to_rgb,
)

ORIENTATION = 0x0112


def pixels(image):
    return np.asarray(image)


# colour and orientation


def test_an_upright_photograph_with_exif_stays(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 1
    exif[0x010F] = "a camera"
    noise = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(pixels(to_rgb(image)), noise)


def test_greyscale_becomes_three_equal_channels():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(pixels(to_rgb(Image.fromarray(grey))), np.repeat(grey[..., None], 3, axis=2))


def test_black_and_white_uses_the_whole_range():
    bits = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert pixels(to_rgb(bits))[0].tolist() == [[0, 0, 0], [255, 255, 255]]


def test_a_palette_gives_its_colours():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([1, 0])
    assert pixels(to_rgb(image))[0].tolist() == [[40, 50, 60], [10, 20, 30]]


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_a_transparent_colour_of_a_palette_becomes_white(tmp_path, transparency):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png", transparency=transparency)
    with Image.open(tmp_path / "a.png") as read:
        assert pixels(to_rgb(read))[0].tolist() == [[255, 255, 255], [40, 50, 60]]


def test_cmyk_is_converted():
    image = Image.new("CMYK", (1, 1), (0, 255, 255, 0))
    assert to_rgb(image).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(("mode", "colour"), [("RGBA", (255, 0, 0)), ("LA", (0,))])
def test_transparency_lies_on_white(mode, colour):
    see_through, opaque = Image.new(mode, (1, 1), (*colour, 0)), Image.new(mode, (1, 1), (*colour, 255))
    assert to_rgb(see_through).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(opaque).getpixel((0, 0)) == ((*colour,) * 3)[:3]


def test_half_transparency_is_half_white():
    assert to_rgb(Image.new("RGBA", (1, 1), (255, 0, 0, 128))).getpixel((0, 0)) == (255, 127, 127)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_orientations_are_undone(tmp_path, orientation):
    upright = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    inverse = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(np.ascontiguousarray(inverse(upright))).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(pixels(to_rgb(image)), upright)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_of_either_byte_order_keep_their_upper_half(tmp_path, suffix, order):
    deep = np.array([[0, 256, 32768, 65535]], dtype=f"{order}u2")
    mode = "I;16" if order == "<" else "I;16B"
    image = Image.frombytes(mode, (4, 1), deep.tobytes())
    if suffix == "png" and order == ">":
        image = Image.fromarray(deep.astype("<u2"))  # PIL writes PNG only from this byte order
    image.save(tmp_path / f"a.{suffix}")
    with Image.open(tmp_path / f"a.{suffix}") as read:
        assert pixels(to_rgb(read))[0, :, 0].tolist() == [0, 1, 128, 255]


def saved(folder, deep, suffix="tif", **options):
    Image.fromarray(deep).save(folder / f"a.{suffix}", **options)
    return folder / f"a.{suffix}"


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pixels_whose_white_nobody_states_are_refused(tmp_path, kind):
    file = saved(tmp_path, np.linspace(0, 255, 12).reshape(3, 4).astype(kind))
    with Image.open(file) as image, pytest.raises(PixelTypeError, match=r"whose value for white is unknown"):
        to_rgb(image)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("white", [100, 32767])
def test_signed_sixteen_bits_are_refused(tmp_path, order, white):
    file = tmp_path / "a.tif"
    file.write_bytes(tiff(np.array([[0, -5, white]], dtype=f"{order}i2"), sample_format=2))
    with Image.open(file) as image, pytest.raises(PixelTypeError, match="signed integer pixels"):
        to_rgb(image)


def test_signed_eight_bits_are_refused():
    with (
        Image.open(io.BytesIO(tiff(np.array([[0, -5, 100, 127]], "i1"), sample_format=2, n_bits=8))) as image,
        pytest.raises(PixelTypeError, match="signed integer pixels"),
    ):
        to_rgb(image)


def tiff(pixels, *, sample_format=1, n_bits=16, is_white_zero=False):
    """Write one row of pixels as a minimal TIFF; pixels may be packed bytes."""
    content = pixels if isinstance(pixels, bytes) else pixels.tobytes()
    width = len(content) * 8 // n_bits
    order = ">" if not isinstance(pixels, bytes) and pixels.dtype.str.startswith(">") else "<"
    tags = {
        256: width, 257: 1, 258: n_bits, 259: 1, 262: 0 if is_white_zero else 1, 273: 8, 277: 1, 278: 1,
        279: len(content), 339: sample_format,
    }  # fmt: skip
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(content) + len(content) % 2)
    padding = b"\0" * (len(content) % 2)
    return head + content + padding + struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0)


def test_twelve_bits_use_the_whole_range():
    packed = bytes([0x00, 0x08, 0x00, 0xFF, 0xF0, 0x10])  # 0, 2048, 4095, 16
    with Image.open(io.BytesIO(tiff(packed, n_bits=12))) as image:
        assert pixels(to_rgb(image))[0, :, 0].tolist() == [0, 128, 255, 1]


def test_sixteen_bits_whose_zero_is_white_are_not_inverted():
    with Image.open(io.BytesIO(tiff(np.array([[0, 65535, 256]], "<u2"), is_white_zero=True))) as image:
        assert pixels(to_rgb(image))[0, :, 0].tolist() == [255, 0, 254]


@pytest.mark.parametrize("largest", [1023, 65535])
def test_deep_portable_maps_say_themselves_what_white_is(largest):
    values = np.array([0, largest // 2 + 1, largest], dtype=">u2")
    with Image.open(io.BytesIO(f"P5 3 1 {largest}\n".encode() + values.tobytes())) as image:
        assert pixels(to_rgb(image))[0, :, 0].tolist() == [0, 128, 255]


# unreadable files, and files that cannot be decoded

OF_READING = [errno.EIO, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT]


@pytest.fixture
def image(tmp_path):
    Image.new("RGB", (5, 4), (9, 9, 9)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def failing(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", OF_READING)
@pytest.mark.parametrize("operation", ["read_bytes", "stat", "open"])
def test_an_error_of_reading_is_told_as_one(image, monkeypatch, number, operation):
    monkeypatch.setattr(Path, operation, failing(number))
    with pytest.raises(
        OSError, match=rf"^image a\.png in .* cannot be read \({os.strerror(number)}\); expected"
    ) as caught:
        read_image(image.parent, "a.png")
    assert not isinstance(caught.value, CorruptImageError)
    assert re.search(r"Change its perm|Raise|raise the limit|Check the disk", str(caught.value))


@pytest.mark.parametrize("wrapper", [OSError, ValueError, RuntimeError, SyntaxError, UnidentifiedImageError])
@pytest.mark.parametrize("how", ["cause", "context"])
def test_an_error_of_reading_inside_another_one_is_told_as_one(image, monkeypatch, wrapper, how):
    def opened(*_, **__):
        try:
            failing(errno.EIO)()
        except OSError as error:
            if how == "cause":
                raise wrapper("broken") from error
            raise wrapper("broken")  # noqa: B904 — as libraries do

    monkeypatch.setattr(Image, "open", opened)
    with pytest.raises(UnreadableError, match=r"^image a\.png in .* cannot be read \(Input/output error\)"):
        read_image(image.parent, "a.png")


def test_a_read_that_took_too_long_is_one_without_a_number_too(image, monkeypatch):
    def opened(*_, **__):
        raise TimeoutError("no answer in 30 s")

    monkeypatch.setattr(Image, "open", opened)
    with pytest.raises(UnreadableError, match=r"cannot be read \(no answer in 30 s\)"):
        read_image(image.parent, "a.png")


@pytest.mark.parametrize(
    "suffix", ["gif", "bmp", "ppm", "tga", "psd", "ico", "qoi", "dds", "jp2", "avif", "sgi", "icns"]
)
def test_files_that_are_cut_or_changed_are_decoded_or_cannot_be_and_raise_nothing_else(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    whole, rng = io.BytesIO(), np.random.default_rng(1)
    if suffix == "psd":
        whole.write(b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 32, 32, 8, 3) + bytes(14) + noise.tobytes())
    else:
        Image.fromarray(noise).save(whole, format=Image.registered_extensions()[f".{suffix}"])
    for number in range(40):
        content = bytearray(whole.getvalue())
        content[rng.integers(len(content))] = rng.integers(256)
        (tmp_path / "a.bin").write_bytes(content[: rng.integers(1, len(content) + 1) if number % 2 else None])
        with suppress(CorruptImageError):
            assert read_image(tmp_path, "a.bin")[0].mode == "RGB"


def test_no_program_is_run_for_a_file_that_only_ends_like_an_image(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr(subprocess, "check_call", None)
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(CorruptImageError, match="its content is not in a supported image format"):
        read_image(tmp_path, "a.png")


def test_only_the_first_image_of_an_animation_is_taken(tmp_path):
    first, second = Image.new("RGB", (4, 4), (255, 0, 0)), Image.new("RGB", (4, 4), (0, 0, 255))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert read_image(tmp_path, "a.gif")[0].getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("sample_id", ["../a.png", "b/../../a.png", "{root}/../a.png", "/etc/hostname"])
def test_links_that_may_be_followed_open_no_other_way_out(tmp_path, sample_id):
    (tmp_path / "pets/b").mkdir(parents=True)
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"is outside"):
        read_image(tmp_path / "pets", sample_id.format(root=tmp_path / "pets"), follow_links=True)
