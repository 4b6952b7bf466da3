"""Neighbouring keys share counts: the shares of a key sum to one, and only used keys take part."""

import numpy as np
import oracle
import pytest
from models import encoder_of, placed
from sklearn.datasets import load_digits

from dkvb_estimator import DKVBClassifier, KeyEncoder
from dkvb_estimator._values.counts import Likelihoods

X, Y = load_digits(return_X_y=True)


@pytest.fixture(scope="module")
def model():
    return placed(DKVBClassifier(KeyEncoder(16, 64, 2, random_state=0), solver="counts"), X).partial_fit(
        X[:300], Y[:300]
    )


def neighbours(model):
    return encoder_of(model)._on("cpu").neighbours(model._learned.counts.used())


def test_what_a_used_key_gives_adds_up_to_what_it_has(model):
    positions, weights = neighbours(model)
    given = np.zeros(encoder_of(model).keys_.shape[:2])
    np.add.at(given, (np.arange(16)[:, None, None], positions), weights)
    np.testing.assert_allclose(given, model.key_counts_ > 0, atol=1e-12)


def test_unused_keys_neither_give_nor_take(model):
    used = model.key_counts_ > 0
    positions, weights = neighbours(model)
    assert not used.all()
    assert not weights[~used].any()
    assert not weights[~used[np.arange(16)[:, None, None], positions]].any()


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
    positions, _ = neighbours(model)
    assert positions.shape == (2, 600, 16)
