"""Solve (A + αI) W = T for one matrix A and several penalties α, in the cheapest way.

Enters: A as products of features (w, w) or as few rows Z (n, w) with A = ZᵀZ. Leaves: W (w, k). Must not know: classes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, eigh

SPECTRAL_WIDTH = 1500
"""Width up to which one eigendecomposition is cheaper than one Cholesky factor per penalty: 0.7 s against 0.04 s each.

At 5,000 it takes 20 s against 0.9 s, at 10,000 minutes against 6.5 s (float64, one core).
"""


class Primal:
    """Products A (w, w), of which only the lower triangle is used.

    If a wide matrix is numerically not positive definite, ``solve`` takes minutes, or raises with ``hasty``.
    """

    def __init__(self, products: np.ndarray, *, hasty: bool = False) -> None:
        self.products, self.hasty = products, hasty

    @property
    def trace(self) -> float:
        """Return the trace of A."""
        return float(np.trace(self.products))

    @property
    def width(self) -> int:
        """Return w."""
        return len(self.products)

    @cached_property
    def _spectrum(self) -> tuple[np.ndarray, np.ndarray]:
        spread, axes = eigh(self.products, lower=True, driver="evd", check_finite=False)
        return np.maximum(spread, 0), axes

    def solve(self, alpha: float, targets: np.ndarray) -> np.ndarray:
        """Return (A + αI)⁻¹ T, or with the pseudo-inverse if that is numerically singular.

        Raises
        ------
        LinAlgError
            If it is singular, and this is ``hasty``.
        """
        if self.width > SPECTRAL_WIDTH and alpha > np.finfo(np.float64).eps * self.trace:
            try:
                return self._solve_definite(alpha, targets)
            except LinAlgError:
                if self.hasty:
                    raise
        spread, axes = self._spectrum
        spread = spread + alpha
        usable = spread > np.finfo(np.float64).eps * len(spread) * spread.max()
        return (axes[:, usable] / spread[usable]) @ (axes[:, usable].T @ targets)

    def _solve_definite(self, alpha: float, targets: np.ndarray) -> np.ndarray:
        damped = self.products.copy()
        damped.flat[:: len(damped) + 1] += alpha
        factor = cho_factor(damped.T, lower=False, overwrite_a=True, check_finite=False)  # in place, in Fortran order
        return cho_solve(factor, targets, check_finite=False)


class Dual:
    """Rows Z (n, w) with n < w and A = ZᵀZ: a system of n unknowns instead of w."""

    def __init__(self, rows: np.ndarray, *, hasty: bool = False) -> None:
        self.rows = rows
        self.small = Primal((rows @ rows.T).astype(np.float64, copy=False), hasty=hasty)

    @property
    def trace(self) -> float:
        """Return the trace of A."""
        return self.small.trace

    @property
    def width(self) -> int:
        """Return w."""
        return self.rows.shape[1]

    def solve(self, alpha: float, targets: np.ndarray) -> np.ndarray:
        """Return (A + αI)⁻¹ T, or with the pseudo-inverse if that is numerically singular."""
        seen = self.rows @ targets
        if alpha <= np.finfo(np.float64).eps * self.trace:
            return self.rows.T @ self.small.solve(0, self.small.solve(0, seen))
        return (targets - self.rows.T @ self.small.solve(alpha, seen)) / alpha

    def solve_rows(self, alpha: float, targets: np.ndarray) -> np.ndarray:
        """Return (A + αI)⁻¹ ZᵀT for targets T (n, k) of the rows."""
        return self.rows.T @ self.small.solve(alpha, targets).astype(self.rows.dtype, copy=False)


def least(loss: Callable[[tuple[int, ...]], float], *sizes: int) -> tuple[tuple[int, ...], float]:
    """Return the place of the least loss on a grid, and that loss, if losses fall and then rise along each axis.

    The search starts in the middle and descends along one axis at a time in steps of four, two and one, so it evaluates
    few of the losses.
    """
    known: dict[tuple[int, ...], float] = {}

    def at(place: tuple[int, ...]) -> float:
        if place not in known:
            known[place] = loss(place)
        return known[place]

    best = tuple(size // 2 for size in sizes)
    for step in (4, 2, 1):
        while (place := min([best, *_near(best, step, sizes)], key=at)) != best:
            best = place
    return best, at(best)


def _near(place: tuple[int, ...], step: int, sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the places of a grid that are one step away along an axis."""
    near = [
        (*place[:axis], place[axis] + move, *place[axis + 1 :]) for axis in range(len(sizes)) for move in (-step, step)
    ]
    return [one for one in near if all(0 <= at < size for at, size in zip(one, sizes, strict=True))]
