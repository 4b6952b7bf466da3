"""How likely each class is to select each key, estimated by normal distributions of the classes.

Enters: weighted counts (c · j, k) and integer coordinates of keys (c, j, d). Leaves: logarithms of ratios. Must not
know: codes, class labels, how counts are stored. These estimates smooth the counts while there are few samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

ROUNDING = 1e-12
"""A variance below this share of the second moments is a rounding error."""


@dataclass(frozen=True, eq=False)
class ClassNormals:
    """Linear discriminant analysis in each head, from counts of keys alone.

    In each head, the samples of a class are normally distributed around the class mean, with one covariance for all
    classes. The ratio ``P(class | key) / P(class)`` says how much more often a class selects a key than all classes do.

    Parameters
    ----------
    places : ndarray of shape (c, j, d), float64
        Coordinates of keys, in which the covariance is the identity.
    means : ndarray of shape (c, k, d), float64
        Class means, in the same coordinates.
    shares : ndarray of shape (k,), float64
        Share of each class in all samples. A class without samples has the smallest ratio of any class.

    Examples
    --------
    >>> counts = csr_array(np.array([[3.0, 0.0], [1.0, 1.0], [0.0, 3.0]]))
    >>> normals = ClassNormals.of_counts(counts, np.array([4.0, 4.0]), np.array([[[-1], [0], [1]]], dtype=np.int8))
    >>> np.exp(normals.logs(np.arange(3))).round(2).tolist()
    [[1.98, 0.02], [1.0, 1.0], [0.02, 1.98]]

    References
    ----------
    Hastie, Tibshirani and Friedman (2009), "The elements of statistical learning", section 4.3.
    """

    places: np.ndarray
    means: np.ndarray
    shares: np.ndarray

    @classmethod
    def of_counts(cls, counts: csr_array, per_class: np.ndarray, keys: np.ndarray) -> ClassNormals:
        """Estimate the distributions.

        Parameters
        ----------
        counts : csr_array of shape (c · j, k), float64
            How often samples of each class selected each key.
        per_class : ndarray of shape (k,)
            Sum of the counts of each class in one head.
        keys : ndarray of shape (c, j, d), integers
            Integer coordinates, so that sums are the same in any order.
        """
        n_heads, n_keys, key_dim = keys.shape
        total, seen = per_class.sum(), np.where(per_class > 0, per_class, 1)
        free = max(total - np.count_nonzero(per_class), 0.0)
        places, means = keys.astype(np.float64), np.empty((n_heads, len(per_class), key_dim))
        for head in range(n_heads):
            table = counts[head * n_keys : (head + 1) * n_keys]
            hits, here = table.sum(axis=1), places[head]
            used = hits > 0  # a pruned table then gives the same bits
            means[head] = (table.T @ here) / seen[:, None]
            second = here[used].T @ (here[used] * hits[used, None]) / total
            between = means[head].T @ (means[head] * per_class[:, None]) / total
            centre = per_class @ means[head] / total
            whole = np.trace(second) - centre @ centre
            spread = whole / key_dim if whole > ROUNDING * np.trace(second) else 1.0
            more = max(key_dim + 1, 1e-9 * free)  # keeps the sum numerically positive definite
            within = (free * (second - between) + more * spread * np.eye(key_dim)) / (free + more)
            whiten = np.linalg.inv(np.linalg.cholesky(within)).T
            places[head], means[head] = (here - centre) @ whiten, (means[head] - centre) @ whiten
        return cls(places, means, per_class / total)

    def logs(self, cells: np.ndarray) -> np.ndarray:
        """Return the logarithms of the ratios of some keys (len, k), counted through all heads, in ascending order."""
        n_keys = self.places.shape[1]
        scores = np.empty((len(cells), len(self.shares)))
        heads, starts = np.unique(cells // n_keys, return_index=True)
        for head, part in zip(heads, np.split(np.arange(len(cells)), starts[1:]), strict=True):
            scores[part] = -np.square(self.means[head]).sum(axis=1) / 2
            for place, mean in zip(self.places[head, cells[part] % n_keys].T, self.means[head].T, strict=True):
                scores[part] += place[:, None] * mean  # the same bits before and after pruning, unlike a matrix product
        seen = self.shares > 0
        scores[:, ~seen] = scores[:, seen].min(axis=1, keepdims=True)
        largest = scores.max(axis=1, keepdims=True)
        scores -= largest  # every sum below is at least the share of one class
        expected = np.einsum("nk,k->n", np.exp(scores), self.shares)
        return scores - np.log(expected)[:, None]
