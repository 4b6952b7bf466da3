"""The learned state of a classifier: class counts of every key, and whatever else its solver needs.

Enters: codes (n, c, m), labels (n,), weights (n,) or None. Leaves: class counts, rows, hashes of samples. Must not
know: embeddings, keys, hyperparameters. Everything but the ``sgd`` table is a sum or a multiset. Learning is therefore
independent of order, :meth:`Learned.forget` undoes it, and :meth:`Learned.merge` adds two of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from dkvb_estimator._labels import are_among, merge_classes, positions_of
from dkvb_estimator._validation import JOINT, short

from . import sample_hashes
from .code_store import CodeStore
from .counts import ClassCounts
from .joint import Solution, Sums


@dataclass(frozen=True)
class Rows:
    """Distinct samples from which values are solved, in the order of their hashes.

    Parameters
    ----------
    codes : CodeStore
        Codes of all learned samples (all learned, c, m).
    positions : ndarray of shape (n,)
        Position of each sample in ``codes``.
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
        """Renumber labels from positions in ``own`` (fewer,) to positions in ``classes`` (k,)."""
        return replace(self, labels=positions_of(own, classes)[self.labels])

    def where(self, mask: np.ndarray) -> Rows:
        """Return the samples where ``mask`` (n,) is true."""
        return Rows(self.codes, self.positions[mask], self.labels[mask], self.weights[mask], self.hashes[mask])

    def weighted(self, per_class: np.ndarray | None) -> Rows:
        """Multiply weights by those of the classes (k,), and leave out samples of weight zero."""
        if per_class is None:
            return self
        weights = self.weights * per_class[self.labels]
        return Rows(self.codes, self.positions, self.labels, weights, self.hashes).where(weights > 0)


class Learned:
    """What was learned with one codebook.

    Parameters
    ----------
    solver : {"joint", "ridge", "counts", "sgd"}
    n_heads, n_keys, n_selected : int
    folder : str or None
        Folder of a file for codes; None keeps them in memory.
    width : int or None
        Number of features of the sums that are kept instead of codes; None keeps codes.

    Attributes
    ----------
    classes : ndarray of shape (k,)
        Labels seen or declared, sorted.
    declared : ndarray or None
        Labels declared by the user.
    counts : ClassCounts
        Number of samples of each class that selected each key.
    hashes, labels, weights : lists of ndarrays of shape (n,)
        One entry per sample, in blocks: its hash, the position of its class, and with codes its weight. Empty with
        ``sgd``, and if sums are kept.
    codes : CodeStore
        Rows from which values are solved; empty for other solvers.
    sums : Sums or None
        Sums that are kept instead of rows.
    running : tuple of int and Sums, or None
        A number of rows and the sums of these first rows, if all weights are one; later rows are added to them.
    table : ndarray of shape (c, j, k + 1), float32, or None
        Values of ``sgd``, then the column from which a new class starts.
    origin : ndarray of shape (c, j), uint16, or None
        After pruning, the position of each key when it was placed; samples are hashed by these positions.
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
        """Rebuild from a :meth:`state`; codes are then in memory."""
        learned = cls.__new__(cls)
        vars(learned).update(state)
        learned.counts = ClassCounts(**state["counts"] | {"shape": tuple(state["counts"]["shape"].tolist())})
        learned.codes, learned.running, learned.solution = CodeStore(), None, None
        learned.sums = Sums(**state["sums"]) if state.get("sums") else None
        if len(state["codes"]):
            learned.codes = learned.codes.extended(state["codes"])
        return learned

    def state(self) -> dict[str, Any]:
        """Return dicts and lists of arrays, text and numbers."""
        counts = vars(self.counts) | {"shape": np.array(self.counts.shape)}
        state = {name: value for name, value in vars(self).items() if name not in ("running", "solution")}
        sums = None if self.sums is None else dict(vars(self.sums))
        return state | {"counts": counts, "codes": np.asarray(self.codes.rows), "sums": sums}

    @property
    def nbytes(self) -> int:
        """Bytes of counts, hashes, labels, weights, codes, sums and table."""
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
        """Count samples, keep what the solver needs of them, and return their class positions (n,)."""
        self._grow(y, declared)
        positions = positions_of(y, self.classes)
        self.counts = self.counts.plus(codes, positions, weights)
        if self.solver != "sgd" and self.sums is None:
            self._remember(codes, y, positions, weights)
        return positions

    def forget(self, codes: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> None:
        """Remove one learned copy of each sample.

        Raises
        ------
        ValueError
            If a sample was not learned, or less often; nothing changes then.
        """
        ones = np.ones(len(codes)) if weights is None else weights
        wanted = sample_hashes.with_weights(self._hash(codes, y), ones)
        there = self._entries()
        positions, n_missing = sample_hashes.find_samples(there, wanted)
        if n_missing:
            raise ValueError(
                f"X holds samples that were never learned or are already forgotten ({n_missing} of {len(codes)}); "
                "expected samples given to fit or partial_fit, with the same label and weight. Forget only those; "
                "nothing was changed."
            )
        kept = np.ones(len(there), dtype=bool)
        kept[positions] = False
        self.counts = self.counts.minus(codes, positions_of(y, self.classes), weights)
        self._keep(kept)

    def forget_classes(self, labels: np.ndarray) -> None:
        """Remove all samples of some classes.

        Raises
        ------
        ValueError
            If a label was never learned; nothing changes then.
        """
        classes = self.classes.tolist()
        unknown = [label for label in labels.tolist() if label not in classes]
        if unknown:
            raise ValueError(
                f"labels holds {short(unknown[0])}, which is not among the {len(classes)} learned classes; expected "
                "labels in classes_. Leave it out; nothing was changed."
            )
        gone = positions_of(labels, self.classes)
        self.counts = self.counts.without(gone)
        self._keep(~np.isin(np.concatenate(self.labels), gone))

    def take_back(self, codes: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> None:
        """Subtract the hits of samples, for ``sgd`` and for sums.

        With ``sgd``, keys that these samples hit more often than all others lose their values. With sums, the caller
        subtracts the sums of the samples.

        Raises
        ------
        ValueError
            If hits would become negative; nothing changes then.
        """
        unlearned = (
            "X holds samples that were never learned; expected samples given to fit or partial_fit. Forget only those; "
            "nothing was changed."
        )
        if not are_among(y, self.classes).all():
            raise ValueError(unlearned)
        before = self.counts.key_hits()
        try:
            self.counts = self.counts.minus(codes, positions_of(y, self.classes), weights)
        except ValueError as error:
            raise ValueError(unlearned) from error
        if self.sums is not None:
            return
        after = self.counts.key_hits()
        self.mask(before - after > after)
        self._keep(np.zeros(0, dtype=bool))

    def add_sums(self, more: Sums, sign: int = 1) -> None:
        """Add the sums of rows just counted, or subtract them with ``sign=-1``."""
        self.sums = self.sums.plus(more, sign)  # type: ignore[union-attr]
        self._drop_empty_classes()

    def mask(self, keys: np.ndarray) -> None:
        """Set the values of some keys (c, j), bool, of an ``sgd`` table to zero."""
        table = self.table.copy()  # type: ignore[union-attr]
        table[keys] = 0
        self.table = table

    def without_rows(self) -> Learned:
        """Return a copy without codes."""
        rest = copy.copy(self)
        rest.codes, rest.running = CodeStore(), None
        return rest

    def to_predict(self, solution: Solution | None) -> Learned:
        """Return a copy with only what predictions need, including a solution for solved values."""
        little = self.without_rows()
        little.hashes, little.labels, little.weights = [], [], []
        little.sums, little.solution = None, solution
        return little

    def n_shared(self, other: Learned) -> int:
        """Return how many samples of another model are learned here too (equal codes, labels and weights)."""
        if self.sums is not None:
            return 0
        return len(sample_hashes.find_samples(self._entries(), other._entries())[0])

    def merge(self, other: Learned) -> Learned:
        """Return what a model that learned both would hold."""
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
        """Renumber keys: the new key i of head c is the old key ``order[c, i]``; others must have no hits."""
        heads, (n_heads, width) = np.arange(len(order))[:, None], order.shape
        places = np.zeros((n_heads, self.counts.shape[1]), dtype=np.min_scalar_type(width - 1))
        places[heads, order] = np.arange(width)
        self.counts = self.counts.with_keys(order)
        self.codes = self.codes.mapped(lambda codes: places[heads.T[..., None], codes])
        self.origin, self.running = origin, None
        if self.table is not None:
            self.table = self.table[heads, order]

    def rows(self) -> Rows:
        """Return the distinct rows, which do not depend on the order of learning."""
        first, hashes, weights = sample_hashes.merge_rows(np.concatenate(self.hashes), np.concatenate(self.weights))
        return Rows(self.codes, first, np.concatenate(self.labels)[first], weights, hashes)

    def known_sums(self, add: Callable[[Callable[[slice], np.ndarray], np.ndarray], Sums]) -> Sums | None:
        """Return the sums of all rows, or None unless all weights are one.

        ``add`` sums rows of weight one, given a function that reads their codes, and their class positions. It is
        called only with rows that were learned since the last call.
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
        """Return the hash of each sample mixed with its weight (n,)."""
        hashes = np.concatenate(self.hashes)
        return sample_hashes.with_weights(hashes, np.concatenate(self.weights)) if self.weights else hashes

    def _grow(self, y: np.ndarray, declared: Any) -> None:
        """Add a column for every new label; existing columns move to keep labels sorted."""
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
        if self.table is not None:  # a new class starts from the column for later classes
            grown = np.repeat(self.table[:, :, -1:], n_classes + 1, axis=2)
            grown[:, :, old] = self.table[:, :, :-1]
            self.table = grown

    def _hash(self, codes: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Hash samples by the positions of keys before any pruning."""
        if self.origin is not None:
            codes = self.origin[np.arange(codes.shape[1])[None, :, None], codes]
        return sample_hashes.hash_samples(codes, y)

    def _remember(self, codes: np.ndarray, y: np.ndarray, positions: np.ndarray, weights: np.ndarray | None) -> None:
        hashes, ones = self._hash(codes, y), np.ones(len(codes)) if weights is None else weights
        if self.keeps_rows:
            self.codes = self.codes.extended(codes)
            self.weights = [*self.weights, ones]
        self.hashes = [*self.hashes, hashes if self.keeps_rows else sample_hashes.with_weights(hashes, ones)]
        self.labels = [*self.labels, positions.astype(np.int32)]

    def _keep(self, kept: np.ndarray) -> None:
        """Keep some samples, and drop classes that have no samples and were not declared."""
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
        if alive.all():  # copying a table for nothing takes longer than forgetting a sample
            return
        self.classes = classes[alive]
        places = np.cumsum(alive) - 1
        self.counts = self.counts.with_classes(places, int(alive.sum()))
        self.labels = [places[labels].astype(np.int32) for labels in self.labels]
        if self.sums is not None:
            self.sums = Sums(self.sums.gram, self.sums.by_class[alive], self.sums.weights[alive])
        if self.table is not None:
            self.table = self.table[:, :, np.append(alive, True)]
