"""Every entry below a folder of images is in a list or named in an error; none is ignored."""

import errno
import inspect
import os
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from pipeline.data.folder_entries import is_hidden, some, walk


@pytest.fixture
def root(tmp_path):
    """Two class folders of three images each."""
    for path in ("ant/0.png", "ant/1.png", "ant/2.png", "bee/0.png", "bee/1.png", "bee/2.png"):
        put(tmp_path / "pets", path)
    return tmp_path / "pets"


def put(root, path):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 2), (len(path), 0, 0)).save(file, format="PNG")
    return file


def put_link(root, path, target):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).symlink_to(target)


ALL = ["ant/0.png", "ant/1.png", "ant/2.png", "bee/0.png", "bee/1.png", "bee/2.png"]

# hidden and system entries

SYSTEM = [
    ".ipynb_checkpoints", ".git", "__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information",
    "lost+found", ".Trashes", "@Recycle", "__pycache__", "FOUND.000", "LOST.DIR", ".thumbnails", ".Trash-1000",
]  # fmt: skip


@pytest.mark.parametrize("name", SYSTEM)
@pytest.mark.parametrize("place", ["", "ant/", "ant/deep/"])
def test_hidden_and_system_folders_are_not_looked_into_at_any_depth(root, name, place):
    put(root, f"{place}{name}/0.png")
    put(root, f"{place}{name}/ant/0.png")
    found = walk(root)
    assert found.images == ALL
    assert found.hidden == [f"{place}{name}"]
    assert not any(name in folder for folder in found.folders)


@pytest.mark.parametrize("name", ["._0.png", ".0.png", "Thumbs.db", "desktop.ini", ".DS_Store", "Icon\r", "~$0.png"])
def test_hidden_and_system_files_are_no_images(root, name):
    put(root, f"bee/{name}")
    assert walk(root).images == ALL
    assert walk(root).hidden == [f"bee/{name}"]


def test_a_root_may_lie_in_a_hidden_folder(tmp_path):
    put(tmp_path / ".data/pets", "ant/0.png")
    assert walk(tmp_path / ".data/pets").images == ["ant/0.png"]


@pytest.mark.parametrize("name", ["recycled", "lost", "#1", "$5", "@home", "MACOSX", "~tilde", "desktop", "found"])
def test_classes_with_names_like_those_of_the_system_stay(name):
    assert not is_hidden(name)


# formats

READ = [
    "a.gif", "a.avif", "a.jp2", "a.j2k", "a.jfif", "a.pgm", "a.pbm", "a.ppm", "a.TIF", "a.tiff", "a.webp", "a.bmp",
    "a.JPG", "a.jpe", "a.tga", "a.ico", "a.qoi", "a.mpo", "a.pcx", "a.apng",
]  # fmt: skip
NOT_READ = ["a.pdf", "a.eps", "a.ps", "a.mpg", "a.mpeg", "a.wmf", "a.h5", "a.fits", "a.svg", "a.txt", "a", "a.png.txt"]


def test_what_pillow_reads_as_still_images_are_images(root):
    for name in READ:
        put(root, f"cat/{name}")
    assert [image for image in walk(root).images if image.startswith("cat")] == sorted(f"cat/{name}" for name in READ)


def test_formats_that_are_not_read_are_listed_as_others(root):
    for name in NOT_READ:
        put(root, f"cat/{name}")
    found = walk(root)
    assert found.images == ALL
    assert found.others == sorted(f"cat/{name}" for name in NOT_READ)


def test_a_format_that_is_registered_with_pillow_is_read(root, monkeypatch):
    Image.init()
    monkeypatch.setitem(Image.EXTENSION, ".odd", "PNG")
    put(root, "ant/3.odd")
    assert "ant/3.odd" in walk(root).images


def test_folders_named_like_images_are_folders_and_the_other_way_round(root):
    put(root, "ant/9.png/0.png")
    put(root, "x.png/1.png")
    (root / "ant/cat").write_text("a file that is named like a folder")
    found = walk(root)
    assert {"ant/9.png/0.png", "x.png/1.png"} <= set(found.images)
    assert {"ant/9.png", "x.png"} <= set(found.folders)
    assert found.others == ["ant/cat"]


def test_pipes_with_the_name_of_an_image_are_not_opened(root):
    os.mkfifo(root / "ant/pipe.png")
    assert walk(root).others == ["ant/pipe.png"]


def test_a_tree_of_many_levels_takes_no_recursion(root):
    (root / "/".join(["d"] * 201)).mkdir(parents=True)
    usual = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(len(inspect.stack()) + 60)
        found = walk(root)
    finally:
        sys.setrecursionlimit(usual)
    assert len(found.folders) == 2 + 201


# links


def test_links_inside_the_root_are_read(root):
    put_link(root, "ant/link.png", "0.png")
    put_link(root, "cat", "bee/more")
    put(root, "bee/more/5.png")
    found = walk(root)
    assert found.images == [*ALL[:3], "ant/link.png", *ALL[3:], "bee/more/5.png"]
    assert found.repeated == ["cat"]


@pytest.mark.parametrize("target", [".", "..", "../ant", "../bee/.."])
def test_links_in_a_circle_end_and_are_named(root, target):
    put_link(root, "ant/again", target)
    found = walk(root)
    assert found.images == ALL
    assert found.repeated == ["ant/again"]


def test_folders_that_link_to_each_other_are_each_listed_once(root):
    for number in range(12):
        put(root, f"many/{number}/0.png")
        for other in range(12):
            put_link(root, f"many/{number}/to{other}", f"../{other}")
    found = walk(root)
    assert len(found.images) == len(ALL) + 12
    assert len(found.repeated) == 144


@pytest.mark.parametrize("path", ["ant/out.png", "cat"])
def test_links_out_of_the_root_are_refused_with_a_way_out_and_followed_by_option(root, tmp_path, path):
    put(tmp_path / "store", "cat/0.png")
    put_link(root, path, tmp_path / "store/cat" / ("0.png" if "." in path else ""))
    with pytest.raises(
        ValueError, match=rf"^link {path} in .* leads to .*store/cat.*, which is outside it; expected"
    ) as e:
        walk(root)
    assert "Set follow_links: true in params.yaml" in str(e.value)
    images = walk(root, follow_links=True).images
    assert sorted({*images} - {*ALL}) == [path if "." in path else "cat/0.png"]


def test_a_link_of_another_format_out_of_the_root_is_no_matter(root, tmp_path):
    (tmp_path / "notes.txt").write_text("notes")
    put_link(root, "ant/notes.txt", tmp_path / "notes.txt")
    assert walk(root).others == ["ant/notes.txt"]


@pytest.mark.parametrize("path", ["ant/3.png", "cat", "ant/deep"])
@pytest.mark.parametrize("target", ["gone", "../.git/annex/objects/gone.png", "itself"])
def test_links_that_lead_nowhere_are_an_error(root, path, target):
    put_link(root, path, Path(path).name if target == "itself" else target)
    with pytest.raises(
        FileNotFoundError, match=rf"^link {path} in .* leads to .*; expected a file or a folder\. Fetch"
    ):
        walk(root)


def test_images_of_git_annex_are_read_through_their_links(root):
    put(root, ".git/annex/objects/aa/SHA256.png")
    put_link(root, "ant/3.png", "../.git/annex/objects/aa/SHA256.png")
    assert "ant/3.png" in walk(root).images


# unreadable entries


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ETIMEDOUT])
def test_a_folder_that_cannot_be_read_is_an_error(root, monkeypatch, number):
    usual = os.scandir

    def scandir(path):
        if Path(path).name == "bee":
            raise OSError(number, os.strerror(number), str(path))
        return usual(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(OSError, match=rf"^folder .*bee cannot be read \({re.escape(os.strerror(number))}\); expected"):
        walk(root)


def test_an_entry_whose_kind_cannot_be_told_is_an_error(root, monkeypatch):
    usual = Path.stat

    def failing(path, **options):
        if path.name == "1.png":
            raise OSError(errno.EIO, "Input/output error")
        return usual(path, **options)

    monkeypatch.setattr(Path, "stat", failing)
    with pytest.raises(OSError, match=r"^\w+/1\.png in .* cannot be read \(Input/output error\); expected"):
        walk(root)


# names in messages


def test_names_that_a_terminal_cannot_show_are_escaped():
    assert some(["a\nb", "\x1b[2J", "größe.png", "\udcff"]) == r"'a\nb', '\x1b[2J', größe.png, '\udcff'"


def test_after_five_names_the_rest_is_counted():
    assert some(list("abcdefg")) == "a, b, c, d, e and 2 more"
    assert some(list("abcdefg"), "; ") == "a; b; c; d; e; and 2 more"
