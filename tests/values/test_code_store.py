"""Code store: rows are returned unchanged, from memory or from a file."""

import numpy as np
import pytest
from models import flat, placed

from dkvb_estimator import DKVBClassifier, KeyEncoder
from dkvb_estimator._values import code_store as _store
from dkvb_estimator._values.code_store import CodeStore


def codes(n, seed=0):
    return np.random.default_rng(seed).integers(200, size=(n, 3, 2)).astype(np.uint8)


@pytest.fixture(params=["memory", "file"])
def store(request, tmp_path):
    return CodeStore(None if request.param == "memory" else str(tmp_path))


def filled(store):
    for start, stop in ((0, 7), (7, 8), (8, 20), (20, 30)):
        store = store.extended(codes(30)[start:stop])
    return store


def test_rows_come_back_in_their_order(store):
    store = filled(store)
    assert len(store) == 30
    np.testing.assert_array_equal(store.rows, codes(30))
    assert store.nbytes == codes(30).nbytes


def test_an_empty_store_has_no_rows(store):
    store = store.extended(codes(0))
    assert len(store) == len(store.rows) == store.nbytes == 0


def test_rows_are_kept_changed_and_joined_in_blocks(store, monkeypatch):
    monkeypatch.setattr(_store, "COPY_ROWS", 4)
    mask = np.arange(30) % 3 == 0
    store = filled(store)
    np.testing.assert_array_equal(store.kept(mask).rows, codes(30)[mask])
    np.testing.assert_array_equal(store.mapped(lambda rows: rows // 2).rows, codes(30) // 2)
    np.testing.assert_array_equal(store.joined(store).rows, np.concatenate([codes(30)] * 2))
    np.testing.assert_array_equal(store.rows, codes(30))


def test_two_stores_that_go_on_from_one_do_not_meet(store):
    start = store.extended(codes(5))
    one, other = start.extended(codes(4, seed=1)), start.extended(codes(6, seed=2))
    for each, seed, n in ((one, 1, 4), (other, 2, 6)):
        np.testing.assert_array_equal(each.rows, np.concatenate([codes(5), codes(n, seed)]))
    np.testing.assert_array_equal(start.rows, codes(5))


def test_the_file_has_no_name(tmp_path):
    store = filled(CodeStore(str(tmp_path)))
    assert list(tmp_path.iterdir()) == []
    np.testing.assert_array_equal(store.rows, codes(30))


def test_a_model_with_codes_in_a_file_is_the_same_model(blobs, tmp_path):
    X, y = blobs
    options = {"n_heads": 6, "n_keys": 32, "key_dim": 4, "solver": "ridge", "random_state": 0}
    memory, file = (placed(flat(**options, codes_dir=folder), X) for folder in (None, str(tmp_path)))
    for model in (memory, file):
        model.partial_fit(X[:100], y[:100]).partial_fit(X[100:], y[100:]).forget(X[:20], y[:20]).prune()
    np.testing.assert_array_equal(file.predict_proba(X), memory.predict_proba(X))
    assert isinstance(file._learned.codes.rows, np.memmap)


def test_a_folder_that_is_not_there_is_refused(blobs, tmp_path):
    with pytest.raises(ValueError, match=r"codes_dir='.*nowhere' is not valid; expected None or an existing folder"):
        DKVBClassifier(codes_dir=str(tmp_path / "nowhere")).fit(*blobs)


def test_much_memory_for_codes_is_warned_of_once(blobs, monkeypatch):
    X, y = blobs
    monkeypatch.setattr("dkvb_estimator._classifier.MUCH_STATE_BYTES", 6_000)
    model = placed(DKVBClassifier(KeyEncoder(6, 32, 4, random_state=0), solver="ridge"), X).partial_fit(X[:20], y[:20])
    with pytest.warns(UserWarning, match=r"solver='ridge' holds .* for 220 samples.*Pass codes_dir"):
        model.partial_fit(X[20:220], y[20:220])
    model.partial_fit(X[220:], y[220:])
