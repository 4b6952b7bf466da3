import numpy as np
import pytest
import torch

from pipeline.evaluation.probes import StreamProbe


@pytest.fixture(scope="module")
def four_classes():
    rng = np.random.default_rng(0)
    y = np.arange(240) % 4
    X = (10 * rng.normal(size=(4, 16))[y] + rng.normal(size=(240, 16))).astype(np.float32)
    return X, y


@pytest.mark.parametrize("hidden", [None, 32], ids=["linear", "mlp"])
def test_learns_each_stage_and_forgets_those_before(hidden):
    rng, y = np.random.default_rng(0), np.arange(400) % 8
    places = [(1, 1), (3, 1), (3, 3), (1, 3), (3, 2), (2, 3), (1, 2), (2, 1)]  # the classes on a ring
    X = np.array(places)[y] + rng.normal(scale=0.1, size=(400, 2))
    probe = StreamProbe(8, hidden=hidden, learning_rate=0.03, epochs=150).init_scale(X)
    for stage in ((0, 4), (1, 5), (2, 6), (3, 7)):
        rows = np.isin(y, stage)
        probe.partial_fit(X[rows], y[rows])
        assert (probe.predict(X[rows]) == y[rows]).mean() > 0.95
    assert (probe.predict(X) == y).mean() < 0.5


def test_few_rows_get_as_many_steps_as_they_need(four_classes):
    X, y = four_classes
    few = slice(0, 8)
    probe = StreamProbe(4, learning_rate=0.01, epochs=1, min_steps=200).init_scale(X).partial_fit(X[few], y[few])
    assert (probe.predict(X) == y).mean() > 0.95
    hasty = StreamProbe(4, learning_rate=0.01, epochs=1, min_steps=1).init_scale(X).partial_fit(X[few], y[few])
    assert not np.array_equal(hasty.predict_proba(X), probe.predict_proba(X))


@pytest.mark.parametrize("hidden", [None, 32], ids=["linear", "mlp"])
def test_learns_all_classes_at_once(four_classes, hidden):
    X, y = four_classes
    probe = StreamProbe(4, hidden=hidden, learning_rate=0.01).partial_fit(X, y)
    assert (probe.predict(X) == y).mean() > 0.95


@pytest.mark.parametrize("hidden", [None, 8], ids=["linear", "mlp"])
def test_same_seed_gives_the_same_bits_and_leaves_the_global_generator_alone(four_classes, hidden):
    X, y = four_classes
    first = StreamProbe(4, hidden=hidden, epochs=2).partial_fit(X, y).predict_proba(X)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    second = StreamProbe(4, hidden=hidden, epochs=2).partial_fit(X, y).predict_proba(X)
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(first, second)
    other = StreamProbe(4, hidden=hidden, epochs=2, random_state=1).partial_fit(X, y).predict_proba(X)
    assert not np.array_equal(first, other)


def test_probabilities_cover_all_declared_classes(four_classes):
    X, y = four_classes
    proba = StreamProbe(7).partial_fit(X[y < 2], y[y < 2]).predict_proba(X)
    assert proba.shape == (240, 7)
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-6)


def test_scale_comes_from_the_rows_given_and_stays(four_classes):
    X, y = four_classes
    other = X * 3 + 5
    probe = StreamProbe(4).init_scale(other).partial_fit(X, y)
    np.testing.assert_allclose(probe.mean_, other.mean(axis=0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(probe.scale_, other.std(axis=0), rtol=1e-5)


def test_constant_feature_does_not_swamp_the_others(four_classes):
    X, _ = four_classes
    flat = X.copy()
    flat[:, 0] = 1.0
    probe = StreamProbe(4).init_scale(flat)
    assert probe.scale_[0] == pytest.approx(0.1 * flat.std(axis=0).mean(), rel=1e-4)


def test_scaling_after_learning_is_refused(four_classes):
    X, y = four_classes
    with pytest.raises(ValueError, match="init_scale came after learning began"):
        StreamProbe(4).partial_fit(X, y).init_scale(X)


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda X, y: StreamProbe(4).predict(X), "has learned nothing; one partial_fit is expected"),
        (lambda X, y: StreamProbe(4).partial_fit(X[0], y), r"X has shape \(16,\); \(samples, features\)"),
        (lambda X, y: StreamProbe(4).partial_fit(X, y[:3]), r"240 rows and y has shape \(3,\)"),
        (lambda X, y: StreamProbe(3).partial_fit(X, y), "labels run from 0 to 3; 0 to 2 is expected"),
        (lambda X, y: StreamProbe(4).partial_fit(X, y - 1), "labels run from -1 to 2"),
        (
            lambda X, y: StreamProbe(4).partial_fit(X, y).predict(X[:, :3]),
            "X has 3 features, .* scaled for 16",
        ),
        (lambda X, y: StreamProbe(4).init_scale(X[:1]), "init_scale got 1 rows"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(four_classes, call, problem):
    with pytest.raises(ValueError, match=problem):
        call(*four_classes)
