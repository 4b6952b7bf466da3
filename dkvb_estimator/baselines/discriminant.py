"""Linear discriminants: class means, and one covariance within classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg import pinvh
from scipy.special import log_softmax, softmax
from sklearn.utils.validation import check_is_fitted

from ._additive import class_means, unit_length
from ._choosing import check_real
from ._linear import Known, Linear
from ._sums import symmetric

SHRINKAGES = tuple(np.geomspace(1e-4, 1, 10).tolist())
"""Grid of ``shrinkage="auto"``."""


class Discriminant(Linear):
    """Linear discriminants of any features, their covariance shrunk towards a sphere."""

    _centred = True
    shrinkage: float | str

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class (n, k), for normal classes with one covariance."""
        return softmax(self._masked_scores(X), axis=1)

    @property
    def shrinkage_(self) -> float:
        """The shrinkage used, chosen when first asked for after learning."""
        return self._solution()[0]

    def _check_settings(self) -> None:
        check_real("shrinkage", self.shrinkage, "a number from 0 to 1", lambda value: 0 <= value <= 1)

    def _setting(self) -> float | str:
        return self.shrinkage

    def _grid(self, known: Known) -> tuple[float, ...]:
        return SHRINKAGES

    def _solve(self, known: Known, value: float) -> tuple[np.ndarray, np.ndarray]:
        n_rows, means = known.counts.sum(), class_means(known.sums, known.counts)
        priors = np.log(np.maximum(known.counts, 1) / n_rows)  # finite for a class held out whole, or the loss is not
        sphere, rest = value * known.system.trace / known.system.width / n_rows, (1 - value) / n_rows
        if rest and known.system.trace:
            weights = known.system.solve(sphere / rest, means.T) / rest
        else:
            weights = means.T / (sphere or 1)  # rows that do not vary: the nearest mean
        return weights, priors - (means.T * weights).sum(axis=0) / 2

    def _loss(self, scores: np.ndarray, labels: np.ndarray) -> float:
        return float(-log_softmax(scores, axis=1)[np.arange(len(labels)), labels].mean())


class StreamingLDA(Discriminant):
    """Predict by linear discriminants: class means, and one covariance within classes, exact over any batches.

    Parameters
    ----------
    shrinkage : float in [0, 1] or "auto", default=1e-4
        Share s of the shrunk covariance (1 - s) Σ + s · trace(Σ) / f · I that is spherical, as in scikit-learn's
        ``LinearDiscriminantAnalysis(solver="lsqr")``. ``"auto"``: of ten values from 1e-4 to 1, in equal ratios, the
        one with the least log loss on held-out training rows, learned from all others; then all rows are used. A
        tenth of the rows learned while it is ``"auto"`` is held out, by a hash of each row, and kept; the loss is that
        of the 2,000 with the smallest hashes. The grid is walked from its sixth value, 0.0167, downhill in steps of
        four, two and one. Where no row is held out or none is left, it stays there.
    normalize : bool, default=False
        Divide each embedding by its Euclidean length first.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
    class_counts_ : ndarray of shape (k,), int64
    sums_ : ndarray of shape (k, f), float64
    scatter_ : ndarray of shape (f, f), float64
        Sum over rows of (x - μ)(x - μ)ᵀ, μ the mean of the row's class.
    covariance_ : ndarray of shape (f, f), float64
        scatter_ / n, before shrinkage.
    shrinkage_ : float
        The shrinkage used.

    References
    ----------
    Hayes & Kanan (2020), "Lifelong machine learning with deep streaming linear discriminant analysis".

    Examples
    --------
    >>> model = StreamingLDA().partial_fit([[0.0, 0.0], [1.0, 9.0]], ["a", "a"])
    >>> model = model.partial_fit([[4.0, 0.0], [5.0, 9.0]], ["b", "b"])
    >>> model.predict([[1.0, 1.0], [4.5, 1.0]]).tolist()
    ['a', 'b']
    """

    def __init__(self, shrinkage: float | str = 1e-4, normalize: bool = False) -> None:
        self.shrinkage = shrinkage
        self.normalize = normalize

    def score_samples(self, X: Any) -> np.ndarray:
        """Return how usual each sample is (n,): minus the squared Mahalanobis distance to the nearest class mean.

        The covariance is the shrunk one that predictions use, singular directions left out.

        References
        ----------
        Lee et al. (2018), "A simple unified framework for detecting out-of-distribution samples and adversarial
        attacks", equation 2.
        """
        share = self._solution()[0]
        X = self._features(self._check_rows(X, reset=False))
        covariance, means = self.covariance_, class_means(self.sums_, self.class_counts_)[self.class_counts_ > 0]
        inverse = pinvh(
            (1 - share) * covariance + share * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        )
        lifted = X @ inverse
        apart = ((means @ inverse) * means).sum(axis=1) - 2 * lifted @ means.T
        return -(lifted * X).sum(axis=1) - apart.min(axis=1)

    @property
    def scatter_(self) -> np.ndarray:
        """Scatter within classes (f, f)."""
        check_is_fitted(self)
        return symmetric(self._sums.products)

    @property
    def covariance_(self) -> np.ndarray:
        """Covariance within classes (f, f), before shrinkage."""
        return self.scatter_ / self.class_counts_.sum()

    def _width(self) -> int:
        return self.n_features_in_

    def _features(self, X: np.ndarray) -> np.ndarray:
        X = X.astype(np.float64)
        return unit_length(X) if self.normalize else X
