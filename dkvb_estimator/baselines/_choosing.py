"""Base class of baselines with a setting that held-out training rows choose.

Enters: embeddings (n, f), labels (n,). Leaves: a solution, computed at the first prediction after learning. Must not
know: what is solved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from dkvb_estimator._validation import short

from ._additive import Additive
from ._rows import MAX_SCORED, Rows


class Choosing(Additive):
    """A classifier with one setting, which is given, or chosen on held-out rows with ``"auto"``.

    The classifier solves at the first prediction after learning, so small batches cost only their statistics. A hash
    selects the held-out rows, so the choice does not depend on the order of rows or on forgotten rows.
    """

    _held_out: Rows
    _solved: dict[Any, Any]

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        return state | {"_solved": {}} if "_solved" in state else state

    def _setting(self) -> Any:
        """Return the setting: a value, or ``"auto"``."""
        raise NotImplementedError

    def _known(self, without: Rows | None = None) -> Any:
        """Return the statistics of all rows, or of all but some."""
        raise NotImplementedError

    def _solve(self, known: Any, value: Any) -> Any:
        """Return the solution for a value of the setting."""
        raise NotImplementedError

    def _choose(self, known: Any, rest: Any, held_out: Rows) -> Any:
        """Return the value of a grid with the least loss on held-out rows, solved from the other rows."""
        raise NotImplementedError

    def _default(self, known: Any) -> Any:
        """Return the value if no rows can choose."""
        raise NotImplementedError

    def _start(self, n_features: int) -> None:
        super()._start(n_features)
        self._held_out = Rows.none(n_features)
        self._solved = {}

    def _grow(self, old: np.ndarray, n_classes: int) -> None:
        super()._grow(old, n_classes)
        self._held_out = self._held_out._replace(labels=old[self._held_out.labels])
        self._solved = {}

    def _hold_out(self, rows: Rows) -> None:
        self._solved = {}
        if self._setting() == "auto":
            self._held_out = self._held_out.plus(rows.held_out())

    def _drop_held_out(self, rows: Rows) -> None:
        self._solved = {}
        self._held_out, _ = self._held_out.without(rows.held_out())

    def _join(self, other: Self) -> None:
        self._solved = {}
        self._held_out = self._held_out.plus(other._held_out)
        self.class_counts_ = self.class_counts_ + other.class_counts_

    def _solution(self) -> tuple[Any, Any]:
        """Return the value of the setting, and the solution."""
        check_is_fitted(self)
        self._check_settings()
        setting = self._setting()
        if setting not in self._solved:
            known = self._known()
            value = self._chosen(known) if isinstance(setting, str) else setting
            self._solved[setting] = (value, self._solve(known, value))
        return self._solved[setting]

    def _chosen(self, known: Any) -> Any:
        held_out = self._held_out.by_hash().take(slice(MAX_SCORED))
        if not 0 < len(held_out.labels) < self.class_counts_.sum():
            return self._default(known)
        return self._choose(known, self._known(without=held_out), held_out)


def check_real(
    name: str, value: object, expected: str, is_valid: Callable[[float], bool], *, other: object = "auto"
) -> None:
    """Refuse anything but a valid number or one other value.

    Raises
    ------
    TypeError, ValueError
    """
    if value is other or (isinstance(value, str) and value == other):
        return
    expected = f"{expected}, or {other!r}. Set it with set_params({name}=...)."
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}={short(value)} is a {type(value).__name__}; expected {expected}")
    if not is_valid(float(value)):
        raise ValueError(f"{name}={short(value)} is not valid; expected {expected}")
