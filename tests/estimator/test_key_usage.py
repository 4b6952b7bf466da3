"""Key usage: which class selected which key, by hand and against dense tables."""

import pickle

import numpy as np
import pytest
from models import by_codes, codes_of, encoder_of, flat, placed

from dkvb_estimator import DKVBClassifier, KeyEncoder


def fitted(blobs, **changes):
    X, y = blobs
    settings = {"n_heads": 6, "n_keys": 16, "key_dim": 3, "random_state": 0} | changes
    return flat(**settings).fit(X, y), X, y


def test_four_samples_by_hand():
    """One head: class 0 hits key 0 twice and key 1 twice, class 1 hits key 1 once and key 2 three times."""
    model = DKVBClassifier(
        KeyEncoder(n_heads=1, n_keys=4, key_dim=1, projection="identity", normalize=False, key_init="sample")
    )
    placed(model, np.arange(4.0)[:, None])
    place = {float(encoder_of(model).keys_[0, j, 0]): j for j in range(4)}
    codes = np.array([place[key] for key in (0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0)], dtype=np.uint8)[:, None, None]
    usage = by_codes(model, "fit", codes, [0, 0, 0, 0, 1, 1, 1, 1]).key_usage()
    assert usage.used_share.tolist() == [0.75]
    np.testing.assert_allclose(usage.classes_per_key, [0, 2 / 3, 1 / 3])
    np.testing.assert_allclose(usage.overlap, [[1, 0.25], [0.25, 1]])
    np.testing.assert_allclose(usage.own_share, [0.5, 0.75])
    assert usage.classes_of(0, place[1.0]) == {0: 2.0, 1: 1.0}
    assert usage.classes_of(0, place[3.0]) == {}


@pytest.mark.parametrize("solver", ["counts", "ridge", "sgd"])
def test_usage_agrees_with_the_dense_table(blobs, solver):
    model, X, y = fitted(blobs, solver=solver, n_selected=2)
    usage, codes = model.key_usage(), codes_of(model, X)
    table = np.zeros((6, 16, 5))
    for label in range(5):
        for head in range(6):
            table[head, :, label] = np.bincount(codes[y == label, head].ravel(), minlength=16)
    shares = table / table.sum(axis=1, keepdims=True)
    overlap = np.minimum(shares[..., None], shares[..., None, :]).sum(axis=1).mean(axis=0)
    np.testing.assert_allclose(usage.overlap, overlap, atol=1e-12)
    np.testing.assert_array_equal(usage.used_share, (table.sum(axis=2) > 0).mean(axis=1))
    head, key = np.argwhere((table > 0).sum(axis=2) > 1)[0]
    expected = {label: table[head, key, label] for label in range(5) if table[head, key, label]}
    found = usage.classes_of(head, key)
    assert found == expected
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_overlap_is_symmetric_with_ones_on_the_diagonal_and_does_not_change_with_pruning(blobs):
    model, *_ = fitted(blobs)
    before = model.key_usage()
    np.testing.assert_allclose(before.overlap, before.overlap.T)
    np.testing.assert_allclose(np.diagonal(before.overlap), 1)
    after = model.prune().key_usage()
    np.testing.assert_allclose(after.overlap, before.overlap)
    np.testing.assert_allclose(after.own_share, before.own_share)
    assert after.used_share.tolist() == [1.0] * 6


def test_a_forgotten_class_serves_no_key_and_shares_no_cell(blobs):
    model, *_ = fitted(blobs)
    usage = model.forget_classes([2]).key_usage()
    assert usage.classes.tolist() == [0, 1, 3, 4]
    assert all(2 not in usage.classes_of(head, key) for head in range(6) for key in range(16))


def test_a_declared_class_without_samples_has_no_share(blobs):
    X, y = blobs
    model = DKVBClassifier(KeyEncoder(n_heads=2, n_keys=8, key_dim=3, random_state=0)).partial_fit(
        X, y, classes=[0, 1, 2, 3, 4, 9]
    )
    usage = model.key_usage()
    assert usage.own_share[-1] == 0
    assert usage.overlap[-1].tolist() == [0] * 6


def test_samples_behind_a_key_are_named_where_the_solver_keeps_them(blobs):
    model, X, _ = fitted(blobs, solver="ridge", n_selected=2)
    codes = codes_of(model, X)
    expected = np.flatnonzero((codes[:, 3] == codes[0, 3, 0]).any(axis=1))
    np.testing.assert_array_equal(model.key_usage().samples_of(3, int(codes[0, 3, 0])), expected)
    for forgetful in ({"solver": "counts"}, {"solver": "joint", "remember": False}):
        with pytest.raises(
            ValueError,
            match="does not store individual samples, which samples_of needs; expected 'joint' with remember=True",
        ):
            fitted(blobs, **forgetful)[0].key_usage().samples_of(0, 0)


def test_a_head_or_key_that_is_not_there_is_refused(blobs):
    usage = fitted(blobs)[0].key_usage()
    for head, key in ((6, 0), (0, 16), (-1, 0)):
        with pytest.raises(IndexError, match="expected heads 0 to 5 and keys 0 to 15"):
            usage.classes_of(head, key)


@pytest.mark.parametrize("in_a_file", [False, True])
def test_usage_is_that_of_its_time_and_can_be_pickled(blobs, tmp_path, in_a_file):
    model, X, y = fitted(blobs, **({"codes_dir": str(tmp_path)} if in_a_file else {}))
    usage = model.key_usage()
    before = usage.samples_of(0, 0).tolist()
    model.partial_fit(X, y).forget_classes([0])
    assert usage.samples_of(0, 0).tolist() == pickle.loads(pickle.dumps(usage)).samples_of(0, 0).tolist() == before
