"""Calibration of probabilities, and detection of unseen classes.

Enters: probabilities (n, k) or scores (n,) with labels.
Leaves: plain numbers and lists, rounded to six digits.
Must not know: methods, streams, files.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import roc_curve

from dkvb_estimator.metrics import (
    brier_score,
    expected_calibration_error,
    fpr_at_95_tpr,
    negative_log_likelihood,
    rejection_auroc,
    reliability_curve,
)

__all__ = ["ROC_STEPS", "describe_calibration", "tell_unseen"]

N_BINS = 10
ROC_STEPS = 20
"""Number of steps between rejection rates of known samples at which the detection rate of unseen ones is recorded."""


def describe_calibration(probabilities: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Compare the confidence of a method with its accuracy.

    Parameters
    ----------
    probabilities : ndarray of shape (n, k)
    y : ndarray of shape (n,), integers
        Columns of the true classes; −1: none.

    Returns
    -------
    dict
        ``expected_calibration_error`` and ``bins`` (mean confidence, accuracy and number of samples of each non-empty
        one) of ten bins, ``brier_score``, ``negative_log_likelihood``.

    Examples
    --------
    >>> found = describe_calibration(np.array([[0.8, 0.2], [0.8, 0.2]]), np.array([0, 1]))
    >>> round(found["expected_calibration_error"], 2), found["bins"]
    (0.3, [[0.8, 0.5, 2]])
    """
    curve = zip(*(column.tolist() for column in reliability_curve(probabilities, y, N_BINS)))
    return {
        "expected_calibration_error": round(expected_calibration_error(probabilities, y, N_BINS), 6),
        "brier_score": round(brier_score(probabilities, y), 6),
        "negative_log_likelihood": round(negative_log_likelihood(probabilities, y), 6),
        "bins": [[round(sure, 6), round(right, 6), n] for sure, right, n in curve if n],
    }


def tell_unseen(scores: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Measure how well a score separates unseen from learned classes, as means over several orders.

    Parameters
    ----------
    scores : sequence of tuple of ndarray of shape (known,) and (unseen,)
        One pair per order; higher is more novel.

    Returns
    -------
    dict
        ``auroc``, ``fpr_at_95_tpr`` (share of unseen samples accepted when 95 % of the known ones are) and ``noticed``:
        the share of unseen samples detected when 0, 1/20, … all of the known ones are rejected.

    Examples
    --------
    >>> found = tell_unseen([(np.arange(20.0), np.array([18.5, 30.0]))])
    >>> found["auroc"], found["fpr_at_95_tpr"], found["noticed"][:3]
    (0.975, 0.0, [0.5, 1.0, 1.0])
    """
    shares = np.linspace(0, 1, ROC_STEPS + 1)
    noticed = [np.interp(shares, *_roc(known, unseen)) for known, unseen in scores]
    return {
        "auroc": round(float(np.mean([rejection_auroc(*pair) for pair in scores])), 6),
        "fpr_at_95_tpr": round(float(np.mean([fpr_at_95_tpr(*pair) for pair in scores])), 6),
        "noticed": np.mean(noticed, axis=0).round(6).tolist(),
    }


def _roc(known: np.ndarray, unseen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares of known samples rejected and of unseen ones detected, at every threshold."""
    labels = np.repeat([0, 1], [len(known), len(unseen)])
    turned_away, noticed, _ = roc_curve(labels, np.concatenate([known, unseen]), drop_intermediate=False)
    return turned_away, noticed
