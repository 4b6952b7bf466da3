"""The writer: the same content gives the same bytes, and refused content leaves the old file unchanged."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import small_cache
from small_cache import SIZES, embeddings, header, labels, rows, sample_ids, write_small

from pipeline.cache import SplitRows, open_cache, write_cache
from pipeline.cache import writer as cache_writer
from pipeline.cache.reader import check_everything

ROOT = Path(__file__).resolve().parents[2]
KILLED = """
import sys, time
import numpy as np
import small_cache
from pipeline.cache import writer as cache_writer
from pipeline.cache import SplitRows, write_cache

def wait():
    print("written", flush=True)
    time.sleep(60)

def blocks():
    yield small_cache.embeddings("train")[:12]
    yield small_cache.embeddings("train")[12:16]
    if sys.argv[2] == "block":
        wait()
    yield small_cache.embeddings("train")[16:]

if sys.argv[2] == "check":
    cache_writer.check_in_child = lambda path: wait()
cache_writer.CHUNK_BYTES = 64
write_cache(sys.argv[1], small_cache.header(), {"train": small_cache.rows("train", blocks=blocks())})
"""


@pytest.fixture
def quick(monkeypatch):
    """Verify files in this process, because starting another one takes a while."""
    monkeypatch.setattr(cache_writer, "check_in_child", check_everything)


def refused(path, match, splits=None, **changes):
    """Check that writing raises, and that the old file and the folder stay unchanged."""
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=match):
        write_cache(path, header(**changes), splits if splits is not None else {"train": rows("train")})
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == [path.name]  # noqa: PTH208


@pytest.mark.parametrize("storage", ["float16", "float32"])
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_what_is_written_is_what_is_read(quick, tmp_path, storage, compression):
    write_small(tmp_path / "a.h5", compression, storage_dtype=storage)
    with open_cache(tmp_path / "a.h5") as reader:
        assert reader.header == header(storage_dtype=storage)
        for split in SIZES:
            stored = embeddings(split).astype(storage)
            np.testing.assert_array_equal(reader.read(split), stored.astype(np.float32))
            np.testing.assert_array_equal(reader.labels(split), labels(split))
            assert reader.sample_ids(split) == sample_ids(split)
            error = np.abs(stored.astype(np.float64) - embeddings(split)).max()
            assert reader.max_rounding_error(split) == error
            assert (error > 0) == (storage == "float16")
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["train/embeddings"].compression == (None if compression == "none" else "gzip")


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_the_same_content_gives_the_same_bytes(quick, tmp_path, monkeypatch, compression):
    (tmp_path / "folder").mkdir()
    first = write_small(tmp_path / "a.h5", compression)
    monkeypatch.setattr("time.time", lambda: 0.0)
    second = write_small(tmp_path / "folder" / "another name.h5", compression)
    assert first.read_bytes() == second.read_bytes()


def test_how_rows_come_in_blocks_does_not_change_the_bytes(quick, tmp_path):
    X, files = embeddings("train"), []
    for n, size in enumerate([1, 5, 20]):
        blocks = (X[start : start + size] for start in range(0, 20, size))
        write_cache(tmp_path / f"{n}.h5", header(), {"train": rows("train", blocks=blocks)})
        files.append((tmp_path / f"{n}.h5").read_bytes())
    assert files[0] == files[1] == files[2]


def test_other_content_gives_other_bytes(quick, tmp_path):
    first = write_small(tmp_path / "a.h5")
    assert small_cache.sha256(first) != small_cache.sha256(write_small(tmp_path / "b.h5", tap="head"))


def test_a_file_tells_no_place_and_no_host(quick, tmp_path):
    content = write_small(tmp_path / "a.h5").read_bytes()
    assert str(tmp_path).encode() not in content
    assert os.uname().nodename.encode() not in content


def test_a_whole_file_replaces_the_old_one_and_leaves_no_neighbour(tmp_path):
    path = tmp_path / "new folder" / "a.h5"
    write_small(path)
    write_small(path, fingerprint="other")
    assert [file.name for file in path.parent.iterdir()] == ["a.h5"]
    with open_cache(path) as reader:
        assert reader.header.fingerprint == "other"


def test_what_was_written_is_checked_in_another_process_before_it_appears(tmp_path, monkeypatch):
    seen = []

    def refuse(path):
        seen.append((path.name, (tmp_path / "a.h5").exists()))
        raise OSError("no")

    monkeypatch.setattr(cache_writer, "check_in_child", refuse)
    with pytest.raises(OSError, match="no"):
        write_small(tmp_path / "a.h5")
    assert seen == [(f".a.h5.{os.getpid()}.part", False)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("storage", ["float16", "float32"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_naming_the_sample(tmp_path, storage, value):
    X = embeddings("train")
    X[13, 5] = value
    message = (
        r"embedding of sample 'train/größe_雪13\.png' \(split 'train'\) holds NaN or infinity; expected .* Check that"
    )
    refused(tmp_path / "a.h5", message, {"train": rows("train", blocks=[X[:4], X[4:]])}, storage_dtype=storage)


def test_overflow_is_refused_naming_the_sample_and_the_way_out(quick, tmp_path):
    X = embeddings("train")
    X[14, 0] = -65_520
    message = r"sample 'train/größe_雪雪14\.png' .*overflows float16; expected .*65504\. Set storage_dtype: float32"
    refused(tmp_path / "a.h5", message, {"train": rows("train", blocks=[X])})
    write_cache(tmp_path / "a.h5", header(storage_dtype="float32"), {"train": rows("train", blocks=[X])})
    X[14, 0] = 65_504
    write_cache(tmp_path / "a.h5", header(), {"train": rows("train", blocks=[X])})
    wide = X.astype(np.float64)
    wide[14, 0] = 1e39
    (tmp_path / "a.h5").unlink()
    message = r"overflows float32; expected magnitudes up to 3\.40282e\+38\. Check that image"
    refused(tmp_path / "a.h5", message, {"train": rows("train", blocks=[wide])}, storage_dtype="float32")


TWICE = [*sample_ids("train")[:-1], sample_ids("train")[4]]
WRONG = {
    "twice": (
        {"sample_ids": TWICE},
        r"sample id 'train/größe_雪4\.png' twice; expected distinct ids\. Remove",
    ),
    "surrogate": (
        {"sample_ids": ["\udcff", *sample_ids("train")[1:]]},
        r"'\\udcff', contains invalid Unicode; expected .*Rename",
    ),
    "nul": ({"sample_ids": ["a\0", *sample_ids("train")[1:]]}, r"NUL.*; expected text without it\. Rename"),
    "label 3": ({"labels": np.full(20, 3)}, r"label 3, but there are 3 class names; expected −1 .* to 2\. Name all"),
    "label -2": ({"labels": np.full(20, -2)}, r"label -2, but there are 3 class names; expected −1"),
    "ids": ({"sample_ids": ["a"]}, r"1 sample ids for 20 labels; expected the same number\. Write"),
    "few rows": (
        {"blocks": [embeddings("train")[:9]]},
        r"got 9 rows of embeddings for 20 labels; expected the same number\. Ex",
    ),
    "no rows": ({"blocks": []}, r"got 0 rows of embeddings for 20 labels; expected the same number\. Extract"),
    "many rows": (
        {"blocks": [embeddings("train")] * 2},
        r"more rows of embeddings than its 20 labels; expected .* Extr",
    ),
    "axes": ({"blocks": [np.ones(20, np.float32)]}, r"block of shape \(20,\); expected \(rows, 20\)\. Extract again"),
    "no features": ({"blocks": [np.ones((20, 0))]}, r"block of shape \(20, 0\); expected \(rows, features\)\. Extract"),
    "widths": (
        {"blocks": [embeddings("train")[:9], embeddings("train")[9:, :5]]},
        r"block of shape \(11, 5\); expected \(rows, 8\)\. Extract again",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_together_is_refused(tmp_path, case):
    changes, message = WRONG[case]
    refused(tmp_path / "a.h5", message, {"train": rows("train", **changes)})


def test_splits_of_different_widths_are_refused(tmp_path):
    narrow = rows("test", blocks=[embeddings("test")[:, :5]])
    message = r"have different numbers of features: \{'train': 8, 'test': 5\}; expected the same for all\. Extract"
    refused(tmp_path / "a.h5", message, {"train": rows("train"), "test": narrow})


def test_a_cache_without_splits_is_refused(tmp_path):
    refused(tmp_path / "a.h5", r"cache a\.h5 was given no split; expected at least one\. Write", {})


def test_an_unknown_storage_type_is_refused(tmp_path):
    message = r"storage_dtype='int8' is unknown; expected one of float16, float32\. Change it"
    refused(tmp_path / "a.h5", message, storage_dtype="int8")


def test_a_split_may_be_empty_or_unlabelled(quick, tmp_path):
    empty = SplitRows([], np.zeros(0, int), [])
    unlabelled = rows("train", labels=np.full(20, -1))
    write_cache(tmp_path / "a.h5", header(class_names=()), {"empty": empty, "train": unlabelled})
    with open_cache(tmp_path / "a.h5") as reader:
        assert reader.n_rows("empty") == 0
        assert reader.n_features == 8
        assert len(reader.read("empty")) == 0
        assert (reader.labels("train") == -1).all()
        assert reader.header.class_names == ()


def test_blocks_are_at_most_a_mebibyte(quick, tmp_path):
    X = np.zeros((1500, 400), np.float32)
    write_cache(
        tmp_path / "a.h5", header(), {"train": SplitRows([X], np.zeros(1500, int), [str(i) for i in range(1500)])}
    )
    with h5py.File(tmp_path / "a.h5") as file:
        n = file["train"].attrs["block_rows"]
        assert file["train/embeddings"].chunks == (n, 400)
        assert 2**19 < n * 400 * 2 <= 2**20
        assert len(file["train/block_crc32"]) == 2


@pytest.mark.parametrize("moment", ["block", "check"])
def test_killed_while_writing_leaves_no_file_and_no_neighbour_that_is_taken_for_one(tmp_path, moment):
    path = tmp_path / "a.h5"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])}
    command = [sys.executable, "-c", KILLED, str(path), moment]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "written\n"
        writer.send_signal(signal.SIGKILL)
    assert not path.exists()
    (neighbour,) = tmp_path.iterdir()
    assert neighbour.name.startswith(".a.h5.")
    assert neighbour.suffix == ".part"
    assert list(tmp_path.glob("*.h5")) == []
    if moment == "block":  # at the other moment the file is complete, and only the check is missing
        with pytest.raises(OSError, match="damaged or incomplete"):
            open_cache(neighbour)
    write_small(path)
    assert check_everything(path)


@pytest.mark.parametrize("labels", [np.arange(20) / 10, np.zeros((20, 1), int), np.zeros(20, bool)])
def test_labels_that_are_no_integers_are_refused_not_rounded(tmp_path, labels):
    splits = {"train": small_cache.rows("train", labels=labels)}
    with pytest.raises(ValueError, match=r"labels of shape .*; expected integers \(n,\)\. Number"):
        write_cache(tmp_path / "c.h5", small_cache.header(), splits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("block", [small_cache.embeddings("train") + 1j, small_cache.embeddings("train").tolist()])
@pytest.mark.parametrize("before", [0, 1])
def test_blocks_that_are_no_arrays_of_real_numbers_are_refused(tmp_path, block, before):
    blocks = [small_cache.embeddings("train")[:before]] * before + [block]
    splits = {"train": small_cache.rows("train", blocks=blocks)}
    with pytest.raises(ValueError, match=r"split 'train' got a block of .*; expected .* real numbers.*\. Convert"):
        write_cache(tmp_path / "c.h5", small_cache.header(), splits)


@pytest.mark.parametrize("name", ["class_names", "a/b", ".", ""])
def test_a_split_name_that_the_file_cannot_hold_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"has a reserved or invalid name; expected letters.*\. Rename it"):
        write_cache(tmp_path / "c.h5", small_cache.header(), {name: small_cache.rows("train")})


def test_an_unknown_compression_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"compression='zip' is unknown; expected one of none, gzip\. Choose one"):
        write_small(tmp_path / "a.h5", compression="zip")
    assert list(tmp_path.iterdir()) == []


def test_parts_of_killed_writers_are_removed_and_those_of_living_ones_stay(quick, tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, alive, other = (
        tmp_path / f".{name}.part" for name in (f"a.h5.{ended.pid}", f"a.h5.{os.getppid()}", f"b.h5.{ended.pid}")
    )
    odd = tmp_path / ".a.h5.mine.part"
    for path in (dead, alive, other, odd):
        path.write_bytes(b"part")
    write_small(tmp_path / "a.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a.h5", alive.name, other.name, odd.name])


@pytest.mark.parametrize("fail", ["write", "truncate"])
def test_a_full_disk_is_told_by_its_own_error_and_leaves_the_old_file(quick, tmp_path, monkeypatch, fail):
    """HDF5 alone would raise another error, and crash the process when it ends."""
    calls, usual = [], cache_writer.Sink._try

    def disk(sink, call, argument):
        calls.append(call.__name__)
        if call.__name__ == fail and len(calls) > 5:
            return usual(sink, lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")), argument)
        return usual(sink, call, argument)

    (tmp_path / "a.h5").write_bytes(b"old")
    monkeypatch.setattr(cache_writer.Sink, "_try", disk)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_small(tmp_path / "a.h5")
    assert caught.value.errno == 28
    assert (tmp_path / "a.h5").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
