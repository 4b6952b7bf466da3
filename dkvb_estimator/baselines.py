"""What a user would pick instead: streaming classifiers on the same features, with the same contract.

Enters: embeddings (n, f), labels (n,). Leaves: predictions. Must not know: heads, keys, values. Each keeps additive
statistics: order and splits of the data cannot matter, up to rounding.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from ._validation import merge_classes


class NearestClassMean(ClassifierMixin, BaseEstimator):
    """Predict the class whose mean embedding is nearest.

    Parameters
    ----------
    normalize : bool, default=False
        Divide each embedding by its Euclidean length first, as :class:`DKVBClassifier` does by default.

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
    """

    classes_: np.ndarray
    sums_: np.ndarray
    class_counts_: np.ndarray

    def __init__(self, normalize: bool = False) -> None:
        self.normalize = normalize

    def fit(self, X: Any, y: Any) -> Self:
        """Forget what was learned, and learn X (n, f) and y (n,)."""
        for name in ("classes_", "sums_", "class_counts_"):
            self.__dict__.pop(name, None)
        return self._learn(X, y, None, reset=True)

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Self:
        """Learn more samples; new labels may appear, ``classes`` may declare them."""
        return self._learn(X, y, classes, reset=not hasattr(self, "classes_"))

    def decision_function(self, X: Any) -> np.ndarray:
        """Return minus the squared distance to each class mean (n, k), or with two classes the difference (n,)."""
        check_is_fitted(self)
        X = self._rows(validate_data(self, X, dtype=[np.float64, np.float32], reset=False))
        seen = self.class_counts_ > 0
        means = self.sums_ / np.maximum(self.class_counts_, 1)[:, None]
        scores = 2 * X @ means.T - (means**2).sum(axis=1) - (X**2).sum(axis=1, keepdims=True)
        scores[:, ~seen] = -np.inf
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def predict(self, X: Any) -> np.ndarray:
        """Return the label of the nearest class mean (n,)."""
        scores = self.decision_function(X)
        best = (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
        return self.classes_[best]

    def _learn(self, X: Any, y: Any, classes: Any, *, reset: bool) -> Self:
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], reset=reset)
        check_classification_targets(y)
        known = getattr(self, "classes_", None)
        everything = merge_classes(np.array([]) if known is None else known, y)
        if classes is not None:
            everything = merge_classes(everything, np.asarray(classes))
        sums, counts = np.zeros((len(everything), X.shape[1])), np.zeros(len(everything), dtype=np.int64)
        if known is not None:
            old = np.searchsorted(everything, known)
            sums[old], counts[old] = self.sums_, self.class_counts_
        labels = np.searchsorted(everything, y)
        np.add.at(sums, labels, self._rows(X))
        self.classes_, self.sums_ = everything, sums
        self.class_counts_ = counts + np.bincount(labels, minlength=len(everything))
        return self

    def _rows(self, X: np.ndarray) -> np.ndarray:
        X = X.astype(np.float64)
        if not self.normalize:
            return X
        length = np.linalg.norm(X, axis=1, keepdims=True)
        return X / np.where(length > 0, length, 1)
