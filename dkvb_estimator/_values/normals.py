"""What normal distributions of the classes say of keys, in the place of counts while these are few.

Enters: weighted counts (c · j, k) and the whole coordinates of keys (c, j, d). Leaves: logs of ratios. Must not know:
codes, class labels, how counts are stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array
from scipy.special import logsumexp

GROUP_CELLS = 2**20
"""Ratios of keys and classes that are worked on at a time, as many whole heads as hold them."""


@dataclass(frozen=True, eq=False)
class ClassNormals:
    """Linear discriminant analysis in each head, from counts of keys alone.

    In a head, the places of a class's samples are normal around their mean, and all classes have one covariance. The
    ratio is ``P(class | key) / P(class)``: how much more often a class selects a key than all classes do.

    Parameters
    ----------
    places : ndarray of shape (c, j, d), float64
        Coordinates of keys, in which the covariance is the identity.
    means : ndarray of shape (c, k, d), float64
        Of each class, in the same coordinates.
    shares : ndarray of shape (k,), float64
        Of each class among all samples. A class without samples has ratios of one.

    Examples
    --------
    >>> counts = csr_array(np.array([[3.0, 0.0], [1.0, 1.0], [0.0, 3.0]]))
    >>> normals = ClassNormals.of_counts(counts, np.array([4.0, 4.0]), np.array([[[-1], [0], [1]]], dtype=np.int8))
    >>> np.exp(normals.logs(0)).round(2).tolist()
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
            The sum of counts of each class in one head.
        keys : ndarray of shape (c, j, d), integers
            Whole coordinates, so that sums are the same in any order.
        """
        n_heads, n_keys, key_dim = keys.shape
        total, seen = per_class.sum(), np.where(per_class > 0, per_class, 1)
        free = max(total - np.count_nonzero(per_class), 0.0)
        places, means = keys.astype(np.float64), np.empty((n_heads, len(per_class), key_dim))
        for head in range(n_heads):
            table = counts[head * n_keys : (head + 1) * n_keys]
            hits, here = table.sum(axis=1), places[head]
            used = hits > 0  # so that a pruned table gives the same bits
            means[head] = (table.T @ here) / seen[:, None]
            second = here[used].T @ (here[used] * hits[used, None]) / total
            between = means[head].T @ (means[head] * per_class[:, None]) / total
            centre = per_class @ means[head] / total
            spread = max((np.trace(second) - centre @ centre) / key_dim, 0.0) or 1.0
            within = (free * (second - between) + (key_dim + 1) * spread * np.eye(key_dim)) / (free + key_dim + 1)
            whiten = np.linalg.inv(np.linalg.cholesky(within)).T
            places[head], means[head] = (here - centre) @ whiten, (means[head] - centre) @ whiten
        means[:, per_class == 0] = 0
        return cls(places, means, per_class / total)

    def logs(self, head: int) -> np.ndarray:
        """Return the logs of the ratios of a head (j, k)."""
        scores = self.places[head] @ self.means[head].T - self._halves[head]
        return np.where(self.shares > 0, scores - self._norms[head][:, None], 0)

    def at(self, cells: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Return the logs of the ratios of pairs (p,): keys, counted through all heads, and their classes."""
        n_keys, heads = self.places.shape[1], cells // self.places.shape[1]
        scores = np.einsum("pd,pd->p", self.places[heads, cells % n_keys], self.means[heads, classes])
        return np.where(
            self.shares[classes] > 0, scores - self._halves[heads, classes] - self._norms[heads, cells % n_keys], 0
        )

    def pooled(self, codes: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the weighted sums of logs over the keys that samples select (n, k): one product of matrices.

        Parameters
        ----------
        codes, weights : ndarrays of shape (n, c, m)
        """
        heads = np.arange(codes.shape[1])[None, :, None]
        places = (self.places[heads, codes] * weights[..., None]).sum(axis=2)
        pooled = places.reshape(len(codes), -1) @ self.means.transpose(0, 2, 1).reshape(-1, len(self.shares))
        pooled -= weights.sum(axis=2) @ self._halves + (self._norms[heads, codes] * weights).sum(axis=(1, 2))[:, None]
        return np.where(self.shares > 0, pooled, 0)

    @cached_property
    def _halves(self) -> np.ndarray:
        """Half the squared lengths of means (c, k)."""
        return np.square(self.means).sum(axis=2) / 2

    @cached_property
    def _norms(self) -> np.ndarray:
        """Logs of what the ratios would add up to (c, j), weighted by the shares of classes."""
        with np.errstate(divide="ignore"):
            shares = np.log(self.shares)
        n_heads, n_keys, _ = self.places.shape
        size = max(1, GROUP_CELLS // (n_keys * len(shares)))
        found = np.empty((n_heads, n_keys))
        for start in range(0, n_heads, size):
            part = slice(start, start + size)
            scores = self.places[part] @ self.means[part].transpose(0, 2, 1)
            found[part] = logsumexp(scores + (shares - self._halves[part])[:, None], axis=2)
        return found
