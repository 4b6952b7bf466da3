"""What an estimator has learned: class counts of every key, and what its solver needs beside them.

Enters: codes (n, c, m), labels (n,), weights (n,) or None. Leaves: class counts, rows, the sample ledger. Must not
know: embeddings, keys, hyperparameters. Everything but the ``sgd`` table is a sum or a multiset, so learning commutes,
:meth:`Learned.forget` undoes it and :meth:`Learned.merge` adds two of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from dkvb_estimator._labels import are_among, merge_classes, positions_of
from dkvb_estimator._validation import JOINT

from . import sample_hashes as _ledger
from .code_store import CodeStore
from .counts import ClassCounts
from .joint import Solution, Sums


@dataclass(frozen=True)
class Rows:
    """The distinct samples that values are solved from, in the order of their hashes.

    Parameters
    ----------
    codes : CodeStore
        Of all learned, (all learned, c, m).
    positions : ndarray of shape (n,)
        Where each sample stands in ``codes``.
    labels, weights, hashes : ndarrays of shape (n,)
    """

    codes: CodeStore
    positions: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    hashes: np.ndarray

    def __len__(self) -> int:
        return len(self.positions)

    def read(self, part: slice) -> np.ndarray:
        """Return the codes of some samples (len, c, m)."""
        return self.codes.take(self.positions[part])

    def among(self, classes: np.ndarray, own: np.ndarray) -> Rows:
        """Renumber the classes: ``own`` (fewer,), by whose positions labels are given, are among ``classes`` (k,)."""
        return replace(self, labels=positions_of(own, classes)[self.labels])

    def where(self, mask: np.ndarray) -> Rows:
        """Return the samples where ``mask`` (n,) holds."""
        return Rows(self.codes, self.positions[mask], self.labels[mask], self.weights[mask], self.hashes[mask])

    def weighted(self, per_class: np.ndarray | None) -> Rows:
        """Multiply weights by those of the classes (k,), and leave out samples that weigh nothing."""
        if per_class is None:
            return self
        weights = self.weights * per_class[self.labels]
        return Rows(self.codes, self.positions, self.labels, weights, self.hashes).where(weights > 0)


class Learned:
    """Hold what was learned with one codebook.

    Parameters
    ----------
    solver : {"joint", "ridge", "counts", "sgd"}
    n_heads, n_keys, n_selected : int
    folder : str or None
        Where codes that values are solved from are kept; None for memory.
    width : int or None
        Features of the sums that are kept instead of codes; None keeps codes.

    Attributes
    ----------
    classes : ndarray of shape (k,)
        Labels seen or declared, sorted.
    declared : ndarray or None
        Labels declared by the user.
    counts : ClassCounts
        Samples of each class that selected each key.
    hashes, labels, weights : lists of ndarrays (n,)
        One entry a sample, in blocks: its hash, the position of its class, and with codes its weight. Empty with
        ``sgd``, and where sums are kept.
    codes : CodeStore
        The rows that values are solved from; empty otherwise.
    sums : Sums or None
        What is kept instead of rows.
    running : tuple of int and Sums, or None
        Sums of the first so many rows, where each weighs one: they only grow by what is learned next.
    table : ndarray of shape (c, j, k + 1), float32, or None
        The values of ``sgd``, then the column that a class not seen yet starts from.
    origin : ndarray of shape (c, j), uint16, or None
        Of a pruned codebook, where each key stood when they were placed: hashes are made of those positions.
    """

    def __init__(
        self,
        solver: str,
        n_heads: int,
        n_keys: int,
        n_selected: int,
        folder: str | None = None,
        origin: Any = None,
        width: int | None = None,
    ) -> None:
        self.solver = solver
        self.n_selected = n_selected
        self.classes = np.array([])
        self.declared: np.ndarray | None = None
        self.counts = ClassCounts.empty(n_heads, n_keys)
        self.hashes: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []
        self.weights: list[np.ndarray] = []
        self.codes = CodeStore(folder)
        self.table = np.zeros((n_heads, n_keys, 1), dtype=np.float32) if solver == "sgd" else None
        self.origin: np.ndarray | None = origin
        self.sums = None if width is None else Sums.empty(width, 0)
        self.running: tuple[int, Sums] | None = None
        self.solution: Solution | None = None

    @property
    def keeps_rows(self) -> bool:
        """Whether values are solved from rows."""
        return self.solver in JOINT and self.sums is None

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Rebuild from what :meth:`state` gave; codes are then in memory."""
        learned = cls.__new__(cls)
        vars(learned).update(state)
        learned.counts = ClassCounts(**state["counts"] | {"shape": tuple(state["counts"]["shape"].tolist())})
        learned.codes, learned.running, learned.solution = CodeStore(), None, None
        learned.sums = Sums(**state["sums"]) if state.get("sums") else None
        if len(state["codes"]):
            learned.codes = learned.codes.extended(state["codes"])
        return learned

    def state(self) -> dict[str, Any]:
        """Return everything as arrays, text and numbers in dicts and lists."""
        counts = vars(self.counts) | {"shape": np.array(self.counts.shape)}
        state = {name: value for name, value in vars(self).items() if name not in ("running", "solution")}
        sums = None if self.sums is None else dict(vars(self.sums))
        return state | {"counts": counts, "codes": np.asarray(self.codes.rows), "sums": sums}

    @property
    def nbytes(self) -> int:
        """Bytes of counts, ledger, codes, sums and table."""
        arrays = [*self.hashes, *self.labels, *self.weights] + ([] if self.table is None else [self.table])
        arrays += [] if self.sums is None else list(vars(self.sums).values())
        return self.counts.nbytes + self.codes.nbytes + sum(array.nbytes for array in arrays)

    @property
    def class_counts(self) -> np.ndarray:
        """Weight of the learned samples of each class (k,), float64."""
        return self.counts.class_counts() / self.n_selected

    @property
    def n_samples(self) -> int:
        """Number of learned samples."""
        return int(self.counts.class_hits().sum()) // self.n_selected

    def learn(self, codes: np.ndarray, y: np.ndarray, weights: np.ndarray | None, declared: Any) -> np.ndarray:
        """Count samples, and keep what the solver needs of them; return their class positions (n,)."""
        self._grow(y, declared)
        positions = positions_of(y, self.classes)
        self.counts = self.counts.plus(codes, positions, weights)
        if self.solver != "sgd" and self.sums is None:
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
        wanted = _ledger.with_weights(self._hash(codes, y), ones)
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
        self.counts = self.counts.minus(codes, positions_of(y, self.classes), weights)
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
        gone = positions_of(labels, self.classes)
        self.counts = self.counts.without(gone)
        self._keep(~np.isin(np.concatenate(self.labels), gone))

    def take_back(self, codes: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> None:
        """Take back hits where no rows are kept.

        Of an ``sgd`` table, keys hit more by these samples than by all others lose their values; of sums, those of the
        samples are still to be taken off.

        Raises
        ------
        ValueError
            If hits would fall below zero; nothing is changed then.
        """
        unlearned = "some of the samples to forget were never learned; expected samples given to fit or partial_fit. "
        if not are_among(y, self.classes).all():
            raise ValueError(unlearned + "Nothing was changed: forget only those.")
        before = self.counts.key_hits()
        try:
            self.counts = self.counts.minus(codes, positions_of(y, self.classes), weights)
        except ValueError as error:
            raise ValueError(unlearned + "Nothing was changed: forget only those.") from error
        if self.sums is not None:
            return
        after = self.counts.key_hits()
        self.mask(before - after > after)
        self._keep(np.zeros(0, dtype=bool))

    def add_sums(self, more: Sums, sign: int = 1) -> None:
        """Add the sums of rows just counted, or take them off with ``sign=-1``."""
        self.sums = self.sums.plus(more, sign)  # type: ignore[union-attr]
        self._drop_empty_classes()

    def mask(self, keys: np.ndarray) -> None:
        """Set the values of some keys (c, j), bool, of an ``sgd`` table to zero."""
        table = self.table.copy()  # type: ignore[union-attr]
        table[keys] = 0
        self.table = table

    def without_rows(self) -> Learned:
        """Return all of it but the codes that values are solved from."""
        rest = copy.copy(self)
        rest.codes, rest.running = CodeStore(), None
        return rest

    def to_predict(self, solution: Solution | None) -> Learned:
        """Return the little that predictions need, a solution where values are solved."""
        little = self.without_rows()
        little.hashes, little.labels, little.weights = [], [], []
        little.sums, little.solution = None, solution
        return little

    def n_shared(self, other: Learned) -> int:
        """Return how many samples of another model are learned here too: by their codes, labels and weights."""
        if self.sums is not None:
            return 0
        return len(_ledger.find_samples(self._entries(), other._entries())[0])

    def merge(self, other: Learned) -> Learned:
        """Return what a model that had learned both would hold."""
        both, other = copy.copy(self), copy.copy(other)
        for one, another in ((both, other), (other, both)):
            one._grow(another.classes, another.declared)
        both.codes, both.running = self.codes.joined(other.codes), None
        if both.sums is not None and other.sums is not None:
            both.sums = both.sums.plus(other.sums)
        both.counts = both.counts.merged(other.counts)
        for name in ("hashes", "labels", "weights"):
            setattr(both, name, getattr(both, name) + getattr(other, name))
        return both

    def prune(self, order: np.ndarray, origin: np.ndarray | None) -> None:
        """Renumber keys: key i of head c becomes what was key ``order[c, i]``; keys left out must have no hits."""
        heads, (n_heads, width) = np.arange(len(order))[:, None], order.shape
        places = np.zeros((n_heads, self.counts.shape[1]), dtype=np.min_scalar_type(width - 1))
        places[heads, order] = np.arange(width)
        self.counts = self.counts.with_keys(order)
        self.codes = self.codes.mapped(lambda codes: places[heads.T[..., None], codes])
        self.origin, self.running = origin, None
        if self.table is not None:
            self.table = self.table[heads, order]

    def rows(self) -> Rows:
        """Return the distinct rows: a function of the multiset learned, whatever its order and splits."""
        first, hashes, weights = _ledger.merge_rows(np.concatenate(self.hashes), np.concatenate(self.weights))
        return Rows(self.codes, first, np.concatenate(self.labels)[first], weights, hashes)

    def known_sums(self, add: Callable[[Callable[[slice], np.ndarray], np.ndarray], Sums]) -> Sums | None:
        """Return the sums of all rows, or None where a row does not weigh one.

        ``add`` sums rows of weight one, of which a function reads the codes and class positions are given; it is asked
        for those that came since it was asked last.
        """
        if not all((block == 1).all() for block in self.weights):
            return None
        labels = np.concatenate(self.labels)
        known, sums = self.running or (0, None)
        if known < len(labels):
            more = add(lambda part: self.codes.take(np.arange(known, len(labels))[part]), labels[known:])
            sums = more if sums is None else sums.plus(more)
            self.running = len(labels), sums
        return sums

    def _entries(self) -> np.ndarray:
        """Return the ledger (n,), each sample's hash mixed with its weight."""
        hashes = np.concatenate(self.hashes)
        return _ledger.with_weights(hashes, np.concatenate(self.weights)) if self.weights else hashes

    def _grow(self, y: np.ndarray, declared: Any) -> None:
        """Give every new label a column; columns move where a label sorts in between."""
        known, announced = self.classes, self.declared
        everything = merge_classes(known, y)
        if declared is not None:
            everything = merge_classes(everything, declared, "classes")
            announced = merge_classes(np.array([]) if announced is None else announced, declared, "classes")
        self.classes, self.declared = everything, announced
        if len(everything) > len(known):
            old = positions_of(known, everything) if len(known) else np.array([], dtype=np.int64)
            self._move_columns(old, len(everything))

    def _move_columns(self, old: np.ndarray, n_classes: int) -> None:
        self.counts = self.counts.with_classes(old, n_classes)
        self.labels = [old[labels].astype(np.int32) for labels in self.labels]
        if self.sums is not None:
            self.sums = self.sums.with_classes(old, n_classes)
        if self.running is not None:
            self.running = self.running[0], self.running[1].with_classes(old, n_classes)
        if self.table is not None:  # a new class starts as what has learned to be none of those seen
            grown = np.repeat(self.table[:, :, -1:], n_classes + 1, axis=2)
            grown[:, :, old] = self.table[:, :, :-1]
            self.table = grown

    def _hash(self, codes: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Hash samples by the positions that keys had before any pruning."""
        if self.origin is not None:
            codes = self.origin[np.arange(codes.shape[1])[None, :, None], codes]
        return _ledger.hash_samples(codes, y)

    def _remember(self, codes: np.ndarray, y: np.ndarray, positions: np.ndarray, weights: np.ndarray | None) -> None:
        hashes, ones = self._hash(codes, y), np.ones(len(codes)) if weights is None else weights
        if self.keeps_rows:
            self.codes = self.codes.extended(codes)
            self.weights = [*self.weights, ones]
        self.hashes = [*self.hashes, hashes if self.keeps_rows else _ledger.with_weights(hashes, ones)]
        self.labels = [*self.labels, positions.astype(np.int32)]

    def _keep(self, kept: np.ndarray) -> None:
        """Drop ledger entries and rows, then classes that are left without samples and were not declared."""
        for name in ("hashes", "labels", "weights"):
            if blocks := getattr(self, name):
                setattr(self, name, [np.concatenate(blocks)[kept]])
        if self.keeps_rows:
            self.codes, self.running = self.codes.kept(kept), None
        self._drop_empty_classes()

    def _drop_empty_classes(self) -> None:
        classes = self.classes
        seen = self.counts.class_hits() > 0
        alive = seen if self.declared is None else seen | are_among(classes, self.declared)
        self.classes = classes[alive]
        places = np.cumsum(alive) - 1
        self.counts = self.counts.with_classes(places, int(alive.sum()))
        self.labels = [places[labels].astype(np.int32) for labels in self.labels]
        if self.sums is not None:
            self.sums = Sums(self.sums.gram, self.sums.by_class[alive], self.sums.weights[alive])
        if self.table is not None:
            self.table = self.table[:, :, np.append(alive, True)]
