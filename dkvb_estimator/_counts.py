"""Count classes per key, and turn counts into values.

Enters: codes (n, c, m), class positions (n,), weights (n,). Leaves: counts (c, j, k) and values (c, j, k). Counts are
sums: their order cannot matter, two of them add up, and what was added can be taken away. Must not know: embeddings.
"""

from __future__ import annotations

import numpy as np


def count_hits(
    shape: tuple[int, int, int], codes: np.ndarray, labels: np.ndarray, weights: np.ndarray | None
) -> np.ndarray:
    """Count, for every key, the samples of each class that select it.

    Parameters
    ----------
    shape : (c, j, k)
    codes : ndarray of shape (n, c, m), unsigned integers
    labels : ndarray of shape (n,), integers below k
    weights : ndarray of shape (n,), float64, or None for weights of one

    Returns
    -------
    ndarray of shape (c, j, k), int64, or float64 with weights

    Examples
    --------
    >>> codes = np.array([[[0]], [[1]], [[1]]], dtype=np.uint8)
    >>> count_hits((1, 2, 2), codes, np.array([0, 1, 1]), None).tolist()
    [[[1, 0], [0, 2]]]
    """
    n_heads, n_keys, n_classes = shape
    cells = codes.astype(np.int64) + n_keys * np.arange(n_heads)[None, :, None]
    cells = (cells * n_classes + labels[:, None, None]).ravel()
    if weights is None:
        return np.bincount(cells, minlength=n_heads * n_keys * n_classes).reshape(shape)
    repeated = np.repeat(weights, codes.shape[1] * codes.shape[2])
    return np.bincount(cells, weights=repeated, minlength=n_heads * n_keys * n_classes).reshape(shape)


def add_columns(table: np.ndarray, positions: np.ndarray, n_columns: int) -> np.ndarray:
    """Return a table (c, j, n_columns) that holds the old columns at ``positions`` and zeros elsewhere."""
    grown = np.zeros((*table.shape[:2], n_columns), dtype=table.dtype)
    grown[:, :, positions] = table
    return grown


def class_prior(class_counts: np.ndarray) -> np.ndarray:
    """Return the share of each class (k,), with one pseudo-sample spread over all, so that none is ever zero."""
    n_classes = len(class_counts)
    return (class_counts + 1 / n_classes) / (class_counts.sum() + 1)


def counts_to_values(
    counts: np.ndarray, class_counts: np.ndarray, class_weights: np.ndarray | None, smoothing: float
) -> np.ndarray:
    """Turn counts into the log of each class's share, smoothed towards the class prior.

    ``log((N_cjk + a · prior_k) / (N_cj + a))`` with ``a = smoothing``; class weights multiply the counts first. A
    key without hits therefore holds the log prior.

    Parameters
    ----------
    counts : ndarray of shape (c, j, k)
    class_counts : ndarray of shape (k,)
        Weight of the learned samples of each class.
    class_weights : ndarray of shape (k,) or None
    smoothing : float
        Pseudo-hits of every key, > 0.

    Returns
    -------
    ndarray of shape (c, j, k), float32

    Examples
    --------
    >>> values = counts_to_values(np.array([[[3.0, 0.0]]]), np.array([3.0, 1.0]), None, 1.0)
    >>> print(np.exp(values).round(3))
    [[[0.925 0.075]]]
    """
    counts = counts.astype(np.float64)
    if class_weights is not None:
        counts, class_counts = counts * class_weights, class_counts * class_weights
    totals = counts.sum(axis=2, keepdims=True)
    counts += smoothing * class_prior(class_counts)
    counts /= totals + smoothing
    return np.log(counts, out=counts).astype(np.float32)
