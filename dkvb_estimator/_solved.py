"""The estimator's values: solved when something asks for them, once while nothing that they are made from changes.

Enters: what was learned, the estimator's parameters. Leaves: values, the mixture they are. Must not know: how rows
came.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from ._blocks import by_blocks
from ._device import resolve_device
from ._lazy import LazyHalf
from ._validation import JOINT
from ._values import Book, Solution, distances_to_classes, solve_jointly, solve_values, value_settings


def _keeps_covariance(model: SolvedHalf) -> bool:
    """Tell scikit-learn which solvers score samples."""
    if model.solver in JOINT:
        return True
    raise AttributeError(
        f"score_samples was called with solver={model.solver!r}, which keeps no covariance; expected 'joint' or "
        "'ridge'. Use novelty(X)."
    )


class SolvedHalf(LazyHalf):
    """Make values of what was learned. The parameters are those of :class:`DKVBClassifier`."""

    @property
    def values_(self) -> np.ndarray:
        """Value rows (c, j, k), float32."""
        check_is_fitted(self)
        return self._scratch.get("values", self._solve, self._value_settings())

    @property
    def mixture_(self) -> list[dict[str, float | str]]:
        """What ``joint`` mixed: ``objective``, ``curvature``, ``penalty`` and ``share`` of each solution."""
        check_is_fitted(self)
        return [part._asdict() for part in self._solution().parts] if self.solver in JOINT else []

    @available_if(_keeps_covariance)
    @by_blocks
    def score_samples(self, X: Any) -> np.ndarray:
        """Return how usual each sample is (n,), larger is more usual; only with ``joint`` and ``ridge``.

        Minus the squared Mahalanobis distance to the nearest class mean, with the one covariance within classes, of the
        keys' coordinates that a sample's codes name. It tells classes to come from learned ones better than
        :meth:`novelty`, and does not see what lies beyond all keys.

        Parameters
        ----------
        X : array-like of shape (n, f)

        References
        ----------
        Mueller and Hein (2025), "Mahalanobis++: improving OOD detection via feature normalization", ICML.
        """
        check_is_fitted(self)
        X, params, device = self._check_X(X), self.get_params(deep=False), resolve_device(self.device)
        distances = self._scratch.get(
            "distances",
            lambda: distances_to_classes(self._learned, params, self._prior(), device),
            self._value_settings(),
        )
        return -distances(self._encoder().encode(X))

    def _value_settings(self) -> dict[str, Any]:
        self._layout()
        return value_settings(self.get_params(deep=False))

    def _solve(self) -> np.ndarray:
        return solve_values(self._learned, self.get_params(deep=False), self._book())

    def _book(self) -> Book:
        return Book(self._prior, lambda: self._encoder().neighbours(self._learned.counts.used()), self._solution)

    def _solution(self) -> Solution:
        """Solve values together, once for all that asks."""
        return self._learned.solution or self._scratch.get("solution", self._solve_jointly, self._value_settings())

    def _solve_jointly(self) -> Solution:
        params, started = self.get_params(deep=False), time.perf_counter()
        solution = solve_jointly(self._learned, params, self._prior(), resolve_device(self.device))
        chosen = ", ".join(f"{part.share:.2g} × {part.objective}" for part in solution.parts)
        self._say(f"{len(self.classes_)} classes solved in {time.perf_counter() - started:.1f} s: {chosen}")
        return solution
