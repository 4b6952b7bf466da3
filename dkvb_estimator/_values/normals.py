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
GROUP_PAIRS = 2**20
"""Pairs of a key and a class that are summed at once, in whole heads: at most 64 MiB."""


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
        total, seen = per_class.sum(), np.where(per_class > 0, per_class, 1)
        free = max(total - np.count_nonzero(per_class), 0.0)
        key_dim, places = keys.shape[2], keys.astype(np.float64)
        means, second = _moments(counts, places)
        means, second = means / seen[:, None], second / total
        between = means.transpose(0, 2, 1) @ (means * per_class[:, None]) / total
        centres = per_class @ means / total
        power = np.trace(second, axis1=1, axis2=2)
        whole = power - np.square(centres).sum(axis=1)
        spread = np.where(whole > ROUNDING * power, whole / key_dim, 1.0)[:, None, None]
        more = max(key_dim + 1, 1e-9 * free)  # keeps the sum numerically positive definite
        within = (free * (second - between) + more * spread * np.eye(key_dim)) / (free + more)
        whiten = np.linalg.inv(np.linalg.cholesky(within)).transpose(0, 2, 1)
        return cls((places - centres[:, None]) @ whiten, (means - centres[:, None]) @ whiten, per_class / total)

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


def _moments(counts: csr_array, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of coordinates of each class (c, k, d), and of their products (c, d, d)."""
    n_heads, n_keys, key_dim = places.shape
    sums, products = np.empty((n_heads, counts.shape[1], key_dim)), np.empty((n_heads, key_dim, key_dim))
    size = max(1, GROUP_PAIRS * n_heads // max(1, counts.nnz))
    for start in range(0, n_heads, size):
        heads = slice(start, min(start + size, n_heads))
        sums[heads], products[heads] = _moments_of(counts[start * n_keys : heads.stop * n_keys], places[heads])
    return sums, products


def _moments_of(counts: csr_array, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the moments of some heads; only keys with counts take part, so a pruned table gives the same bits."""
    (n_heads, n_keys, key_dim), n_classes = places.shape, counts.shape[1]
    flat, cells = places.reshape(-1, key_dim), np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    classes = cells // n_keys * n_classes + counts.indices
    sums = [np.bincount(classes, counts.data * flat[cells, i], n_heads * n_classes) for i in range(key_dim)]
    hits = counts.sum(axis=1)
    used = np.flatnonzero(hits)
    products = np.empty((n_heads, key_dim, key_dim))
    for i in range(key_dim):
        weighted = hits[used] * flat[used, i]
        for j in range(i + 1):
            products[:, i, j] = products[:, j, i] = np.bincount(used // n_keys, weighted * flat[used, j], n_heads)
    return np.stack(sums, axis=1).reshape(n_heads, n_classes, key_dim), products
