"""A bottleneck with a way around it: what does it cost that values alone may answer?"""

import numpy as np
import torch

from dkvb_estimator import DKVBClassifier
from dkvb_estimator._joint import FewRows, Listed, ManyRows, Settings, solve, sum_codes
from dkvb_estimator._prior import LEVELS
from dkvb_estimator._solvers import are_judges


class DirectLink:
    """What values alone cost: ``joint`` whose regression reads the embedding itself too, as a bottleneck must not.

    Features of embeddings are whole numbers of as many levels as those of keys, and their spread is that of all
    coordinates of keys together, so that the prior trusts both alike. The rest is the default ``joint``.
    """

    def __init__(self, seed):
        self._model = DKVBClassifier(random_state=seed)

    def fit(self, X, y):
        """Learn X (n, f) and y (n,)."""
        codes, (self.classes_, labels) = self._model.fit(X, y).encode(X), np.unique(y, return_inverse=True)
        unit = _unit(X)
        self._mean = unit.mean(axis=0)
        self._reach = np.abs(unit - self._mean).max()
        order = np.random.default_rng(0).permutation(len(y))  # the first choose
        rows = Listed(self._features(X, codes), labels, np.ones(len(y))).where(order)
        steps = self._steps(rows.features, X.shape[1])
        self._weights, self._bias, _ = solve(_rows(rows, len(self.classes_)), steps, Settings())
        return self

    def _features(self, X, codes):
        """Coordinates, the embedding, curves, and zeros in place of its curves: (n, w + 2 f)."""
        linear, curved = np.split(self._model._prior().features(codes), 2, axis=1)
        link = np.rint(LEVELS * ((_unit(X) - self._mean) / self._reach).clip(-1, 1)).astype(np.int8)
        return np.concatenate([linear, link, curved, np.zeros_like(link)], axis=1)

    def _steps(self, rows, n_features):
        linear, curved = np.split(self._model._prior().steps, 2)
        spread = rows[:, : len(linear) + n_features].var(axis=0, dtype=np.float64)
        own, link = spread[: len(linear)] @ linear**2, spread[len(linear) :].sum()
        return np.concatenate([linear, np.full(n_features, np.sqrt(own / link)), curved, np.zeros(n_features)])

    def predict_proba(self, X):
        """Return the probability of each class (n, k)."""
        scores = self._features(X, self._model.encode(X)).astype(np.float32) @ self._weights + self._bias
        likely = np.exp(scores - scores.max(axis=1, keepdims=True))
        return likely / likely.sum(axis=1, keepdims=True)

    def predict(self, X):
        """Return the most probable label of each row (n,)."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


def _unit(X):
    return X / np.linalg.norm(X, axis=1, keepdims=True)


class _Columns:
    """What ``sum_codes`` asks of a prior, of features that are there."""

    def __init__(self, width):
        self.width = width

    def features(self, rows):
        """Return the rows as they are."""
        return rows


def _rows(rows, n_classes):
    device, width = torch.device("cpu"), rows.features.shape[1]
    judges = are_judges(rows.labels, rows.weights, n_classes)
    if len(rows.labels) < width:
        return FewRows(rows, judges, n_classes, device)
    sums = sum_codes(rows.features.__getitem__, rows.labels, rows.weights, _Columns(width), n_classes, device)
    return ManyRows(sums, rows.where(judges), device)
