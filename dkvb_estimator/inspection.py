"""What keys are used for: shares, overlaps, and who is behind a single key.

Enters: class counts of every key, labels of the classes, and the codes of samples where a solver keeps them. Leaves: an
:class:`KeyUsage`. Must not know: embeddings, where keys lie, what values are made of counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.sparse import csr_array

HEADS_AT_ONCE = 16
"""Heads whose overlaps are summed at a time: the table of a group is (heads · j, k), float64."""


@dataclass(frozen=True, eq=False)
class KeyUsage:
    """Account for what a model has written to which key.

    Attributes
    ----------
    classes : ndarray of shape (k,)
        Labels, sorted; the order of every k below.
    used_share : ndarray of shape (c,), float64
        Share of a head's keys that learned samples selected.
    classes_per_key : ndarray of shape (k + 1,), float64
        Share of all used keys that serve exactly 0, 1, … k classes; it sums to one, and none serves 0.
    overlap : ndarray of shape (k, k), float64
        How far two classes share cells: the sum over a head's keys of the smaller of the two classes' shares of hits,
        averaged over heads. 1 where they hit the same keys equally often (and on the diagonal), 0 where none is shared.
    own_share : ndarray of shape (k,), float64
        Share of a class's hits on keys that serve no other class: what nothing else has written over.

    Examples
    --------
    >>> from dkvb_estimator import DKVBClassifier, KeyEncoder
    >>> X, y = [[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.1]], ["a", "a", "b", "b"]
    >>> usage = DKVBClassifier(KeyEncoder(4, 4, 2, random_state=0)).fit(X, y).key_usage()
    >>> usage.overlap.round(2).tolist(), usage.own_share.tolist()
    ([[1.0, 0.0], [0.0, 1.0]], [1.0, 1.0])
    """

    classes: np.ndarray
    used_share: np.ndarray
    classes_per_key: np.ndarray
    overlap: np.ndarray
    own_share: np.ndarray
    _table: csr_array = field(repr=False)
    _n_keys: int = field(repr=False)
    _codes: Callable[[], np.ndarray] | None = field(repr=False)

    def classes_of(self, head: int, key: int) -> dict[Any, float]:
        """Return the classes that a key serves, most hits first: label → weight of its samples.

        Raises
        ------
        IndexError
            If there is no such head or key.
        """
        row = self._table[[self._row(head, key)]].tocoo()
        pairs = sorted(zip(self.classes[row.coords[1]].tolist(), row.data.tolist()), key=lambda pair: -pair[1])
        return dict(pairs)

    def samples_of(self, head: int, key: int) -> np.ndarray:
        """Return which samples selected a key: positions in the order of learning, those forgotten not counted (n,).

        Raises
        ------
        IndexError
            If there is no such head or key.
        ValueError
            If the solver keeps no samples.
        """
        self._row(head, key)
        if self._codes is None:
            raise ValueError(
                "samples_of was called for a solver that keeps no samples apart; expected 'joint' with remember=True. "
                "Call classes_of, which says what classes the key serves."
            )
        return np.flatnonzero((self._codes()[:, head] == key).any(axis=1))

    def _row(self, head: int, key: int) -> int:
        n_heads = len(self.used_share)
        if not (0 <= head < n_heads and 0 <= key < self._n_keys):
            raise IndexError(
                f"head {head}, key {key} came; heads 0 to {n_heads - 1} and keys 0 to {self._n_keys - 1} are expected: "
                "name one of them"
            )
        return head * self._n_keys + key


def count_key_usage(
    table: csr_array, classes: np.ndarray, mask: np.ndarray, codes: Callable[[], np.ndarray] | None
) -> KeyUsage:
    """Account for a table of class counts.

    Parameters
    ----------
    table : csr_array of shape (c * j, k), float64
        Weight of each class's samples that selected each key.
    classes : ndarray of shape (k,)
    mask : ndarray of shape (c, j), bool
        Keys that are there.
    codes : callable or None
        Gives the codes (n, c, m) of the samples held, where a solver holds them.
    """
    n_heads, n_keys = mask.shape
    served = np.diff(table.indptr)
    used = served > 0
    per_key = np.bincount(served[used], minlength=len(classes) + 1) / max(1, used.sum())
    alone = np.asarray(table[served == 1].sum(axis=0)).ravel()
    of_class = np.asarray(table.sum(axis=0)).ravel()
    return KeyUsage(
        classes,
        used.reshape(n_heads, n_keys).sum(axis=1) / mask.sum(axis=1),
        per_key,
        _overlap(table, n_heads, n_keys),
        np.divide(alone, of_class, out=np.zeros(len(of_class)), where=of_class > 0),
        table,
        n_keys,
        codes,
    )


def _overlap(table: csr_array, n_heads: int, n_keys: int) -> np.ndarray:
    n_classes, total = table.shape[1], np.zeros((table.shape[1],) * 2)
    per_head = np.maximum(np.asarray(table[:n_keys].sum(axis=0)).ravel(), np.finfo(np.float64).tiny)
    for start in range(0, n_heads * n_keys, HEADS_AT_ONCE * n_keys):
        shares = table[start : start + HEADS_AT_ONCE * n_keys].toarray() / per_head
        for position in range(n_classes):
            rows = shares[:, position] > 0  # keys that a class never hits share nothing with it
            total[position] += np.minimum(shares[rows], shares[rows, position : position + 1]).sum(axis=0)
    return total / n_heads
