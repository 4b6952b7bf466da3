"""Baselines agree with explicit computations and with scikit-learn."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestCentroid
from sklearn.utils.estimator_checks import check_estimator

from dkvb_estimator.baselines import (
    ClasswiseLDA,
    NearestClassMean,
    RandomFourierDiscriminant,
    RandomProjectionRidge,
    StreamingLDA,
    _additive,
    _choosing,
    _systems,
    random_features,
)
from dkvb_estimator.baselines._rows import Rows, hash_rows
from dkvb_estimator.baselines.discriminant import SHRINKAGES
from dkvb_estimator.baselines.random_features import PENALTIES, WIDTHS

LDA = [StreamingLDA(), StreamingLDA("auto", normalize=True)]
RIDGE = [RandomProjectionRidge(64, random_state=0), RandomProjectionRidge(64, 2.0, normalize=True, random_state=0)]
FLY = [RandomProjectionRidge(90, random_state=0, projection="sparse", density=0.3, top_share=0.3)]
CLASSWISE = [ClasswiseLDA(), ClasswiseLDA((0.2, 0.2, 0.2), normalize=True)]
FOURIER = [RandomFourierDiscriminant(80, gamma=0.02, random_state=0)]
WIDE = [  # more features than rows, so the rows are the state
    RandomProjectionRidge(320, random_state=0),
    RandomFourierDiscriminant(320, gamma=0.5, shrinkage=0.3, normalize=True, random_state=0),
]
EVERY_LINEAR = [*LDA, *RIDGE, *FLY, *CLASSWISE, *FOURIER, *WIDE]
EVERY = [NearestClassMean(), NearestClassMean(normalize=True), *EVERY_LINEAR]
every = pytest.mark.parametrize("model", EVERY, ids=repr)
every_linear = pytest.mark.parametrize("model", EVERY_LINEAR, ids=repr)
choosers = pytest.mark.parametrize("model", [LDA[1], RIDGE[0], FLY[0], CLASSWISE[0], FOURIER[0], WIDE[0]], ids=repr)
CHOSEN = {"alpha": "alpha_", "shares": "shares_", "shrinkage": "shrinkage_"}


@pytest.fixture
def many():
    """Embeddings (900, 12), float64, of overlapping classes 0…4 of unequal sizes; features have unequal spreads."""
    rng = np.random.default_rng(5)
    y = rng.choice(5, size=900, p=[0.1, 0.15, 0.2, 0.25, 0.3])
    rows = rng.standard_normal((5, 12))[y] + rng.standard_normal((900, 12)) @ rng.standard_normal((12, 12))
    return rows, y


@pytest.fixture
def overlapping(many):
    """The first 300 rows, because the systems of wide models have one unknown per row."""
    return many[0][:300], many[1][:300]


def setting(model):
    (name,) = set(CHOSEN) & set(model.get_params())
    return name


def chosen(model):
    return getattr(model, CHOSEN[setting(model)])


def learned_in_parts(model, X, y, order):
    model = clone(model)
    for rows in np.array_split(order, [1, 2, 50, 120]):
        model.partial_fit(X[rows], y[rows])
    return model


def test_predictions_equal_scikit_learns_nearest_centroid(blobs):
    X, y = blobs
    expected = NearestCentroid().fit(X[:100], y[:100]).predict(X)
    np.testing.assert_array_equal(NearestClassMean().fit(X[:100], y[:100]).predict(X), expected)


def test_scores_are_minus_squared_distances():
    model = NearestClassMean().fit([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0], [5.0, 5.0]], [0, 0, 1, 2])
    np.testing.assert_allclose(model.decision_function([[1.0, 1.0]]), [[-1.0, -10.0, -32.0]])


def test_two_classes_give_one_column():
    model = NearestClassMean().fit([[0.0], [4.0]], ["a", "b"])
    np.testing.assert_allclose(model.decision_function([[1.0], [3.0]]), [-8.0, 8.0])


def test_normalized_means_ignore_the_length_of_rows(blobs):
    X, y = blobs
    lengths = np.random.default_rng(0).uniform(0.1, 10, size=(240, 1))
    plain, scaled = (NearestClassMean(normalize=True).fit(rows, y).sums_ for rows in (X, lengths * X))
    np.testing.assert_allclose(scaled, plain, rtol=1e-6)


def test_any_split_into_batches_gives_the_same_means(blobs):
    X, y = blobs
    parts = NearestClassMean()
    for label in (3, 0, 4, 1, 2):
        parts.partial_fit(X[y == label], y[y == label])
    whole = NearestClassMean().fit(X, y)
    np.testing.assert_allclose(parts.sums_, whole.sums_, rtol=1e-12)
    assert parts.class_counts_.tolist() == whole.class_counts_.tolist()


def test_one_seen_of_two_declared_classes_is_predicted():
    model = NearestClassMean().partial_fit([[5.0]], [1], classes=[0, 1])
    assert model.predict([[-9.0], [9.0]]).tolist() == [1, 1]


def test_predicting_before_learning_is_refused(blobs):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        NearestClassMean().predict(blobs[0])


def test_text_labels_after_numbers_are_refused(blobs):
    X, y = blobs
    with pytest.raises((TypeError, ValueError), match=r"(?i)label|type"):
        NearestClassMean().partial_fit(X, y).partial_fit(X, y.astype(str))


def test_a_common_offset_does_not_change_predictions(blobs):
    X, y = blobs
    plain, moved = (NearestClassMean().fit(rows, y).predict(rows) for rows in (X, X.astype(np.float64) + 1e6))
    np.testing.assert_array_equal(moved, plain)


@every
def test_scikit_learns_checks_pass(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(clone(model), on_fail=None, on_skip=None)
    assert sum(result["status"] == "passed" for result in results) >= 50
    assert [result["check_name"] for result in results if result["status"] == "failed"] == []


@pytest.mark.parametrize("shrinkage", [0.0, 1e-4, 0.1, 0.7, 1])
@pytest.mark.parametrize("n_classes", [2, 5])
def test_lda_equals_scikit_learns(many, shrinkage, n_classes):
    X, y = (part[many[1] < n_classes] for part in many)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(X, y)
    ours = learned_in_parts(StreamingLDA(shrinkage), X, y, np.arange(len(y)))
    np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-8, atol=1e-10)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    assert ours.shrinkage_ == shrinkage


def test_covariance_is_that_within_classes(overlapping):
    X, y = overlapping
    centred = X - np.stack([X[y == label].mean(axis=0) for label in range(5)])[y]
    np.testing.assert_allclose(StreamingLDA().fit(X, y).covariance_, centred.T @ centred / len(X), rtol=1e-9)


def test_lda_with_fewer_rows_than_features_equals_scikit_learns(overlapping):
    few = np.concatenate([np.flatnonzero(overlapping[1] == label)[:2] for label in range(5)])
    X, y = overlapping[0][few], overlapping[1][few]
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.05).fit(X, y)
    ours = StreamingLDA(0.05).fit(X, y)
    np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("n_classes", [2, 5])
def test_ridge_equals_scikit_learns_on_the_same_features(many, n_classes):
    X, y = (part[many[1] < n_classes] for part in many)
    ours = learned_in_parts(RandomProjectionRidge(40, alpha=3.0, random_state=0), X, y, np.arange(len(y)))
    features = np.maximum(X @ ours.projection_, 0)
    theirs = Ridge(alpha=3.0, fit_intercept=False).fit(features, np.eye(n_classes)[y]).predict(features)
    expected = theirs[:, 1] - theirs[:, 0] if n_classes == 2 else theirs
    np.testing.assert_allclose(ours.decision_function(X), expected, rtol=1e-7, atol=1e-9)
    np.testing.assert_array_equal(ours.predict(X), theirs.argmax(axis=1))
    assert ours.alpha_ == 3.0


def test_a_penalty_below_rounding_gives_finite_scores(overlapping):
    X, y = overlapping
    model = RandomProjectionRidge(200, alpha=1e-300, random_state=0).fit(1e3 * X[:50], y[:50])
    assert np.isfinite(model.decision_function(1e3 * X)).all()
    assert model.score(1e3 * X[:50], y[:50]) == 1


def test_random_features_are_those_of_the_seed(overlapping):
    X, y = overlapping
    drawn = [RandomProjectionRidge(8, random_state=seed).fit(X, y).projection_ for seed in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.allclose(drawn[0], drawn[2])
    assert abs(RandomProjectionRidge(300, random_state=0).fit(X, y).projection_.std() - 1) < 0.05


@every_linear
def test_order_and_splits_do_not_matter(overlapping, model):
    X, y = overlapping
    whole = clone(model).fit(X, y)
    for order in (np.random.default_rng(0).permutation(300), np.argsort(y, kind="stable")):
        parts = learned_in_parts(model, X, y, order)
        np.testing.assert_allclose(chosen(parts), chosen(whole), rtol=1e-9)
        np.testing.assert_allclose(parts.sums_, whole.sums_, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(parts.decision_function(X), whole.decision_function(X), rtol=1e-6, atol=1e-8)


@every
def test_blocks_of_rows_do_not_matter(overlapping, model, monkeypatch):
    X, y = overlapping
    whole = clone(model).fit(X, y).decision_function(X)
    monkeypatch.setattr(_additive, "BLOCK_ROWS", 70)
    np.testing.assert_allclose(clone(model).fit(X, y).decision_function(X), whole, rtol=1e-6, atol=1e-8)


@every
def test_new_labels_may_appear_between_old_ones(overlapping, model):
    X, y = overlapping
    names = np.array(["e", "a", "d", "b", "cc"])[y]
    parts = clone(model)
    for label in ("d", "a", "e", "cc", "b"):
        parts.partial_fit(X[names == label], names[names == label])
        parts.predict(X)
    whole = clone(model).fit(X, names)
    assert parts.classes_.tolist() == ["a", "b", "cc", "d", "e"]
    assert parts.class_counts_.tolist() == [int((names == label).sum()) for label in parts.classes_]
    np.testing.assert_allclose(parts.decision_function(X), whole.decision_function(X), rtol=1e-6, atol=1e-8)


@every
def test_declared_classes_without_samples_are_never_predicted(overlapping, model):
    X, y = overlapping
    model = clone(model).partial_fit(X[y < 2], y[y < 2], classes=[9, 0, 1, 5])
    assert model.classes_.tolist() == [0, 1, 5, 9]
    assert set(model.predict(1e3 * X).tolist()) <= {0, 1}
    assert np.isneginf(model.decision_function(X)[:, 2:]).all()


def test_probability_of_an_unseen_class_is_zero(overlapping):
    X, y = overlapping
    probabilities = StreamingLDA().partial_fit(X, y, classes=[7]).predict_proba(X)
    assert (probabilities[:, -1] == 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


@every
def test_one_class_alone_is_predicted(overlapping, model):
    model = clone(model).fit(overlapping[0], np.full(300, "only"))
    assert set(model.predict(-overlapping[0])) == {"only"}


@every
def test_one_row_of_a_class_is_enough(overlapping, model):
    X, y = [[0.0, 5.0], [5.0, 0.0], [-5.0, -5.0]], [2, 0, 1]
    assert clone(model).fit(X, y).predict(X).tolist() == y
    assert clone(model).partial_fit(X[:1], y[:1]).predict(X).tolist() == [2, 2, 2]


@every
def test_constant_features_change_nothing_much(overlapping, model):
    X, y = overlapping
    constant = np.hstack([X, np.full((300, 2), 0.1), np.zeros((300, 1))])
    assert np.isfinite(clone(model).fit(constant, y).decision_function(constant)).all()
    assert clone(model).fit(constant, y).score(constant, y) > clone(model).fit(X, y).score(X, y) - 0.05


def test_lda_without_shrinkage_ignores_constant_features(overlapping):
    X, y = overlapping
    beside = np.hstack([X, np.full((300, 1), 0.1)])
    scores = [StreamingLDA(0.0).fit(rows, y).decision_function(rows) for rows in (X, beside)]
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-6, atol=1e-6)


def test_lda_of_rows_that_do_not_vary_predicts_the_commonest_class():
    model = StreamingLDA().fit(np.ones((5, 3)), [0, 1, 1, 1, 0])
    assert model.predict([[1.0, 1.0, 1.0]]).tolist() == [1]


def test_a_common_offset_does_not_change_what_lda_predicts(overlapping):
    X, y = overlapping
    plain, moved = (StreamingLDA("auto").fit(rows, y) for rows in (X, X + 1e5))
    np.testing.assert_allclose(moved.covariance_, plain.covariance_, rtol=1e-6)
    assert (moved.predict(X + 1e5) == plain.predict(X)).mean() > 0.99  # another tenth of the rows is held out


@choosers
def test_auto_depends_on_the_rows_not_on_their_order(overlapping, model, monkeypatch):
    monkeypatch.setattr(_choosing, "MAX_SCORED", 15)
    X, y = overlapping
    whole, parts = clone(model).fit(X, y), learned_in_parts(model, X, y, np.arange(300)[::-1])
    assert len(whole._held_out.rows) > 15
    for mine, theirs in zip(parts._held_out.by_hash(), whole._held_out.by_hash(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_allclose(chosen(parts), chosen(whole), rtol=1e-9)


def test_about_a_tenth_of_the_rows_is_held_out_whatever_their_type(many):
    X, y = np.vstack([many[0], np.zeros((20, 12))]).astype(np.float32), np.append(many[1], [0] * 20)
    single, double = (
        StreamingLDA("auto").fit(rows, y)._held_out.by_hash().hashes for rows in (X, -0.0 + X.astype(np.float64))
    )
    np.testing.assert_array_equal(single, double)
    assert 50 < len(single) < 140


def test_equal_rows_are_held_out_together(overlapping):
    X, y = overlapping
    held_out = StreamingLDA("auto").fit(np.vstack([X, X]), np.append(y, y))._held_out
    assert set(np.unique(held_out.hashes, return_counts=True)[1].tolist()) == {2}


@pytest.mark.parametrize(("name", "values"), [("shrinkage", SHRINKAGES), ("alpha", PENALTIES)])
def test_auto_takes_the_value_that_serves_held_out_rows_best(overlapping, name, values):
    X, y = overlapping
    model = (StreamingLDA("auto") if name == "shrinkage" else RandomProjectionRidge(64, random_state=0)).fit(X, y)
    held = np.isin(hash_rows(X), model._held_out.hashes)
    assert 0 < held.sum() == len(model._held_out.rows)
    if name == "alpha":
        values = np.array(values) * (np.maximum(X @ model.projection_, 0) ** 2).sum() / 64
    losses = []
    for value in values:
        scores = clone(model).set_params(**{name: value}).fit(X[~held], y[~held])
        if name == "shrinkage":
            losses.append(-np.log(scores.predict_proba(X[held])[np.arange(held.sum()), y[held]]).sum())
        else:
            losses.append(((scores.decision_function(X[held]) - np.eye(5)[y[held]]) ** 2).sum())
    np.testing.assert_allclose(chosen(model), values[int(np.argmin(losses))])
    fixed = clone(model).set_params(**{name: chosen(model)}).fit(X, y)
    np.testing.assert_allclose(fixed.decision_function(X), model.decision_function(X), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("model", "expected"), [(LDA[1], SHRINKAGES[5]), (RIDGE[0], None), (CLASSWISE[0], (0.17, 0.68, 0.15))], ids=repr
)
def test_auto_takes_the_middle_of_its_grid_where_no_row_is_held_out(model, expected):
    model = clone(model).fit([[0.0, 5.0], [5.0, 0.0], [-5.0, -5.0]], [2, 0, 1])
    assert len(model._held_out.rows) == 0
    if expected is None:
        expected = 1e-2 * (model._features(np.array([[0.0, 5.0], [5.0, 0.0], [-5.0, -5.0]])) ** 2).sum() / 64
    np.testing.assert_allclose(chosen(model), expected)


@every_linear
def test_a_setting_may_change_after_learning(overlapping, model):
    X, y = overlapping
    new = {setting(model): (0.5, 0.2, 0.3) if isinstance(model, ClasswiseLDA) else 0.3}
    changed = clone(model).fit(X, y)
    changed.predict(X)
    other = clone(model).set_params(**new).fit(X, y)
    np.testing.assert_array_equal(changed.set_params(**new).decision_function(X), other.decision_function(X))


@every_linear
def test_a_pickle_predicts_the_same_and_leaves_out_what_was_solved(overlapping, model):
    X, y = overlapping
    model = clone(model).fit(X, y)
    before = len(pickle.dumps(model))
    scores = model.decision_function(X)
    assert len(pickle.dumps(model)) == before
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).decision_function(X), scores)


@every
def test_a_shallow_copy_keeps_what_it_had_learned(overlapping, model):
    X, y = overlapping
    model = clone(model).fit(X[:100], y[:100])
    kept, before = copy.copy(model), model.decision_function(X)
    model.partial_fit(X[100:], y[100:])
    np.testing.assert_array_equal(kept.decision_function(X), before)
    assert not np.allclose(model.decision_function(X), before)


@every_linear
def test_digits_are_told_apart(model):
    X, y = load_digits(return_X_y=True)
    model = clone(model)
    if isinstance(model, RandomFourierDiscriminant):
        model.set_params(gamma="auto", n_components=300)
    assert model.fit(X[:1200], y[:1200]).score(X[1200:], y[1200:]) > (0.9 if "LDA" in repr(model) else 0.85)


@pytest.mark.parametrize("model", [StreamingLDA("auto"), RandomProjectionRidge(500, random_state=0)], ids=repr)
def test_chosen_settings_serve_digits_well(model):
    X, y = load_digits(return_X_y=True)
    assert model.fit(X[:1200], y[:1200]).score(X[1200:], y[1200:]) > 0.9
    grid = model._grid(model._known())
    assert min(grid) < chosen(model) < max(grid)


@pytest.mark.parametrize(
    ("model", "error", "text"),
    [
        (
            StreamingLDA(1.5),
            ValueError,
            r"shrinkage=1\.5 is not valid; expected a number from 0 to 1, or 'auto'\. Set it with set_params\(shr",
        ),
        (StreamingLDA(-0.1), ValueError, r"shrinkage=-0\.1 is not valid; expected a number from 0 to 1"),
        (StreamingLDA(float("nan")), ValueError, r"shrinkage=nan is not valid; expected a number from 0 to 1"),
        (StreamingLDA("best"), TypeError, r"shrinkage='best' is a str; expected a number from 0 to 1, or 'auto'\. Set"),
        (StreamingLDA(True), TypeError, r"shrinkage=True is a bool; expected a number from 0 to 1, or 'auto'\. Set"),
        (
            RandomProjectionRidge(8, alpha=0),
            ValueError,
            r"alpha=0 is not valid; expected a finite number > 0, or 'auto'\. Set it with set_params\(alpha",
        ),
        (RandomProjectionRidge(8, alpha=-1.0), ValueError, r"alpha=-1\.0 is not valid; expected a finite number > 0"),
        (RandomProjectionRidge(8, alpha=None), TypeError, r"alpha=None is a NoneType; expected a finite number > 0"),
        (
            RandomProjectionRidge(0),
            ValueError,
            r"n_components=0 is not valid; expected a whole number ≥ 1\. Set it with set_params\(n_components",
        ),
        (
            RandomProjectionRidge(8, density=0.0),
            ValueError,
            r"density=0\.0 is not valid; expected a number in \(0, 1\], o",
        ),
        (
            RandomProjectionRidge(8, top_share=2),
            ValueError,
            r"top_share=2 is not valid; expected a number in \(0, 1\], or None\.",
        ),
        (
            RandomProjectionRidge(8, top_share="auto"),
            TypeError,
            r"top_share='auto' is a str; expected a number in \(0, 1",
        ),
        (
            RandomProjectionRidge(8, projection="dense"),
            ValueError,
            r"projection='dense' is not valid; expected 'gaussian' or 'sparse'\. Set it with set_params\(projection",
        ),
        (RandomFourierDiscriminant(8, gamma=0), ValueError, r"gamma=0 is not valid; expected a finite number > 0, or "),
        (
            RandomFourierDiscriminant(8, shrinkage=2),
            ValueError,
            r"shrinkage=2 is not valid; expected a number from 0 to",
        ),
        (
            ClasswiseLDA((0.5, 0.5)),
            ValueError,
            r"shares=\(0\.5, 0\.5\) is not valid; expected three finite numbers a, b",
        ),
        (ClasswiseLDA((0.5, 0.5, 0)), ValueError, r"shares=\(0\.5, 0\.5, 0\) is not valid; expected three finite numb"),
        (ClasswiseLDA("best"), ValueError, r"shares='best' is not valid; expected three finite numbers a, b ≥ 0 and g"),
        (ClasswiseLDA(max_state_bytes=0), ValueError, r"max_state_bytes=0 is not valid; expected a whole number ≥ 1"),
        (RandomProjectionRidge(8.0), TypeError, r"n_components=8\.0 is a float; expected a whole number\. Pass an int"),
    ],
    ids=repr,
)
def test_settings_that_are_not_valid_are_refused(blobs, model, error, text):
    with pytest.raises(error, match=text):
        model.fit(*blobs)


def test_a_setting_that_is_not_valid_is_refused_after_learning_too(blobs):
    with pytest.raises(ValueError, match=r"shrinkage=2 is not valid"):
        StreamingLDA().fit(*blobs).set_params(shrinkage=2).predict(blobs[0])


@pytest.mark.parametrize("name", ["shrinkage_", "covariance_", "alpha_"])
def test_what_is_solved_needs_samples(name):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(RandomProjectionRidge() if name == "alpha_" else StreamingLDA(), name)


@every
def test_a_refused_batch_leaves_the_model_as_it_was(overlapping, model):
    X, y = overlapping
    model = clone(model).fit(X, y)
    before = model.decision_function(X)
    with pytest.raises(ValueError, match="labels of one type"):
        model.partial_fit(X, y.astype(str))
    np.testing.assert_array_equal(model.decision_function(X), before)


@every
def test_fit_forgets_everything_learned(overlapping, model):
    X, y = overlapping
    once, twice = clone(model).fit(X[:100], y[:100]), clone(model).fit(X, y + 3).fit(X[:100], y[:100])
    assert twice.classes_.tolist() == once.classes_.tolist()
    np.testing.assert_array_equal(twice.decision_function(X), once.decision_function(X))


def test_how_usual_a_sample_is_is_minus_the_mahalanobis_distance_to_the_nearest_class(blobs):
    X, y = blobs
    model = StreamingLDA(shrinkage=0.2).fit(X, y)
    covariance = 0.8 * model.covariance_ + 0.2 * np.trace(model.covariance_) / 12 * np.eye(12)
    apart = X[:30, None].astype(float) - np.stack([X[y == label].mean(axis=0) for label in range(5)])
    expected = np.einsum("nkf,fg,nkg->nk", apart, np.linalg.inv(covariance), apart).min(axis=1)
    np.testing.assert_allclose(model.score_samples(X[:30]), -expected, rtol=1e-4)


def test_how_usual_a_sample_is_does_not_depend_on_a_class_that_was_declared_but_never_seen(blobs):
    X, y = blobs
    declared = StreamingLDA().partial_fit(X, y, classes=[0, 1, 2, 3, 4, 5])
    np.testing.assert_allclose(declared.score_samples(X), StreamingLDA().fit(X, y).score_samples(X))


def same(one, other, X, rtol=1e-6):
    """Check that two models have the same state and predictions, up to rounding."""
    np.testing.assert_allclose(one.class_counts_, other.class_counts_)
    np.testing.assert_allclose(one.sums_, other.sums_, rtol=rtol, atol=1e-8)
    if hasattr(one, "_choose"):
        np.testing.assert_allclose(chosen(one), chosen(other), rtol=1e-9)
    np.testing.assert_allclose(one.decision_function(X), other.decision_function(X), rtol=rtol, atol=1e-7)


@every
def test_forgotten_rows_are_as_if_never_seen(overlapping, model):
    X, y = overlapping
    kept = np.arange(300) % 3 > 0
    forgetful = learned_in_parts(model, X, y, np.arange(300))
    forgetful.predict(X)
    forgetful.forget(X[~kept][:40], y[~kept][:40]).forget(X[~kept][40:], y[~kept][40:])
    same(forgetful, clone(model).fit(X[kept], y[kept]), X)


@every
def test_single_precision_rows_are_forgotten_too(overlapping, model):
    X, y = overlapping[0].astype(np.float32), overlapping[1]
    forgetful, never = clone(model).fit(X, y).forget(X[:100], y[:100]), clone(model).fit(X[100:], y[100:])
    apart = np.abs(forgetful.decision_function(X) - never.decision_function(X)).max()
    assert apart < 1e-3 * np.abs(never.decision_function(X)).max()
    assert (forgetful.predict(X) == never.predict(X)).mean() > 0.99


@every
def test_a_class_forgotten_whole_is_never_predicted_and_may_come_back(overlapping, model):
    X, y = overlapping
    gone = y == 2
    model = clone(model).fit(X, y).forget(X[gone], y[gone])
    assert model.classes_.tolist() == [0, 1, 2, 3, 4]
    assert np.isneginf(model.decision_function(X)[:, 2]).all()
    scores = clone(model).fit(X[~gone], y[~gone]).decision_function(X)
    np.testing.assert_allclose(model.decision_function(X)[:, [0, 1, 3, 4]], scores, rtol=1e-6, atol=1e-7)
    same(model.partial_fit(X[gone], y[gone]), clone(model).fit(X, y), X)


@every
def test_everything_may_be_forgotten_and_learned_anew(overlapping, model):
    X, y = overlapping
    model = clone(model).fit(X, y).forget(X, y)
    with pytest.raises(NotFittedError):
        model.predict(X)
    same(model.partial_fit(X, y), clone(model).fit(X, y), X)


@every
def test_more_than_was_learned_is_not_forgotten(overlapping, model):
    X, y = overlapping
    model = clone(model).fit(X[:100], y[:100])
    before, n_learned = model.decision_function(X), int((y[:100] == 0).sum())
    with pytest.raises(ValueError, match=rf"y holds label 0 too often .*; expected at most {n_learned}, the samples"):
        model.forget(X[y == 0], y[y == 0])
    with pytest.raises(ValueError, match=r"y holds 7, which is not among the . learned classes"):
        model.forget(X[:1], [7])
    with pytest.raises(ValueError, match="labels of one type"):
        model.forget(X[:1], ["0"])
    np.testing.assert_array_equal(model.decision_function(X), before)


@pytest.mark.parametrize("model", WIDE, ids=repr)
def test_rows_that_are_the_state_are_forgotten_by_name(overlapping, model):
    X, y = overlapping
    model = clone(model).fit(X, y)
    with pytest.raises(
        ValueError, match=r"X holds samples that were never learned or are already forgotten \(1 of 2\)"
    ):
        model.forget(np.vstack([X[:1], X[:1] + 1]), y[[0, 0]])
    assert model.class_counts_.sum() == 300


@every
def test_merged_models_are_as_if_one_had_learned_both(overlapping, model):
    X, y = overlapping
    first, second = (np.arange(300) < 170) & (y != 4), (np.arange(300) >= 170) | (y == 4)
    one, other = clone(model).fit(X[first], y[first]), clone(model).fit(X[second & (y != 0)], y[second & (y != 0)])
    one.predict(X)
    before = other.decision_function(X)
    both = (first | (y != 0)) & (first | second)
    same(one.merge(other), clone(model).fit(X[both], y[both]), X)
    np.testing.assert_array_equal(other.decision_function(X), before)


@pytest.mark.parametrize("model", [RIDGE[0], RIDGE[1], FLY[0], FOURIER[0]], ids=repr)
@pytest.mark.parametrize("n_first", [20, 280])
def test_models_merge_while_one_still_keeps_its_rows(overlapping, model, n_first):
    X, y = overlapping
    parts = clone(model).fit(X[:n_first], y[:n_first]), clone(model).fit(X[n_first:], y[n_first:])
    same(parts[0].merge(parts[1]), clone(model).fit(X, y), X)


@every
def test_models_of_other_kinds_settings_or_features_are_not_merged(overlapping, model):
    X, y = overlapping
    one = clone(model).fit(X, y)
    other = NearestClassMean() if isinstance(model, StreamingLDA) else StreamingLDA()
    with pytest.raises(TypeError, match=r"other is a .*; expected a .*\. Merge models of the same class"):
        one.merge(other.fit(X, y))
    other = clone(model).set_params(normalize=not model.normalize).fit(X, y)
    with pytest.raises(ValueError, match=r"other has normalize=.*; expected the same"):
        one.merge(other)
    with pytest.raises(ValueError, match="other has 11 features, this model has 12; expected the same"):
        one.merge(clone(model).fit(X[:, 1:], y))
    same(one, clone(model).fit(X, y), X)


@pytest.mark.parametrize("model", [RIDGE[0], FOURIER[0]], ids=repr)
def test_models_of_other_random_features_are_not_merged(overlapping, model):
    with pytest.raises(ValueError, match="other drew its random features with random_state=1, this model with"):
        clone(model).fit(*overlapping).merge(clone(model).set_params(random_state=1).fit(*overlapping))


@every
def test_what_features_depend_on_may_not_change_after_learning(overlapping, model):
    model = clone(model).fit(*overlapping).set_params(normalize=not model.normalize)
    for call in (model.predict, lambda X: model.forget(X, overlapping[1]), lambda X: model.partial_fit(*overlapping)):
        with pytest.raises(ValueError, match=r"normalize=.* was set after fitting with .*; expected"):
            call(overlapping[0])
    assert model.fit(*overlapping).predict(overlapping[0][:1]).shape == (1,)


def test_half_precision_rows_are_learned_as_single(overlapping):
    X, y = overlapping[0].astype(np.float16), overlapping[1]
    half, single = (RandomProjectionRidge(64, 1.0, random_state=0).fit(rows, y) for rows in (X, X.astype(np.float32)))
    np.testing.assert_array_equal(half.decision_function(X), single.decision_function(X))


@pytest.mark.parametrize("width", [64, 320])
def test_single_precision_predicts_what_double_does(overlapping, width):
    X, y = overlapping[0].astype(np.float32), overlapping[1]
    single, double = (RandomProjectionRidge(width, random_state=0).fit(rows, y) for rows in (X, X.astype(np.float64)))
    np.testing.assert_allclose(single.decision_function(X), double.decision_function(X), atol=2e-4)


@pytest.mark.parametrize("model", [RIDGE[1], FOURIER[0]], ids=repr)
def test_kept_rows_and_sums_give_the_same(overlapping, model):
    X, y = overlapping
    kept, summed = (clone(model).fit(X[:60], y[:60]) for _ in range(2))
    summed._stop_keeping()
    assert kept._kept is not None
    assert summed._kept is None
    same(summed, kept, X, rtol=1e-5)


def test_a_cholesky_factor_gives_what_the_spectrum_does(overlapping, monkeypatch):
    X, y = overlapping
    models = [*LDA, *RIDGE, *FOURIER]
    scores = [clone(model).fit(X, y).decision_function(X) for model in models]
    monkeypatch.setattr(_systems, "SPECTRAL_WIDTH", 0)
    for model, expected in zip(models, scores, strict=True):
        np.testing.assert_allclose(clone(model).fit(X, y).decision_function(X), expected, rtol=1e-6, atol=1e-8)


def test_a_matrix_that_is_not_definite_is_given_up_in_haste_and_solved_otherwise(monkeypatch):
    monkeypatch.setattr(_systems, "SPECTRAL_WIDTH", 0)
    products = np.diag([1.0, -1e-8])
    with pytest.raises(np.linalg.LinAlgError):
        _systems.Primal(products, hasty=True).solve(1e-12, np.eye(2))
    assert np.isfinite(_systems.Primal(products).solve(1e-12, np.eye(2))).all()


@pytest.mark.parametrize("least", [(0, 4), (3, 0), (6, 2)])
def test_a_grid_is_walked_to_its_least_loss(least):
    asked = []

    def loss(place):
        asked.append(place)
        return sum((at - best) ** 2 for at, best in zip(place, least, strict=True))

    assert _systems.least(loss, 17, 5) == (least, 0)
    assert len(set(asked)) == len(asked) < 30


def test_a_sparse_projection_reads_some_inputs_and_the_largest_features_stay(overlapping):
    X, y = overlapping
    model = clone(FLY[0]).fit(X, y)
    assert set((model.projection_ != 0).sum(axis=0).tolist()) == {round(0.3 * 12)}
    raw, features = X @ model.projection_.astype(float), model._features(X)
    largest = raw >= np.sort(raw, axis=1)[:, [-27]]
    np.testing.assert_allclose(features, np.where(largest, raw, 0))
    expected = np.linalg.solve(features.T @ features + model.alpha_ * np.eye(90), features.T @ np.eye(5)[y])
    np.testing.assert_allclose(model.decision_function(X), features @ expected, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(model.gram_, features.T @ features, rtol=1e-9)
    assert (RandomProjectionRidge(80, random_state=0, projection="sparse").fit(X, y).projection_ != 0).mean() == 5 / 12


@pytest.mark.parametrize("width", [80, 320])
def test_fourier_discriminants_are_scikit_learns_on_the_same_features(overlapping, width):
    X, y = overlapping
    model = RandomFourierDiscriminant(width, gamma=0.02, shrinkage=0.3, random_state=0).fit(X, y)
    features = np.sqrt(2 / width) * np.cos(np.sqrt(0.04) * X @ model.projection_.astype(float) + model.phases_)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3).fit(features, y)
    np.testing.assert_allclose(model.decision_function(X), theirs.decision_function(features), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(model.predict_proba(X), theirs.predict_proba(features), rtol=1e-5, atol=1e-9)
    assert (model.gamma_, model.shrinkage_) == (0.02, 0.3)


def test_products_of_fourier_features_are_the_kernel(overlapping):
    X = overlapping[0][:40]
    model = RandomFourierDiscriminant(20000, gamma=0.01, shrinkage=0.5, random_state=0).fit(X, overlapping[1][:40])
    features = model._features(X)
    distances = ((X[:, None] - X) ** 2).sum(axis=2)
    np.testing.assert_allclose(features @ features.T, np.exp(-0.01 * distances), atol=0.05)


def test_the_width_of_the_kernel_is_one_of_a_few_over_the_median_distance(overlapping, monkeypatch):
    X, y = overlapping
    gamma = RandomFourierDiscriminant(100, random_state=0).fit(X[:90], y[:90]).gamma_
    assert np.isclose(gamma * np.median(pdist(X[:90], "sqeuclidean")), WIDTHS).any()
    monkeypatch.setattr(random_features, "WIDTHS", (0.7,))
    parts = RandomFourierDiscriminant(100, random_state=0).partial_fit(X[:90], y[:90])
    parts.partial_fit(X[90:], y[90:])
    assert parts.gamma_ == 0.7 / np.median(pdist(X[:100], "sqeuclidean"))


def test_the_width_is_that_of_the_first_rows_whatever_the_batches(many):
    X, y = many
    model = RandomFourierDiscriminant(100, random_state=0)
    whole, parts = clone(model).fit(X, y), learned_in_parts(model, X, y, np.arange(900))
    same(parts, whole, X)
    assert parts.gamma_ == whole.gamma_ == whole.forget(X[:500], y[:500]).gamma_
    assert whole.gamma_ == clone(model).fit(X[:100], y[:100]).gamma_


def test_models_that_fixed_other_widths_are_not_merged(many):
    X, y = many
    model = RandomFourierDiscriminant(100, random_state=0)
    one, other = clone(model).fit(X[:450], y[:450]), clone(model).fit(2 * X[450:], y[450:])
    with pytest.raises(ValueError, match=r"other fixed gamma at .* from its first rows, this model at"):
        one.merge(other)
    early = clone(model).fit(X[450:500], y[450:500])
    assert early.merge(one).gamma_ == one.gamma_
    assert early.class_counts_.sum() == 500


@pytest.mark.parametrize("shares", [(0.0, 0.7, 0.3), (0.6, 0.3, 0.1), (0.2, 0.2, 0.2), (1, 0, 1e-3)])
def test_classwise_lda_is_the_likelihood_of_normal_classes(overlapping, shares):
    X, y = overlapping
    model = learned_in_parts(ClasswiseLDA(shares), X, y, np.arange(300))
    scatters = np.stack([(y == label).sum() * np.cov(X[y == label].T, bias=True) for label in range(5)])
    np.testing.assert_allclose(model.class_scatters_, scatters, rtol=1e-9, atol=1e-9)
    shared = scatters.sum(axis=0) / 300
    expected = np.empty((300, 5))
    for label in range(5):
        covariance = shares[0] * scatters[label] / (y == label).sum() + shares[1] * shared
        covariance += shares[2] * np.trace(shared) / 12 * np.eye(12)
        normal = multivariate_normal(X[y == label].mean(axis=0), covariance)
        expected[:, label] = normal.logpdf(X) + np.log((y == label).mean()) + 6 * np.log(2 * np.pi)
    np.testing.assert_allclose(model.decision_function(X), expected, rtol=1e-7, atol=1e-7)
    probabilities = np.exp(expected - expected.max(axis=1, keepdims=True))
    np.testing.assert_allclose(model.predict_proba(X), probabilities / probabilities.sum(axis=1, keepdims=True))
    assert model.shares_ == shares


def test_classwise_lda_with_fewer_rows_than_features_is_the_same_likelihood(overlapping):
    X, y = overlapping[0][:30], overlapping[1][:30] % 3
    model = ClasswiseLDA((0.5, 0.3, 0.2)).fit(X, y)
    scatters = np.stack([(y == label).sum() * np.cov(X[y == label].T, bias=True) for label in range(3)])
    shared = scatters.sum(axis=0) / 30
    for label in range(3):
        covariance = 0.5 * scatters[label] / (y == label).sum() + 0.3 * shared
        normal = multivariate_normal(X[y == label].mean(axis=0), covariance + 0.2 * np.trace(shared) / 12 * np.eye(12))
        expected = normal.logpdf(X) + np.log((y == label).mean()) + 6 * np.log(2 * np.pi)
        np.testing.assert_allclose(model.decision_function(X)[:, label], expected, rtol=1e-6, atol=1e-6)


def test_classwise_lda_without_a_class_of_its_own_is_lda(overlapping):
    X, y = overlapping
    classwise, shared = ClasswiseLDA((0, 0.7, 0.3)).fit(X, y), StreamingLDA(0.3).fit(X, y)
    np.testing.assert_allclose(classwise.predict_proba(X), shared.predict_proba(X), rtol=1e-6, atol=1e-12)


def test_shares_suit_classes_that_differ_in_spread():
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=1500)
    X = rng.standard_normal((1500, 6)) * np.where(y, 3, 1)[:, None]
    model = ClasswiseLDA().fit(X[:1000], y[:1000])
    assert model.shares_[0] > 0.2
    assert model.score(X[1000:], y[1000:]) > 0.9 > StreamingLDA("auto").fit(X[:1000], y[:1000]).score(X, y)


def test_moments_beyond_a_limit_are_refused_and_change_nothing(overlapping):
    X, y = overlapping
    model = ClasswiseLDA(max_state_bytes=5 * 78 * 8).fit(X, y)
    before = model.decision_function(X)
    with pytest.raises(
        ValueError, match=r"max_state_bytes=3120 is too small for 6 classes of 12 features; expected at least 3744"
    ):
        model.partial_fit(X[:1], [9])
    with pytest.raises(ValueError, match=r"Raise it with set_params\(max_state_bytes=\.\.\.\), or use StreamingLDA"):
        model.merge(ClasswiseLDA(max_state_bytes=5 * 78 * 8).fit(X[:1], [9]))
    np.testing.assert_array_equal(model.decision_function(X), before)


def test_a_row_that_is_held_out_is_found_again_by_forget(overlapping):
    X, y = overlapping
    model = StreamingLDA("auto").fit(X, y)
    held_out = model._held_out
    model.forget(held_out.rows, model.classes_[held_out.labels])
    assert len(model._held_out.labels) == 0


def test_one_copy_of_equal_rows_is_taken_away():
    rows = Rows.of(np.array([[1.0], [1.0], [2.0], [1.0]]), np.array([0, 0, 0, 1]))
    left, n_missing = rows.without(Rows.of(np.array([[1.0], [3.0]]), np.array([0, 0])))
    assert sorted(zip(left.rows[:, 0].tolist(), left.labels.tolist(), strict=True)) == [(1, 0), (1, 1), (2, 0)]
    assert n_missing == 1


@every
def test_large_labels_of_two_integer_types_are_told_apart(overlapping, model):
    X, y = overlapping
    large = 2**62 + y
    mixed = clone(model).partial_fit(X[:100], large[:100]).partial_fit(X[100:], large[100:].astype(np.uint64))
    assert mixed.class_counts_.tolist() == np.bincount(y).tolist()
    mixed.forget(X[:100], large[:100].astype(np.uint64))
    assert mixed.class_counts_.tolist() == np.bincount(y[100:]).tolist()


@pytest.mark.parametrize("model", [StreamingLDA(), ClasswiseLDA(shares=(0.1, 0.8, 0.1))], ids=repr)
def test_no_rounding_error_remains_when_one_row_a_class_does(overlapping, model):
    X, y = overlapping
    last = np.array([np.flatnonzero(y == label)[-1] for label in range(5)])
    gone = np.setdiff1d(np.arange(len(y)), last)
    whole = clone(model).fit(X, y).forget(X[gone], y[gone])
    fewer = clone(model).fit(X[last], y[last])
    np.testing.assert_array_equal(whole.predict(X), fewer.predict(X))


def test_rows_and_labels_are_taken_as_the_classifier_takes_them(overlapping):
    X, y = overlapping
    whole = NearestClassMean().fit(X, y)
    for rows in (torch.tensor(X, requires_grad=True), torch.tensor(X).to(torch.bfloat16)):
        assert NearestClassMean().partial_fit(rows, torch.tensor(y), classes={0, 1, 2, 3, 4}).score(X, y) > 0.9 * (
            whole.score(X, y)
        )
    with pytest.raises(ValueError, match=r"classes has shape \(1, 2\); expected one axis"):
        NearestClassMean().partial_fit(X, y, classes=[[0, 1]])
