"""A setting that held-out training rows choose, and what is solved with it.

Enters: embeddings (n, f), labels (n,). Leaves: a solution, made at the first prediction after learning. Must not know:
what is solved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ._additive import Additive
from ._rows import MAX_SCORED, Rows


class Choosing(Additive):
    """A classifier with one setting, which is given, or ``"auto"``: chosen on held-out rows.

    It is solved at the first prediction after learning: a stream of small batches pays for its statistics alone. Rows
    are held out by a hash, so that neither their order nor what was forgotten meanwhile can matter.
    """

    _held_out: Rows
    _solved: dict[Any, Any]

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        return state | {"_solved": {}} if "_solved" in state else state

    def _setting(self) -> Any:
        """Return the setting as given: a value, or ``"auto"``."""
        raise NotImplementedError

    def _known(self, without: Rows | None = None) -> Any:
        """Return what is known of all rows, or of all but some."""
        raise NotImplementedError

    def _solve(self, known: Any, value: Any) -> Any:
        """Return what predicts, for a value of the setting."""
        raise NotImplementedError

    def _choose(self, known: Any, rest: Any, held_out: Rows) -> Any:
        """Return the value of a grid that serves held-out rows best, learned from the rest of all that is known."""
        raise NotImplementedError

    def _default(self, known: Any) -> Any:
        """Return the value where there is nothing to choose by."""
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
        """Return the setting's value, and what predicts."""
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
    """Refuse what is neither a valid number nor the one other value that is welcome.

    Raises
    ------
    TypeError, ValueError
        With the parameter's name, what came and what is expected.
    """
    if value is other or (isinstance(value, str) and value == other):
        return
    expected = f"{expected}, or {other!r}. Set it with set_params({name}=...)."
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}; expected {expected}")
    if not is_valid(float(value)):
        raise ValueError(f"{name}={value!r} is not valid; expected {expected}")
