"""Lazy input: dask arrays and rows in files, learned block by block, give the same result as rows in memory."""

import dask
import dask.array as da
import dask.dataframe as dd
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from models import by_codes, codes_of, encoder_of, flat, placed
from small_cache import write_small
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from dkvb_estimator import _blocks, distributed
from dkvb_estimator._blocks import is_lazy, stream_blocks
from dkvb_estimator._values.code_store import CodeStore
from pipeline.cache import open_cache

RIDGE_TOLERANCE = 1e-4
"""Sums of weights that are not integers depend on the order."""
METHODS = ("decision_function", "predict", "predict_proba", "predict_log_proba", "score_samples")
OF_ENCODERS = ("transform", "distances")


@pytest.fixture(autouse=True, params=["threads", pytest.param("synchronous", marks=pytest.mark.slow)])
def scheduler(request):
    with dask.config.set(scheduler=request.param):
        yield request.param


def model(solver="counts", **settings):
    options = {"n_heads": 6, "n_keys": 16, "key_dim": 4, "n_selected": 2, "random_state": 0}
    return flat(**options | {"solver": solver, **settings})


def equal_state(one, other):
    """Check that both learned the same keys, counts, hashes and values, bit for bit."""
    assert encoder_of(one).fingerprint_ == encoder_of(other).fingerprint_
    for name in ("pointers", "classes", "hits"):
        found, expected = (getattr(each._learned.counts, name) for each in (one, other))
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    for name in ("hashes", "labels"):
        np.testing.assert_array_equal(*(np.concatenate(getattr(each._learned, name)) for each in (one, other)))
    np.testing.assert_array_equal(one.values_, other.values_)
    np.testing.assert_allclose(one.temperature_, other.temperature_, rtol=1e-2)  # the tolerance of the search for it


@pytest.mark.parametrize("solver", ["joint", "counts", "ridge"])
@pytest.mark.parametrize("chunks", [(240, 12), (100, 5), ((1, 0, 239), 12), (25, 12)])
def test_a_fit_of_blocks_is_a_fit_of_the_whole(blobs, solver, chunks):
    X, y = blobs
    equal_state(model(solver).fit(da.from_array(X, chunks=chunks), y), model(solver).fit(X, y))


@pytest.mark.parametrize("labels", ["numpy", "dask", "other chunks", "list of text"])
def test_labels_may_come_in_any_form(blobs, labels):
    X, y = blobs
    y = np.array(list("abcde"))[y] if labels == "list of text" else y
    lazy = {"dask": da.from_array(y, chunks=50), "other chunks": da.from_array(y, chunks=33)}.get(labels, y.tolist())
    equal_state(model().fit(da.from_array(X, chunks=50), lazy), model().fit(X, y))


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("solver", ["counts", "ridge"])
def test_weights_come_in_blocks_too(blobs, solver, in_file):
    X, y = blobs
    weights = np.where(np.arange(240) < 100, 0.0, 1.5)
    rows, lazily = Rows(X, (20, 12)), da.from_array(weights, chunks=60)
    lazy = model(solver).fit(rows if in_file else da.from_array(X, chunks=50), y, sample_weight=lazily)
    whole = model(solver).fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(lazy.key_counts_, whole.key_counts_, rtol=1e-9)
    np.testing.assert_allclose(lazy.values_, whole.values_, atol=RIDGE_TOLERANCE)


@pytest.mark.parametrize("solver", ["counts", "ridge"])
def test_learning_goes_on_after_blocks_and_with_blocks(blobs, solver):
    X, y = blobs
    whole = placed(model(solver), X).partial_fit(X, y)
    lazy = placed(model(solver), da.from_array(X, chunks=70))
    lazy.partial_fit(da.from_array(X[:100], chunks=30), y[:100]).partial_fit(
        da.from_array(X[100:150], chunks=20), y[100:150]
    )
    equal_state(lazy.partial_fit(X[150:], y[150:]), whole)
    equal_state(lazy.forget(X[:50], y[:50]), placed(model(solver), X).partial_fit(X[50:], y[50:]))


def test_codes_of_ridge_stay_where_they_were_made(blobs, monkeypatch):
    X, y = blobs
    lazy = placed(model("ridge"), X)
    monkeypatch.setattr(distributed, "_codes_of", None)
    lazy.partial_fit(da.from_array(X[:120], chunks=30), y[:120]).partial_fit(da.from_array(X[120:], chunks=30), y[120:])
    lazy.predict_proba(da.from_array(X, chunks=30)).compute()
    assert lazy._learned.codes.nbytes == codes_of(lazy, X).nbytes
    assert isinstance(lazy._learned.codes, distributed.WorkerCodes)


def test_class_weights_hold_for_codes_on_workers(blobs):
    X, y = blobs
    kept = (y < 4) | (np.arange(240) % 3 == 0)
    settings = {"class_weight": "balanced"}
    lazy = model("ridge", **settings).fit(da.from_array(X[kept], chunks=50), y[kept])
    np.testing.assert_allclose(lazy.values_, model("ridge", **settings).fit(X[kept], y[kept]).values_, atol=1e-4)


def test_the_learned_projection_comes_from_blocks(blobs):
    X, y = blobs
    settings = {"projection": "learned", "n_heads": 3, "key_dim": 2}
    equal_state(model(**settings).fit(da.from_array(X, chunks=50), y), model(**settings).fit(X, y))


@pytest.mark.parametrize("lazily", [False, True])
def test_keys_come_from_other_lazy_rows(blobs, lazily):
    X, y = blobs
    lazy = placed(model(), da.from_array(X[::2], chunks=30)).fit(da.from_array(X, chunks=50) if lazily else X, y)
    equal_state(lazy, placed(model(), X[::2]).fit(X, y))


def test_sgd_learns_blocks_in_their_order_as_a_plain_loop_does(blobs):
    X, y = blobs
    settings = {"learning_rate": 100.0, "max_iter": 3, "partial_fit_epochs": 3}
    lazy = placed(model("sgd", **settings), X).fit(da.from_array(X, chunks=(100, 12)), y)
    loop = placed(model("sgd", **settings), X)
    for start in (0, 100, 200):
        by_codes(loop, "partial_fit", codes_of(loop, X[start : start + 100]), y[start : start + 100])
    np.testing.assert_array_equal(lazy.values_, loop.values_)
    backwards = placed(model("sgd", **settings), X).fit(
        da.from_array(X, chunks=(100, 12)).blocks[[2, 1, 0]], np.r_[y[200:], y[100:200], y[:100]]
    )
    assert np.abs(backwards.values_ - lazy.values_).max() > 0


@pytest.mark.parametrize("solver", ["counts", "ridge", "sgd"])
@pytest.mark.parametrize("method", METHODS + OF_ENCODERS)
def test_lazy_rows_give_lazy_results_equal_to_those_of_the_whole(blobs, solver, method):
    X, y = blobs
    fitted = model(solver).fit(X, y)
    fitted = fitted.encoder_ if method in OF_ENCODERS else fitted
    lazy = getattr(fitted, method)(da.from_array(X, chunks=((100, 0, 140), 6)))
    whole = getattr(fitted, method)(X)
    assert isinstance(lazy, da.Array)
    assert lazy.shape == whole.shape
    assert lazy.dtype == whole.dtype
    np.testing.assert_array_equal(lazy.compute(), whole)
    np.testing.assert_array_equal(lazy[150:160].compute(), whole[150:160])


def test_two_classes_have_one_lazy_decision(blobs):
    X, y = blobs
    fitted = model().fit(X[y < 2], y[y < 2])
    np.testing.assert_array_equal(fitted.decision_function(da.from_array(X, chunks=50)), fitted.decision_function(X))


def test_blocks_of_unknown_length_can_be_predicted(blobs):
    X, y = blobs
    fitted, lazy = model().fit(X, y), da.from_array(X, chunks=50)
    some = fitted.predict(lazy[da.from_array(y, chunks=50) == 1])
    np.testing.assert_array_equal(some.compute(), fitted.predict(X[y == 1]))


def test_nothing_is_computed_before_it_is_asked_for(blobs):
    X, y = blobs
    seen = []
    lazy = da.from_array(X, chunks=(60, 12)).map_blocks(lambda block: (seen.append(len(block)), block)[1], meta=X[:0])
    predicted = model().fit(X, y).predict(lazy)
    assert not seen
    predicted[:60].compute()
    assert seen == [60]


def test_blocks_are_in_memory_one_at_a_time(blobs):
    X, y = blobs
    source = Rows(X, (20, 12))
    placed(model("ridge"), X).fit(source, y)
    assert source.largest <= 100
    assert source.read == 240


class Rows:
    """An array in a file, with the interface of HDF5 data sets."""

    def __init__(self, X, chunks):
        self.shape, self.dtype, self.chunks = X.shape, X.dtype, chunks
        self._X, self.largest, self.read = X, 0, 0

    def __getitem__(self, rows):
        found = self._X[rows]
        self.largest, self.read = max(self.largest, len(found)), self.read + len(found)
        return found


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(_blocks, "BLOCK_BYTES", 100 * 12 * 4)


@pytest.mark.parametrize("chunks", [None, (20, 12), (1, 12), (1000, 12)])
@pytest.mark.parametrize("solver", ["counts", "ridge"])
def test_rows_in_a_file_are_learned_and_predicted_as_in_memory(blobs, tmp_path, solver, chunks):
    X, y = blobs
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        rows = file.create_dataset("X", data=X, chunks=chunks if chunks != (1000, 12) else (240, 12))
        fitted = model(solver, codes_dir=str(tmp_path)).fit(rows, y)
        equal_state(fitted, model(solver).fit(X, y))
        for half, method in [(fitted, name) for name in METHODS] + [(fitted.encoder_, name) for name in OF_ENCODERS]:
            found = getattr(half, method)(rows)
            assert isinstance(found, np.ndarray)
            np.testing.assert_array_equal(found, getattr(half, method)(X))


def test_a_split_of_a_cache_is_learned_as_its_rows_are(tmp_path):
    write_small(tmp_path / "cache.h5")
    with open_cache(tmp_path / "cache.h5") as reader:
        X, y = reader.as_numpy("train")
        lazy = reader.lazy("train")
        assert lazy.chunks == (reader.block_rows("train"), X.shape[1])
        equal_state(model(n_keys=2).fit(lazy, y), model(n_keys=2).fit(X, y))
        equal_state(model(n_keys=2).fit(reader.to_dask("train"), y), model(n_keys=2).fit(X, y))


def test_stream_blocks_keeps_the_order_and_reads_whole_chunks(blobs):
    X, y = blobs
    blocks = list(stream_blocks(Rows(X, (30, 12)), y))
    assert [len(rows) for rows, _, _ in blocks] == [90, 90, 60]
    np.testing.assert_array_equal(np.concatenate([labels for _, labels, _ in blocks]), y)


def test_codes_go_into_the_file_where_one_is_wanted(blobs, tmp_path):
    X, y = blobs
    fitted = model("ridge", codes_dir=str(tmp_path)).fit(da.from_array(X, chunks=50), y)
    assert type(fitted._learned.codes) is CodeStore
    equal_state(fitted, model("ridge").fit(X, y))


@pytest.mark.parametrize("solver", ["counts", "sgd"])
def test_an_error_in_a_block_leaves_what_was_learned(blobs, solver):
    X, y = blobs
    fitted = model(solver, learning_rate=100.0).fit(X, y)
    before = fitted.values_.copy()
    wrong = X.copy()
    wrong[200, 3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        fitted.partial_fit(da.from_array(wrong, chunks=50), y)
    np.testing.assert_array_equal(fitted.values_, before)
    np.testing.assert_array_equal(fitted.class_counts_, [48] * 5)


def test_lazy_rows_are_refused_where_they_would_be_read_whole(blobs):
    X, y = blobs
    fitted, lazy = model().fit(X, y), da.from_array(X, chunks=50)
    for call in (lambda: fitted.forget(lazy, y), lambda: fitted.calibrate(lazy, y)):
        with pytest.raises(
            TypeError, match=r"lazy dask array of shape \(240, 12\); expected rows in memory.*Load some of the rows"
        ):
            call()
    codes = fitted.encoder_.transform(lazy).compute().reshape(240, 6, 2)
    assert not hasattr(by_codes(fitted, "forget", codes, y), "_learned")


@pytest.mark.parametrize(("solver", "n_iter"), [("joint", 1), ("counts", 1), ("sgd", 10)])
def test_lazy_rows_count_as_many_epochs_as_rows_in_memory(blobs, solver, n_iter):
    X, y = blobs
    assert model(solver).fit(da.from_array(X, chunks=50), y).n_iter_ == model(solver).fit(X, y).n_iter_ == n_iter


def test_wrong_lazy_rows_are_refused_with_reasons(blobs):
    X, y = blobs
    fitted, lazy = model().fit(X, y), da.from_array(X, chunks=50)
    with pytest.raises(ValueError, match=r"y has 239 entries for 240 rows of X; expected one per row. Pass"):
        fitted.partial_fit(lazy, y[1:])
    with pytest.raises(ValueError, match=r"unknown length; expected known lengths.*compute_chunk_sizes"):
        fitted.partial_fit(lazy[da.from_array(y, chunks=50) == 1], y)
    with pytest.raises(ValueError, match="X has 11 features, but DKVBClassifier is expecting 12"):
        fitted.partial_fit(lazy[:, 1:], y)
    with pytest.raises(ValueError, match="X has 11 features, but DKVBClassifier is expecting 12"):
        fitted.predict(lazy[:, 1:])
    with pytest.raises(ValueError, match=r"shape \(240,\); expected two axes"):
        model().fit(lazy[:, 0], y)
    for call in (fitted.predict, fitted.encoder_.transform, fitted.score_samples):
        with pytest.raises(ValueError, match=r"shape \(240,\); expected two axes"):
            call(lazy[:, 0])
    for rows, weights in ((lazy, np.zeros(240)), (Rows(X, (20, 12)), np.zeros(240))):
        with pytest.raises(ValueError, match="no row with a positive weight; expected at least one"):
            fitted.partial_fit(rows, y, sample_weight=weights)
        with pytest.raises(ValueError, match="X has no row with a positive weight to place keys from; expected"):
            model().fit(rows, y, sample_weight=weights)


@pytest.mark.parametrize("weight", [np.nan, -1.0, 1e16])
@pytest.mark.parametrize("form", ["dask", "file"])
def test_a_weight_that_is_no_weight_is_refused_in_blocks_too(blobs, form, weight):
    X, y = blobs
    weights = np.where(np.arange(240) == 130, weight, 1.0)
    rows = da.from_array(X, chunks=50) if form == "dask" else Rows(X, (20, 12))
    for call in (model().encoder.fit, model().fit):
        with pytest.raises(
            ValueError, match=r"sample_weight (contains NaN|holds 1e\+16)|Negative values.*sample_weight"
        ):
            call(rows, y, sample_weight=weights)


def test_a_file_without_rows_is_refused_like_no_rows(blobs, tmp_path):
    X, y = blobs
    fitted = model().fit(X, y)
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        rows = file.create_dataset("X", shape=(0, 12), dtype="f4", chunks=(5, 12), maxshape=(None, 12))
        for call in (fitted.predict, fitted.score_samples, fitted.encoder_.transform):
            with pytest.raises(ValueError, match=r"Found array with 0 sample\(s\)"):
                call(rows)


def test_a_model_that_workers_cannot_see_is_explained(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"gone.pickle.* is missing on a worker; expected a file in a folder that all.*temporary-directory",
    ):
        distributed._load(str(tmp_path / "gone.pickle"))


def test_what_is_in_memory_is_not_lazy(blobs):
    X, _ = blobs
    assert not any(is_lazy(each) for each in (X, X.tolist(), np.memmap.__new__, iter([X])))
    assert is_lazy(da.from_array(X))


def loaders(X, y):
    X, y = torch.from_numpy(X), torch.from_numpy(y)

    class Stream(IterableDataset):
        def __iter__(self):
            yield from zip(X, y)

    return {
        "a loader": DataLoader(TensorDataset(X, y), batch_size=50, shuffle=True),
        "its iterator": iter(DataLoader(TensorDataset(X, y), batch_size=64)),
        "a loader of a stream": DataLoader(Stream(), batch_size=70),
        "lists of two": [[X[:90], y[:90]], [X[90:], y[90:]]].__iter__(),
        "nested lists": iter([[X[:90].tolist(), y[:90].tolist()], [X[90:].tolist(), y[90:].tolist()]]),
        "a zip": zip(torch.split(X, 80), torch.split(y, 80)),
    }


@pytest.mark.parametrize("name", loaders(np.zeros((1, 1)), np.zeros(1)))
@pytest.mark.parametrize("projection", ["gaussian", "learned"])
def test_keys_come_from_any_iterable_of_pairs(blobs, name, projection):
    X, y = blobs
    found = placed(model(projection=projection), loaders(X, y)[name])
    assert encoder_of(found).fingerprint_ == encoder_of(placed(model(projection=projection), X, y)).fingerprint_


def test_keys_come_from_loaders_without_labels(blobs):
    X, y = blobs
    expected = encoder_of(placed(model(), X)).fingerprint_
    for data in (TensorDataset(torch.from_numpy(X)), torch.from_numpy(X), X):
        assert encoder_of(placed(model(), DataLoader(data, batch_size=100))).fingerprint_ == expected
    assert encoder_of(placed(model(), DataLoader(X, batch_size=100)).fit(X, y)).fingerprint_ == expected


def test_blocks_of_two_rows_are_no_pairs(blobs):
    X, _ = blobs
    for blocks in ([X[i : i + 2] for i in range(0, 240, 2)], [[X[i], X[i + 1]] for i in range(0, 240, 2)]):
        assert encoder_of(placed(model(), iter(blocks))).key_report_["n_rows"] == 240


@pytest.mark.parametrize(
    "block", [{"x": np.ones((2, 12))}, [np.ones((2, 12)), np.ones(2), np.ones(2)], ("a", "b", "c")]
)
def test_blocks_that_are_neither_rows_nor_pairs_are_refused(block):
    with pytest.raises(
        ValueError, match=r"block 1 of X is a \w+ with \d entries; expected rows \(n, f\) or a pair.*Pass"
    ):
        placed(model(), iter([block]))


@pytest.mark.parametrize(
    "method", ["fit", "partial_fit", "forget", "calibrate", "predict", "score_samples", "transform", "distances"]
)
def test_iterables_are_refused_where_rows_are_needed(blobs, method):
    X, y = blobs
    fitted, labels = model().fit(X, y), (y,) if method in ("fit", "partial_fit", "forget", "calibrate") else ()
    half, before = fitted.encoder_ if method in OF_ENCODERS else fitted, fitted.predict_proba(X)
    for rows in (DataLoader(X, batch_size=50), iter([X])):
        with pytest.raises(TypeError, match=r"X is a \w+, an iterable of blocks; expected rows.*or fit a KeyEncoder"):
            getattr(half, method)(rows, *labels)
    np.testing.assert_array_equal(fitted.predict_proba(X), before)


def lazily_wrong(X, y):
    """Columns that do not match lazy rows are refused with a message that begins with their name."""
    lazy = da.from_array(y, chunks=60)
    frame = dd.from_pandas(pd.DataFrame({"label": y}), npartitions=3)
    return {
        "unknown length": (lazy[lazy >= 0], r"has blocks of unknown length; expected .*Call {}.compute_chunk_sizes"),
        "one column": (lazy[:, None], r"has shape \(240, 1\); expected one axis .*Pass {}\[:, 0\]"),
        "one column in memory": (y[:, None], r"has shape \(240, 1\); expected one axis"),
        "two columns": (da.stack([lazy, lazy], axis=1), r"has shape \(240, 2\); expected one axis"),
        "a series": (frame["label"], r"is a dask Series, .*expected an array. Pass {}.to_dask_array\(lengths=True"),
        "a table": (frame, r"is a dask DataFrame, .*expected an array. Pass"),
        "too few": (lazy[1:], r"has 239 entries for 240 rows of X; expected one per row"),
        "a dict": (dict(enumerate(y)), r"is a dict; expected an array-like.*Pass"),
    }


@pytest.mark.parametrize("name", lazily_wrong(np.zeros((240, 12)), np.zeros(240)))
@pytest.mark.parametrize("argument", ["y", "sample_weight"])
@pytest.mark.parametrize("solver", ["counts", "ridge", "sgd"])
def test_lazy_columns_are_refused_by_their_own_name(blobs, solver, argument, name):
    X, y = blobs
    wrong, said = lazily_wrong(X, y)[name]
    columns, new = {"y": y, argument: wrong}, model(solver)
    with pytest.raises((TypeError, ValueError), match=argument + " " + said.format(argument)):
        new.fit(da.from_array(X, chunks=(60, 12)), **columns)
    assert not hasattr(new, "n_features_in_")


def test_tables_of_dask_are_refused_as_rows_by_name(blobs):
    X, y = blobs
    fitted, frame = model().fit(X, y), dd.from_pandas(pd.DataFrame(X), npartitions=2)
    for call in (fitted.predict, lambda X: fitted.fit(X, y), model().encoder.fit, fitted.encoder_.transform):
        with pytest.raises(TypeError, match=r"X is a dask DataFrame, .*expected an array. Pass X.to_dask_array"):
            call(frame)


@pytest.mark.parametrize("kind", ["array", "unknown length", "series"])
def test_lazy_labels_of_rows_in_memory_are_computed(blobs, kind):
    X, y = blobs
    lazy = da.from_array(y, chunks=50)
    labels = {"array": lazy, "unknown length": lazy[lazy >= 0], "series": dd.from_pandas(pd.Series(y), npartitions=3)}
    equal_state(model().fit(X, labels[kind]), model().fit(X, y))


@pytest.mark.parametrize("lazily", [False, True])
@pytest.mark.parametrize("projection", ["gaussian", "learned"])
def test_rows_that_no_key_can_stand_on_are_refused_and_leave_no_keys(blobs, lazily, projection):
    X, y = blobs
    new = model(projection=projection).encoder
    with pytest.raises(ValueError, match="Input X contains NaN"):
        new.fit(da.from_array(X * np.nan, chunks=50) if lazily else X * np.nan, y)
    assert not hasattr(new, "n_features_in_")


@pytest.mark.parametrize("lazily", [False, True])
def test_rows_of_another_width_than_the_keys_are_refused(blobs, lazily):
    X, y = blobs
    new = placed(model(), X[:, :7])
    with pytest.raises(ValueError, match=r"X has 12 features, but DKVBClassifier is expecting 7 .*Pass embeddings"):
        new.fit(da.from_array(X, chunks=50) if lazily else X, y)
    assert not hasattr(new, "n_features_in_")
