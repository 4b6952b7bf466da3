"""Learn a projection from labelled rows.

Enters: labelled embeddings (n, f). Leaves: a projection (f, c, d). Must not know: keys, values, the estimator.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.linalg import solve

from .projection import draw_projection, normalize_rows

SHRINKAGE = 0.1
"""Share of the identity in the shrunk covariance within classes."""
EMPHASIS = 2.0
"""Additional stretching along the directions that separate classes."""
RANK_TOLERANCE = 1e-6


def learn_projection(
    X: np.ndarray, labels: np.ndarray, n_heads: int, key_dim: int, rng: np.random.Generator, *, normalize: bool
) -> np.ndarray:
    """Draw a Gaussian projection of a space that is stretched along the directions in which classes differ.

    These are the directions of linear discriminant analysis: the span of S⁻¹(class mean − mean of all), with S the
    shrunk covariance within classes. Other directions stay as they are, so later classes remain separable.

    Parameters
    ----------
    X : ndarray of shape (n, f), float32
    labels : ndarray of shape (n,), integers
    n_heads, key_dim : int
    rng : numpy.random.Generator
    normalize : bool
        Whether rows are first divided by their length, as when the projection is applied.

    Returns
    -------
    ndarray of shape (f, c, d), float32

    References
    ----------
    Fisher (1936), "The use of multiple measurements in taxonomic problems", for the directions.
    ``docs/experiments/projections.md`` compares with projections learned by gradients.

    Examples
    --------
    >>> X, labels = np.eye(4, dtype=np.float32), np.array([0, 0, 1, 1])
    >>> learn_projection(X, labels, 3, 2, np.random.default_rng(0), normalize=True).shape
    (4, 3, 2)
    """
    rows = normalize_rows(torch.from_numpy(X)).double().numpy() if normalize else X.astype(np.float64)
    directions = discriminant_directions(rows, labels)
    gaussian = draw_projection("gaussian", X.shape[1], n_heads, key_dim, rng).reshape(X.shape[1], -1)
    stretched = gaussian + EMPHASIS * directions @ (directions.T @ gaussian)
    return stretched.astype(np.float32).reshape(X.shape[1], n_heads, key_dim)


def discriminant_directions(X: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return an orthonormal basis (f, r) of the directions in which classes differ; r < k, and 0 for one class.

    Parameters
    ----------
    X : ndarray of shape (n, f), float64
    labels : ndarray of shape (n,), integers
    """
    classes, positions = np.unique(labels, return_inverse=True)
    means = np.stack([X[positions == place].mean(axis=0) for place in range(len(classes))])
    inside = X - means[positions]
    within = inside.T @ inside / len(X)
    spread = np.trace(within) / X.shape[1] or np.square(X).mean() or 1.0
    within = (1 - SHRINKAGE) * within + SHRINKAGE * spread * np.eye(X.shape[1])
    found = solve(within, (means - means.mean(axis=0)).T, assume_a="pos")
    basis, sizes, _ = np.linalg.svd(found, full_matrices=False)
    return basis[:, sizes > RANK_TOLERANCE * max(sizes[0], np.finfo(float).tiny)][:, : len(classes) - 1]
