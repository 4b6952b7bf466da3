"""Codes of a cache's rows are computed once, stored under an unambiguous name, and checked when they are read."""

import numpy as np
import pytest
from small_cache import SIZES, embeddings, write_small

from pipeline.cache import open_cache
from pipeline.scratch import codes as room
from pipeline.scratch import stored_codes


class Encoder:
    """An encoder that counts the rows that it encodes."""

    def __init__(self):
        self.rows = 0

    def __call__(self, X):
        self.rows += len(X)
        return np.stack([X > 0, X > 1], axis=2).astype(np.uint8)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write_small(tmp_path_factory.mktemp("cache") / "small.h5")


@pytest.fixture
def reader(cache, monkeypatch):
    monkeypatch.setattr(room, "BLOCK_ROWS", 6)
    with open_cache(cache) as opened:
        yield opened


def expected(split):
    stored = embeddings(split).astype(np.float16).astype(np.float32)
    return Encoder()(stored)


@pytest.mark.parametrize("split", ["train", "test"])
def test_codes_are_those_of_all_rows(reader, split, tmp_path):
    np.testing.assert_array_equal(stored_codes(reader, split, Encoder(), "keys", tmp_path), expected(split))


def test_no_row_is_encoded_twice(reader, tmp_path):
    encode = Encoder()
    first = stored_codes(reader, "train", encode, "keys", tmp_path / "codes")
    again = stored_codes(reader, "train", encode, "keys", tmp_path / "codes")
    np.testing.assert_array_equal(first, again)
    assert encode.rows == SIZES["train"]


def test_other_keys_splits_and_embeddings_have_files_of_their_own(reader, tmp_path):
    folder, encode = tmp_path / "codes", Encoder()
    stored_codes(reader, "train", encode, "keys", folder)
    stored_codes(reader, "test", encode, "keys", folder)
    stored_codes(reader, "train", encode, "other keys", folder)
    with open_cache(write_small(tmp_path / "other.h5", tap="layer3")) as other:
        stored_codes(other, "train", encode, "keys", folder)
    assert len(list(folder.iterdir())) == 4
    assert encode.rows == 3 * SIZES["train"] + SIZES["test"]


def test_only_rows_that_are_used_come_into_memory(reader, tmp_path):
    codes = stored_codes(reader, "train", Encoder(), "keys", tmp_path)
    assert isinstance(codes, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        codes[0] = 1


def test_a_byte_that_flips_anywhere_is_never_believed(reader, tmp_path):
    folder = tmp_path / "codes"
    stored_codes(reader, "train", Encoder(), "keys", folder)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    for position in np.linspace(0, len(whole) - 1, 60).astype(int):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        np.testing.assert_array_equal(stored_codes(reader, "train", Encoder(), "keys", folder), expected("train"))


def test_a_file_cut_short_is_made_again(reader, tmp_path):
    folder = tmp_path / "codes"
    stored_codes(reader, "train", Encoder(), "keys", folder)
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    np.testing.assert_array_equal(stored_codes(reader, "train", Encoder(), "keys", folder), expected("train"))


def test_encoding_that_fails_leaves_nothing_behind(reader, tmp_path):
    def fails(X):
        raise RuntimeError("no keys")

    with pytest.raises(RuntimeError, match="no keys"):
        stored_codes(reader, "train", fails, "keys", tmp_path / "codes")
    assert list((tmp_path / "codes").iterdir()) == []
