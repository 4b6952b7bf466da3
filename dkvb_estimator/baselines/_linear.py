"""Linear classifiers of features, solved from additive sums, or from the rows while there are few.

Enters: embeddings (n, f), labels (n,). Leaves: scores (n, k). Must not know: how features are computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, NamedTuple, Self

import numpy as np
from scipy.linalg import LinAlgError

from ._additive import blocks, class_means, sum_by_class
from ._choosing import Choosing
from ._rows import Rows
from ._sums import Sums, centre
from ._systems import Dual, Primal, least


class Known(NamedTuple):
    """Statistics of some rows: class counts (k,), sums (k, w), the system of their products, and their labels."""

    counts: np.ndarray
    sums: np.ndarray
    system: Primal | Dual
    labels: np.ndarray


class Linear(Choosing):
    """Weights and intercepts, solved from sums of features.

    Up to ``_max_kept()`` rows, the state consists of the rows, which are smaller than products of features and faster
    to solve. With one more row, the state permanently becomes sums.
    """

    _centred: ClassVar[bool]
    """Whether products of features are centred on class means."""
    _kept: tuple[Rows, ...] | None
    _sums: Sums

    def _width(self) -> int:
        raise NotImplementedError

    def _max_kept(self) -> int:
        return 0

    def _features(self, X: np.ndarray) -> np.ndarray:
        """Return the features (n, w) of embeddings (n, f)."""
        raise NotImplementedError

    def _freeze(self, rows: Rows) -> None:
        """Fix what features depend on before they become sums; ``rows`` are the first ``_max_kept()`` rows."""

    def _grid(self, known: Known) -> tuple[float, ...]:
        """Return the candidates of ``"auto"``."""
        raise NotImplementedError

    def _loss(self, scores: np.ndarray, labels: np.ndarray) -> float:
        """Return the loss of scores (r, k) for labels (r,), which ``"auto"`` minimises."""
        raise NotImplementedError

    @property
    def sums_(self) -> np.ndarray:
        """Sums of features of each class (k, w)."""
        return self._sums.sums if self._kept is None else self._known_of(self._kept_rows()).sums

    def _start(self, n_features: int) -> None:
        super()._start(n_features)
        self._kept = (Rows.none(n_features),) if self._max_kept() else None
        self._sums = Sums.none(0 if self._max_kept() else self._width(), centred=self._centred)

    def _grow(self, old: np.ndarray, n_classes: int) -> None:
        super()._grow(old, n_classes)
        self._sums = self._sums.grown(old, n_classes)
        if self._kept is not None:
            self._kept = tuple(rows._replace(labels=old[rows.labels]) for rows in self._kept)

    def _add(self, X: np.ndarray, labels: np.ndarray) -> None:
        if self._setting() == "auto" or self._kept is not None:
            rows = Rows.of(X, labels)
            self._hold_out(rows)
        self._solved = {}
        self.class_counts_ = self.class_counts_ + np.bincount(labels, minlength=len(self.class_counts_))
        if self._kept is None:
            self._sums = self._sums.plus(self._featured(X, labels))
        else:
            self._keep(rows)

    def _keep(self, rows: Rows) -> None:
        self._kept = (*(self._kept or ()), rows)
        if sum(len(part.labels) for part in self._kept) > self._max_kept():
            self._stop_keeping()

    def _stop_keeping(self) -> None:
        """Turn the kept rows into sums."""
        rows, self._kept = self._kept_rows(), None
        self._freeze(rows.take(slice(self._max_kept())))
        empty = Sums.none(self._width(), centred=self._centred).grown(np.zeros(0, dtype=int), len(self.class_counts_))
        self._sums = empty.plus(self._featured(rows.rows, rows.labels))

    def _kept_rows(self) -> Rows:
        return Rows(*(np.concatenate(part) for part in zip(*(self._kept or ()), strict=True)))

    def _subtract(self, X: np.ndarray, labels: np.ndarray) -> None:
        rows = Rows.of(X, labels)
        if self._kept is None:
            self._sums = self._sums.minus(self._featured(X, labels))
        else:
            left, n_missing = self._kept_rows().without(rows)
            if n_missing:
                raise ValueError(
                    f"X holds samples that were never learned or are already forgotten ({n_missing} of {len(labels)}); "
                    "expected samples given to fit or partial_fit, with the same label. Forget only those; nothing "
                    "was changed."
                )
            self._kept = (left,)
        self.class_counts_ = self.class_counts_ - np.bincount(labels, minlength=len(self.class_counts_))
        self._drop_held_out(rows)

    def _join(self, other: Self) -> None:
        super()._join(other)
        if other._kept is not None and self._kept is not None:
            self._keep(other._kept_rows())
        elif other._kept is not None:
            rows = other._kept_rows()
            self._sums = self._sums.plus(self._featured(rows.rows, rows.labels))
        else:
            mine = None if self._kept is None else self._kept_rows()
            self._adopt(other)
            if mine is None:
                self._sums = self._sums.joined(other._sums)
            else:
                self._kept, self._sums = None, other._sums.plus(self._featured(mine.rows, mine.labels))

    def _adopt(self, other: Self) -> None:
        """Copy what the features of another model depend on."""

    def _featured(self, X: np.ndarray, labels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return ((self._features(rows), named) for rows, named in blocks(X, labels))

    def _known(self, without: Rows | None = None) -> Known:
        if self._kept is not None:
            rows = self._kept_rows()
            if without is None:
                return self._known_of(rows)
            return self._known_of(rows.without(without)[0], hasty=True)
        sums = self._sums
        if without is not None:
            sums = sums.minus(self._featured(without.rows, without.labels))
        system = Primal(sums.products, hasty=without is not None)
        return Known(sums.counts, sums.sums, system, np.zeros(0, dtype=int))

    def _known_of(self, rows: Rows, *, hasty: bool = False) -> Known:
        X = rows.rows.astype(np.float64) if self._centred else rows.rows  # float32 suffices without centring
        return self._tell(self._features(X), rows.labels, hasty=hasty)

    def _tell(self, features: np.ndarray, labels: np.ndarray, *, hasty: bool) -> Known:
        """Return the statistics of a few features (n, w) and labels (n,)."""
        counts = np.bincount(labels, minlength=len(self.class_counts_))
        sums = sum_by_class(features, labels, len(counts))
        if self._centred:
            features = centre(features, labels, class_means(sums, counts))
        return Known(counts, sums, Dual(features, hasty=hasty), labels)

    def _scores(self, X: np.ndarray) -> np.ndarray:
        _, (weights, intercepts) = self._solution()
        weights = weights.astype(X.dtype) if self._max_kept() else weights
        return np.concatenate([(self._features(rows) @ weights + intercepts) for (rows,) in blocks(X)])

    def _default(self, known: Known) -> float:
        grid = self._grid(known)
        return grid[len(grid) // 2]

    def _choose(self, known: Known, rest: Known, held_out: Rows) -> float:
        return self._best(self._grid(known), rest, self._features(held_out.rows), held_out.labels)

    def _best(self, grid: tuple[float, ...], known: Known, features: np.ndarray, labels: np.ndarray) -> float:
        """Return the value of a grid with the least loss on some rows."""

        def loss(place: tuple[int, ...]) -> float:
            try:
                weights, offsets = self._solve(known, grid[place[0]])
            except LinAlgError:
                return np.inf
            return self._loss(*among_present(features @ weights + offsets, labels, known.counts))

        return grid[least(loss, len(grid))[0][0]]


def among_present(scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return scores (r, k) and labels (r,) without classes that have neither learned nor scored rows."""
    present = (counts > 0) | (np.bincount(labels, minlength=len(counts)) > 0)
    return scores[:, present], (np.cumsum(present) - 1)[labels]
