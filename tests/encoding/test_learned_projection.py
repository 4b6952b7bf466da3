"""Learned projection: Gaussian heads of a space stretched where classes differ."""

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from dkvb_estimator import DKVBClassifier, KeyEncoder
from dkvb_estimator._encoding.learned_projection import EMPHASIS, discriminant_directions, learn_projection


def labelled(n=300, n_features=8, n_classes=3):
    rng = np.random.default_rng(0)
    labels = rng.integers(n_classes, size=n)
    means = 2 * rng.standard_normal((n_classes, n_features))
    return (means[labels] + rng.standard_normal((n, n_features))).astype(np.float32), labels


def test_directions_are_orthonormal_and_fewer_than_classes():
    directions = discriminant_directions(*labelled())
    assert directions.shape == (8, 2)
    np.testing.assert_allclose(directions.T @ directions, np.eye(2), atol=1e-9)


def test_directions_span_those_of_scikit_learn():
    X, labels = labelled()
    theirs = LinearDiscriminantAnalysis(solver="eigen", shrinkage=0.1).fit(X, labels).scalings_[:, :2]
    directions = discriminant_directions(X.astype(np.float64), labels)
    outside = theirs - directions @ (directions.T @ theirs)
    assert np.linalg.norm(outside) < 0.02 * np.linalg.norm(theirs)  # it weights the overall mean by class sizes


def test_the_space_is_stretched_along_the_directions_and_nowhere_else():
    X, labels = labelled()
    learned = learn_projection(X, labels, 5, 4, np.random.default_rng(1), normalize=False).reshape(8, -1)
    plain = learn_projection(X, np.zeros(300, int), 5, 4, np.random.default_rng(1), normalize=False).reshape(8, -1)
    directions = discriminant_directions(X.astype(np.float64), labels)
    np.testing.assert_allclose(directions.T @ learned, (1 + EMPHASIS) * directions.T @ plain, atol=1e-5)
    across = np.eye(8) - directions @ directions.T
    np.testing.assert_allclose(across @ learned, across @ plain, atol=1e-5)


@pytest.mark.parametrize("X", [np.ones((6, 4), np.float32), np.zeros((6, 4), np.float32)])
def test_equal_rows_give_a_finite_projection(X):
    assert np.isfinite(learn_projection(X, np.arange(6) % 2, 3, 2, np.random.default_rng(0), normalize=True)).all()


def test_it_depends_on_the_set_of_labelled_rows_only():
    X, labels = labelled()
    encoders = [KeyEncoder(5, 8, 4, projection="learned", random_state=0) for _ in range(3)]
    order = np.r_[np.arange(300)[::-1], np.arange(40)]
    encoders[0].fit(X, labels)
    encoders[1].fit(X[order], labels[order])
    encoders[2].fit((X[start : start + 100], labels[start : start + 100]) for start in (100, 0, 200))
    assert len({encoder.fingerprint_ for encoder in encoders}) == 1


def test_a_classifier_learns_it_from_its_labels():
    X, labels = labelled()
    encoder = KeyEncoder(5, 8, 4, projection="learned", random_state=0)
    model = DKVBClassifier(encoder).fit(X, labels)
    assert model.encoder_.fingerprint_ == encoder.fit(X, labels).fingerprint_


def test_missing_labels_are_asked_for():
    X, _ = labelled()
    encoder = KeyEncoder(5, 8, 4, projection="learned")
    with pytest.raises(ValueError, match=r"projection='learned' needs labels, but got no y; expected y.*Pass y"):
        encoder.fit(X)
    with pytest.raises(ValueError, match=r"projection='learned' needs labels, but got no y; expected y.*Pass y"):
        encoder.fit(X, sample_weight=np.ones(len(X)))
    with pytest.raises(ValueError, match="block 1 without labels"):
        encoder.fit(iter([X]))
