"""What an estimator has learned: class counts of every key, and what its solver needs beside them.

Enters: codes (n, c, m), labels (n,), weights (n,) or None. Leaves: counts (c, j, k), rows, the sample ledger. Must not
know: embeddings, keys, hyperparameters. Everything but the ``sgd`` table is a sum or a multiset, so learning commutes,
:meth:`Learned.forget` undoes it and :meth:`Learned.merge` adds two of them.
"""

from __future__ import annotations

import copy
from typing import Any, Self

import numpy as np

from . import _ledger
from ._counts import add_columns, count_hits
from ._validation import merge_classes

_LARGEST_UINT32 = 2**32 - 1


class Learned:
    """Hold what was learned with one codebook.

    Parameters
    ----------
    solver : {"counts", "ridge", "sgd"}
    n_heads, n_keys, n_selected : int

    Attributes
    ----------
    classes : ndarray of shape (k,)
        Labels seen or declared, sorted.
    declared : ndarray or None
        Labels declared by the user.
    hits : ndarray of shape (c, j, k), unsigned integers
        Samples of each class that selected each key.
    weighted_hits : ndarray of shape (c, j, k), float64, or None while no weight was given
    hashes, labels : lists of ndarrays (n,)
        One entry a sample, in blocks: its hash, and the position of its class. Empty with ``sgd``.
    codes, weights : lists of ndarrays, (n, c, m) and (n,)
        The rows that ``ridge`` solves from; empty otherwise.
    table : ndarray of shape (c, j, k + 1), float32, or None
        The values of ``sgd``, then the column that a class not seen yet starts from.
    """

    def __init__(self, solver: str, n_heads: int, n_keys: int, n_selected: int) -> None:
        self.solver = solver
        self.n_selected = n_selected
        self.classes = np.array([])
        self.declared: np.ndarray | None = None
        self.hits = np.zeros((n_heads, n_keys, 0), dtype=np.uint32)
        self.weighted_hits: np.ndarray | None = None
        self.hashes: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []
        self.codes: list[np.ndarray] = []
        self.weights: list[np.ndarray] = []
        self.table = np.zeros((n_heads, n_keys, 1), dtype=np.float32) if solver == "sgd" else None

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Rebuild from what ``vars`` gave."""
        learned = cls.__new__(cls)
        vars(learned).update(state)
        return learned

    @property
    def counts(self) -> np.ndarray:
        """Class counts of every key (c, j, k): integers until a weight arrives."""
        return self.hits if self.weighted_hits is None else self.weighted_hits

    @property
    def class_counts(self) -> np.ndarray:
        """Weight of the learned samples of each class (k,)."""
        return self.counts[0].sum(axis=0) / self.n_selected

    @property
    def n_samples(self) -> int:
        """Number of learned samples."""
        return int(self.hits[0].sum(dtype=np.int64)) // self.n_selected

    def learn(self, codes: np.ndarray, y: np.ndarray, weights: np.ndarray | None, declared: Any) -> np.ndarray:
        """Count samples, and keep what the solver needs of them; return their class positions (n,)."""
        self._grow(y, declared)
        positions = np.searchsorted(self.classes, y)
        self._add(codes, positions, weights)
        if self.solver != "sgd":
            self._remember(codes, y, positions, weights)
        return positions

    def forget(self, codes: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> None:
        """Take away one learned copy of each sample.

        Raises
        ------
        ValueError
            If a sample was not learned, or not as often; nothing is changed then.
        """
        ones = np.ones(len(codes)) if weights is None else weights
        wanted = _ledger.with_weights(_ledger.hash_samples(codes, y), ones)
        there = self._entries()
        positions, n_missing = _ledger.find_samples(there, wanted)
        if n_missing:
            raise ValueError(
                f"{n_missing} of the {len(codes)} samples to forget were never learned, or were forgotten already; "
                "expected samples given to fit or partial_fit with the same label and weight. Nothing was changed: "
                "forget only those."
            )
        kept = np.ones(len(there), dtype=bool)
        kept[positions] = False
        labels = np.searchsorted(self.classes, y)
        self._subtract(codes, labels, weights)
        self._keep(kept)

    def forget_classes(self, labels: np.ndarray) -> None:
        """Take away all samples of some classes.

        Raises
        ------
        ValueError
            If a label is not among the classes; nothing is changed then.
        """
        classes = self.classes.tolist()
        unknown = [label for label in labels.tolist() if label not in classes]
        if unknown:
            raise ValueError(
                f"label {unknown[0]!r} is not among the learned classes {classes}; expected labels of classes_. "
                "Nothing was changed: leave it out."
            )
        gone = np.searchsorted(self.classes, labels)
        self.hits[:, :, gone] = 0
        if self.weighted_hits is not None:
            self.weighted_hits[:, :, gone] = 0
        self._keep(~np.isin(np.concatenate(self.labels), gone))

    def mask(self, codes: np.ndarray, y: np.ndarray) -> None:
        """Take back hits of an ``sgd`` table; keys hit more by these samples than by all others lose their values.

        Raises
        ------
        ValueError
            If hits would fall below zero; nothing is changed then.

        References
        ----------
        Shah et al. (2023), "Unlearning via sparse representations", arXiv 2311.15268, for masking by examples.
        """
        known = np.isin(y, self.classes)
        positions = np.searchsorted(self.classes, y)
        if not known.all() or (count_hits(self.hits.shape, codes, positions, None) > self.hits).any():
            raise ValueError(
                "some of the samples to forget were never learned; expected samples given to fit or partial_fit. "
                "Nothing was changed: forget only those."
            )
        taken = count_hits(self.hits.shape, codes, positions, None).astype(self.hits.dtype)
        self.hits -= taken
        self.table[taken.sum(axis=2) > self.hits.sum(axis=2)] = 0  # type: ignore[index]

    def merge(self, other: Learned) -> Learned:
        """Return what a model that had learned both would hold."""
        both, other = copy.deepcopy(self), copy.deepcopy(other)
        for one, another in ((both, other), (other, both)):
            one._grow(another.classes, another.declared)
        if both.weighted_hits is not None or other.weighted_hits is not None:
            both.weighted_hits = both.counts.astype(np.float64) + other.counts
        both.hits = both.hits.astype(np.uint64) + other.hits
        if both.n_samples * both.n_selected <= _LARGEST_UINT32:
            both.hits = both.hits.astype(np.uint32)
        for name in ("hashes", "labels", "codes", "weights"):
            getattr(both, name).extend(getattr(other, name))
        return both

    def rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return codes, class positions, weights and hashes of the distinct rows of ``ridge``.

        They are a function of the multiset learned: order, splits and what was forgotten leave no trace.
        """
        first, hashes, weights = _ledger.merge_rows(np.concatenate(self.hashes), np.concatenate(self.weights))
        return np.concatenate(self.codes)[first], np.concatenate(self.labels)[first], weights, hashes

    def _entries(self) -> np.ndarray:
        """Return the ledger (n,), each sample's hash mixed with its weight."""
        hashes = np.concatenate(self.hashes)
        return _ledger.with_weights(hashes, np.concatenate(self.weights)) if self.weights else hashes

    def _grow(self, y: np.ndarray, declared: Any) -> None:
        """Give every new label a column; columns move where a label sorts in between."""
        known, announced = self.classes, self.declared
        everything = merge_classes(known, y)
        if declared is not None:
            everything = merge_classes(everything, np.asarray(declared))
            announced = merge_classes(np.array([]) if announced is None else announced, np.asarray(declared))
        self.classes, self.declared = everything, announced
        if len(everything) > len(known):
            old = np.searchsorted(everything, known) if len(known) else np.array([], dtype=np.int64)
            self._move_columns(old, len(everything))

    def _move_columns(self, old: np.ndarray, n_classes: int) -> None:
        self.hits = add_columns(self.hits, old, n_classes)
        if self.weighted_hits is not None:
            self.weighted_hits = add_columns(self.weighted_hits, old, n_classes)
        self.labels = [old[labels] for labels in self.labels]
        if self.table is not None:  # a new class starts as what has learned to be none of those seen
            grown = np.repeat(self.table[:, :, -1:], n_classes + 1, axis=2)
            grown[:, :, old] = self.table[:, :, :-1]
            self.table = grown

    def _add(self, codes: np.ndarray, positions: np.ndarray, weights: np.ndarray | None) -> None:
        if self.hits.dtype == np.uint32 and (self.n_samples + len(codes)) * self.n_selected > _LARGEST_UINT32:
            self.hits = self.hits.astype(np.uint64)
        if weights is not None and self.weighted_hits is None:
            self.weighted_hits = self.hits.astype(np.float64)
        hits = count_hits(self.hits.shape, codes, positions, None)
        self.hits += hits.astype(self.hits.dtype)
        if self.weighted_hits is not None:
            self.weighted_hits += hits if weights is None else count_hits(hits.shape, codes, positions, weights)

    def _subtract(self, codes: np.ndarray, positions: np.ndarray, weights: np.ndarray | None) -> None:
        hits = count_hits(self.hits.shape, codes, positions, None)
        self.hits -= hits.astype(self.hits.dtype)
        if self.weighted_hits is not None:
            self.weighted_hits -= hits if weights is None else count_hits(hits.shape, codes, positions, weights)
            self.weighted_hits[self.hits == 0] = 0  # rounding must not leave a trace of the last sample

    def _remember(self, codes: np.ndarray, y: np.ndarray, positions: np.ndarray, weights: np.ndarray | None) -> None:
        hashes, ones = _ledger.hash_samples(codes, y), np.ones(len(codes)) if weights is None else weights
        self.labels.append(positions.astype(np.int32))
        if self.solver == "counts":
            self.hashes.append(_ledger.with_weights(hashes, ones))
        else:
            self.hashes.append(hashes)
            self.codes.append(codes)
            self.weights.append(ones)

    def _keep(self, kept: np.ndarray) -> None:
        """Drop ledger entries and rows, then classes that are left without samples and were not declared."""
        for name in ("hashes", "labels", "codes", "weights"):
            if blocks := getattr(self, name):
                setattr(self, name, [np.concatenate(blocks)[kept]])
        classes = self.classes
        seen = self.hits[0].any(axis=0)
        alive = seen if self.declared is None else seen | np.isin(classes, self.declared)
        self.classes = classes[alive]
        self.hits = np.ascontiguousarray(self.hits[:, :, alive])
        if self.weighted_hits is not None:
            self.weighted_hits = np.ascontiguousarray(self.weighted_hits[:, :, alive])
        self.labels = [(np.cumsum(alive) - 1)[labels].astype(np.int32) for labels in self.labels]
