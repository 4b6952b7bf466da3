"""``score_samples``: minus the squared Mahalanobis distance to the nearest class."""

import numpy as np
import pytest
import torch
from models import by_codes, codes_of, placed
from oracle import nearest, normalize, pool, project
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from dkvb_estimator import DKVBClassifier, KeyEncoder, load_model, save_model

X, Y = load_digits(return_X_y=True)
PENALTY = 1e-3


def direct(model, learned, labels, rows):
    """Return squared distances by explicit matrices, from the coordinates that codes name."""
    prior = model._prior()
    features, tested = (
        (prior.features(codes_of(model, part)) * prior.steps)[:, ~prior.curved] for part in (learned, rows)
    )
    means = np.stack([features[labels == label].mean(axis=0) for label in np.unique(labels)])
    within = features - means[np.searchsorted(np.unique(labels), labels)]
    scatter = within.T @ within
    unit = np.square(features - features.mean(axis=0)).sum()
    inverse = np.linalg.inv(scatter + PENALTY * unit * np.eye(len(scatter)))
    apart = tested[:, None] - means
    return len(learned) * np.einsum("nkf,fg,nkg->nk", apart, inverse, apart).min(axis=1)


@pytest.mark.parametrize("n", [30, 400])  # fewer and more rows than features
@pytest.mark.parametrize("remember", [True, False])
def test_it_is_minus_the_distance_of_a_direct_computation(n, remember):
    model = placed(DKVBClassifier(KeyEncoder(32, 16, 2, random_state=0), remember=remember), X).partial_fit(
        X[:n], Y[:n]
    )
    expected = direct(model, X[:n], Y[:n], X[1000:1040])
    np.testing.assert_allclose(-model.score_samples(X[1000:1040]), expected, rtol=1e-5)


@pytest.mark.parametrize("n", [30, 400])
def test_the_scatter_is_factored_once_for_all_calls(n, monkeypatch):
    model = placed(DKVBClassifier(KeyEncoder(32, 16, 2, random_state=0)), X).partial_fit(X[:n], Y[:n])
    first = model.score_samples(X[1000:1040])
    monkeypatch.setattr(torch.linalg, "cholesky_ex", None)
    np.testing.assert_array_equal(model.score_samples(X[1000:1040]), first)


def test_it_tells_classes_to_come_about_as_well_as_mahalanobis_distances_of_embeddings():
    old = Y < 5
    X_old, y_old, tested = X[old][:600], Y[old][:600], np.concatenate([X[~old][:300], X[old][600:]])
    known = np.arange(len(tested)) >= 300
    model = placed(DKVBClassifier(KeyEncoder(128, 64, 2, random_state=0)), X_old).partial_fit(X_old, y_old)
    rows, others = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (X_old, tested))
    means = np.stack([rows[y_old == label].mean(axis=0) for label in range(5)])
    inverse = np.linalg.pinv(np.cov((rows - means[y_old]).T))
    apart = others[:, None] - means
    distances = np.einsum("nkf,fg,nkg->nk", apart, inverse, apart).min(axis=1)
    assert roc_auc_score(known, model.score_samples(tested)) > roc_auc_score(known, -distances) - 0.01


def test_a_loaded_model_scores_alike(tmp_path):
    model = DKVBClassifier(KeyEncoder(16, 16, 2, random_state=0)).fit(X[:100], Y[:100])
    save_model(model, tmp_path / "m.npz")
    np.testing.assert_array_equal(load_model(tmp_path / "m.npz").score_samples(X[:9]), model.score_samples(X[:9]))


def test_what_is_learned_later_counts():
    model = placed(DKVBClassifier(KeyEncoder(32, 16, 2, random_state=0)), X).partial_fit(X[Y == 0], Y[Y == 0])
    before = model.score_samples(X[Y == 1][:20])
    after = model.partial_fit(X[Y == 1], Y[Y == 1]).score_samples(X[Y == 1][:20])
    assert (after > before).all()


@pytest.mark.parametrize("n", [2, 10])  # for two classes, decision_function returns one column
@pytest.mark.parametrize("solver", ["counts", "sgd"])
def test_solvers_without_a_covariance_give_the_largest_logit(solver, n):
    learned = n > Y
    model = DKVBClassifier(KeyEncoder(8, 16, 2, random_state=0), solver=solver, solver_params={"learning_rate": 100.0})
    model.fit(X[learned][:200], Y[learned][:200])
    logits = pool(codes_of_used(model, X[:30]), model.values_)
    np.testing.assert_allclose(model.score_samples(X[:30]), logits.max(axis=1), atol=1e-5)


def codes_of_used(model, rows):
    encoder = model.encoder_
    return nearest(project(normalize(rows), encoder.projection_), encoder.keys_, 1, model.key_counts_ > 0)


@pytest.mark.parametrize("solver", ["joint", "ridge", "counts"])
def test_codes_score_as_their_rows_do(solver):
    model = placed(DKVBClassifier(KeyEncoder(16, 8, 2, random_state=0), solver=solver), X).partial_fit(X, Y)
    expected = model.score_samples(X[:50])
    np.testing.assert_allclose(by_codes(model, "score_samples", codes_of(model, X[:50])), expected, atol=1e-6)
