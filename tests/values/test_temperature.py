"""Confidence: probabilities from logits, and their temperature."""

import numpy as np
import oracle
import pytest

from dkvb_estimator._values.temperature import LARGEST_SHARE, fit_temperature, log_probabilities

LOGITS = np.array([[1.0, 2.0, 4.0], [0.0, 0.0, 0.0], [-3.0, 5.0, 1.0]])


def drawn(temperature, n=4000):
    """Return logits (n, 3), and labels drawn with the probabilities at this temperature."""
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((n, 3))
    cumulative = oracle.softmax(logits / temperature).cumsum(axis=1)
    return logits, (rng.random((n, 1)) > cumulative).sum(axis=1).clip(max=2)


def test_probabilities_equal_the_oracle():
    np.testing.assert_allclose(np.exp(log_probabilities(LOGITS, 2.0)), oracle.softmax(LOGITS / 2), rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_probabilities_sum_to_one_at_any_scale(scale):
    shares = np.exp(log_probabilities((LOGITS * scale).astype(np.float32), 1.0))
    np.testing.assert_allclose(shares.sum(axis=1), np.ones(3), rtol=1e-12)


@pytest.mark.parametrize("temperature", [0.2, 1.0, 5.0])
def test_the_temperature_that_drew_the_labels_is_found(temperature):
    logits, labels = drawn(temperature)
    assert fit_temperature(logits, labels, np.ones(4000)) == pytest.approx(temperature, rel=0.1)


def test_a_weight_of_two_equals_two_rows():
    logits, labels = drawn(1.0, 40)
    heavy = fit_temperature(logits, labels, np.full(40, 2.0))
    assert heavy == pytest.approx(fit_temperature(np.tile(logits, (2, 1)), np.tile(labels, 2), np.ones(80)), rel=2e-2)


def test_rows_that_are_all_right_do_not_ask_for_endless_confidence():
    logits = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert fit_temperature(logits, np.array([0, 1]), np.ones(2)) > 2 / LARGEST_SHARE


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_a_temperature_is_finite_and_positive_for_logits_of_any_scale(scale):
    assert 0 < fit_temperature(LOGITS * scale, np.array([2, 0, 0]), np.ones(3)) < np.inf


@pytest.mark.parametrize("scale", [1e-7, 1e7])
def test_the_temperature_grows_with_the_logits(scale):
    logits, labels = drawn(1.0)
    one = fit_temperature(logits, labels, np.ones(4000))
    assert fit_temperature(scale * logits, labels, np.ones(4000)) == pytest.approx(scale * one, rel=1e-4)


def test_small_weights_lead_to_the_same_temperature():
    logits, labels = drawn(1.0, 400)
    one = fit_temperature(logits, labels, np.ones(400))
    assert fit_temperature(logits, labels, np.full(400, 1 / 400)) == pytest.approx(one, rel=1e-5)
