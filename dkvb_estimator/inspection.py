"""Key usage: shares of used keys, overlaps of classes, and the classes and samples of a single key.

Enters: class counts of every key, class labels, and the codes of samples if the solver keeps them. Leaves: a
:class:`KeyUsage`. Must not know: embeddings, coordinates of keys, values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.sparse import csr_array

HEADS_AT_ONCE = 16
"""Heads whose overlaps are summed at once; the table of a group is (heads · j, k), float64."""


@dataclass(frozen=True, eq=False)
class KeyUsage:
    """Which classes use which keys of a model.

    Attributes
    ----------
    classes : ndarray of shape (k,)
        Sorted labels; the order of every axis k below.
    used_share : ndarray of shape (c,), float64
        Share of each head's keys that learned samples selected.
    classes_per_key : ndarray of shape (k + 1,), float64
        Share of used keys that serve exactly 0, 1, … k classes. It sums to 1, and the first entry is 0.
    overlap : ndarray of shape (k, k), float64
        Overlap of two classes: the smaller of their shares of hits on a key, summed over the keys of a head and
        averaged over heads. 1 if both hit the same keys equally often, 0 if they share no key.
    own_share : ndarray of shape (k,), float64
        Share of each class's hits that fall on keys of no other class.

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
    _codes: Any = field(repr=False)

    def classes_of(self, head: int, key: int) -> dict[Any, float]:
        """Return the classes that a key serves, by decreasing weight: label → weight of its samples.

        Raises
        ------
        IndexError
            If the head or the key does not exist.
        """
        row = self._table[[self._row(head, key)]].tocoo()
        pairs = sorted(zip(self.classes[row.coords[1]].tolist(), row.data.tolist()), key=lambda pair: -pair[1])
        return dict(pairs)

    def samples_of(self, head: int, key: int) -> np.ndarray:
        """Return the positions (n,) of the samples that selected a key, in the order of learning.

        Forgotten samples are not counted.

        Raises
        ------
        IndexError
            If the head or the key does not exist.
        ValueError
            If the solver keeps no samples.
        """
        self._row(head, key)
        if self._codes is None:
            raise ValueError(
                "solver does not store individual samples, which samples_of needs; expected 'joint' with "
                "remember=True. Call classes_of for the classes of the key."
            )
        return np.flatnonzero((self._codes.rows[:, head] == key).any(axis=1))

    def _row(self, head: int, key: int) -> int:
        n_heads = len(self.used_share)
        if not (0 <= head < n_heads and 0 <= key < self._n_keys):
            raise IndexError(
                f"head={head}, key={key} does not exist; expected heads 0 to {n_heads - 1} and keys 0 to "
                f"{self._n_keys - 1}. Pass numbers in these ranges."
            )
        return head * self._n_keys + key


def count_key_usage(table: csr_array, classes: np.ndarray, mask: np.ndarray, codes: Any) -> KeyUsage:
    """Compute the key usage from a table of class counts.

    Parameters
    ----------
    table : csr_array of shape (c * j, k), float64
        Weight of each class's samples that selected each key.
    classes : ndarray of shape (k,)
    mask : ndarray of shape (c, j), bool
        Keys that exist.
    codes : object or None
        Its ``rows`` are the codes (n, c, m) of the learned samples; None if the solver keeps none.
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
            rows = shares[:, position] > 0  # other keys add nothing to the overlap
            total[position] += np.minimum(shares[rows], shares[rows, position : position + 1]).sum(axis=0)
    return total / n_heads
