"""A bottleneck with a direct link, to measure the cost of predicting from values alone."""

import numpy as np
import torch

from dkvb_estimator import DKVBClassifier
from dkvb_estimator._values.joint import FewRows, Listed, ManyRows, Settings, solve, sum_codes
from dkvb_estimator._values.prior import LEVELS
from dkvb_estimator._values.solvers import FEW_ROWS, are_judges


class DirectLink:
    """``joint`` whose regression also reads the embedding itself, which a bottleneck must not do.

    Features of embeddings are integers with as many levels as those of keys. Their spread equals that of all
    coordinates of keys together, so the prior weights both equally. Everything else is the default ``joint``.
    """

    def __init__(self, seed):
        self._model = DKVBClassifier(random_state=seed)

    def fit(self, X, y):
        """Learn X (n, f) and y (n,)."""
        codes, (self.classes_, labels) = self._codes(self._model.fit(X, y), X), np.unique(y, return_inverse=True)
        self._prior = self._model._prior()
        unit = _unit(X)
        self._mean = unit.mean(axis=0)
        self._reach = np.abs(unit - self._mean).max()
        order = np.random.default_rng(0).permutation(len(y))  # the first rows choose the mixture
        rows = Listed(self._features(X, codes), labels, np.ones(len(y))).where(order)
        prior = _Columns(self._steps(rows.features, X.shape[1]))
        self._weights, self._bias, _ = solve(_rows(rows, prior, len(self.classes_)), prior, Settings())
        return self

    @staticmethod
    def _codes(model, X):
        """Return the codes (n, c, 1) of rows."""
        return np.asarray(model.encoder_.transform(X))[:, :, None]

    def _features(self, X, codes):
        """Return coordinates, the embedding, curves, and zeros for its curves: (n, w + 2 f)."""
        own, bent = self._prior.features(codes), self._prior.curved
        linear, curved = own[:, ~bent], own[:, bent]
        link = np.rint(LEVELS * ((_unit(X) - self._mean) / self._reach).clip(-1, 1)).astype(np.int8)
        return np.concatenate([linear, link, curved, np.zeros_like(link)], axis=1)

    def _steps(self, rows, n_features):
        linear, curved = self._prior.steps[~self._prior.curved], self._prior.steps[self._prior.curved]
        spread = rows[:, : len(linear) + n_features].var(axis=0, dtype=np.float64)
        own, link = spread[: len(linear)] @ linear**2, spread[len(linear) :].sum()
        return np.concatenate([linear, np.full(n_features, np.sqrt(own / link)), curved, np.zeros(n_features)])

    def predict_proba(self, X):
        """Return the probability of each class (n, k)."""
        scores = self._features(X, self._codes(self._model, X)).astype(np.float32) @ self._weights + self._bias
        likely = np.exp(scores - scores.max(axis=1, keepdims=True))
        return likely / likely.sum(axis=1, keepdims=True)

    def predict(self, X):
        """Return the most probable label of each row (n,)."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


def _unit(X):
    return X / np.linalg.norm(X, axis=1, keepdims=True)


class _Columns:
    """A prior with given features, for the solver: coordinates, followed by the same number of curves."""

    def __init__(self, steps):
        self.width, self.steps = len(steps), steps
        self.curved = np.arange(self.width) >= self.width // 2

    def features(self, rows):
        """Return the rows as they are."""
        return rows


def _rows(rows, prior, n_classes):
    device = torch.device("cpu")
    judges = are_judges(rows.labels, rows.weights, n_classes)
    if len(rows.labels) < FEW_ROWS * prior.width:
        return FewRows(rows, judges, n_classes, device)
    sums = sum_codes(rows.features.__getitem__, rows.labels, rows.weights, prior, n_classes, device)
    return ManyRows(sums, rows.where(judges), device)
