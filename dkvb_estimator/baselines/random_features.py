"""Ridge regression and linear discriminants of frozen random features.

Features of float32 and float16 rows are computed and multiplied in float32, those of float64 rows in float64. Sums are
always float64.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from scipy.spatial.distance import pdist
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from dkvb_estimator._validation import check_integer, short

from ._additive import unit_length
from ._choosing import check_real
from ._linear import Known, Linear, among_present
from ._rows import Rows
from ._sums import symmetric
from ._systems import Dual, Primal
from .discriminant import Discriminant

PENALTIES = tuple(np.geomspace(1e-6, 1e2, 17).tolist())
"""Grid of ``alpha="auto"``, in units of trace(FᵀF) / w for features F (n, w)."""
WIDTHS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Grid of ``gamma="auto"``, in units of 1 / median squared distance between rows."""
RATIOS = np.geomspace(1e-4, 1e3, 15)
STRONGER_SHRINKAGES = tuple((RATIOS / (1 + RATIOS)).tolist())
"""Grid of the shrinkage of Fourier features; it is finer near one, because these features are many."""
COOLERS = tuple(np.geomspace(1 / 256, 1, 33).tolist())
"""Factors of scores; the loss of a kernel width is the least over these.

With more features than rows, likelihoods are overconfident, in particular with a narrow kernel.
"""
DENSITY = 0.4
SAFE = 1e-6, 1e6
"""Range of the largest magnitude in a block of rows in which float32 products neither overflow nor underflow."""
PAIRED_ROWS, TRIED_ROWS, TRIED_FEATURES = 1000, 3000, 2000
"""Number of rows for the median distance, and of rows (a third of them scored) and features for kernel widths."""


class _Frozen(Linear):
    """Random features, drawn when the first rows are learned."""

    n_components: int
    random_state: Any
    projection_: np.ndarray

    def _width(self) -> int:
        return self.n_components

    def _max_kept(self) -> int:
        return self._learned_with["n_components"]

    def _project(self, X: np.ndarray, width: int | None = None) -> np.ndarray:
        if not SAFE[0] < np.abs(X).max(initial=0) < SAFE[1]:
            X = X.astype(np.float64)
        X = unit_length(X) if self.normalize else X
        return X @ self.projection_[:, :width].astype(X.dtype, copy=False)

    def _check_mergeable(self, other: Self) -> None:
        super()._check_mergeable(other)
        if not np.array_equal(self.projection_, other.projection_):
            raise ValueError(
                f"other drew its random features with random_state={other.random_state!r}, this model with "
                f"{self.random_state!r}; expected the same features. Set random_state to the same whole number in both."
            )


class RandomProjectionRidge(_Frozen):
    """Ridge regression of the classes on frozen random features, max(0, x P).

    Parameters
    ----------
    n_components : int, default=2000
        Number of random features, w; 10,000 in both papers below. Up to w rows are kept and solved in the dual (n, n).
        With one more row, the state becomes sums of w² numbers of 8 bytes, and each penalty takes a Cholesky factor
        (w, w), some seconds for 10,000.
    alpha : float > 0 or "auto", default="auto"
        Penalty, as in scikit-learn's ``Ridge(fit_intercept=False)``. ``"auto"`` takes the one of 17 values from 1e-6 to
        1e2, in equal ratios and in units of trace(FᵀF) / w for features F (n, w), with the least squared error on
        held-out training rows; the final solution uses all rows. A hash holds out a tenth of the rows that are learned
        with ``"auto"``; these are kept, and the error is that of the 2,000 with the smallest hashes. The search
        descends from the middle, 1e-2, in steps of four, two and one. It stays there if no row, or every row, is held
        out.
    normalize : bool, default=False
        Whether each embedding is first divided by its Euclidean length.
    random_state : int, RandomState or None, default=None
        Draws P when the first rows are learned.
    projection : {"gaussian", "sparse"}, default="gaussian"
        Whether each feature uses all inputs or a share ``density`` of them; weights are normal.
    density : float in (0, 1] or "auto", default="auto"
        Share of the inputs per feature if ``projection="sparse"``. ``"auto"`` is 0.4, about 300 of 768 as in Fly-CL.
    top_share : float in (0, 1] or None, default=None
        If given, keep this share of the largest features per row and set the others to zero, instead of max(0, ·); 0.3
        in Fly-CL. Rounding decides on features at the threshold.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
    class_counts_ : ndarray of shape (k,), int64
    projection_ : ndarray of shape (f, w), float32
    sums_ : ndarray of shape (k, w), float64
        Sums of features.
    gram_ : ndarray of shape (w, w), float64
        Sum over rows of z zᵀ, with z the features.
    alpha_ : float
        The penalty used.

    References
    ----------
    McDonnell et al. (2023), "RanPAC: random projections and pre-trained models for continual learning", without its
    adaptation of the network. Fly-CL (2026), arXiv 2510.16877: sparse projection and the largest features.

    Examples
    --------
    >>> model = RandomProjectionRidge(n_components=50, random_state=0)
    >>> model = model.partial_fit([[0.0, 1.0], [0.0, 2.0]], ["a", "a"]).partial_fit([[1.0, 0.0]], ["b"])
    >>> model.predict([[0.1, 1.5], [2.0, 0.1]]).tolist()
    ['a', 'b']
    """

    _centred = False
    _fixed: ClassVar[tuple[str, ...]] = ("normalize", "n_components", "projection", "density", "top_share")

    def __init__(
        self,
        n_components: int = 2000,
        alpha: float | str = "auto",
        normalize: bool = False,
        random_state: Any = None,
        projection: str = "gaussian",
        density: float | str = "auto",
        top_share: float | None = None,
    ) -> None:
        self.n_components = n_components
        self.alpha = alpha
        self.normalize = normalize
        self.random_state = random_state
        self.projection = projection
        self.density = density
        self.top_share = top_share

    @property
    def alpha_(self) -> float:
        """The penalty used, chosen on first access after learning."""
        return self._solution()[0]

    @property
    def gram_(self) -> np.ndarray:
        """Sum of products of features (w, w)."""
        check_is_fitted(self)
        system = self._known().system
        return symmetric(system.products) if isinstance(system, Primal) else system.rows.T @ system.rows

    def _check_settings(self) -> None:
        check_integer("n_components", self.n_components)
        check_real("alpha", self.alpha, "a finite number > 0", lambda value: 0 < value < np.inf)
        if self.projection not in ("gaussian", "sparse"):
            raise ValueError(
                f"projection={short(self.projection)} is not valid; expected 'gaussian' or 'sparse'. Set it with "
                "set_params(projection=...)."
            )
        check_real("density", self.density, "a number in (0, 1]", lambda value: 0 < value <= 1)
        check_real("top_share", self.top_share, "a number in (0, 1]", lambda value: 0 < value <= 1, other=None)

    def _setting(self) -> float | str:
        return self.alpha

    def _start(self, n_features: int) -> None:
        super()._start(n_features)
        random = check_random_state(self.random_state)
        weights = random.standard_normal((n_features, self.n_components)).astype(np.float32)
        if self.projection == "sparse":
            density = DENSITY if isinstance(self.density, str) else self.density
            n_read = max(1, round(density * n_features))
            ranks = random.random_sample((self.n_components, n_features)).argpartition(n_read - 1, axis=1)
            np.put_along_axis(weights, ranks[:, n_read:].T, 0, axis=0)
        self.projection_ = weights

    def _features(self, X: np.ndarray) -> np.ndarray:
        features = self._project(X)
        if self.top_share is None:
            return np.maximum(features, 0, out=features)
        n_zero = self.n_components - max(1, round(self.top_share * self.n_components))
        edge = np.partition(features, n_zero, axis=1)[:, n_zero, None]
        features[features < edge] = 0
        return features

    def _grid(self, known: Known) -> tuple[float, ...]:
        unit = known.system.trace / known.system.width
        return tuple(float(penalty * unit) if unit > 0 else penalty for penalty in PENALTIES)

    def _solve(self, known: Known, value: float) -> tuple[np.ndarray, np.ndarray]:
        n_classes = len(known.counts)
        if isinstance(known.system, Dual):
            weights = known.system.solve_rows(value, np.eye(n_classes)[known.labels])
        else:
            weights = known.system.solve(value, known.sums.T)
        return weights, np.zeros(n_classes)

    def _loss(self, scores: np.ndarray, labels: np.ndarray) -> float:
        right = scores[np.arange(len(labels)), labels]
        return float(((scores**2).sum(axis=1) + 1 - 2 * right).mean())


class RandomFourierDiscriminant(_Frozen, Discriminant):
    """Linear discriminants of random Fourier features, which approximate kernel discriminants with one covariance.

    Features are √(2/w) cos(√(2γ) x P + b) with P normal and b uniform in [0, 2π); their products approximate the kernel
    ``exp(-γ ‖x - x'‖²)``. The covariance within classes is exact in any order of rows, while that of the paper follows
    running means.

    Parameters
    ----------
    n_components : int, default=5000
        Number of random features, w. Up to w rows are kept and solved in the dual (n, n). With one more row, the state
        becomes sums of w² numbers of 8 bytes.
    gamma : float > 0 or "auto", default="auto"
        Parameter γ of the kernel. ``"auto"`` takes c / median squared distance between rows, with c among 0.05, 0.1,
        0.2, 0.5, 1 and 2. It is chosen on the first w rows and fixed with the next row, because features in sums cannot
        change; so it depends on which rows are the first w, and forgetting these does not change it. The median uses
        the 1,000 rows with the smallest hashes. The choice uses 3,000 rows and at most 2,000 features: two thirds of
        the rows are learned and the others scored, and the c with the least log loss is taken, each with its best
        shrinkage and temperature.
    shrinkage : float in [0, 1] or "auto", default="auto"
        As in :class:`StreamingLDA`, but with fifteen values s with s / (1 - s) from 1e-4 to 1e3, in equal ratios. If no
        row, or every row, is held out, it is the eighth value, 0.24.
    normalize : bool, default=False
        Whether each embedding is first divided by its Euclidean length.
    random_state : int, RandomState or None, default=None
        Draws P and b when the first rows are learned.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
    class_counts_ : ndarray of shape (k,), int64
    projection_ : ndarray of shape (f, w), float32
    phases_ : ndarray of shape (w,), float32
    gamma_ : float
        The kernel parameter used.
    sums_ : ndarray of shape (k, w), float64
        Sums of features.
    shrinkage_ : float
        The shrinkage used.

    References
    ----------
    Momeni, Mazumder & Liu (2025), "Continual learning using a kernel-based method over foundation models", arXiv
    2412.15571. Rahimi & Recht (2007), "Random features for large-scale kernel machines".

    Examples
    --------
    >>> X, y = [[0.0], [0.1], [2.0], [2.1], [4.0], [4.1]], ["in", "in", "out", "out", "in", "in"]
    >>> model = RandomFourierDiscriminant(n_components=300, gamma=1.0, shrinkage=0.1, random_state=0).fit(X, y)
    >>> model.predict([[0.2], [1.9], [3.8]]).tolist()
    ['in', 'out', 'in']
    """

    _fixed: ClassVar[tuple[str, ...]] = ("normalize", "n_components", "gamma")
    phases_: np.ndarray
    _frozen_gamma: float | None

    def __init__(
        self,
        n_components: int = 5000,
        gamma: float | str = "auto",
        shrinkage: float | str = "auto",
        normalize: bool = False,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.gamma = gamma
        self.shrinkage = shrinkage
        self.normalize = normalize
        self.random_state = random_state

    @property
    def gamma_(self) -> float:
        """The kernel parameter used, chosen on first access after learning until it is fixed."""
        check_is_fitted(self)
        if self._frozen_gamma is not None:
            return self._frozen_gamma
        if "gamma" not in self._solved:
            self._solved["gamma"] = self._choose_gamma(self._kept_rows().take(slice(self._max_kept())))
        return self._solved["gamma"]

    def _check_settings(self) -> None:
        super()._check_settings()
        check_integer("n_components", self.n_components)
        check_real("gamma", self.gamma, "a finite number > 0", lambda value: 0 < value < np.inf)

    def _start(self, n_features: int) -> None:
        super()._start(n_features)
        random = check_random_state(self.random_state)
        self.projection_ = random.standard_normal((n_features, self.n_components)).astype(np.float32)
        self.phases_ = random.uniform(0, 2 * np.pi, self.n_components).astype(np.float32)
        self._frozen_gamma = None if isinstance(self.gamma, str) else float(self.gamma)

    def _grid(self, known: Known) -> tuple[float, ...]:
        return STRONGER_SHRINKAGES

    def _freeze(self, rows: Rows) -> None:
        if self._frozen_gamma is None:
            self._frozen_gamma = self._choose_gamma(rows)

    def _check_mergeable(self, other: Self) -> None:
        super()._check_mergeable(other)
        mine, theirs = self._frozen_gamma, other._frozen_gamma
        if mine is not None and theirs is not None and mine != theirs:
            raise ValueError(
                f"other fixed gamma at {theirs:.6g} from its first rows, this model at {mine:.6g}; expected the same. "
                "Set gamma to the same number in both."
            )

    def _adopt(self, other: Self) -> None:
        self._frozen_gamma = other._frozen_gamma

    def _features(self, X: np.ndarray) -> np.ndarray:
        return self._waves(X, self.gamma_, self.n_components)

    def _waves(self, X: np.ndarray, gamma: float, width: int) -> np.ndarray:
        """Return the first ``width`` features (n, width) of a kernel."""
        waves = self._project(X, width)
        waves *= np.sqrt(2 * gamma)
        waves += self.phases_[:width]
        np.cos(waves, out=waves)
        waves *= np.sqrt(2 / width)
        return waves

    def _choose_gamma(self, rows: Rows) -> float:
        """Return the kernel parameter with the least loss on a third of some rows, learned from the others."""
        rows = rows.by_hash().take(slice(TRIED_ROWS))
        X = rows.rows[:PAIRED_ROWS].astype(np.float64)
        distances = pdist(unit_length(X) if self.normalize else X, "sqeuclidean")
        scale = (float(np.median(distances)) if len(distances) else 0) or 1.0
        scored, learned = rows.take(slice(0, None, 3)), rows.take(np.arange(len(rows.labels)) % 3 > 0)
        if len(learned.labels) == 0:
            return 1 / scale
        return min((self._try_gamma(c / scale, learned, scored), c / scale) for c in WIDTHS)[1]

    def _try_gamma(self, gamma: float, learned: Rows, scored: Rows) -> float:
        """Return the log loss on some rows, with their best shrinkage and temperature."""
        width = min(TRIED_FEATURES, self.n_components)
        features, others = (self._waves(part.rows.astype(np.float64), gamma, width) for part in (learned, scored))
        known = self._tell(features, learned.labels, hasty=True)
        shrinkage = self._best(self._grid(known), known, others, scored.labels)
        weights, offsets = self._solve(known, shrinkage)
        scores, labels = among_present(others @ weights + offsets, scored.labels, known.counts)
        return min(self._loss(scores * cooler, labels) for cooler in COOLERS)
