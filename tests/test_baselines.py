"""Baselines: the nearest class mean, as one would compute it by hand."""

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.neighbors import NearestCentroid

from dkvb_estimator.baselines import NearestClassMean


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
