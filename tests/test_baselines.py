"""Baselines: as one would compute them by hand, or as scikit-learn does."""

import copy
import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestCentroid
from sklearn.utils.estimator_checks import check_estimator

from dkvb_estimator import baselines
from dkvb_estimator.baselines import PENALTIES, SHRINKAGES, NearestClassMean, RandomProjectionRidge, StreamingLDA

EVERY_LINEAR = [
    StreamingLDA(),
    StreamingLDA("auto", normalize=True),
    RandomProjectionRidge(64, random_state=0),
    RandomProjectionRidge(64, alpha=2.0, normalize=True, random_state=0),
]
every_linear = pytest.mark.parametrize("model", EVERY_LINEAR, ids=repr)
choosers = pytest.mark.parametrize("model", EVERY_LINEAR[1:3], ids=repr)


@pytest.fixture
def overlapping():
    """Embeddings (900, 12), float64, of classes 0…4 in unequal numbers, that overlap; features of unequal spread."""
    rng = np.random.default_rng(5)
    y = rng.choice(5, size=900, p=[0.1, 0.15, 0.2, 0.25, 0.3])
    rows = rng.standard_normal((5, 12))[y] + rng.standard_normal((900, 12)) @ rng.standard_normal((12, 12))
    return rows, y


def chosen(model):
    return model.shrinkage_ if isinstance(model, StreamingLDA) else model.alpha_


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


def test_a_declared_class_that_was_not_seen_is_never_predicted(blobs):
    X, y = blobs
    model = NearestClassMean().partial_fit(X[y < 2], y[y < 2], classes=[0, 1, 9])
    assert model.classes_.tolist() == [0, 1, 9]
    assert set(model.predict(X).tolist()) <= {0, 1}


def test_one_seen_of_two_declared_classes_is_predicted():
    model = NearestClassMean().partial_fit([[5.0]], [1], classes=[0, 1])
    assert model.predict([[-9.0], [9.0]]).tolist() == [1, 1]


def test_fit_forgets_what_was_learned(blobs):
    X, y = blobs
    assert NearestClassMean().fit(X, y).fit(X[y < 2], y[y < 2]).classes_.tolist() == [0, 1]


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


@every_linear
def test_scikit_learns_checks_pass(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(clone(model), on_fail=None, on_skip=None)
    assert sum(result["status"] == "passed" for result in results) >= 50
    assert [result["check_name"] for result in results if result["status"] == "failed"] == []


@pytest.mark.parametrize("shrinkage", [0.0, 1e-4, 0.1, 0.7, 1])
@pytest.mark.parametrize("n_classes", [2, 5])
def test_lda_equals_scikit_learns(overlapping, shrinkage, n_classes):
    X, y = (part[overlapping[1] < n_classes] for part in overlapping)
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
def test_ridge_equals_scikit_learns_on_the_same_features(overlapping, n_classes):
    X, y = (part[overlapping[1] < n_classes] for part in overlapping)
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
    for order in (np.random.default_rng(0).permutation(900), np.argsort(y, kind="stable")):
        parts = learned_in_parts(model, X, y, order)
        np.testing.assert_allclose(chosen(parts), chosen(whole), rtol=1e-9)
        np.testing.assert_allclose(parts.scatter_, whole.scatter_, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(parts.decision_function(X), whole.decision_function(X), rtol=1e-6, atol=1e-8)


@every_linear
def test_blocks_of_rows_do_not_matter(overlapping, model, monkeypatch):
    X, y = overlapping
    whole = clone(model).fit(X, y).decision_function(X)
    monkeypatch.setattr(baselines, "BLOCK_ROWS", 70)
    np.testing.assert_allclose(clone(model).fit(X, y).decision_function(X), whole, rtol=1e-6, atol=1e-8)


@every_linear
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


@every_linear
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


@every_linear
def test_one_class_alone_is_predicted(overlapping, model):
    model = clone(model).fit(overlapping[0], np.full(900, "only"))
    assert set(model.predict(-overlapping[0])) == {"only"}


@every_linear
def test_one_row_of_a_class_is_enough(overlapping, model):
    X, y = [[0.0, 5.0], [5.0, 0.0], [-5.0, -5.0]], [2, 0, 1]
    assert clone(model).fit(X, y).predict(X).tolist() == y
    assert clone(model).partial_fit(X[:1], y[:1]).predict(X).tolist() == [2, 2, 2]


@every_linear
def test_constant_features_change_nothing_much(overlapping, model):
    X, y = overlapping
    constant = np.hstack([X, np.full((900, 2), 0.1), np.zeros((900, 1))])
    assert np.isfinite(clone(model).fit(constant, y).decision_function(constant)).all()
    assert clone(model).fit(constant, y).score(constant, y) > clone(model).fit(X, y).score(X, y) - 0.05


def test_lda_without_shrinkage_ignores_constant_features(overlapping):
    X, y = overlapping
    beside = np.hstack([X, np.full((900, 1), 0.1)])
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
    monkeypatch.setattr(baselines, "MAX_HELD_OUT", 40)
    X, y = overlapping
    whole, parts = clone(model).fit(X, y), learned_in_parts(model, X, y, np.arange(900)[::-1])
    assert len(whole._held_out.rows) == 40
    for mine, theirs in zip(parts._held_out, whole._held_out, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_allclose(chosen(parts), chosen(whole), rtol=1e-9)


def test_about_a_tenth_of_the_rows_is_held_out_whatever_their_type(overlapping):
    X, y = np.vstack([overlapping[0], np.zeros((20, 12))]).astype(np.float32), np.append(overlapping[1], [0] * 20)
    single, double = (StreamingLDA("auto").fit(rows, y)._held_out.hashes for rows in (X, -0.0 + X.astype(np.float64)))
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
    held = np.isin(baselines._hash_rows(X), model._held_out.hashes)
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


@pytest.mark.parametrize(("model", "expected"), [(EVERY_LINEAR[1], SHRINKAGES[5]), (EVERY_LINEAR[2], None)], ids=repr)
def test_auto_takes_the_middle_of_its_grid_where_no_row_is_held_out(model, expected):
    model = clone(model).fit([[0.0, 5.0], [5.0, 0.0], [-5.0, -5.0]], [2, 0, 1])
    features = model._features(np.array([[0.0, 5.0], [5.0, 0.0], [-5.0, -5.0]]))
    assert len(model._held_out.rows) == 0
    np.testing.assert_allclose(chosen(model), expected or 1e-2 * (features**2).sum() / 64)


@every_linear
def test_a_setting_may_change_after_learning(overlapping, model):
    X, y = overlapping
    name = "shrinkage" if isinstance(model, StreamingLDA) else "alpha"
    changed = clone(model).fit(X, y)
    changed.predict(X)
    other = clone(model).set_params(**{name: 0.3}).fit(X, y)
    np.testing.assert_array_equal(changed.set_params(**{name: 0.3}).decision_function(X), other.decision_function(X))


@every_linear
def test_a_pickle_predicts_the_same_and_leaves_out_what_was_solved(overlapping, model):
    X, y = overlapping
    model = clone(model).fit(X, y)
    before = len(pickle.dumps(model))
    scores = model.decision_function(X)
    assert len(pickle.dumps(model)) == before
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).decision_function(X), scores)


@pytest.mark.parametrize("model", [NearestClassMean(), *EVERY_LINEAR], ids=repr)
def test_a_shallow_copy_keeps_what_it_had_learned(overlapping, model):
    X, y = overlapping
    model = clone(model).fit(X[:300], y[:300])
    kept, before = copy.copy(model), model.decision_function(X)
    model.partial_fit(X[300:], y[300:])
    np.testing.assert_array_equal(kept.decision_function(X), before)
    assert not np.allclose(model.decision_function(X), before)


@every_linear
def test_digits_are_told_apart(model):
    X, y = load_digits(return_X_y=True)
    assert clone(model).fit(X[:1200], y[:1200]).score(X[1200:], y[1200:]) > (0.9 if "LDA" in repr(model) else 0.85)


@pytest.mark.parametrize("model", [StreamingLDA("auto"), RandomProjectionRidge(500, random_state=0)], ids=repr)
def test_chosen_settings_serve_digits_well(model):
    X, y = load_digits(return_X_y=True)
    assert model.fit(X[:1200], y[:1200]).score(X[1200:], y[1200:]) > 0.9
    grid = model._grid(model._statistics())
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


@every_linear
def test_a_refused_batch_leaves_the_model_as_it_was(overlapping, model):
    X, y = overlapping
    model = clone(model).fit(X, y)
    before = model.decision_function(X)
    with pytest.raises(ValueError, match="one type of label"):
        model.partial_fit(X, y.astype(str))
    np.testing.assert_array_equal(model.decision_function(X), before)


@every_linear
def test_fit_forgets_everything_learned(overlapping, model):
    X, y = overlapping
    once, twice = clone(model).fit(X[:300], y[:300]), clone(model).fit(X, y + 3).fit(X[:300], y[:300])
    assert twice.classes_.tolist() == once.classes_.tolist()
    np.testing.assert_array_equal(twice.decision_function(X), once.decision_function(X))


def test_novelty_is_the_mahalanobis_distance_to_the_nearest_class(blobs):
    X, y = blobs
    model = StreamingLDA(shrinkage=0.2).fit(X, y)
    covariance = 0.8 * model.covariance_ + 0.2 * np.trace(model.covariance_) / 12 * np.eye(12)
    apart = X[:30, None].astype(float) - np.stack([X[y == label].mean(axis=0) for label in range(5)])
    expected = np.einsum("nkf,fg,nkg->nk", apart, np.linalg.inv(covariance), apart).min(axis=1)
    np.testing.assert_allclose(model.novelty(X[:30]), expected, rtol=1e-4)


def test_novelty_of_a_class_that_was_declared_but_never_seen_is_not_asked_for(blobs):
    X, y = blobs
    declared = StreamingLDA().partial_fit(X, y, classes=[0, 1, 2, 3, 4, 5])
    np.testing.assert_allclose(declared.novelty(X), StreamingLDA().fit(X, y).novelty(X))
