"""What a user would pick instead: streaming classifiers on the same features, with the same contract.

Enters: embeddings (n, f), labels (n,). Leaves: predictions. Must not know: heads, keys, values. Each keeps additive
statistics: order and splits of the data cannot matter, up to rounding. Here w is the width of the features that a
classifier makes of an embedding; only the random projection has w other than f.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, eigh, pinvh
from scipy.sparse import csr_array
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from ._labels import merge_classes
from ._validation import check_integer

BLOCK_ROWS = 2048
"""Rows whose features are in memory at once."""
HOLD_OUT_EVERY = 10
MAX_HELD_OUT = 2000
SHRINKAGES = tuple(np.geomspace(1e-4, 1, 10).tolist())
"""Grid of ``shrinkage="auto"``."""
PENALTIES = tuple(np.geomspace(1e-6, 1e2, 17).tolist())
"""Grid of ``alpha="auto"``, in units of trace(FᵀF) / w for features F (n, w)."""


class _Additive(ClassifierMixin, BaseEstimator):
    """Counts and feature sums of each class, and scikit-learn's contract around them."""

    classes_: np.ndarray
    sums_: np.ndarray
    class_counts_: np.ndarray
    normalize: bool

    def fit(self, X: Any, y: Any) -> Self:
        """Forget what was learned, and learn X (n, f) and y (n,)."""
        return self._learn(X, y, None, reset=True)

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Self:
        """Learn more samples, X (n, f) and y (n,); new labels may appear, ``classes`` may declare them.

        Raises
        ------
        TypeError, ValueError
            If a setting, X, y or ``classes`` is not valid, or labels are of another type than those learned so far.
        """
        return self._learn(X, y, classes, reset=not hasattr(self, "classes_"))

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the score of each class (n, k), or with two classes the second's minus the first's (n,).

        A class that was declared but never seen scores minus infinity.
        """
        scores = self._masked_scores(X)
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def predict(self, X: Any) -> np.ndarray:
        """Return the label with the highest score (n,)."""
        best = self._masked_scores(X).argmax(axis=1)
        return self.classes_[best]

    def _check_settings(self) -> None:
        """Refuse constructor parameters that are not valid."""

    def _scores(self, X: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _masked_scores(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        scores = self._scores(validate_data(self, X, dtype=[np.float64, np.float32], reset=False))
        scores[:, self.class_counts_ == 0] = -np.inf
        return scores

    def _learn(self, X: Any, y: Any, classes: Any, *, reset: bool) -> Self:
        self._check_settings()
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], reset=reset)
        check_classification_targets(y)
        everything = merge_classes(y[:0] if reset else self.classes_, y)
        if classes is not None:
            everything = merge_classes(everything, np.asarray(classes))
        if reset:
            self.classes_ = everything[:0]
            self._start(X.shape[1])
        self._grow(np.searchsorted(everything, self.classes_), len(everything))
        self.classes_ = everything
        self._add(X, np.searchsorted(everything, y))
        return self

    def _start(self, n_features: int) -> None:
        """Set the statistics to those of no rows and no classes."""
        self.sums_, self.class_counts_ = np.zeros((0, n_features)), np.zeros(0, dtype=np.int64)

    def _grow(self, old: np.ndarray, n_classes: int) -> None:
        """Move the classes known so far to the positions ``old`` among ``n_classes``."""
        sums, counts = np.zeros((n_classes, self.sums_.shape[1])), np.zeros(n_classes, dtype=np.int64)
        sums[old], counts[old] = self.sums_, self.class_counts_
        self.sums_, self.class_counts_ = sums, counts

    def _add(self, X: np.ndarray, labels: np.ndarray) -> None:
        for rows, named in zip(_blocks(X), _blocks(labels), strict=True):
            self._add_features(self._features(rows), named)

    def _add_features(self, features: np.ndarray, labels: np.ndarray) -> None:
        self.sums_ += _sum_by_class(features, labels, len(self.sums_))
        self.class_counts_ += np.bincount(labels, minlength=len(self.sums_))

    def _features(self, X: np.ndarray) -> np.ndarray:
        X = X.astype(np.float64)
        if not self.normalize:
            return X
        length = np.linalg.norm(X, axis=1, keepdims=True)
        return X / np.where(length > 0, length, 1)


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    return np.array_split(rows, range(BLOCK_ROWS, len(rows), BLOCK_ROWS))


def _sum_by_class(features: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Return the sum of each class's features (k, w): a sparse product, 7 to 20 times as fast as ``np.add.at``."""
    members = csr_array((np.ones(len(labels)), (labels, np.arange(len(labels)))), shape=(n_classes, len(labels)))
    return members @ features


def _class_means(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return sums / np.maximum(counts, 1)[:, None]


class NearestClassMean(_Additive):
    """Predict the class whose mean embedding is nearest; its score is minus the squared distance.

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

    def __init__(self, normalize: bool = False) -> None:
        self.normalize = normalize

    def _scores(self, X: np.ndarray) -> np.ndarray:
        X, means = self._features(X), _class_means(self.sums_, self.class_counts_)
        return 2 * X @ means.T - (means**2).sum(axis=1) - (X**2).sum(axis=1, keepdims=True)


class _Statistics(NamedTuple):
    """What a linear classifier needs to know of some rows: class counts (k,), sums (k, w), scatter (w, w).

    The scatter is taken about the mean of each row's class. A sum of raw products would lose it by cancellation where
    features have a large common offset.
    """

    counts: np.ndarray
    sums: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, labels: np.ndarray, n_classes: int) -> _Statistics:
        counts, sums = np.bincount(labels, minlength=n_classes), _sum_by_class(features, labels, n_classes)
        centred = features - _class_means(sums, counts)[labels]
        return cls(counts, sums, centred.T @ centred)

    def without(self, part: _Statistics) -> _Statistics:
        """Return the statistics of the other rows."""
        rest = _Statistics(self.counts - part.counts, self.sums - part.sums, self.scatter - part.scatter)
        return rest._replace(scatter=rest.scatter - _scatter_between(rest, part))


def _scatter_between(one: _Statistics, other: _Statistics) -> np.ndarray:
    """Return the scatter (w, w) of a union of rows beyond that of its two parts.

    References
    ----------
    Chan, Golub & LeVeque (1983), "Algorithms for computing the sample variance: analysis and recommendations".
    """
    both = (one.counts > 0) & (other.counts > 0)
    apart = _class_means(one.sums[both], one.counts[both]) - _class_means(other.sums[both], other.counts[both])
    apart *= np.sqrt(one.counts[both] * other.counts[both] / (one.counts[both] + other.counts[both]))[:, None]
    return apart.T @ apart


class _HeldOut(NamedTuple):
    """Training rows kept to choose a setting: hashes (r,) uint64, labels (r,), rows (r, f), by hash.

    They are a function of the multiset of samples: of the rows whose hash is a multiple of ``HOLD_OUT_EVERY``, the
    ``MAX_HELD_OUT`` with the smallest hashes. Equal rows share a hash, so none is both learned and held out.
    """

    hashes: np.ndarray
    labels: np.ndarray
    rows: np.ndarray

    def add(self, X: np.ndarray, labels: np.ndarray) -> _HeldOut:
        hashes = _hash_rows(X)
        kept = hashes % np.uint64(HOLD_OUT_EVERY) == 0
        arrived = (hashes[kept], labels[kept], X[kept])
        hashes, labels, rows = (np.concatenate(pair) for pair in zip(self, arrived, strict=True))
        order = np.lexsort((labels, hashes))[:MAX_HELD_OUT]
        return _HeldOut(hashes[order], labels[order], rows[order])


def _hash_rows(X: np.ndarray) -> np.ndarray:
    """Hash each row (n, f) to uint64; equal numbers give equal hashes, whatever their dtype and sign of zero."""
    rows = np.ascontiguousarray(X, dtype=np.float64) + 0.0
    digests = b"".join(hashlib.blake2b(row, digest_size=8, person=b"held out").digest() for row in rows)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


class _Linear(_Additive):
    """A linear classifier solved from additive statistics, its one setting given or chosen on held-out rows.

    It is solved at the first prediction after learning: a stream of small batches pays for its statistics alone.
    """

    scatter_: np.ndarray
    _held_out: _HeldOut
    _solved: dict[object, tuple[float, np.ndarray, np.ndarray]]

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        return state | {"_solved": {}} if "_solved" in state else state

    def _setting(self) -> float | str:
        raise NotImplementedError

    def _grid(self, known: _Statistics) -> tuple[float, ...]:
        """Return the values that ``"auto"`` tries."""
        raise NotImplementedError

    def _solve(self, known: _Statistics, values: Sequence[float]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield weights (w, k) and intercepts (k,) for each value of the setting."""
        raise NotImplementedError

    def _loss(self, scores: np.ndarray, labels: np.ndarray) -> float:
        """Return how badly scores (r, k) tell labels (r,): what ``"auto"`` makes least."""
        raise NotImplementedError

    def _start(self, n_features: int) -> None:
        width = self._width(n_features)
        super()._start(width)
        self.scatter_ = np.zeros((width, width))
        nothing = np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64), np.zeros((0, n_features), dtype=np.float32)
        self._held_out = _HeldOut(*nothing)

    def _width(self, n_features: int) -> int:
        return n_features

    def _grow(self, old: np.ndarray, n_classes: int) -> None:
        super()._grow(old, n_classes)
        self._held_out = self._held_out._replace(labels=old[self._held_out.labels])

    def _add(self, X: np.ndarray, labels: np.ndarray) -> None:
        super()._add(X, labels)
        if self._setting() == "auto":
            self._held_out = self._held_out.add(X, labels)
        self._solved = {}

    def _add_features(self, features: np.ndarray, labels: np.ndarray) -> None:
        arrived = _Statistics.of(features, labels, len(self.sums_))
        scatter = arrived.scatter
        scatter += _scatter_between(self._statistics(), arrived)
        scatter += self.scatter_
        self.scatter_ = scatter  # a new array, as all that learning writes: a shallow copy keeps what it had
        self.sums_ += arrived.sums
        self.class_counts_ += arrived.counts

    def _statistics(self) -> _Statistics:
        return _Statistics(self.class_counts_, self.sums_, self.scatter_)

    def _scores(self, X: np.ndarray) -> np.ndarray:
        _, weights, intercepts = self._solution()
        return np.concatenate([self._features(rows) @ weights + intercepts for rows in _blocks(X)])

    def _solution(self) -> tuple[float, np.ndarray, np.ndarray]:
        """Return the setting's value, weights (w, k) and intercepts (k,)."""
        check_is_fitted(self)
        self._check_settings()
        setting = self._setting()
        if setting not in self._solved:
            value = self._choose() if isinstance(setting, str) else float(setting)
            self._solved[setting] = (value, *next(self._solve(self._statistics(), [value])))
        return self._solved[setting]

    def _choose(self) -> float:
        """Return the value of the grid with the least loss on the held-out rows, learned from all others."""
        known, (_, labels, rows) = self._statistics(), self._held_out
        grid = self._grid(known)
        if not 0 < len(rows) < known.counts.sum():
            return grid[len(grid) // 2]
        features = self._features(rows)
        rest = known.without(_Statistics.of(features, labels, len(known.counts)))
        losses = [self._loss(features @ weights + offsets, labels) for weights, offsets in self._solve(rest, grid)]
        return grid[int(np.argmin(losses))]


class StreamingLDA(_Linear):
    """Predict by linear discriminants: class means, and one covariance within classes, exact over any batches.

    Parameters
    ----------
    shrinkage : float in [0, 1] or "auto", default=1e-4
        Share s of the shrunk covariance (1 - s) Σ + s · trace(Σ) / f · I that is spherical, as in scikit-learn's
        ``LinearDiscriminantAnalysis(solver="lsqr")``. ``"auto"``: of ten values from 1e-4 to 1, in equal ratios, the
        one with the least log loss on held-out training rows, learned from all others; then all rows are used. A
        tenth of the rows learned while it is ``"auto"`` is held out, by a hash of each row: at most 2,000, those with
        the smallest hashes. Where no row is held out or none is left, the sixth value, 0.0167.
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

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class (n, k), for normal classes with one covariance."""
        return softmax(self._masked_scores(X), axis=1)

    def novelty(self, X: Any) -> np.ndarray:
        """Return the squared Mahalanobis distance of each sample to the nearest class mean (n,); larger is stranger.

        The covariance is the shrunk one that predictions use, singular directions left out.

        References
        ----------
        Lee et al. (2018), "A simple unified framework for detecting out-of-distribution samples and adversarial
        attacks", equation 2.
        """
        share = self._solution()[0]
        X = self._features(validate_data(self, X, dtype=[np.float64, np.float32], reset=False))
        covariance, means = self.covariance_, _class_means(self.sums_, self.class_counts_)[self.class_counts_ > 0]
        inverse = pinvh(
            (1 - share) * covariance + share * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        )
        lifted = X @ inverse
        between = ((means @ inverse) * means).sum(axis=1) - 2 * lifted @ means.T
        return (lifted * X).sum(axis=1) + between.min(axis=1)

    @property
    def shrinkage_(self) -> float:
        """The shrinkage used, chosen when first asked for after learning."""
        return self._solution()[0]

    @property
    def covariance_(self) -> np.ndarray:
        """Covariance within classes (f, f), before shrinkage."""
        check_is_fitted(self)
        return self.scatter_ / self.class_counts_.sum()

    def _check_settings(self) -> None:
        _check_real("shrinkage", self.shrinkage, "a number from 0 to 1", lambda value: 0 <= value <= 1)

    def _setting(self) -> float | str:
        return self.shrinkage

    def _grid(self, known: _Statistics) -> tuple[float, ...]:
        return SHRINKAGES

    def _solve(self, known: _Statistics, values: Sequence[float]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        n_rows, means = known.counts.sum(), _class_means(known.sums, known.counts)
        spread, axes = eigh(known.scatter / n_rows, driver="evd")
        spread = np.maximum(spread, 0) if known.scatter.any() else np.ones_like(spread)  # then: the nearest mean
        priors = np.log(np.maximum(known.counts, 1) / n_rows)  # finite for a class held out whole, or the loss is not
        for share in values:
            shrunk = (1 - share) * spread + share * spread.mean()
            weights = _solve_spectrum(shrunk, axes, means.T)
            yield weights, priors - (means.T * weights).sum(axis=0) / 2

    def _loss(self, scores: np.ndarray, labels: np.ndarray) -> float:
        return float(-log_softmax(scores, axis=1)[np.arange(len(labels)), labels].mean())


class RandomProjectionRidge(_Linear):
    """Predict by ridge regression of the classes on frozen random features, max(0, x P) with Gaussian P.

    Parameters
    ----------
    n_components : int, default=2000
        Random features, w. The state holds w² numbers.
    alpha : float > 0 or "auto", default="auto"
        Penalty, as in scikit-learn's ``Ridge(fit_intercept=False)``. ``"auto"``: of 17 values from 1e-6 to 1e2, in
        equal ratios and in units of trace(FᵀF) / w for features F (n, w), the one with the least squared error on
        held-out training rows, learned from all others; then all rows are used. A tenth of the rows learned while
        it is ``"auto"`` is held out, by a hash of each row: at most 2,000, those with the smallest hashes. Where no
        row is held out or none is left, 1e-2 units.
    normalize : bool, default=False
        Divide each embedding by its Euclidean length first.
    random_state : int, RandomState or None, default=None
        Draws P, when the first rows are learned.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
    class_counts_ : ndarray of shape (k,), int64
    projection_ : ndarray of shape (f, w), float64
    sums_ : ndarray of shape (k, w), float64
        Sums of features.
    scatter_ : ndarray of shape (w, w), float64
        Sum over rows of (z - μ)(z - μ)ᵀ, z the features and μ their mean in the row's class.
    alpha_ : float
        The penalty used.

    References
    ----------
    McDonnell et al. (2023), "RanPAC: random projections and pre-trained models for continual learning", without its
    adaptation of the network.

    Examples
    --------
    >>> model = RandomProjectionRidge(n_components=50, random_state=0)
    >>> model = model.partial_fit([[0.0, 1.0], [0.0, 2.0]], ["a", "a"]).partial_fit([[1.0, 0.0]], ["b"])
    >>> model.predict([[0.1, 1.5], [2.0, 0.1]]).tolist()
    ['a', 'b']
    """

    projection_: np.ndarray

    def __init__(
        self,
        n_components: int = 2000,
        alpha: float | str = "auto",
        normalize: bool = False,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.alpha = alpha
        self.normalize = normalize
        self.random_state = random_state

    @property
    def alpha_(self) -> float:
        """The penalty used, chosen when first asked for after learning."""
        return self._solution()[0]

    def _check_settings(self) -> None:
        check_integer("n_components", self.n_components)
        _check_real("alpha", self.alpha, "a finite number > 0", lambda value: 0 < value < np.inf)

    def _setting(self) -> float | str:
        return self.alpha

    def _width(self, n_features: int) -> int:
        return self.n_components

    def _start(self, n_features: int) -> None:
        super()._start(n_features)
        self.projection_ = check_random_state(self.random_state).standard_normal((n_features, self.n_components))

    def _features(self, X: np.ndarray) -> np.ndarray:
        features = super()._features(X) @ self.projection_
        return np.maximum(features, 0, out=features)

    def _grid(self, known: _Statistics) -> tuple[float, ...]:
        means = _class_means(known.sums, known.counts)
        unit = (np.trace(known.scatter) + (means * known.sums).sum()) / len(known.scatter)
        return tuple(float(penalty * unit) if unit > 0 else penalty for penalty in PENALTIES)

    def _solve(self, known: _Statistics, values: Sequence[float]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        gram = known.scatter + _class_means(known.sums, known.counts).T @ known.sums
        no_offset = np.zeros(len(known.counts))
        for alpha in values:
            yield _solve_ridge(gram, known.sums.T, alpha), no_offset

    def _loss(self, scores: np.ndarray, labels: np.ndarray) -> float:
        right = scores[np.arange(len(labels)), labels]
        return float(((scores**2).sum(axis=1) + 1 - 2 * right).mean())


def _solve_ridge(gram: np.ndarray, targets: np.ndarray, alpha: float) -> np.ndarray:
    """Return (G + αI)⁻¹ C for a Gram matrix (w, w) and C (w, k)."""
    if alpha > np.finfo(np.float64).eps * np.trace(gram):
        damped = gram.T.copy(order="F")  # LAPACK's order, so that it is factored in place
        damped.flat[:: len(gram) + 1] += alpha
        with suppress(LinAlgError):
            return cho_solve(cho_factor(damped, overwrite_a=True), targets)
    spread, axes = eigh(gram, driver="evd")  # a penalty below the rounding of the Gram matrix
    return _solve_spectrum(np.maximum(spread, 0) + alpha, axes, targets)


def _solve_spectrum(spread: np.ndarray, axes: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return A⁻¹ B (w, k) for A with eigenvalues (w,) and eigenvectors (w, w); its pseudo-inverse where singular."""
    usable = spread > np.finfo(np.float64).eps * len(spread) * spread.max()
    return (axes[:, usable] / spread[usable]) @ (axes[:, usable].T @ targets)


def _check_real(name: str, value: object, expected: str, is_valid: Callable[[float], bool]) -> None:
    """Refuse what is neither ``"auto"`` nor a valid number.

    Raises
    ------
    TypeError, ValueError
        With the parameter's name, what came and what is expected.
    """
    if isinstance(value, str) and value == "auto":
        return
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(
            f"{name}={value!r} is a {type(value).__name__}; expected {expected}, or 'auto'. Set it with "
            f"set_params({name}=...)."
        )
    if not is_valid(float(value)):
        raise ValueError(
            f"{name}={value!r} is not valid; expected {expected}, or 'auto'. Set it with set_params({name}=...)."
        )
