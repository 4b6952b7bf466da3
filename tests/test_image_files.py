"""Image files: any kind becomes upright RGB, and a file is read again only when it may have changed."""

import json
import os
import time

import numpy as np
import pytest
from PIL import Image

from pipeline.image_files import DigestIndex, to_rgb

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
        image = Image.fromarray(deep.astype("<u2"))  # PIL writes PNG from this order alone
    image.save(tmp_path / f"a.{suffix}")
    with Image.open(tmp_path / f"a.{suffix}") as read:
        assert pixels(to_rgb(read))[0, :, 0].tolist() == [0, 1, 128, 255]


# knowing files again


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(b"one")
    return path


@pytest.fixture
def look(tmp_path, monkeypatch):
    """Ask a new index of the same file for digests, a minute from now; returns them and what was read."""
    usual = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: usual() + 60 * 10**9)

    def call(*files):
        index, read = DigestIndex(tmp_path / "scratch" / "index.json"), []

        def content(path):
            read.append(path.name)
            return path.read_bytes().decode()

        found = [index.digest(path, lambda path=path: content(path)) for path in files]
        index.save()
        return found, read

    return call


def test_an_unchanged_file_is_read_once(file, look):
    assert look(file) == (["one"], ["image.png"])
    assert look(file) == (["one"], [])


def test_a_changed_file_is_read_again_even_with_its_old_size_and_time(file, look):
    look(file)
    before = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert look(file) == (["two"], ["image.png"])


def test_a_file_changed_just_now_is_not_trusted(file, tmp_path):
    """Within one tick of the clock it could change again and keep its times."""
    file.write_bytes(b"two")
    index = DigestIndex(tmp_path / "index.json")
    assert index.digest(file, lambda: "two") == "two"
    index.save()
    assert json.loads((tmp_path / "index.json").read_text()) == {}


def test_a_file_that_is_gone_is_forgotten(file, look, tmp_path):
    other = tmp_path / "other.png"
    other.write_bytes(b"other")
    look(file, other)
    look(file)
    assert list(json.loads((tmp_path / "scratch/index.json").read_text())) == [str(file)]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff"])
def test_a_damaged_index_costs_time_and_nothing_else(file, look, tmp_path, content):
    look(file)
    (tmp_path / "scratch/index.json").write_bytes(content)
    assert look(file) == (["one"], ["image.png"])
    assert look(file) == (["one"], [])


def test_no_index_remembers_nothing(file, tmp_path):
    index = DigestIndex(None)
    assert index.digest(file, lambda: "one") == "one"
    index.save()
    assert [path.name for path in tmp_path.iterdir()] == ["image.png"]
