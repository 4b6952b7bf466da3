"""Measure abilities that the baselines lack: forgetting samples, and merging models.

Enters: a method with keys that has learned nothing, codes, labels, test rows. Leaves: a sentence for each ability.
Must not know: streams, files.
"""

import warnings
from typing import Any

import numpy as np

from pipeline.evaluation.factory import adds_up, fit_codes, forget_codes, fresh

__all__ = ["measure_guarantees"]

N_FORGOTTEN = 50


def measure_guarantees(start: Any, codes: np.ndarray, y: np.ndarray, X_test: np.ndarray) -> dict[str, str]:
    """Return ability → result, for methods with additive statistics; nothing for others.

    Parameters
    ----------
    start : DKVBClassifier
        With keys, without samples; it is not changed.
    codes : ndarray of shape (n, c · m), unsigned integers
    y : ndarray of shape (n,), int64
    X_test : ndarray of shape (n_test, f), float32
        Rows whose scores are compared.
    """
    if not adds_up(start) or len(y) <= 2 * N_FORGOTTEN:
        return {}
    gone = np.zeros(len(y), dtype=bool)
    gone[np.random.default_rng(0).permutation(len(y))[:N_FORGOTTEN]] = True
    whole = fit_codes(fresh(start), codes, y)
    halves = [fit_codes(fresh(start), codes[part], y[part]) for part in (gone, ~gone)]
    with warnings.catch_warnings():  # equal samples may be in both shares, and must count twice
        warnings.filterwarnings("ignore", message=".*count twice")
        merged = halves[0].merge(halves[1])
    found = {"Merging two models": _compare(merged, whole, X_test, "a model that learned all samples")}
    never = fit_codes(fresh(start), codes[~gone], y[~gone])
    forget_codes(whole, codes[gone], y[gone])
    return {f"Forgetting {N_FORGOTTEN} samples": _compare(whole, never, X_test, "a model that never saw them"), **found}


def _compare(model: Any, other: Any, X: np.ndarray, what: str) -> str:
    largest = float(np.abs(model.decision_function(X) - other.decision_function(X)).max())
    if largest == 0:
        return f"scores of {len(X):,} test rows are equal to those of {what}."
    return f"scores differ from those of {what} by at most {largest:.1e}."
