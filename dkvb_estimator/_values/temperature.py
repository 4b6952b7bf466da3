"""Calibrate logits: temperature, and shares of a mixture.

Enters: logits (n, k). Leaves: a temperature, shares, log probabilities (n, k). Must not know: where logits come from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

SMALLEST_SHARE, LARGEST_SHARE = np.exp(-5.0), np.exp(7.0)
"""Bounds of a share; their inverses bound a temperature, in units of the spread of the logits."""


def log_probabilities(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Return the log softmax of ``logits / temperature`` (n, k)."""
    return log_softmax(logits.astype(np.float64) / temperature, axis=1)


def fit_temperature(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """Return the temperature that minimises the weighted negative log-likelihood.

    Parameters
    ----------
    logits : ndarray of shape (n, k)
    labels : ndarray of shape (n,), integers below k
    weights : ndarray of shape (n,)

    Returns
    -------
    float, > 0

    References
    ----------
    Guo et al. (2017), "On calibration of modern neural networks", section 4.2.

    Examples
    --------
    >>> logits = np.array([[4.0, 0.0], [0.0, 4.0], [4.0, 0.0], [4.0, 0.0]])
    >>> round(fit_temperature(logits, np.array([0, 1, 0, 1]), np.ones(4)), 2)  # right three times in four
    4.72
    """
    logits = logits.astype(np.float64)
    apart = logits - logits.mean(axis=1, keepdims=True)
    spread = float(np.sqrt(np.square(apart).mean())) or 1.0  # that of a few gradient steps is below a millionth
    return spread / float(fit_shares([apart / spread], labels, weights, least=SMALLEST_SHARE)[0])


def fit_shares(
    tables: Sequence[np.ndarray], labels: np.ndarray, weights: np.ndarray, *, least: float = 0.0
) -> np.ndarray:
    """Return the shares with which a sum of logit tables minimises the weighted negative log-likelihood.

    The loss is convex in the shares. It includes one pseudo-sample with equal probabilities for all classes; without
    it, a few rows that are all predicted correctly would make the shares infinite. Its weight is one, or the mean
    weight of the rows if that is less, so that weights which sum to one do not count for less than it.

    Parameters
    ----------
    tables : sequence of ndarrays of shape (n, k)
    labels : ndarray of shape (n,), integers below k
    weights : ndarray of shape (n,)
    least : float
        Lower bound of a share.

    Returns
    -------
    ndarray of shape (len(tables),), from ``least`` to ``LARGEST_SHARE``
    """
    logits = np.stack([table - table.mean(axis=1, keepdims=True) for table in tables], dtype=np.float64)
    spreads = np.sqrt(np.square(logits).mean(axis=(1, 2)))
    spreads = np.where(spreads > 0, spreads, 1)
    target = np.full(logits.shape[1:], min(1.0, float(weights.mean())) / logits[0].size)
    target[np.arange(len(labels)), labels] += weights
    total = target.sum()

    def loss(shares: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = np.tensordot(shares / spreads, logits, 1)
        mixed -= mixed.max(axis=1, keepdims=True)
        likely = np.exp(mixed)
        sums = likely.sum(axis=1, keepdims=True)
        rest = target.sum(axis=1, keepdims=True) * likely / sums - target
        value = ((target.sum(axis=1) * np.log(sums[:, 0])).sum() - (target * mixed).sum()) / total
        return float(value), np.tensordot(logits, rest, 2) / spreads / total

    bounds = [(least * spread, LARGEST_SHARE * spread) for spread in spreads]
    start = [min(max(1.0, lowest), highest) for lowest, highest in bounds]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"gtol": 1e-7, "ftol": 1e-12})
    return found.x / spreads
