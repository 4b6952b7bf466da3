"""Solve the values of all heads together, in closed form, from sums over rows.

Enters: features (n, w) of codes, class positions, weights. Leaves: weights (w, k) of the features and a bias (k,). Must
not know: embeddings, keys, class labels.

Every solution is a function of a few sums. Features are small integers, so float32 products within a block and float64
sums over blocks are exact. Rows of weight one may therefore arrive in any order and any batches, and be subtracted
again, with bit-identical results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch

from dkvb_estimator._device import to_tensor
from dkvb_estimator._progress import SILENT, Progress

from .prior import EXACT_ROWS, Prior
from .temperature import fit_shares

OBJECTIVES = ("ridge", "discriminant")
CURVATURES = (0.0, 0.6)
"""Candidate spreads of curves relative to coordinates; with 0, values are linear in a key's coordinates."""
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Candidate penalties, in units of the summed squared lengths of centred rows."""
USUAL_CURVATURE, USUAL_PENALTIES = 0.6, {"ridge": 1e-4, "discriminant": 1e-3}
USUAL_SHARES = {"ridge": 2.0, "discriminant": 0.1}
"""Defaults if no row can choose: typical choices on the data sets of ``benchmarks/accuracy.py``."""
UNSEEN = 1e6
"""A class without rows has the prior of one row in this many."""
JITTER = 1e-10
"""Added to the diagonal of products of rows, relative to its mean, so that equal rows can be factored."""
ROUNDING = 1e-12
"""A spread or a weight below this share of the total is treated as zero with rounding errors."""
LEAST_LEFT = 1e-6
"""Lower bound of one minus the leverage of a row."""
DIGITS = 3
"""Of a share; more would be rounding errors, which differ with the number of threads."""
PANEL = 512
"""Columns of a symmetric product that are computed at once."""
MANY_CLASSES = 0.6
"""With more classes per feature than this, a second factor (w, w) is cheaper than systems (k, k)."""


@dataclass(frozen=True)
class Settings:
    """Candidates of the mixture.

    Parameters
    ----------
    objectives : tuple of str
        Subset of ``OBJECTIVES``.
    curvatures, penalties : tuples of float
    """

    objectives: tuple[str, ...] = OBJECTIVES
    curvatures: tuple[float, ...] = CURVATURES
    penalties: tuple[float, ...] = PENALTIES


class Part(NamedTuple):
    """One solution in a mixture, and its share."""

    objective: str
    curvature: float
    penalty: float
    share: float


class Solution(NamedTuple):
    """Weights (w, k) and bias (k,): scores are ``features @ weights + bias``."""

    weights: np.ndarray
    bias: np.ndarray
    parts: tuple[Part, ...]


@dataclass(frozen=True, eq=False)
class Sums:
    """Weighted sums over rows of products of features, features, and ones.

    Parameters
    ----------
    gram : ndarray of shape (w, w), float64
    by_class : ndarray of shape (k, w), float64
    weights : ndarray of shape (k,), float64
    """

    gram: np.ndarray
    by_class: np.ndarray
    weights: np.ndarray

    @classmethod
    def empty(cls, width: int, n_classes: int) -> Sums:
        """Return the sums of no rows."""
        return cls(np.zeros((width, width)), np.zeros((n_classes, width)), np.zeros(n_classes))

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.gram.nbytes + self.by_class.nbytes + self.weights.nbytes

    def plus(self, other: Sums, sign: int = 1) -> Sums:
        """Return the sum of both, or with ``sign=-1`` the difference."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Sums(*(mine + sign * theirs for mine, theirs in pairs))

    def with_classes(self, old: np.ndarray, n_classes: int) -> Sums:
        """Renumber classes: class i becomes ``old[i]`` of ``n_classes``."""
        by_class, weights = np.zeros((n_classes, self.by_class.shape[1])), np.zeros(n_classes)
        by_class[old], weights[old] = self.by_class, self.weights
        return replace(self, by_class=by_class, weights=weights)

    def scaled(self, scale: np.ndarray) -> Sums:
        """Return the sums for features multiplied by ``scale`` (w,), without features of scale zero."""
        kept = np.flatnonzero(scale)
        gram = self.gram if len(kept) == len(scale) else self.gram[np.ix_(kept, kept)]
        columns = scale[kept]
        return Sums(gram * columns * columns[:, None], self.by_class[:, kept] * columns, self.weights)


class Listed(NamedTuple):
    """Rows in memory: features (n, w), class positions (n,), weights (n,)."""

    features: np.ndarray
    labels: np.ndarray
    weights: np.ndarray

    @classmethod
    def none(cls, width: int) -> Listed:
        """Return no rows."""
        return cls(np.zeros((0, width), dtype=np.int8), np.zeros(0, dtype=np.int64), np.zeros(0))

    def where(self, mask: np.ndarray) -> Listed:
        """Return the rows where ``mask`` (n,) is true."""
        return Listed(*(each[mask] for each in self))


def sum_codes(
    read: Callable[[slice], np.ndarray], labels: np.ndarray, weights: np.ndarray, prior: Prior, n_classes: int,
    device: torch.device, progress: Progress = SILENT,
) -> Sums:  # fmt: skip
    """Sum rows block by block, computing features from codes on the way.

    Parameters
    ----------
    read : callable from slice to ndarray of shape (len, c, m)
        Returns the codes of some rows.
    labels, weights : ndarrays of shape (n,)
        If weights are not integers, the last bits depend on the order of rows.
    prior : Prior
    n_classes : int
    device : torch.device
        Device of the matrix products.
    progress : Progress
    """
    whole = Sums.empty(prior.width, n_classes)
    with progress.bar("summing", len(labels), "rows") as advance:
        for part in exact_parts(len(labels)):
            add_rows_(whole, Listed(prior.features(read(part)), labels[part], weights[part]), device)
            advance(len(labels[part]))
    return whole


def sum_rows(rows: Listed, n_classes: int, device: torch.device) -> Sums:
    """Sum rows in memory."""
    whole = Sums.empty(rows.features.shape[1], n_classes)
    for part in exact_parts(len(rows.labels)):
        add_rows_(whole, Listed(*(each[part] for each in rows)), device)
    return whole


def exact_parts(n_rows: int) -> list[slice]:
    """Split rows into parts of at most ``EXACT_ROWS``."""
    return [slice(start, start + EXACT_ROWS) for start in range(0, n_rows, EXACT_ROWS)]


def add_rows_(sums: Sums, rows: Listed, device: torch.device) -> None:
    """Add at most ``EXACT_ROWS`` rows to sums, in place."""
    unit = rows.features.dtype == np.int8 and bool((rows.weights == 1).all())
    features = torch.from_numpy(rows.features).to(device, torch.float32 if unit else torch.float64)
    scaled = features if unit else features * torch.from_numpy(rows.weights).to(device)[:, None]
    members = torch.from_numpy(rows.labels.astype(np.int64)).to(device)
    _add_products_(sums.gram, features, scaled)
    by_class = scaled.new_zeros(sums.by_class.shape).index_add_(0, members, scaled)
    sums.by_class[...] += by_class.cpu().numpy()
    sums.weights[...] += np.bincount(rows.labels, weights=rows.weights, minlength=len(sums.weights))


def _add_products_(gram: np.ndarray, features: torch.Tensor, scaled: torch.Tensor) -> None:
    """Add featuresᵀ scaled, which is symmetric, to a matrix (w, w) in place; only half of it is computed."""
    for left in range(0, len(gram), PANEL):
        right = min(left + PANEL, len(gram))
        product = (features[:, left:right].T @ scaled[:, left:]).cpu().numpy()
        gram[left:right, left:] += product
        gram[right:, left:right] += product[:, right - left :].T


class Directions(NamedTuple):
    """Solution Z (w, k) of ``(S + λI) Z = Mᵀ``, with M the centred class means (k, w).

    S is the scatter within classes, or with ``of_all`` the scatter of all rows. ``factor`` (w, w) is the Cholesky
    factor of ``S + λI``, ``mean`` the mean of all rows (w,), ``weights`` those of classes (k,). The scores of both
    objectives are columns of Z, mixed.
    """

    Z: torch.Tensor
    factor: torch.Tensor
    of_all: bool
    means: torch.Tensor
    mean: torch.Tensor
    weights: torch.Tensor

    def mixed(self, objective: str, columns: torch.Tensor) -> torch.Tensor:
        """Return the columns of Z, or of products with it (r, k), mixed into scores of centred rows without the bias.

        ``ridge`` is the regression of centred one-hot labels, ``(T + λI) B = MᵀN``, with N the class weights and T the
        scatter of all rows. As ``T = W + MᵀNM``, Woodbury's identity gives B from the directions within classes W, by
        a system (k, k). ``discriminant`` assumes normal classes with covariance ``(W + λI) / n``.
        """
        if objective == "discriminant":
            return columns * self.weights.sum()
        if self.of_all:
            return columns * self.weights
        seen = self.weights[:, None] * (self.means @ self.Z)
        seen.diagonal().add_(1)
        return columns @ torch.linalg.solve(seen, torch.diag(self.weights))

    def bias(self, objective: str) -> torch.Tensor:
        """Return the bias of the scores of centred rows (k,)."""
        total = self.weights.sum()
        if objective == "ridge":
            return self.weights / total
        return below_all_seen(log_class_shares(self.weights) - total / 2 * self.distances(), self.weights)

    def distances(self) -> torch.Tensor:
        """Return the squared Mahalanobis distance of each class mean to the mean of all (k,)."""
        return (self.means * self.Z.T).sum(dim=1)

    def of_classes(self, labels: torch.Tensor) -> torch.Tensor:
        """Return the rows of ``M Z`` (h, k) for the classes of some rows (h,)."""
        some, places = labels.unique(return_inverse=True)
        return (self.means[some] @ self.Z)[places]

    def lengths(self, centred: torch.Tensor) -> torch.Tensor:
        """Return ``xᵀ (S + λI)⁻¹ x`` (h,) for rows x (h, w)."""
        through = torch.linalg.solve_triangular(self.factor, centred.T.to(self.factor.dtype), upper=False)
        return through.square().sum(dim=0).double()


def log_class_shares(weights: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of the share of each class (..., k); without rows, it is that of one row in ``UNSEEN``."""
    total = weights.sum(dim=-1, keepdim=True)
    return torch.log(torch.where(weights > 0, weights, total / UNSEEN) / total)


def below_all_seen(biases: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return biases (..., k) in which those of classes without rows are the lowest, by the logarithm of ``UNSEEN``.

    These classes have no direction, as if their mean were that of all rows. It may be far from every other class, and
    rows between the classes would then be nearest to a class that nobody has seen.
    """
    seen = weights > 0
    lowest = torch.where(seen, biases, torch.inf).amin(dim=-1, keepdim=True)
    return torch.where(seen, biases, lowest - np.log(UNSEEN))


class Judges(NamedTuple):
    """Training rows whose leave-one-out scores choose: features (h, w), class positions (h,), weights (h,).

    The class of each has other rows.
    """

    features: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor

    @classmethod
    def of(cls, rows: Listed, device: torch.device) -> Judges:
        """Copy rows to a device."""
        return cls(*(to_tensor(each, device) for each in (rows.features, rows.labels.astype(np.int64), rows.weights)))


class Scatter:
    """Scatter of rows, within classes and of all, factored once per penalty.

    Parameters
    ----------
    sums : Sums
    device : torch.device

    Attributes
    ----------
    of_all : dict from str to bool
        Whether an objective is solved from the scatter of all rows: ``ridge``, if classes are many.
    """

    def __init__(self, sums: Sums, device: torch.device) -> None:
        gram, by_class, self._weights = (to_tensor(each, device) for each in vars(sums).values())
        total, seen = self._weights.sum(), self._weights > 0
        self._mean = by_class.sum(dim=0) / total
        self._means = torch.where(seen[:, None], by_class / self._weights.clamp(min=1e-300)[:, None] - self._mean, 0)
        lengths = float(gram.diagonal().sum())
        self._unit = float(lengths - total * self._mean @ self._mean)
        self._smallest, self._differs = ROUNDING * lengths, self._unit > ROUNDING * lengths
        of_all = torch.addr(gram, self._mean, self._mean, alpha=-float(total))
        many = len(self._means) > MANY_CLASSES * len(self._mean)
        self.of_all = {"discriminant": False, "ridge": many}
        weighted = self._weights[:, None] * self._means
        self._scatters = {False: torch.addmm(of_all, self._means.T, weighted, alpha=-1)} | (
            {True: of_all} if many else {}
        )

    def directions(self, penalty: float, *, of_all: bool, dtype: torch.dtype = torch.float64) -> Directions:
        """Solve for a penalty in units of the summed squared lengths of centred rows, bounded from below.

        The factor has ``dtype``, or float64 if that is too coarse for it.
        """
        if self._differs:
            factor = self._factor(penalty, dtype, of_all=of_all)
            Z = torch.cholesky_solve(self._means.T.to(factor.dtype), factor).double()
        else:  # equal rows determine the class shares only
            factor = torch.eye(len(self._mean), dtype=self._mean.dtype, device=self._mean.device)
            Z = self.nothing()[0]
        return Directions(Z, factor, of_all, self._means, self._mean, self._weights)

    def _ridge(self, penalty: float) -> float:
        return max(penalty * self._unit, self._smallest)

    def _factor(self, penalty: float, dtype: torch.dtype = torch.float64, *, of_all: bool = False) -> torch.Tensor:
        """Return the Cholesky factor (w, w), in float64 if ``dtype`` is too coarse for it."""
        matrix = self._scatters[of_all].to(dtype, copy=True)
        matrix.diagonal().add_(self._ridge(penalty))
        factor, failed_at = torch.linalg.cholesky_ex(matrix, check_errors=dtype == torch.float64)
        return self._factor(penalty, of_all=of_all) if failed_at else factor

    def nothing(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return zero weights (w, k) and a zero bias (k,)."""
        return torch.zeros_like(self._means.T), torch.zeros_like(self._weights)

    def distances(self, penalty: float) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """Return the function from rows (n, w) to squared Mahalanobis distances (n,) to the nearest class with rows.

        It also takes the squared length (n,) of each row outside the coordinates. It holds a factor, not the scatter.
        """
        factor, mean, total, ridge = self._factor(penalty), self._mean, self._weights.sum(), self._ridge(penalty)

        def turned(rows: torch.Tensor) -> torch.Tensor:
            return torch.linalg.solve_triangular(factor, rows.T, upper=False).T

        centres = turned(self._means[self._weights > 0])

        def distances(rows: torch.Tensor, left_out: torch.Tensor) -> torch.Tensor:
            return total * (torch.cdist(turned(rows - mean), centres).square().amin(dim=1) + left_out / ridge)

        return distances

    def left_out(
        self, rows: Judges, penalty: float, objectives: Sequence[str], dtype: torch.dtype = torch.float64
    ) -> list[np.ndarray]:
        """Return the leave-one-out scores (h, k), float32, of rows by each objective.

        This needs no further solve, because leaving out a row is a rank-one update of ``W``. Its factor has ``dtype``.
        """
        centred, scores = rows.features.double() - self._mean, {}
        for of_all in {self.of_all[objective] for objective in objectives}:
            found = self.directions(penalty, of_all=of_all, dtype=dtype)
            images, lengths = centred @ found.Z, found.lengths(centred)
            for objective in objectives:
                if self.of_all[objective] == of_all:
                    scores[objective] = LEFT_OUT[objective](found, rows, images, lengths).float().cpu().numpy()
        return [scores[objective] for objective in objectives]


def _ridge_left_out(found: Directions, rows: Judges, images: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return the leave-one-out scores (h, k) of a regression.

    ``images`` (h, k) are ``xᵀ Z`` and ``lengths`` (h,) ``xᵀ (S + λI)⁻¹ x``. The leverage of a row pulls its score
    towards its label.
    """
    pulled, shares = found.mixed("ridge", images), found.bias("ridge")
    if not found.of_all:
        lengths = lengths - (pulled * images).sum(dim=1)
    leverages = rows.weights * (1 / found.weights.sum() + lengths)
    leverages = leverages.clamp(max=1 - LEAST_LEFT)[:, None]
    labels = torch.nn.functional.one_hot(rows.labels, len(shares))
    return (pulled + shares - leverages * labels) / (1 - leverages)


def _discriminant_left_out(
    found: Directions, rows: Judges, images: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """Return the leave-one-out scores (h, k) of a discriminant, given the same as for a regression.

    Without a row at d from its class mean, ``W`` loses a multiple of ``ddᵀ``, which the Sherman-Morrison formula
    inverts, and the means of its class and of all rows move away from the row.
    """
    each = torch.arange(len(images), dtype=torch.int64, device=images.device)
    own, between, apart = rows.labels, found.of_classes(rows.labels), found.distances()
    rest = found.weights[own] - rows.weights
    to_classes = images - between  # of d, through (W + λI)⁻¹, to every class mean (h, k)
    to_row = lengths - images[each, own]
    to_itself = to_row - to_classes[each, own]
    moved, lost = rows.weights / rest, rows.weights * found.weights[own] / rest
    gain = lost / (1 - lost * to_itself).clamp(min=LEAST_LEFT)
    away = to_classes[each, own] - moved * to_itself
    near = images + (gain * to_row)[:, None] * to_classes
    far = apart + gain[:, None] * to_classes.square()
    near[each, own] = images[each, own] - moved * to_row + gain * away * to_row
    far[each, own] = apart[own] - 2 * moved * to_classes[each, own] + moved**2 * to_itself + gain * away**2
    weights = found.weights.repeat(len(images), 1)
    weights[each, own] = rest
    total = weights.sum(dim=1)
    step = rows.weights / total  # of the mean of all, away from the row
    shares, length = log_class_shares(weights), lengths + gain * to_row**2
    to_mean = far + 2 * step[:, None] * near + (step**2 * length)[:, None]
    near += ((step + step**2 / 2) * length)[:, None]
    biases = below_all_seen(shares - total[:, None] / 2 * to_mean, weights)
    return torch.where(weights > 0, total[:, None] * (near - far / 2) + shares, biases)


LEFT_OUT = {"ridge": _ridge_left_out, "discriminant": _discriminant_left_out}


class View(NamedTuple):
    """Rows at one scale of the features.

    ``back`` maps a solution (w', k) to weights of features (w, k). ``forth`` maps features (n, w) to coordinates
    (n, w') and the squared length of each row outside these coordinates (n,). Factors that only choose a mixture have
    type ``choosing``.
    """

    whole: Scatter
    judges: Judges
    choosing: torch.dtype
    back: Callable[[torch.Tensor], torch.Tensor]
    forth: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class Rows(Protocol):
    """Rows from which values are solved; ``weights`` (k,) are those of the classes."""

    weights: np.ndarray

    def squares(self) -> np.ndarray:
        """Return the sums of squares of each centred feature (w,)."""
        ...

    def view(self, scale: np.ndarray) -> View:
        """Return the rows, with features multiplied by ``scale`` (w,)."""
        ...


class ManyRows:
    """More rows than features, in the form of sums.

    Parameters
    ----------
    sums : Sums
        Sums over all rows.
    judges : Listed
        Those rows that choose; the class of each has others.
    device : torch.device
    """

    def __init__(self, sums: Sums, judges: Listed, device: torch.device) -> None:
        unit = unit_of_weights(sums.weights)
        self._sums = sums if unit == 1 else Sums(*(each / unit for each in vars(sums).values()))
        self._judges = Judges.of(judges._replace(weights=judges.weights / unit), device)
        self._device, self.weights = device, self._sums.weights

    def squares(self) -> np.ndarray:
        """Return the sums of squares of each centred feature (w,)."""
        total, lengths = self._sums.by_class.sum(axis=0), self._sums.gram.diagonal()
        return without_rounding(lengths - total**2 / self.weights.sum(), lengths)

    def view(self, scale: np.ndarray) -> View:
        """Return the rows at a scale."""
        kept = torch.from_numpy(np.flatnonzero(scale)).to(self._device)
        columns, whole = torch.from_numpy(scale).to(self._device)[kept], self._sums.scaled(scale)

        def back(solution: torch.Tensor) -> torch.Tensor:
            weights = solution.new_zeros((len(scale), solution.shape[1]))
            weights[kept] = columns[:, None] * solution
            return weights

        def forth(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return features[:, kept] * columns, features.new_zeros(len(features))

        judges = self._judges._replace(features=self._judges.features[:, kept] * columns)
        return View(Scatter(whole, self._device), judges, torch.float32, back, forth)


class FewRows:
    """Fewer rows than features, in coordinates (n, n) with the same products.

    Parameters
    ----------
    rows : Listed
    judges : ndarray of shape (n,), bool
        Which rows choose; the class of each has others.
    n_classes : int
    device : torch.device
    """

    def __init__(self, rows: Listed, judges: np.ndarray, n_classes: int, device: torch.device) -> None:
        rows = rows._replace(weights=rows.weights / unit_of_weights(rows.weights))
        self._rows, self._judges, self._device = rows, judges, device
        self._features = torch.from_numpy(rows.features).to(device, torch.float64)
        self.weights = np.bincount(rows.labels, weights=rows.weights, minlength=n_classes)

    def squares(self) -> np.ndarray:
        """Return the sums of squares of each centred feature (w,)."""
        weights = torch.from_numpy(self._rows.weights).to(self._device)
        mean = weights @ self._features / weights.sum()
        squares, lengths = weights @ (self._features - mean).square(), weights @ self._features.square()
        return without_rounding(squares.cpu().numpy(), lengths.cpu().numpy())

    def view(self, scale: np.ndarray) -> View:
        """Return the rows at a scale: for features F, the factor L of ``FFᵀ = LLᵀ``; ``Fᵀ L⁻ᵀ`` maps back."""
        squares = torch.from_numpy(scale**2).to(self._device)
        products = (self._features * squares) @ self._features.T
        products.diagonal().add_(JITTER * products.diagonal().mean())
        factor = torch.linalg.cholesky(products)

        def back(solution: torch.Tensor) -> torch.Tensor:
            turned = torch.linalg.solve_triangular(factor.T, solution, upper=True)
            return squares[:, None] * (turned.T @ self._features).T  # Fᵀ on the left takes thirty times as long

        def forth(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            products = (features * squares) @ self._features.T
            turned = torch.linalg.solve_triangular(factor, products.T, upper=False).T
            left_out = (features.square() @ squares - turned.square().sum(dim=1)).clamp(min=0)
            return turned, left_out

        rows = self._rows._replace(features=factor.cpu().numpy())
        whole = Scatter(sum_rows(rows, len(self.weights), self._device), self._device)
        judges = Judges.of(rows.where(self._judges), self._device)
        return View(whole, judges, torch.float64, back, forth)  # few rows explain each other almost completely


def unit_of_weights(weights: np.ndarray) -> float:
    """Return 1, or a power of two near the total if its products might overflow or underflow."""
    total = float(weights.sum())
    return 1.0 if 1e-20 < total < 1e20 else float(2 ** np.round(np.log2(total)))


def without_rounding(squares: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the sums of squares of centred features (w,), with rounding errors set to zero."""
    return np.where(squares > ROUNDING * lengths, squares, 0)


def solve(rows: Rows, prior: Prior, settings: Settings, progress: Progress = SILENT) -> Solution:
    """Choose a mixture of solutions by leave-one-out scores, then solve it from all rows.

    There is one candidate for every objective, curvature and penalty. The shares are non-negative and maximise the
    likelihood of the labels under the mixed leave-one-out scores; most shares are zero. The same mixture of solutions
    from all rows gives the values, and their probabilities are already calibrated.

    Parameters
    ----------
    rows : Rows
    prior : Prior
        The prior that made the features.
    settings : Settings
    progress : Progress
    """
    views = {
        curvature: rows.view(scale)
        for curvature, scale in curved_scales(rows.squares(), prior, settings.curvatures).items()
    }
    if not views:  # equal rows determine the class shares only
        shares = log_class_shares(torch.from_numpy(rows.weights)).numpy()
        return Solution(np.zeros((prior.width, len(shares))), shares, ())
    chosen = choose(views, settings, progress)
    with progress.bar("solving", len(chosen), "parts") as advance:
        parts = [_mixed(view, [part for part in chosen if part.curvature == at], advance) for at, view in views.items()]
    weights, bias = (sum(each[1:], each[0]).cpu().numpy() for each in zip(*parts))
    return Solution(weights, bias, chosen)


def _mixed(view: View, parts: Sequence[Part], advance: Callable[[int], object]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weights (w, k) and bias (k,) of the parts of a mixture with the same view."""
    solution, bias = view.whole.nothing()
    systems: dict[tuple[float, bool], list[Part]] = {}
    for part in parts:
        systems.setdefault((part.penalty, view.whole.of_all[part.objective]), []).append(part)
    for (penalty, of_all), alike in systems.items():
        found = view.whole.directions(penalty, of_all=of_all)
        for part in alike:
            scores = part.share * found.mixed(part.objective, found.Z)
            solution, bias = solution + scores, bias + part.share * found.bias(part.objective) - found.mean @ scores
        advance(len(alike))
    return view.back(solution), bias


def make_distances(rows: Rows, prior: Prior) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from features (n, w) to squared Mahalanobis distances to the nearest class (n,).

    Distances use coordinates without curves, one covariance within classes, and the usual penalty. They are zero if all
    rows are equal.
    """
    scales = curved_scales(rows.squares(), prior, (0.0,))
    if not scales:
        return lambda features: np.zeros(len(features))
    view = rows.view(scales[0.0])
    forth, of_coordinates = view.forth, view.whole.distances(USUAL_PENALTIES["discriminant"])

    def distances(features: np.ndarray) -> np.ndarray:
        return of_coordinates(*forth(torch.from_numpy(features).double())).cpu().numpy()

    return distances


def curved_scales(squares: np.ndarray, prior: Prior, curvatures: Sequence[float]) -> dict[float, np.ndarray]:
    """Return the factors of features (w,) for each curvature.

    Curves get ``curvature²`` times the spread of coordinates. If all rows are equal, the result is empty; if only their
    curves are, it has the first curvature alone.
    """
    lengths, curved = squares * prior.steps**2, prior.curved
    linear, bent = lengths[~curved].sum(), lengths[curved].sum()
    if linear <= 0:
        return {}
    if bent <= 0:
        return {curvatures[0]: np.where(curved, 0, prior.steps) / np.sqrt(linear)}
    scales = prior.steps / np.sqrt(np.where(curved, bent, linear))
    return {curvature: np.where(curved, curvature, 1) * scales for curvature in curvatures}


def choose(views: dict[float, View], settings: Settings, progress: Progress = SILENT) -> tuple[Part, ...]:
    """Return the mixture with the most likely leave-one-out labels, or the usual one if no row can choose."""
    judges = next(iter(views.values())).judges
    if not len(judges.labels):
        return usual_mixture(tuple(views), settings)
    tables: dict[tuple[str, float, float], np.ndarray] = {}
    with progress.bar("choosing", len(views) * len(settings.penalties), "settings") as advance:
        for curvature, view in views.items():
            for penalty in settings.penalties:
                scores = view.whole.left_out(view.judges, penalty, settings.objectives, view.choosing)
                names = [(objective, curvature, penalty) for objective in settings.objectives]
                tables |= dict(zip(names, scores, strict=True))
                advance(1)
    shares = fit_shares(list(tables.values()), judges.labels.cpu().numpy(), judges.weights.cpu().numpy())
    rounded = [float(f"{share:.{DIGITS}g}") for share in shares]
    chosen = tuple(Part(*name, share) for name, share in zip(tables, rounded, strict=True) if share > 0)
    return chosen or usual_mixture(tuple(views), settings)


def usual_mixture(curvatures: Sequence[float], settings: Settings) -> tuple[Part, ...]:
    """Return the mixture that is used if no row can choose."""
    curvature = min(curvatures, key=lambda each: abs(each - USUAL_CURVATURE))
    parts = []
    for objective in settings.objectives:
        penalty = min(settings.penalties, key=lambda each: abs(np.log(each / USUAL_PENALTIES[objective])))
        parts.append(Part(objective, curvature, penalty, USUAL_SHARES[objective]))
    return tuple(parts)
