"""Neighbouring keys share counts: the shares of a key sum to one, and only used keys take part."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import oracle
import pytest
from models import encoder_of, placed
from sklearn.base import clone
from sklearn.datasets import load_digits

from dkvb_estimator import DKVBClassifier, KeyEncoder
from dkvb_estimator._encoding import sharing as keys_share
from dkvb_estimator._values.counts import Likelihoods

share = keys_share._share

X, Y = load_digits(return_X_y=True)


@pytest.fixture(scope="module")
def model():
    return placed(DKVBClassifier(KeyEncoder(16, 64, 2, random_state=0), solver="counts"), X).partial_fit(
        X[:300], Y[:300]
    )


def sharing(model):
    return encoder_of(model)._on("cpu").sharing(model._learned.counts.used())


def test_what_a_used_key_gives_adds_up_to_what_it_has(model):
    given = sharing(model).table().sum(axis=0).reshape(16, 64)
    np.testing.assert_allclose(given, model.key_counts_ > 0, atol=1e-12)


def test_unused_keys_neither_give_nor_take(model):
    unused = (model.key_counts_ == 0).ravel()
    table = sharing(model).table()
    assert unused.any()
    assert not table[unused].sum()
    assert not table[:, unused].sum()


def test_shares_of_heads_with_other_used_keys_are_computed_again_and_no_others(model, monkeypatch):
    before, used = sharing(model), model._learned.counts.used()
    other = used.copy()
    other[[3, 7]] = ~other[[3, 7]]
    alone = encoder_of(model)._on("cpu").sharing(other)
    assert alone.shares.any(axis=2)[3].tolist() == other[3].tolist()
    seen = []
    monkeypatch.setattr(keys_share, "_share", lambda used, *rest: seen.append(len(used)) or share(used, *rest))
    found = encoder_of(model)._on("cpu").sharing(other, before)
    assert seen == [2]
    np.testing.assert_array_equal(found.used, other)
    np.testing.assert_array_equal(found.table().toarray(), alone.table().toarray())
    assert (before.used == used).all()
    assert encoder_of(model)._on("cpu").sharing(other, found) is found


def test_shares_are_kept_for_the_next_learning_unless_they_are_large(model, monkeypatch):
    kept = clone(model).fit(X[:300], Y[:300])
    kept.predict(X[:1])
    assert "sharing" in kept._scratch._items
    monkeypatch.setattr(keys_share, "KEPT_BYTES", sharing(model).shares.nbytes)
    large = clone(model).fit(X[:300], Y[:300])
    np.testing.assert_array_equal(large.decision_function(X[:9]), kept.decision_function(X[:9]))
    assert "sharing" not in large._scratch._items
    reader = large._scratch._items["reader"][1].__self__
    assert reader._likelihoods is not None
    large.predict(X)
    assert reader._likelihoods is None


def test_heads_are_computed_in_groups_with_the_same_bits(model, monkeypatch):
    whole = sharing(model).shares
    monkeypatch.setattr(keys_share, "GROUP_SHARES", 5 * 64 * 32)
    np.testing.assert_array_equal(sharing(model).shares, whole)


def test_values_read_row_by_row_or_by_threads_are_those_of_the_table(model):
    rows = X[300:420]
    one, many, table = (by_rows.fit(X[:300], Y[:300]) for by_rows in (clone(model), clone(model), clone(model)))
    table.predict(X)  # which selects all keys, so that the table is whole
    with ThreadPoolExecutor(4) as pool:
        found = np.concatenate(list(pool.map(many.decision_function, np.array_split(rows, 30))))
    np.testing.assert_array_equal(np.concatenate([one.decision_function(rows[i : i + 1]) for i in range(120)]), found)
    np.testing.assert_array_equal(table.decision_function(rows), found)


def test_few_rows_need_few_values_and_half_of_the_keys_all(model, monkeypatch):
    asked = []

    def of_keys(self, cells):
        asked.append(len(cells))
        return each(self, cells)

    each = Likelihoods.of_keys
    monkeypatch.setattr(Likelihoods, "of_keys", of_keys)
    model = clone(model).fit(X[:300], Y[:300])
    n_used = np.count_nonzero(model.key_counts_)
    model.predict(X[:1])
    assert asked == [16]
    model.predict(X[:1])
    assert asked == [16]
    model.predict(X[:300])
    model.predict(X)
    assert sum(asked) == n_used


def test_learning_after_a_prediction_gives_the_bits_of_learning_at_once(model):
    made = DKVBClassifier(KeyEncoder(16, 64, 2, random_state=0), solver="counts")
    learned, whole = placed(clone(made), X), placed(clone(made), X)
    for start in range(0, 300, 50):
        learned.partial_fit(X[start : start + 50], Y[start : start + 50]).predict(X[:3])
    whole.partial_fit(X[:300], Y[:300])
    np.testing.assert_array_equal(learned.decision_function(X), whole.decision_function(X))
    np.testing.assert_array_equal(learned.values_, whole.values_)


def test_shared_counts_are_the_values_of_a_direct_computation(model):
    used, hits = model.key_counts_ > 0, model._learned.counts.dense().astype(float)
    reach = np.abs(encoder_of(model).keys_ - encoder_of(model).keys_.mean(axis=1, keepdims=True)).max(axis=(1, 2))
    values, ratios = np.zeros(hits.shape), oracle.class_ratios(hits, model._prior().coordinates)
    for head in range(16):
        squares = np.square(encoder_of(model).keys_[head, :, None] - encoder_of(model).keys_[head]).sum(
            axis=2, dtype=float
        )
        nearest = np.argsort(np.where(used[head], squares, np.inf), axis=1, kind="stable")[:, :32]
        kernel = np.zeros((64, 64))
        np.put_along_axis(
            kernel, nearest, np.exp(-np.take_along_axis(squares, nearest, 1) / (0.04 * reach[head] ** 2)), 1
        )
        kernel *= used[head] * used[head][:, None]
        kernel /= np.maximum(kernel.sum(axis=0), 1e-300)
        shared = kernel @ hits[head]
        share = 10 * ratios[head] * shared.sum(axis=1, keepdims=True) / 300
        per_class = hits[head].sum(axis=0)
        with np.errstate(divide="ignore"):
            logs = np.log((shared + share) / (per_class + 10)) + np.log(per_class / 300) / 4  # the root of 16 heads
        values[head] = np.where(used[head][:, None], logs, 0)
    np.testing.assert_allclose(model.values_, values, atol=1e-4)


def test_few_samples_teach_more_where_keys_share():
    few, gains = np.random.default_rng(0).permutation(len(X))[:60], []
    for seed in range(3):
        model = placed(DKVBClassifier(KeyEncoder(128, 256, 2, random_state=seed), solver="counts"), X)
        model.partial_fit(X[few], Y[few])
        alone = Likelihoods(model._learned.counts, None, 1, 1.0).values()
        encoder = encoder_of(model)._on("cpu")
        codes = encoder.nearest(X.astype(np.float32), model._search(encoder)).numpy()[:, :, 0]
        guesses = model.classes_[alone[np.arange(128), codes].mean(axis=1).argmax(axis=1)]
        gains.append(model.score(X, Y) - (guesses == Y).mean())
    assert min(gains) > 0


def test_learning_that_uses_no_other_keys_keeps_the_search(model):
    model = clone(model).fit(X[:300], Y[:300])
    encoder = model.encoder_._on("cpu")
    search = model._search(encoder)
    assert model.partial_fit(X[:5], Y[:5])._search(encoder) is search
    assert model.partial_fit(X[300:], Y[300:])._search(encoder) is not search


def test_pruning_changes_no_prediction():
    model = placed(DKVBClassifier(KeyEncoder(16, 64, 2, random_state=0), solver="counts"), X).partial_fit(
        X[:200], Y[:200]
    )
    before = model.decision_function(X[:50])
    np.testing.assert_array_equal(model.prune().decision_function(X[:50]), before)


def test_heads_of_one_key_share_nothing():
    model = DKVBClassifier(KeyEncoder(4, 1, 2, random_state=0), solver="counts").fit(X[:50], Y[:50])
    assert np.isfinite(model.values_).all()


def test_heads_of_many_keys_share_with_fewer():
    model = DKVBClassifier(KeyEncoder(2, 600, 2, random_state=0), solver="counts").fit(X, Y)
    assert sharing(model).positions.shape == (2, 600, 16)
