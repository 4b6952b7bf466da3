"""Discriminants with a covariance per class, shrunk towards a shared covariance and a multiple of the identity."""

from __future__ import annotations

from itertools import starmap
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.linalg import cho_factor, eigh, solve_triangular
from scipy.linalg.lapack import dpstrf
from scipy.special import log_softmax, softmax

from dkvb_estimator._validation import check_integer, short

from ._additive import blocks, class_means, moved, sum_by_class, unit_length
from ._choosing import Choosing
from ._rows import Rows
from ._sums import between
from ._systems import least

SPHERES = (0.01, 0.05, 0.15, 0.3, 0.5)
OWN = (0.0, 0.1, 0.2, 0.35, 0.6)
"""Grid of ``shares="auto"``: the share of the identity, and the share of the class covariance in the rest."""
RANK_TOLERANCE = 1e-10
"""Variances of a class below this share of the largest count as zero."""

Moments = tuple[np.ndarray | None, ...]


class Known(NamedTuple):
    """Statistics of some rows: class counts (k,), means (k, f), and a factor (f, r) of the scatter of each class."""

    counts: np.ndarray
    means: np.ndarray
    factors: list[np.ndarray]
    spread: np.ndarray
    """Eigenvalues (f,) of the covariance within classes; means and factors are in coordinates of its eigenvectors."""
    axes: np.ndarray


class _Gaussian(NamedTuple):
    """A class for predictions: √a C⁻¹L̃ᵀ (r, f), its product with the mean, and the constant of the score."""

    correction: np.ndarray
    centre: np.ndarray
    constant: float


class Solution(NamedTuple):
    """Axes (f, f) that whiten the shared part, whitened means (k, f), classes."""

    whitening: np.ndarray
    means: np.ndarray
    classes: list[_Gaussian]


class ClasswiseLDA(Choosing):
    """Quadratic discriminants: normal classes, each with its own shrunk covariance.

    The covariance of class c is K_c = a Σ_c + b Σ + g · trace(Σ) / f · I, with Σ_c its own covariance and Σ the one
    within all classes; a = 0 gives linear discriminants. Scores are log likelihoods with log-determinant and prior.

    Parameters
    ----------
    shares : tuple of three floats or "auto", default="auto"
        a, b ≥ 0 and g > 0. ``"auto"`` takes the pair with the least log loss on held-out training rows: g among 0.01,
        0.05, 0.15, 0.3 and 0.5, and a as a share of 0, 0.1, 0.2, 0.35 or 0.6 of 1 - g. The final solution uses all
        rows. A hash holds out a tenth of the rows that are learned with ``"auto"``; these are kept, and the loss is
        that of the 2,000 with the smallest hashes. The search descends from the middle of the grid, g = 0.15 and a
        share of 0.2, along one axis at a time. It stays there if no row, or every row, is held out.
    normalize : bool, default=False
        Whether each embedding is first divided by its Euclidean length.
    max_state_bytes : int, default=2**31
        Largest size of the state, f (f + 1) / 2 numbers of 8 bytes per class: 656 MB for 100 classes of 1,280 features.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
    class_counts_ : ndarray of shape (k,), int64
    sums_ : ndarray of shape (k, f), float64
    class_scatters_ : ndarray of shape (k, f, f), float64
        Sum over the rows of each class of (x - μ)(x - μ)ᵀ, with μ its mean; computed on access.
    shares_ : tuple of three floats
        The shares used.

    References
    ----------
    Friedman (1989), "Regularized discriminant analysis". LR-RGDA (2026), arXiv 2602.00144, with shares 0.2, 0.2, 0.2.

    Examples
    --------
    >>> X, y = [[0.0, 0.1], [0.1, 0.0], [9.0, 0.0], [0.0, 9.0], [-9.0, 0.0]], ["in", "in", "out", "out", "out"]
    >>> model = ClasswiseLDA(shares=(0.8, 0.1, 0.1)).fit(X, y)
    >>> model.predict([[0.05, 0.05], [-5.0, -5.0]]).tolist()
    ['in', 'out']
    """

    sums_: np.ndarray
    _moments: Moments

    def __init__(self, shares: Any = "auto", normalize: bool = False, max_state_bytes: int = 2**31) -> None:
        self.shares = shares
        self.normalize = normalize
        self.max_state_bytes = max_state_bytes

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class (n, k), for normal classes."""
        return softmax(self._masked_scores(X), axis=1)

    @property
    def shares_(self) -> tuple[float, float, float]:
        """The shares used, chosen on first access after learning."""
        return self._solution()[0]

    @property
    def class_scatters_(self) -> np.ndarray:
        """Scatter of each class about its mean (k, f, f)."""
        width = self.n_features_in_
        return np.stack([_unpacked(moment, width) for moment in self._moments])

    def _check_settings(self) -> None:
        check_integer("max_state_bytes", self.max_state_bytes)
        if isinstance(self.shares, str) and self.shares == "auto":
            return
        shares = np.asarray(self.shares) if isinstance(self.shares, tuple | list) else np.zeros(0)
        numbers = shares.shape == (3,) and shares.dtype.kind in "if" and bool(np.isfinite(shares).all())
        if not numbers or shares.min() < 0 or shares[2] <= 0:
            raise ValueError(
                f"shares={short(self.shares)} is not valid; expected three finite numbers a, b ≥ 0 and g > 0, or "
                "'auto'. Set it with set_params(shares=...)."
            )

    def _check_room(self, n_features: int, n_classes: int) -> None:
        needed = n_classes * n_features * (n_features + 1) // 2 * 8
        if needed > self.max_state_bytes:
            raise ValueError(
                f"max_state_bytes={self.max_state_bytes} is too small for {n_classes} classes of {n_features} "
                f"features; expected at least {needed}. Raise it with set_params(max_state_bytes=...), or use "
                "StreamingLDA, which keeps one covariance for all classes."
            )

    def _setting(self) -> Any:
        return self.shares if isinstance(self.shares, str) else tuple(map(float, self.shares))

    def _default(self, known: Known) -> tuple[float, float, float]:
        return _shares(len(SPHERES) // 2, len(OWN) // 2)

    def _start(self, n_features: int) -> None:
        super()._start(n_features)
        self.sums_, self._moments = np.zeros((0, n_features)), ()

    def _grow(self, old: np.ndarray, n_classes: int) -> None:
        super()._grow(old, n_classes)
        self.sums_ = moved(self.sums_, old, n_classes)
        places = dict(zip(old.tolist(), self._moments, strict=True))
        self._moments = tuple(places.get(place) for place in range(n_classes))

    def _add(self, X: np.ndarray, labels: np.ndarray) -> None:
        self._hold_out(Rows.of(X, labels)) if self.shares == "auto" else self._solved.clear()
        self.class_counts_, self.sums_, self._moments = self._changed(X, labels, +1)

    def _subtract(self, X: np.ndarray, labels: np.ndarray) -> None:
        self._drop_held_out(Rows.of(X, labels))
        self.class_counts_, self.sums_, self._moments = self._changed(X, labels, -1)

    def _join(self, other: Self) -> None:
        moments = list(starmap(_total, zip(self._moments, other._moments, strict=True)))
        for place in np.flatnonzero((self.class_counts_ > 0) & (other.class_counts_ > 0)):
            one = slice(place, place + 1)
            apart = between(self.class_counts_[one], self.sums_[one], other.class_counts_[one], other.sums_[one])
            moments[place] = _total(moments[place], _packed(apart))
        self.sums_, self._moments = self.sums_ + other.sums_, tuple(moments)
        super()._join(other)

    def _changed(self, X: np.ndarray, labels: np.ndarray, sign: int) -> tuple[np.ndarray, np.ndarray, Moments]:
        """Return class counts, sums and moments after adding or subtracting rows."""
        X, n_classes = self._features(X), len(self.class_counts_)
        count, summed = np.bincount(labels, minlength=n_classes), sum_by_class(X, labels, n_classes)
        counts, sums, moments = self.class_counts_ + sign * count, self.sums_ + sign * summed, list(self._moments)
        rest = (self.class_counts_, self.sums_) if sign > 0 else (counts, sums)
        sums[counts == 0] = 0
        order = np.argsort(labels, kind="stable")
        members = np.split(order, np.cumsum(count)[:-1])
        for place in np.flatnonzero(count):
            one = slice(place, place + 1)
            centred = X[members[place]] - summed[place] / count[place]
            apart = between(rest[0][one], rest[1][one], count[one], summed[one])
            change = _packed(np.concatenate([centred, apart]))
            moments[place] = _total(moments[place], sign * change) if counts[place] > 1 else None
        return counts, sums, tuple(moments)

    def _features(self, X: np.ndarray) -> np.ndarray:
        X = X.astype(np.float64)
        return unit_length(X) if self.normalize else X

    def _known(self, without: Rows | None = None) -> Known:
        statistics = self.class_counts_, self.sums_, self._moments
        if without is not None:
            statistics = self._changed(without.rows, without.labels, -1)
        counts, sums, moments = statistics
        width, total = sums.shape[1], None
        for moment in moments:
            total = _total(total, moment)
        spread, axes = eigh(_unpacked(total, width) / counts.sum(), lower=True, driver="evd", check_finite=False)
        spread = np.maximum(spread, 0) if spread.max() > 0 else np.ones(width)  # without spread: the nearest mean
        factors = [
            axes.T @ _factor(_unpacked(moment, width)) / np.sqrt(max(count, 1))
            for moment, count in zip(moments, counts.tolist(), strict=True)
        ]
        return Known(counts, class_means(sums, counts) @ axes, factors, spread, axes)

    def _solve(self, known: Known, value: tuple[float, float, float]) -> Solution:
        own, shared, sphere = value
        scale = np.sqrt(shared * known.spread + sphere * known.spread.mean())
        priors = np.log(np.maximum(known.counts, 1) / known.counts.sum()) - np.log(scale).sum()
        means, classes = known.means / scale, []
        for mean, factor, prior in zip(means, known.factors, priors.tolist(), strict=True):
            whitened = np.sqrt(own) * factor / scale[:, None]
            chol, _ = cho_factor(np.eye(factor.shape[1]) + whitened.T @ whitened, lower=True, check_finite=False)
            correction = solve_triangular(chol, whitened.T, lower=True, check_finite=False)
            classes.append(_Gaussian(correction, correction @ mean, prior - np.log(np.diag(chol)).sum()))
        return Solution(known.axes / scale, means, classes)

    def _scores(self, X: np.ndarray) -> np.ndarray:
        _, solution = self._solution()
        return np.concatenate([_log_likelihoods(solution, self._features(rows)) for (rows,) in blocks(X)])

    def _choose(self, known: Known, rest: Known, held_out: Rows) -> tuple[float, float, float]:
        X, labels = self._features(held_out.rows), held_out.labels

        def loss(place: tuple[int, ...]) -> float:
            scores = _log_likelihoods(self._solve(rest, _shares(*place)), X)
            scores[:, known.counts == 0] = -np.inf
            return float(-log_softmax(scores, axis=1)[np.arange(len(labels)), labels].mean())

        place, _ = least(loss, len(SPHERES), len(OWN))
        return _shares(*place)


def _shares(sphere: int, own: int) -> tuple[float, float, float]:
    """Return the shares at a place of the grid."""
    rest = 1 - SPHERES[sphere]
    return OWN[own] * rest, (1 - OWN[own]) * rest, SPHERES[sphere]


def _log_likelihoods(solution: Solution, X: np.ndarray) -> np.ndarray:
    """Return log likelihood plus log prior (n, k), up to a constant."""
    rows = X @ solution.whitening
    scores = rows @ solution.means.T - (solution.means**2).sum(axis=1) / 2 - (rows**2).sum(axis=1)[:, None] / 2
    for place, (correction, centre, constant) in enumerate(solution.classes):
        scores[:, place] += ((rows @ correction.T - centre) ** 2).sum(axis=1) / 2 + constant
    return scores


def _factor(scatter: np.ndarray) -> np.ndarray:
    """Return L (f, r) with L Lᵀ equal to a scatter (f, f) of rank r."""
    largest = scatter.diagonal().max(initial=0)
    if largest <= 0:
        return np.zeros((len(scatter), 0))
    lower, order, rank, _ = dpstrf(scatter, tol=RANK_TOLERANCE * largest, lower=1)
    factor = np.zeros((len(scatter), rank))
    factor[order - 1] = np.tril(lower)[:, :rank]
    return factor


def _packed(rows: np.ndarray) -> np.ndarray:
    """Return the lower triangle (f (f + 1) / 2,) of rowsᵀ rows."""
    return (rows.T @ rows)[_triangle(rows.shape[1])]


def _unpacked(packed: np.ndarray | None, width: int) -> np.ndarray:
    """Return the symmetric matrix (f, f) of a lower triangle, or zeros for None."""
    full = np.zeros((width, width))
    if packed is not None:
        full[_triangle(width)] = packed
        full.T[_triangle(width)] = packed
    return full


def _triangle(width: int) -> np.ndarray:
    return np.tri(width, dtype=bool)


def _total(one: np.ndarray | None, other: np.ndarray | None) -> np.ndarray | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other
