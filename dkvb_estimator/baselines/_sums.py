"""Additive statistics of classes: counts, sums of features, and sums of their products.

Enters: features (n, w), labels (n,). Leaves: statistics that add and subtract. Must not know: their use. Products are
computed block by block in the type of the features and summed in float64.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ._additive import class_means, moved, sum_by_class

PANEL = 1024
"""Columns of products that are computed at once."""


class Sums(NamedTuple):
    """Statistics of rows for a linear classifier: class counts (k,), sums (k, w), products (w, w).

    Only the lower triangle of the products is used. They are raw, Σ z zᵀ, or ``centred`` on the mean of each row's
    class, which raw products would lose to cancellation if features have a large common offset.
    """

    counts: np.ndarray
    sums: np.ndarray
    products: np.ndarray
    centred: bool

    @classmethod
    def none(cls, width: int, *, centred: bool) -> Sums:
        """Return the statistics of no rows and no classes."""
        return cls(np.zeros(0, dtype=np.int64), np.zeros((0, width)), np.zeros((width, width)), centred)

    def grown(self, old: np.ndarray, n_classes: int) -> Sums:
        """Return the statistics with the classes at the positions ``old`` among ``n_classes``."""
        return self._replace(counts=moved(self.counts, old, n_classes), sums=moved(self.sums, old, n_classes))

    def plus(self, arriving: Iterable[tuple[np.ndarray, np.ndarray]]) -> Sums:
        """Add blocks of features and labels."""
        return self._changed(arriving, +1)

    def minus(self, leaving: Iterable[tuple[np.ndarray, np.ndarray]]) -> Sums:
        """Subtract blocks of features and labels that were added before."""
        return self._changed(leaving, -1)

    def joined(self, other: Sums) -> Sums:
        """Add the statistics of other rows."""
        products = self.products + other.products
        if self.centred:
            add_products(products, between(self.counts, self.sums, other.counts, other.sums))
        return self._replace(counts=self.counts + other.counts, sums=self.sums + other.sums, products=products)

    def _changed(self, changes: Iterable[tuple[np.ndarray, np.ndarray]], sign: int) -> Sums:
        counts, sums, products = self.counts, self.sums, self.products.copy()
        for features, labels in changes:
            count, summed = np.bincount(labels, minlength=len(counts)), sum_by_class(features, labels, len(sums))
            before = counts, sums
            counts, sums = counts + sign * count, sums + sign * summed
            if self.centred:
                rest = before if sign > 0 else (counts, sums)
                features = centre(features, labels, class_means(summed, count))
                features = np.concatenate([features, between(rest[0], rest[1], count, summed).astype(features.dtype)])
            add_products(products, features, sign)
        sums[counts == 0] = 0
        if not counts.any() or (self.centred and counts.max() == 1):
            products[:] = 0  # exactly, without remaining rounding errors
        return Sums(counts, sums, products, self.centred)


def centre(features: np.ndarray, labels: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return features (n, w) minus the mean of each row's class, in their type."""
    return features - means.astype(features.dtype)[labels]


def between(counts: np.ndarray, sums: np.ndarray, others: np.ndarray, other_sums: np.ndarray) -> np.ndarray:
    """Return rows (r, w) with products equal to the scatter of a union of rows minus that of its two parts.

    References
    ----------
    Chan, Golub & LeVeque (1983), "Algorithms for computing the sample variance: analysis and recommendations".
    """
    both = (counts > 0) & (others > 0)
    apart = class_means(sums[both], counts[both]) - class_means(other_sums[both], others[both])
    return apart * np.sqrt(counts[both] * others[both] / (counts[both] + others[both]))[:, None]


def add_products(total: np.ndarray, rows: np.ndarray, sign: int = 1) -> None:
    """Add rowsᵀ rows to the lower triangle of a matrix (w, w) in place, or subtract it."""
    for left in range(0, len(total), PANEL):
        panel = total[left:, left : left + PANEL]
        product = rows[:, left:].T @ rows[:, left : left + PANEL]
        (np.add if sign > 0 else np.subtract)(panel, product, out=panel)


def symmetric(lower: np.ndarray) -> np.ndarray:
    """Return the symmetric matrix (w, w) of a lower triangle."""
    half = np.tril(lower, -1)
    return half + half.T + np.diag(np.diag(lower))
