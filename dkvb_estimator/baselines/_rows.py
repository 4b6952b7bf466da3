"""A multiset of labelled rows, identified by hashes.

Enters: embeddings (n, f), labels (n,). Leaves: some of them. Must not know: their use.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np

HOLD_OUT_EVERY = 10
MAX_SCORED = 2000
"""Largest number of held-out rows that choose: those with the smallest hashes."""


class Rows(NamedTuple):
    """Samples: hashes (r,) uint64, labels (r,), rows (r, f)."""

    hashes: np.ndarray
    labels: np.ndarray
    rows: np.ndarray

    @classmethod
    def none(cls, n_features: int) -> Rows:
        """Return no rows."""
        return cls.of(np.zeros((0, n_features), dtype=np.float32), np.zeros(0, dtype=np.int64))

    @classmethod
    def of(cls, X: np.ndarray, labels: np.ndarray) -> Rows:
        """Return rows (n, f) and labels (n,) with their hashes."""
        return cls(hash_rows(X), labels, X)

    def take(self, places: Any) -> Rows:
        """Return the samples at some places, given as indices, a slice or a mask."""
        return Rows(self.hashes[places], self.labels[places], self.rows[places])

    def plus(self, other: Rows) -> Rows:
        """Return these rows followed by others."""
        return Rows(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))

    def by_hash(self) -> Rows:
        """Return the rows in the order of their hashes, which does not depend on the order of arrival."""
        return self.take(np.lexsort((self.labels, self.hashes)))

    def held_out(self) -> Rows:
        """Return the rows with a hash that is a multiple of ``HOLD_OUT_EVERY``; equal rows have equal hashes."""
        return self.take(self.hashes % np.uint64(HOLD_OUT_EVERY) == 0)

    def without(self, other: Rows) -> tuple[Rows, int]:
        """Return the rows without one copy of each row of another, and the number of rows that were missing."""
        places = defaultdict(list)
        for place, sample in enumerate(zip(self.hashes.tolist(), self.labels.tolist(), strict=True)):
            places[sample].append(place)
        wanted = [places[sample] for sample in zip(other.hashes.tolist(), other.labels.tolist(), strict=True)]
        left = np.ones(len(self.labels), dtype=bool)
        found = [where.pop() for where in wanted if where]
        left[found] = False
        return self.take(left), len(wanted) - len(found)


def hash_rows(X: np.ndarray) -> np.ndarray:
    """Hash each row (n, f) to uint64; equal numbers have equal hashes in any dtype and with any sign of zero."""
    rows = np.ascontiguousarray(X, dtype=np.float64) + 0.0
    digests = b"".join(hashlib.blake2b(row, digest_size=8, person=b"held out").digest() for row in rows)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)
