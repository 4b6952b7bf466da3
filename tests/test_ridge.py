"""Ridge: the regression that the oracle solves with explicit matrices."""

import numpy as np
import oracle
import pytest
import torch
from sklearn.datasets import load_digits

from dkvb_estimator import DKVBClassifier, _ridge
from dkvb_estimator._ridge import Samples, solve_ridge

SHAPE = (4, 7, 3)


def solve(coded, *, alpha=1.0, max_iter=10):
    return solve_ridge([Samples(coded[0].__getitem__, *coded[1:])], SHAPE, coded[0].shape[2], alpha, max_iter)


@pytest.mark.parametrize("n_steps", [1, 2, 10])
def test_values_after_some_steps_equal_the_oracle(coded, n_steps):
    expected = oracle.ridge_stepped(*coded, SHAPE, 1.0, n_steps)
    np.testing.assert_allclose(solve(coded, max_iter=n_steps), expected, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_values_after_many_steps_solve_the_regression(coded, alpha):
    expected = oracle.ridge_converged(*coded, SHAPE, alpha)
    np.testing.assert_allclose(solve(coded, alpha=alpha, max_iter=200), expected, atol=1e-5)


def test_pooled_values_regress_the_labels(coded):
    codes, labels, _ = coded
    logits = oracle.pool(codes, solve((codes, labels, np.ones(90)), alpha=1e-6, max_iter=400))
    A = oracle.selection_matrix(codes, 7)
    Y = np.eye(3)[labels]
    best = A @ np.linalg.lstsq(A, Y - Y.mean(axis=0), rcond=None)[0] + Y.mean(axis=0)
    np.testing.assert_allclose(logits, best, atol=1e-3)


def test_unused_keys_hold_the_class_shares():
    codes = np.zeros((4, 4, 1), np.uint8)
    values = solve((codes, np.array([0, 0, 0, 1]), np.ones(4)))
    np.testing.assert_allclose(values[:, 1:], np.broadcast_to([0.75, 0.25, 0], (4, 6, 3)), atol=1e-7)


def test_unused_keys_hold_the_class_shares_where_there_is_much_to_learn(coded):
    codes, labels, weights = coded
    codes = np.minimum(codes, 4)  # keys 5 and 6 are not selected
    prior = np.bincount(labels, weights=weights) / weights.sum()
    np.testing.assert_allclose(solve((codes, labels, weights))[:, 5:], np.broadcast_to(prior, (4, 2, 3)), atol=1e-6)


def test_twenty_steps_do_not_blow_up_what_rounding_leaves():
    """The order of the sums changes the last bits; steps that met the largest eigenvalue again would multiply them."""
    X, labels = load_digits(return_X_y=True)
    codes = DKVBClassifier(64, 128, 8, n_selected=8, random_state=0).init_keys(X).encode(X)
    one, other = (
        solve_ridge([Samples(codes[order].__getitem__, labels[order], np.ones(len(X)))], (64, 128, 10), 8, 1.0, 20)
        for order in (np.arange(len(X)), np.random.default_rng(0).permutation(len(X)))
    )
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)


@pytest.mark.parametrize("n_parts", [2, 3, 20])
def test_parts_give_the_values_of_the_whole(coded, n_parts):
    cuts = [slice(start, start + 1 + 90 // n_parts) for start in range(0, 90, 1 + 90 // n_parts)]
    parts = [Samples(coded[0][cut].__getitem__, coded[1][cut], coded[2][cut]) for cut in cuts]
    np.testing.assert_allclose(solve_ridge(parts, SHAPE, coded[0].shape[2], 1.0, 20), solve(coded, max_iter=20), 1e-5)


def test_threads_do_not_change_a_bit(coded, monkeypatch):
    monkeypatch.setattr(_ridge, "BLOCK_ROWS", 16)
    monkeypatch.setattr(_ridge, "BLOCK_KEYS", 14)
    before, results = torch.get_num_threads(), []
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            results.append(solve(coded))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*results)


def test_one_class_gives_values_of_one():
    codes = np.arange(12).reshape(3, 4, 1).astype(np.uint8) % 7
    values = solve_ridge([Samples(codes.__getitem__, np.zeros(3, int), np.ones(3))], (4, 7, 1), 1, 1.0, 10)
    np.testing.assert_array_equal(values, np.ones((4, 7, 1), np.float32))


@pytest.mark.parametrize("weight", [1e-30, 1e30])
def test_one_common_weight_changes_nothing(coded, weight):
    codes, labels, _ = coded
    weighted = solve((codes, labels, np.full(90, weight)))
    np.testing.assert_allclose(weighted, solve((codes, labels, np.ones(90))), atol=1e-6)


def test_steps_beyond_convergence_stay_finite(coded):
    assert np.isfinite(solve(coded, max_iter=2000)).all()
