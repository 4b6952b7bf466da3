"""The reader returns exactly what was written, in any process, or raises a helpful error."""

import json
import multiprocessing
import pickle
from pathlib import Path

import dask
import numpy as np
import pytest
import small_cache
from dask.base import tokenize

from pipeline.cache import CacheReader, check_cache, describe_cache, file_sha256, open_cache, verify_cache
from pipeline.cache import reader as cache
from pipeline.cache.reader import check_everything

V1 = Path(__file__).parents[1] / "data" / "cache_v1.h5"


@pytest.fixture
def reader():
    with open_cache(V1) as reader:
        yield reader


@pytest.fixture
def damaged(tmp_path):
    """A cache with one changed embedding."""
    path = tmp_path / "damaged.h5"
    path.write_bytes(V1.read_bytes())

    def change(file):
        file["train/embeddings"][9, 2] += 1

    small_cache.forge(path, change)
    return path


def sums(reader):
    return float(reader.read("train").sum())


def test_rows_are_read_as_float32_by_slice_and_by_position(reader):
    X = reader.read("train")
    assert (X.dtype, X.shape) == (np.float32, (20, 8))
    for rows in [
        slice(3, 11),
        slice(None, None, -3),
        slice(18, 99),
        np.array([19, 0, 7, 7, 4]),
        [2],
        [],
        np.arange(20),
    ]:
        picked = rows if isinstance(rows, slice) else np.asarray(rows, int)
        np.testing.assert_array_equal(reader.read("train", rows), X[picked])


@pytest.mark.parametrize(("rows", "wrong"), [([0, 20], 20), ([-1, 3], -1)])
def test_a_position_out_of_range_is_an_error(reader, rows, wrong):
    with pytest.raises(
        IndexError, match=rf"row {wrong} of split 'train' was asked for; expected 0 to 19\. Ask for rows"
    ):
        reader.read("train", rows)


def test_an_unknown_split_is_an_error(reader):
    with pytest.raises(KeyError, match=r"cache_v1\.h5 has no split 'val'; expected one of test, train\. Ask"):
        reader.n_rows("val")


def test_labels_and_ids_given_away_are_copies(reader):
    reader.labels("train")[:] = 9
    reader.sample_ids("train").clear()
    np.testing.assert_array_equal(reader.labels("train"), small_cache.labels("train"))
    assert reader.sample_ids("train") == small_cache.sample_ids("train")
    assert reader.labels("train").dtype == np.int64


def test_as_numpy_is_everything(reader):
    X, y = reader.as_numpy("test")
    np.testing.assert_array_equal(X, reader.read("test"))
    np.testing.assert_array_equal(y, small_cache.labels("test"))


def test_batches_in_order_are_the_split(reader):
    batches = list(reader.iter_batches("train", 6))
    assert [len(X) for X, _ in batches] == [6, 6, 6, 2]
    np.testing.assert_array_equal(np.concatenate([X for X, _ in batches]), reader.read("train"))
    np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), reader.labels("train"))


def test_a_seed_shuffles_batches_the_same_way_each_time(reader):
    def shuffled(seed):
        batches = list(reader.iter_batches("train", 6, seed=seed))
        return np.concatenate([X for X, _ in batches]), np.concatenate([y for _, y in batches])

    (X, y), again, other = shuffled(3), shuffled(3), shuffled(4)
    np.testing.assert_array_equal(X, again[0])
    assert not np.array_equal(X, other[0])
    whole = reader.read("train")
    order = [int(np.flatnonzero((whole == row).all(axis=1))[0]) for row in X]
    assert sorted(order) == list(range(20))
    assert order != list(range(20))
    np.testing.assert_array_equal(y, reader.labels("train")[order])


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("batch_rows", [1, 6, 20, 50])
@pytest.mark.parametrize("window", [1, 300, 2**28])
def test_batches_read_every_block_once_and_give_every_row_once(reader, monkeypatch, seed, batch_rows, window):
    usual, blocks = reader._block, []
    monkeypatch.setattr(cache, "_WINDOW_BYTES", window)
    monkeypatch.setattr(reader, "_block", lambda split, info, block: blocks.append(block) or usual(split, info, block))
    batches = list(reader.iter_batches("train", batch_rows, seed=seed))
    assert sorted(blocks) == list(range(5))
    assert [len(X) for X, _ in batches] == [batch_rows] * (20 // batch_rows) + [20 % batch_rows] * (20 % batch_rows > 0)
    X, y = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    monkeypatch.undo()
    whole = reader.read("train")
    order = [int(np.flatnonzero((whole == row).all(axis=1))[0]) for row in X]
    assert sorted(order) == list(range(20))
    assert (order == list(range(20))) == (seed is None)
    np.testing.assert_array_equal(y, reader.labels("train")[order])


def test_a_reader_survives_closing_and_pickling(reader):
    expected = reader.read("train")
    copy = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(copy.read("train"), expected)
    copy.close()
    copy.close()
    np.testing.assert_array_equal(copy.read("train"), expected)
    copy.close()
    assert copy.header == reader.header


def test_another_process_opens_the_file_by_itself(reader):
    assert sums(reader) != 0  # the file is open here
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(sums, (reader,)) == sums(reader)


def test_dask_tokens_depend_on_path_and_fingerprint_only(reader, tmp_path):
    with open_cache(V1) as again:
        assert tokenize(again) == tokenize(reader)
        assert again.to_dask("train").name == reader.to_dask("train").name
    assert reader.to_dask("train").name != reader.to_dask("test").name
    (tmp_path / "other.h5").write_bytes(V1.read_bytes())
    with open_cache(tmp_path / "other.h5") as other:
        assert tokenize(other) != tokenize(reader)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_dask_computes_what_is_read(reader, scheduler):
    whole = reader.to_dask("train")
    assert whole.shape == (20, 8)
    assert whole.dtype == np.float32
    lazy = reader.to_dask("train").rechunk((7, 5))
    with dask.config.set(scheduler=scheduler):
        np.testing.assert_array_equal(whole.compute(), reader.read("train"))
        np.testing.assert_array_equal(lazy[2:13, 1:4].compute(), reader.read("train")[2:13, 1:4])


def test_a_lazy_array_can_be_pickled(reader):
    lazy = pickle.loads(pickle.dumps(reader.to_dask("test")))
    np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), reader.read("test"))


def test_a_missing_file_is_named_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no cache absent\.h5 in .*/; expected .* Run `dvc repro extract`"):
        open_cache(tmp_path / "absent.h5")
    with pytest.raises(FileNotFoundError, match="no cache"):
        open_cache(tmp_path)


def test_the_right_backbone_and_manifest_pass(reader):
    check_cache(reader)
    check_cache(reader, backbone="efficientnet_lite0", manifest_sha256="cd" * 32)


def test_a_cache_of_another_backbone_is_refused_naming_both(reader):
    message = (
        "cache cache_v1.h5 holds 8 features per image of backbone 'efficientnet_lite0'; expected backbone "
        "'clip_vit_b32'. Run `dvc repro extract` to rebuild it."
    )
    with pytest.raises(ValueError) as caught:  # noqa: PT011 the whole text is compared
        check_cache(reader, backbone="clip_vit_b32")
    assert str(caught.value) == message


def test_a_cache_of_another_manifest_is_refused_naming_both(reader):
    with pytest.raises(ValueError, match=r"manifest cdcdcdcdcdcd; expected manifest 0123.*images have changed\. Run"):
        check_cache(reader, backbone="efficientnet_lite0", manifest_sha256="0123" * 16)


def test_a_description_is_json_that_tells_where_the_cache_comes_from():
    found = describe_cache(V1)
    assert json.loads(json.dumps(found)) == found
    assert found["backbone"]["id"] == "efficientnet_lite0"
    assert found["class_names"] == ["apfel", "birne", "りんご"]
    assert found["splits"] == {"test": 7, "train": 20}
    assert found["n_features"] == 8
    assert 0 < found["max_rounding_error"] < 2**-9
    assert str(V1.parent) not in json.dumps(found)


def test_a_file_is_named_by_the_sha256_of_its_bytes():
    assert file_sha256(V1) == small_cache.sha256(V1)


def test_a_whole_cache_is_verified_split_by_split():
    facts = check_everything(V1)
    assert facts == verify_cache(V1)
    assert any(fact.startswith("train: 20 rows of 8 features") for fact in facts)


def test_verifying_reads_every_block(damaged):
    with open_cache(damaged):
        pass  # the structure is intact
    with pytest.raises(OSError, match=r"damaged\.h5.*rows 8 to 11 of train/embeddings"):
        verify_cache(damaged)


def test_verifying_refuses_infinity(tmp_path):
    path = tmp_path / "small.h5"
    path.write_bytes(V1.read_bytes())

    def change(file):
        from pipeline.cache.format import block_crc

        array = file["test/embeddings"]
        array[0, 0] = np.inf
        file["test/block_crc32"][0] = block_crc(0, array[0:4])

    small_cache.forge(path, change)
    with pytest.raises(OSError, match=r"small\.h5 holds NaN or infinity in split 'test'; expected finite numbers"):
        check_everything(path)


def test_a_reader_is_a_context_manager_that_closes():
    with CacheReader(V1) as reader:
        assert reader.read("test").shape == (7, 8)
    assert reader._file is None


@pytest.mark.parametrize("rows", [np.arange(20) < 3, np.array([1.9]), np.array([[1, 2]])])
def test_positions_that_are_no_integers_are_refused_not_rounded(reader, rows):
    with pytest.raises(TypeError, match=r"rows of shape .* were asked for; expected .*\. Use np\.flatnonzero"):
        reader.read("train", rows)


@pytest.mark.parametrize("batch_rows", [0, -1])
def test_batches_without_rows_are_refused(reader, batch_rows):
    with pytest.raises(ValueError, match=f"batch_rows={batch_rows} was given; expected at least 1. Ask"):
        next(reader.iter_batches("train", batch_rows))
