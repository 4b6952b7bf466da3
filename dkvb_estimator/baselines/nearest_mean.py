"""Nearest class mean."""

from __future__ import annotations

from typing import Self

import numpy as np

from ._additive import Additive, blocks, class_means, moved, sum_by_class, unit_length


class NearestClassMean(Additive):
    """Predict the class with the nearest mean embedding; scores are minus the squared distances.

    Parameters
    ----------
    normalize : bool, default=False
        Whether each embedding is first divided by its Euclidean length, as :class:`KeyEncoder` does by default.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
    sums_ : ndarray of shape (k, f), float64
    class_counts_ : ndarray of shape (k,), int64

    References
    ----------
    Mensink et al. (2013), "Distance-based image classification: generalizing to new classes at near-zero cost".

    Examples
    --------
    >>> import numpy as np
    >>> model = NearestClassMean().partial_fit([[0.0], [1.0]], ["a", "a"]).partial_fit([[9.0]], ["b"])
    >>> model.predict([[2.0], [8.0]]).tolist()
    ['a', 'b']
    >>> model.forget([[1.0]], ["a"]).sums_.tolist()
    [[0.0], [9.0]]
    """

    sums_: np.ndarray

    def __init__(self, normalize: bool = False) -> None:
        self.normalize = normalize

    def _start(self, n_features: int) -> None:
        super()._start(n_features)
        self.sums_ = np.zeros((0, n_features))

    def _grow(self, old: np.ndarray, n_classes: int) -> None:
        super()._grow(old, n_classes)
        self.sums_ = moved(self.sums_, old, n_classes)

    def _add(self, X: np.ndarray, labels: np.ndarray, sign: int = 1) -> None:
        for rows, named in blocks(X, labels):
            self.sums_ = self.sums_ + sign * sum_by_class(self._features(rows), named, len(self.sums_))
        self.class_counts_ = self.class_counts_ + sign * np.bincount(labels, minlength=len(self.sums_))
        self.sums_[self.class_counts_ == 0] = 0

    def _subtract(self, X: np.ndarray, labels: np.ndarray) -> None:
        self._add(X, labels, -1)

    def _join(self, other: Self) -> None:
        self.sums_, self.class_counts_ = self.sums_ + other.sums_, self.class_counts_ + other.class_counts_

    def _features(self, X: np.ndarray) -> np.ndarray:
        X = X.astype(np.float64)
        return unit_length(X) if self.normalize else X

    def _scores(self, X: np.ndarray) -> np.ndarray:
        X, means = self._features(X), class_means(self.sums_, self.class_counts_)
        return 2 * X @ means.T - (means**2).sum(axis=1) - (X**2).sum(axis=1, keepdims=True)
