"""The estimator's values: solved when something asks for them, once while nothing that they are made from changes.

Enters: what was learned, the estimator's parameters. Leaves: values, the mixture they are. Must not know: how rows
came.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ._device import resolve_device
from ._joint import Solution
from ._lazy import LazyHalf
from ._solvers import solve_jointly, solve_values, value_settings
from ._validation import JOINT


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

    def _value_settings(self) -> dict[str, Any]:
        self._layout()
        return value_settings(self.get_params(deep=False))

    def _solve(self) -> np.ndarray:
        return solve_values(self._learned, self.get_params(deep=False), self._solution, self._prior())

    def _solution(self) -> Solution:
        """Solve values together, once for all that asks."""
        return self._learned.solution or self._scratch.get("solution", self._solve_jointly, self._value_settings())

    def _solve_jointly(self) -> Solution:
        params, started = self.get_params(deep=False), time.perf_counter()
        solution = solve_jointly(self._learned, params, self._prior(), resolve_device(self.device))
        chosen = ", ".join(f"{part.share:.2g} × {part.objective}" for part in solution.parts)
        self._say(f"{len(self.classes_)} classes solved in {time.perf_counter() - started:.1f} s: {chosen}")
        return solution
