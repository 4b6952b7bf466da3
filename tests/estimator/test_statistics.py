"""Forgetting and merging: the guarantees of the additive state, tested through the estimator."""

import copy

import numpy as np
import pytest
from models import flat, placed
from sklearn.frozen import FrozenEstimator

from dkvb_estimator import DKVBClassifier, KeyEncoder

EXACT = ["counts", "ridge"]


def data(seed, n=60, n_classes=3):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    return (np.eye(6)[y] + 0.4 * rng.standard_normal((n, 6))).astype(np.float32), y


def started(solver, **settings):
    """Return an untrained model with keys from other data."""
    model = flat(8, 12, 3, solver=solver, n_selected=2, random_state=0, **settings)
    return placed(model, np.random.default_rng(9).standard_normal((80, 6)).astype(np.float32))


def assert_same(one, other):
    np.testing.assert_array_equal(one.classes_, other.classes_)
    np.testing.assert_array_equal(one.key_counts_, other.key_counts_)
    np.testing.assert_array_equal(one.values_, other.values_)


@pytest.mark.parametrize("solver", EXACT)
def test_forgetting_leaves_the_bits_of_a_model_that_never_saw_the_samples(solver):
    (X, y), (gone, gone_y) = data(0), data(1, n=10)
    model = started(solver).partial_fit(X[:30], y[:30]).partial_fit(gone, gone_y).partial_fit(X[30:], y[30:])
    assert_same(model.forget(gone, gone_y), started(solver).partial_fit(X, y))


@pytest.mark.parametrize("solver", EXACT)
def test_forgetting_with_weights_restores_the_values(solver):
    (X, y), (gone, gone_y) = data(0), data(1, n=10)
    weights = np.linspace(0.5, 2, 10)
    model = started(solver).partial_fit(X, y).partial_fit(gone, gone_y, sample_weight=weights)
    model.forget(gone, gone_y, sample_weight=weights)
    np.testing.assert_allclose(model.values_, started(solver).partial_fit(X, y).values_, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("solver", EXACT)
def test_a_class_is_forgotten_with_all_its_samples(solver):
    X, y = data(0)
    model = started(solver).partial_fit(X, y).forget_classes([1])
    assert_same(model, started(solver).partial_fit(X[y != 1], y[y != 1]))
    assert model.classes_.tolist() == [0, 2]


@pytest.mark.parametrize("solver", EXACT)
def test_forgetting_what_was_never_learned_is_an_error_and_changes_nothing(solver):
    (X, y), (foreign, foreign_y) = data(0), data(1, n=10)
    model = started(solver).partial_fit(X, y)
    before = copy.deepcopy(model)
    both, both_y = np.concatenate([X[:5], foreign]), np.concatenate([y[:5], foreign_y])
    with pytest.raises(
        ValueError, match=r"X holds samples that were never learned or .* \(\d+ of 15\);.*nothing was changed"
    ):
        model.forget(both, both_y)
    assert_same(model, before)
    assert_same(model.forget(X[:5], y[:5]), started(solver).partial_fit(X[5:], y[5:]))


@pytest.mark.parametrize("solver", EXACT)
def test_each_row_given_takes_away_one_learned_copy(solver):
    X, y = data(0)
    twice = started(solver).partial_fit(X, y).partial_fit(X, y)
    assert_same(twice.forget(X, y), started(solver).partial_fit(X, y))
    with pytest.raises(ValueError, match="never learned"):
        twice.forget(np.repeat(X[:1], 2, axis=0), y[:1].repeat(2))


def test_a_declared_class_stays_when_its_last_sample_goes():
    X, y = data(0)
    model = started("counts").partial_fit(X, y, classes=[0, 1, 2]).forget_classes([2])
    assert model.classes_.tolist() == [0, 1, 2]


def test_a_model_that_has_forgotten_everything_is_not_fitted_and_learns_again():
    X, y = data(0)
    model = started("counts").partial_fit(X, y).forget(X, y)
    with pytest.raises(ValueError, match="not fitted"):
        model.predict(X)
    assert_same(model.partial_fit(X, y), started("counts").partial_fit(X, y))


def test_an_unknown_class_is_an_error_that_names_the_known_ones():
    X, y = data(0)
    with pytest.raises(
        ValueError, match=r"labels holds 7, which is not among the 3 learned classes.*nothing was changed"
    ):
        started("counts").partial_fit(X, y).forget_classes([7])


@pytest.mark.parametrize("solver", EXACT)
def test_merged_models_equal_one_that_learned_all(solver):
    X, y = data(0)
    y = np.array(["a", "b", "c"])[y]
    first, second = y != "b", y == "b"  # the second has a class that sorts in between
    merged = started(solver).partial_fit(X[first], y[first]).merge(started(solver).partial_fit(X[second], y[second]))
    assert_same(merged, started(solver).partial_fit(X, y))


@pytest.mark.parametrize("solver", EXACT)
def test_a_merged_model_can_forget_what_the_other_learned(solver):
    (X, y), (other, other_y) = data(0), data(1)
    merged = started(solver).partial_fit(X, y).merge(started(solver).partial_fit(other, other_y))
    assert_same(merged.forget(other, other_y), started(solver).partial_fit(X, y))


def test_merging_leaves_the_other_model_as_it_was():
    (X, y), (other, other_y) = data(0), data(1)
    partner = started("counts").partial_fit(other, other_y)
    started("counts").partial_fit(X, y).merge(partner)
    assert_same(partner, started("counts").partial_fit(other, other_y))


def test_weighted_and_plain_models_merge():
    (X, y), (other, other_y) = data(0), data(1)
    weights = np.full(len(y), 1.5)
    merged = (
        started("counts").partial_fit(X, y).merge(started("counts").partial_fit(other, other_y, sample_weight=weights))
    )
    both = started("counts").partial_fit(X, y).partial_fit(other, other_y, sample_weight=weights)
    np.testing.assert_allclose(merged.values_, both.values_, rtol=1e-6)


def test_models_with_other_keys_are_refused():
    X, y = data(0)
    foreign = DKVBClassifier(KeyEncoder(8, 12, 3, n_selected=2, random_state=1)).fit(X, y)
    with pytest.raises(ValueError, match=r"expected the same\. Pass the same FrozenEstimator"):
        started("counts").partial_fit(X, y).merge(foreign)


@pytest.mark.parametrize("call", [lambda m: m.merge(m), lambda m: m.forget_classes([0])])
def test_sgd_refuses_what_it_cannot_do_exactly(call):
    X, y = data(0)
    with pytest.raises(ValueError, match=r"solver='sgd' .*; expected 'joint' or 'counts'.*or fit a new model with one"):
        call(started("sgd").partial_fit(X, y))


def test_sgd_forgets_by_masking_keys_that_only_the_samples_hit():
    X, y = data(0)
    model = started("sgd").partial_fit(X, y)
    of_class, rest = y == 1, y != 1
    only = (started("counts").partial_fit(X[of_class], y[of_class]).key_counts_ > 0) & (
        started("counts").partial_fit(X[rest], y[rest]).key_counts_ == 0
    )
    assert only.any()
    model.forget(X[of_class], y[of_class])
    assert (model.key_counts_[only] == 0).all()
    assert (model.values_[only] == 0).all()


def test_sgd_refuses_samples_that_hit_less_than_asked_to_forget():
    X, y = data(0)
    model = started("sgd").partial_fit(X, y)
    with pytest.raises(ValueError, match=r"never learned.*nothing was changed"):
        model.forget(np.concatenate([X, X]), np.concatenate([y, y]))


@pytest.mark.parametrize(("solver", "expected"), [("counts", True), ("ridge", True), ("sgd", False)])
def test_forgetting_is_called_exact_only_with_foreign_keys_and_an_additive_solver(solver, expected):
    X, y = data(0)
    assert started(solver).partial_fit(X, y).forgetting_is_exact_ is expected
    assert not DKVBClassifier(KeyEncoder(8, 12, 3, random_state=0), solver=solver).fit(X, y).forgetting_is_exact_


def test_a_failure_while_learning_leaves_everything_as_it_was(monkeypatch):
    X, y = data(0)
    model = started("ridge").partial_fit(X[:30], y[:30])
    hits, proba = model.key_counts_, model.predict_proba(X)

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(model._learned.codes), "extended", fails)
    with pytest.raises(OSError, match="No space left"):
        model.partial_fit(X[30:], y[30:] + 7)
    monkeypatch.undo()
    assert model.classes_.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(model.key_counts_, hits)
    np.testing.assert_array_equal(model.predict_proba(X), proba)


def test_a_pruned_model_merges_with_a_refitted_copy_and_forgets_what_that_learned():
    (X, y), (more, more_y) = data(0), data(1, n=10)
    model = started("counts").partial_fit(X, y).prune()
    copied = DKVBClassifier(FrozenEstimator(model.encoder_), solver="counts").fit(more, more_y)
    before = model.key_counts_
    model.merge(copied).forget(more, more_y)
    np.testing.assert_array_equal(model.key_counts_, before)


def test_sgd_takes_weights_back_with_the_hits():
    X, y = data(0)
    model = started("sgd", learning_rate=100.0).partial_fit(X, y, sample_weight=np.full(60, 3.0))
    model.forget(X[:30], y[:30], sample_weight=np.full(30, 3.0))
    np.testing.assert_allclose(model.class_counts_, [30, 30, 30])
    np.testing.assert_allclose(model.key_counts_.sum(axis=1), np.full(8, 180))


def test_sgd_learns_on_where_finite_values_have_an_infinite_sum():
    X, y = data(0)
    model = started("sgd").partial_fit(X, y)
    unused = model.key_counts_ == 0
    assert unused.sum() > 1
    model._learned.table = np.where(unused[..., None], np.float32(3e38), model._learned.table)
    learned = model.partial_fit(X[:5], y[:5])._learned.table
    assert np.isfinite(learned).all()
    assert learned.sum(dtype=np.float64) > np.finfo(np.float32).max


def test_a_table_is_not_copied_where_every_class_stays():
    learned = started("sgd").partial_fit(*data(0))._learned
    table, counts = learned.table, learned.counts
    learned._drop_empty_classes()
    assert learned.table is table
    assert learned.counts is counts


def test_with_sgd_too_a_class_leaves_with_its_last_sample():
    X, y = data(0)
    model = started("sgd", learning_rate=100.0).partial_fit(X, y)
    model.forget(X[y == 1], y[y == 1])
    assert model.classes_.tolist() == [0, 2]
    assert model.predict_proba(X).shape == (60, 2)
    assert model.partial_fit(X, y).classes_.tolist() == [0, 1, 2]


def test_sgd_learns_from_one_class_though_it_is_declared():
    X, y = data(0)
    model = started("sgd", learning_rate=100.0).partial_fit(X[y == 0], y[y == 0], classes=[0])
    model.partial_fit(X[y == 1], y[y == 1])
    assert model.score(X[y < 2], y[y < 2]) > 0.9


def test_a_shallow_copy_that_learns_leaves_the_first_model_as_it_was():
    X, y = data(0)
    model = started("ridge").partial_fit(X[:30], y[:30])
    expected = started("ridge").partial_fit(X[:30], y[:30]).forget(X[:5], y[:5]).predict_proba(X)
    other = copy.copy(model)
    other._learned = copy.copy(model._learned)
    other.partial_fit(X[30:], y[30:])
    np.testing.assert_array_equal(model.forget(X[:5], y[:5]).predict_proba(X), expected)


@pytest.mark.parametrize("solver", EXACT)
def test_models_that_share_samples_merge_with_a_warning_that_counts_them(solver):
    (X, y), (other, other_y) = data(0), data(1)
    model, partner = started(solver).partial_fit(X, y), started(solver).partial_fit(other, other_y)
    partner.partial_fit(X[:7], y[:7])
    message = r"other shares 7 of its 67 samples .*count twice; expected models that learned.*Call forget\(X, y\)"
    with pytest.warns(UserWarning, match=message):
        merged = copy.deepcopy(model).merge(copy.deepcopy(partner))
    assert merged.class_counts_.sum() == 127
    assert_same(
        model.merge(partner.forget(X[:7], y[:7])), started(solver).partial_fit(X, y).partial_fit(other, other_y)
    )


def test_a_warning_of_shared_samples_that_is_an_error_changes_nothing():
    X, y = data(0)
    model = started("counts").partial_fit(X, y)
    with pytest.raises(UserWarning, match="other shares 60 of its 60 samples"):
        model.merge(model)
    assert_same(model, started("counts").partial_fit(X, y))


def test_samples_are_shared_as_often_as_both_hold_them_with_one_weight():
    X, y = data(0)
    one = started("ridge").partial_fit(X, y).partial_fit(X[:5], y[:5])
    assert one._learned.n_shared(started("ridge").partial_fit(X[:5], y[:5])._learned) == 5
    assert one._learned.n_shared(one._learned) == 65
    assert one._learned.n_shared(started("ridge").partial_fit(X, y, sample_weight=np.full(60, 2.0))._learned) == 0
    assert one._learned.n_shared(started("ridge").partial_fit(X, y + 1)._learned) == 0


def test_pruned_models_know_shared_samples_by_the_keys_they_had():
    X, y = data(0)
    model = started("counts").partial_fit(X, y).prune()
    with pytest.warns(UserWarning, match="other shares 10 of its 10 samples"):
        model.merge(DKVBClassifier(FrozenEstimator(model.encoder_), solver="counts").fit(X[:10], y[:10]))


def test_fit_after_pruning_starts_from_the_whole_encoder_again():
    X, y = data(0)
    model = started("counts").partial_fit(X, y).prune()
    assert_same(model.fit(X[:10], y[:10]), started("counts").fit(X[:10], y[:10]))
