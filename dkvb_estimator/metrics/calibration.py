"""Calibration of probabilities (n, k)."""

import numpy as np
from numpy.typing import ArrayLike

from ._checks import check_bins, checked_probabilities


def reliability_curve(
    probabilities: ArrayLike, y_true: ArrayLike, n_bins: int = 15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return confidence and accuracy of predictions, binned by confidence.

    Parameters
    ----------
    probabilities : array-like of shape (n, k)
        Probability of each class; rows sum to one.
    y_true : array-like of shape (n,), integers
        Column of each sample's class, or −1 if it has none; such samples are never predicted correctly.
    n_bins : int
        Number of bins of equal width from 0 to 1 for the largest probability, ≥ 1.

    Returns
    -------
    confidence, accuracy : ndarray of shape (n_bins,), float64
        Mean largest probability and share of correct predictions in each bin; NaN for empty bins.
    counts : ndarray of shape (n_bins,), int64
        Number of samples in each bin.

    Raises
    ------
    ValueError
        If the shapes do not match, a value is outside 0 to 1, or ``n_bins`` is less than 1.

    References
    ----------
    Guo et al., "On calibration of modern neural networks", ICML 2017, section 2.

    Examples
    --------
    >>> confidence, accuracy, counts = reliability_curve([[0.9, 0.1], [0.7, 0.3]], [0, 1], n_bins=2)
    >>> confidence.round(2).tolist(), accuracy.tolist(), counts.tolist()
    ([nan, 0.8], [nan, 0.5], [0, 2])
    """
    table, truth = checked_probabilities(probabilities, y_true)
    check_bins(n_bins)
    sure, right = table.max(axis=1), table.argmax(axis=1) == truth
    place = np.clip(np.ceil(sure * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    counts = np.bincount(place, minlength=n_bins)
    means = [np.full(n_bins, np.nan) for _ in range(2)]
    for mean, values in zip(means, (sure, right.astype(np.float64))):
        np.divide(np.bincount(place, weights=values, minlength=n_bins), counts, out=mean, where=counts > 0)
    return means[0], means[1], counts


def expected_calibration_error(probabilities: ArrayLike, y_true: ArrayLike, n_bins: int = 15) -> float:
    """Return the mean distance between confidence and accuracy over bins, weighted by their samples.

    Parameters
    ----------
    probabilities, y_true, n_bins
        As for `reliability_curve`.

    Returns
    -------
    float
        From 0 to 1; 0 for perfect calibration.

    Raises
    ------
    ValueError
        As `reliability_curve`.

    References
    ----------
    Guo et al., "On calibration of modern neural networks", ICML 2017, equation 3.

    Examples
    --------
    >>> round(expected_calibration_error([[0.9, 0.1], [0.7, 0.3]], [0, 1], n_bins=2), 2)
    0.3
    """
    confidence, accuracy, counts = reliability_curve(probabilities, y_true, n_bins)
    filled = counts > 0
    return float((np.abs(confidence - accuracy)[filled] * counts[filled]).sum() / counts.sum())


def brier_score(probabilities: ArrayLike, y_true: ArrayLike) -> float:
    """Return the mean squared distance between probabilities and the true class, summed over classes.

    Parameters
    ----------
    probabilities, y_true
        As for `reliability_curve`.

    Returns
    -------
    float
        From 0 to 2.

    Raises
    ------
    ValueError
        If the shapes do not match or a value is outside 0 to 1.

    References
    ----------
    Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 1950, equation 2.

    Examples
    --------
    >>> round(brier_score([[0.9, 0.1], [0.7, 0.3]], [0, 1]), 2)
    0.5
    """
    table, truth = checked_probabilities(probabilities, y_true)
    return float(((table - (np.arange(table.shape[1]) == truth[:, None])) ** 2).sum(axis=1).mean())


def negative_log_likelihood(probabilities: ArrayLike, y_true: ArrayLike) -> float:
    """Return the mean negative natural logarithm of the true class's probability.

    Parameters
    ----------
    probabilities, y_true
        As for `reliability_curve`.

    Returns
    -------
    float
        0 or more. A probability below the smallest normal double, or without a column, counts as that double.

    Raises
    ------
    ValueError
        If the shapes do not match or a value is outside 0 to 1.

    References
    ----------
    Hastie, Tibshirani and Friedman, "The elements of statistical learning", 2009, equation 7.8 (deviance, halved).

    Examples
    --------
    >>> round(negative_log_likelihood([[0.5, 0.5], [0.25, 0.75]], [0, 1]), 4)
    0.4904
    """
    table, truth = checked_probabilities(probabilities, y_true)
    of_truth = np.where(truth < 0, 0.0, table[np.arange(len(truth)), np.maximum(truth, 0)])
    return float(-np.log(np.maximum(of_truth, np.finfo(np.float64).tiny)).mean())
