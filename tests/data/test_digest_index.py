"""Files are recognised by size, times and place, and read again if any of these changed."""

import errno
import hashlib
import os
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.data import digest_index
from pipeline.data.digest_index import DigestIndex
from pipeline.data.image_files import UnreadableError


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


NAMES = {sha256(text): text for text in ("one", "two", "other")}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(b"one")
    return path


@pytest.fixture
def look(tmp_path, monkeypatch):
    """Query a new index of the same file for digests, a minute later; return them and the files that were read."""
    usual = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: usual() + 60 * 10**9)

    def call(*files, **options):
        index, read = DigestIndex(tmp_path / "scratch" / "index", **options), []

        def content(path):
            read.append(path.name)
            return sha256(path.read_text())

        found = [NAMES[index.digest(path, lambda path=path: content(path))] for path in files]
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
    """Within one clock tick, a file could change again and keep its times."""
    file.write_bytes(b"two")
    index = DigestIndex(tmp_path / "index")
    assert index.digest(file, lambda: sha256("two")) == sha256("two")
    index.save()
    assert len((tmp_path / "index").read_bytes()) == 4  # the checksum of zero records


def test_a_file_that_is_gone_is_forgotten(file, look, tmp_path):
    other = tmp_path / "other.png"
    other.write_bytes(b"other")
    look(file, other)
    assert len((tmp_path / "scratch/index").read_bytes()) == 2 * 48 + 4
    look(file)
    assert len((tmp_path / "scratch/index").read_bytes()) == 48 + 4
    assert look(file, other) == (["one", "other"], ["other.png"])


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff"])
def test_a_damaged_index_costs_time_and_nothing_else(file, look, tmp_path, content):
    look(file)
    (tmp_path / "scratch/index").write_bytes(content)
    assert look(file) == (["one"], ["image.png"])
    assert look(file) == (["one"], [])


def test_a_flipped_byte_of_the_index_is_never_believed(file, look, tmp_path):
    look(file)
    whole = (tmp_path / "scratch/index").read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        (tmp_path / "scratch/index").write_bytes(damaged)
        assert look(file) == (["one"], ["image.png"])


def test_all_is_read_again_where_it_is_asked_for(file, look):
    look(file)
    assert look(file, rehash=True) == (["one"], ["image.png"])
    assert look(file) == (["one"], [])


def test_names_that_end_in_zeros_are_found(tmp_path, monkeypatch):
    paths, index = [tmp_path / str(number) for number in range(3000)], DigestIndex(tmp_path / "index")
    for number, path in enumerate(paths):
        path.write_text(str(number))
    usual = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: usual() + 60 * 10**9)
    for path in paths:
        index.digest(path, lambda path=path: sha256(path.read_text()))
    index.save()
    content = np.frombuffer((tmp_path / "index").read_bytes()[:-4], np.uint8).reshape(-1, 48)
    assert (content[:, 15] == 0).any()
    again = DigestIndex(tmp_path / "index")
    assert all(again.digest(path, lambda: pytest.fail("read")) == sha256(path.read_text()) for path in paths)


def test_no_index_remembers_nothing(file, tmp_path):
    index = DigestIndex(None)
    assert index.digest(file, lambda: sha256("one")) == sha256("one")
    index.save()
    assert [path.name for path in tmp_path.iterdir()] == ["image.png"]


def test_what_was_seen_under_other_rules_is_read_again(file, look, monkeypatch):
    look(file)
    monkeypatch.setattr(digest_index, "_RULES", 99)
    assert look(file) == (["one"], ["image.png"])


def test_what_was_not_seen_this_time_can_be_kept(file, look, tmp_path):
    look(file)
    DigestIndex(tmp_path / "scratch/index").save(forget=False)
    assert look(file) == (["one"], [])
    DigestIndex(tmp_path / "scratch/index").save()
    assert look(file) == (["one"], ["image.png"])


def test_a_file_whose_times_cannot_be_read_is_an_error_of_reading(file, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    index = DigestIndex(None)
    monkeypatch.setattr(Path, "stat", fail)
    with pytest.raises(UnreadableError, match=rf"image\.png cannot be read \({os.strerror(errno.ESTALE)}\)"):
        index.digest(file, lambda: sha256("one"))
