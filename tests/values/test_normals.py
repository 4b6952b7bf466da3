"""Normal distributions of classes, from counts of keys: linear discriminant analysis in each head."""

from functools import cache

import numpy as np
import oracle
import pytest
from models import by_codes
from scipy.sparse import csr_array
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.frozen import FrozenEstimator

from dkvb_estimator import DKVBClassifier, KeyEncoder
from dkvb_estimator._values import normals as class_normals
from dkvb_estimator._values.normals import ClassNormals
from dkvb_estimator.baselines import NearestClassMean

X, Y = load_digits(return_X_y=True)


def drawn(n_heads=3, n_keys=9, n_classes=4, key_dim=2, n=200, seed=0):
    """Return counts (c, j, k) of n samples in each head, and integer keys (c, j, d)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(n_classes, size=n)
    table = np.zeros((n_heads, n_keys, n_classes))
    for head in range(n_heads):
        np.add.at(table[head], ((labels + rng.integers(4, size=n)) % n_keys, labels), 1)
    return table, rng.integers(-63, 64, size=(n_heads, n_keys, key_dim)).astype(np.int8)


def normals_of(table, keys):
    return ClassNormals.of_counts(csr_array(table.reshape(-1, table.shape[2])), table[0].sum(axis=0), keys)


def ratios(normals):
    n_heads, n_keys, _ = normals.places.shape
    return np.exp(normals.logs(np.arange(n_heads * n_keys))).reshape(n_heads, n_keys, -1)


@pytest.mark.parametrize("key_dim", [1, 2, 5])
@pytest.mark.parametrize("n", [4, 40, 400])
def test_ratios_equal_the_oracle(key_dim, n):
    table, keys = drawn(key_dim=key_dim, n=n)
    np.testing.assert_allclose(ratios(normals_of(table, keys)), oracle.class_ratios(table, keys), rtol=1e-8)


@pytest.mark.parametrize("weights", [[4.3, 1.3, 5.6], [6, 6.3, 0.3], [4.3, 6.3, 1]])
def test_ratios_of_fractional_weights_in_one_place_equal_the_oracle(weights):
    table, (_, keys) = np.zeros((1, 4, 3)), drawn(n_heads=1, n_keys=4)
    table[0, 1] = weights
    np.testing.assert_allclose(ratios(normals_of(table, keys)), oracle.class_ratios(table, keys), rtol=1e-8)


def test_with_many_samples_they_are_scikit_learns_discriminant_analysis():
    table, keys = drawn(n_heads=1, n=200)
    places, labels = np.nonzero(np.ones(table.shape[1:]))
    repeats = 1000 * table[0][places, labels].astype(int)
    model = LinearDiscriminantAnalysis(solver="lsqr").fit(
        keys[0][places].repeat(repeats, axis=0).astype(float), labels.repeat(repeats)
    )
    expected = model.predict_proba(keys[0].astype(float)) / model.priors_
    np.testing.assert_allclose(ratios(normals_of(1000 * table, keys))[0], expected, rtol=1e-3)


def test_weighted_by_their_shares_the_ratios_of_a_key_add_up_to_one():
    normals = normals_of(*drawn())
    np.testing.assert_allclose(ratios(normals) @ normals.shares, np.ones((3, 9)))


def test_some_keys_have_the_ratios_that_they_have_among_all():
    normals = normals_of(*drawn(n_heads=5))
    some = np.array([0, 3, 8, 20, 21, 44])
    np.testing.assert_array_equal(np.exp(normals.logs(some)), ratios(normals).reshape(45, 4)[some])


def test_heads_are_summed_in_groups_with_the_same_bits(monkeypatch):
    whole = normals_of(*drawn(n_heads=5))
    monkeypatch.setattr(class_normals, "GROUP_PAIRS", 60)
    found = normals_of(*drawn(n_heads=5))
    np.testing.assert_array_equal(found.means, whole.means)
    np.testing.assert_array_equal(found.places, whole.places)


def test_a_class_without_samples_has_the_smallest_ratios():
    table, keys = drawn(n_classes=3)
    wider = np.concatenate([table, np.zeros((3, 9, 1))], axis=2)
    np.testing.assert_allclose(ratios(normals_of(wider, keys))[:, :, :3], ratios(normals_of(table, keys)))
    np.testing.assert_allclose(ratios(normals_of(wider, keys))[:, :, 3], ratios(normals_of(table, keys)).min(axis=2))


def test_weights_count_by_their_ratios_once_there_are_many():
    table, keys = drawn(n=4000)
    np.testing.assert_allclose(ratios(normals_of(table, keys)), ratios(normals_of(1e6 * table, keys)), rtol=0.2)
    assert np.isfinite(ratios(normals_of(1e-12 * table, keys))).all()


@pytest.mark.parametrize("table", [np.ones((1, 4, 1)), np.eye(4)[None], np.eye(4)[None, :, :1]])
@pytest.mark.parametrize("keys", [np.zeros((1, 4, 2)), np.arange(8).reshape(1, 4, 2)])
def test_one_class_one_sample_a_class_and_keys_in_one_place_give_numbers(table, keys):
    assert np.isfinite(ratios(normals_of(table, keys.astype(np.int8)))).all()


def test_a_pruned_table_has_the_same_bits():
    table, keys = drawn(n_keys=20)
    used = table.sum(axis=(0, 2)) > 0
    assert not used.all()
    whole, pruned = normals_of(table, keys), normals_of(table[:, used], keys[:, used])
    np.testing.assert_array_equal(ratios(whole)[:, used], ratios(pruned))


@cache
def codes_of_digits(seed):
    """Keys of the default encoder, and codes (n, c) of all digits; they do not depend on what is learned."""
    encoder = KeyEncoder(random_state=seed).fit(X)
    return FrozenEstimator(encoder), encoder.transform(X)


@pytest.mark.parametrize(
    ("n_per_class", "n_draws"), [(5, 1), *(pytest.param(n, 3, marks=pytest.mark.slow) for n in (2, 5, 20, 100))]
)
def test_counts_are_above_the_nearest_class_mean_with_few_samples_and_with_many(n_per_class, n_draws):
    """On average over several draws, the normal distributions help if samples are few."""
    gaps = []
    for seed in range(n_draws):
        order = np.random.default_rng(seed).permutation(len(X))
        rows = np.concatenate([order[Y[order] == label][:n_per_class] for label in range(10)])
        rest = np.setdiff1d(order, rows)
        encoder, codes = codes_of_digits(seed)
        model = by_codes(DKVBClassifier(encoder, solver="counts"), "partial_fit", codes[rows], Y[rows])
        mean = NearestClassMean(normalize=True).fit(X[rows], Y[rows])
        gaps.append(by_codes(model, "score", codes[rest], Y[rest]) - mean.score(X[rest], Y[rest]))
    assert np.mean(gaps) > (0 if n_per_class >= 5 else -0.005)  # with two samples, both are unreliable


def test_classes_without_samples_are_never_predicted():
    """Declared classes, and classes of weight zero, have the smallest ratio and the smallest share of all classes."""
    encoder = FrozenEstimator(KeyEncoder(64, 64, 2, random_state=0).fit(X[:900]))
    rows = np.concatenate([np.flatnonzero(Y[:900] == label)[:5] for label in (0, 1)])
    for weight in (1.0, 1e-3):
        model = DKVBClassifier(encoder, solver="counts")
        model.partial_fit(X[rows], Y[rows], classes=range(10), sample_weight=np.full(len(rows), weight))
        assert set(model.predict(X)) == {0, 1}
        alone = DKVBClassifier(encoder, solver="counts").partial_fit(X[rows], Y[rows], sample_weight=[weight] * 10)
        np.testing.assert_array_equal(model.predict(X), alone.predict(X))


@pytest.mark.parametrize("n_rows", [1, 3, 6])
def test_fractional_weights_of_rows_in_one_place_are_no_variance(n_rows):
    rng = np.random.default_rng(0)
    encoder = FrozenEstimator(KeyEncoder(16, 32, 3, random_state=0).fit(X))
    for _ in range(10):
        model = DKVBClassifier(encoder, solver="counts")
        model.fit(X[:1].repeat(n_rows, axis=0), np.arange(n_rows) % 2, sample_weight=rng.uniform(0.1, 3, n_rows))
        assert np.isfinite(model.decision_function(X[:50])).all()


@pytest.mark.parametrize("scale", [1.0, 3e14, 1e15])
def test_large_weights_leave_covariances_positive(scale):
    model = DKVBClassifier(KeyEncoder(4, 16, 32, random_state=0), solver="counts")
    model.fit(X[:200], Y[:200], sample_weight=np.full(200, scale))
    assert np.isfinite(model.decision_function(X)).all()


def test_small_weights_survive_the_rounding_of_large_ones_that_are_forgotten():
    encoder = FrozenEstimator(KeyEncoder(16, 32, 3, random_state=0).fit(X))
    weights, rows = np.array([1e-12, 30000.3, 20000.2, 10000.1]), X[:1].repeat(4, axis=0)
    model = DKVBClassifier(encoder, solver="counts").fit(X[5:9], [0, 1, 1, 0])
    model.partial_fit(rows, [0] * 4, sample_weight=weights).forget(rows[:0:-1], [0] * 3, sample_weight=weights[:0:-1])
    assert model.key_counts_.min() >= 0
    assert np.isfinite(model.decision_function(X)).all()
