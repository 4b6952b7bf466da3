"""Class counts per key, and the values that ``counts`` computes from them.

Enters: codes (n, c, m), class positions (n,), weights (n,) or None. Leaves: :class:`ClassCounts`, values (c, j, k).
Must not know: embeddings, keys, class labels. The counts are sparse: with many classes, few of them share a key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from dkvb_estimator._values.normals import ClassNormals

GROUP_ENTRIES = 2**22
"""Pairs and hits processed at once, in whole heads: at most 256 MiB."""
VALUE_ENTRIES = 2**20
"""Values computed at once: less than 64 MiB."""
FEW_HITS = 8
"""With fewer than one hit per so many cells of the dense table, sorting is faster than a bincount of all cells."""
FEW_CHANGES = 16
"""With fewer than one hit per so many pairs, changing these pairs alone is faster than summing whole tables."""


@dataclass(frozen=True, eq=False)
class ClassCounts:
    """Number of samples of each class that selected each key, as compressed sparse rows of the smallest integers.

    A pair of a key and a class takes four bytes with up to 65,536 classes and hits, and a key takes eight. Instances
    are immutable: every method returns a new table.

    Parameters
    ----------
    shape : (c, j, k)
    pointers : ndarray of shape (c * j + 1,)
        Start of the pairs of each key.
    classes, hits : ndarrays of shape (p,), unsigned integers
        Class of each pair, ascending within a key, and its number of samples.
    weights : ndarray of shape (p,), float64, or None
        Weight of each pair; None as long as no weights are given.

    Examples
    --------
    >>> codes = np.array([[[0]], [[1]], [[1]]], dtype=np.uint8)
    >>> counts = ClassCounts.empty(1, 2).with_classes([], 2).plus(codes, np.array([0, 1, 1]), None)
    >>> counts.dense().tolist(), counts.key_counts().tolist()
    ([[[1, 0], [0, 2]]], [[1, 2]])
    """

    shape: tuple[int, int, int]
    pointers: np.ndarray
    classes: np.ndarray
    hits: np.ndarray
    weights: np.ndarray | None = None

    @classmethod
    def empty(cls, n_heads: int, n_keys: int) -> ClassCounts:
        """Return a table without classes."""
        nothing = np.zeros(0, dtype=np.uint8)
        return cls((n_heads, n_keys, 0), np.zeros(n_heads * n_keys + 1, dtype=np.uint32), nothing, nothing)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        arrays = (self.pointers, self.classes, self.hits, self.weights)
        return sum(array.nbytes for array in arrays if array is not None)

    def plus(self, codes: np.ndarray, labels: np.ndarray, weights: np.ndarray | None) -> ClassCounts:
        """Add samples.

        Parameters
        ----------
        codes : ndarray of shape (n, c, m), unsigned integers
        labels : ndarray of shape (n,), integers below k
        weights : ndarray of shape (n,), float64, or None for weights of one
        """
        return self._combined(codes, labels, weights, 1)

    def minus(self, codes: np.ndarray, labels: np.ndarray, weights: np.ndarray | None) -> ClassCounts:
        """Subtract samples; a pair without hits is removed together with its weight.

        Raises
        ------
        ValueError
            If the hits of a pair would become negative.
        """
        return self._combined(codes, labels, weights, -1)

    def merged(self, other: ClassCounts) -> ClassCounts:
        """Add a table of the same shape."""
        weighted = self.weights is not None or other.weights is not None
        parts = [self._part(heads, weighted) + other._part(heads, weighted) for heads in self._groups(len(other.hits))]
        return self._from_parts(parts, weighted)

    def with_classes(self, old: np.ndarray | list[int], n_classes: int) -> ClassCounts:
        """Renumber classes: class i becomes ``old[i]`` (ascending) of ``n_classes``."""
        places = np.asarray(old, dtype=np.int64)
        stay = not len(self.classes) or np.array_equal(places, np.arange(len(places)))
        classes = self.classes if stay else places[self.classes]
        return replace(self, shape=(*self.shape[:2], n_classes), classes=_narrow(classes, max(0, n_classes - 1)))

    def without(self, gone: np.ndarray) -> ClassCounts:
        """Drop the pairs of some classes (positions); the numbering stays."""
        kept = ~np.isin(self.classes, gone)
        pointers = np.concatenate([[0], np.cumsum(kept)])[self.pointers]
        weights = None if self.weights is None else self.weights[kept]
        return replace(
            self, pointers=_pointers(pointers), classes=self.classes[kept], hits=self.hits[kept], weights=weights
        )

    def with_keys(self, order: np.ndarray) -> ClassCounts:
        """Renumber keys: the new key i of head c is the old key ``order[c, i]`` (c, fewer keys).

        Keys that are left out must have no hits.
        """
        cells = (order + self.shape[1] * np.arange(self.shape[0])[:, None]).ravel()
        lengths = np.diff(self.pointers.astype(np.int64))[cells]
        chosen = _ranges(self.pointers[cells].astype(np.int64), lengths)
        weights = None if self.weights is None else self.weights[chosen]
        return ClassCounts(
            (self.shape[0], order.shape[1], self.shape[2]),
            _pointers(np.concatenate([[0], np.cumsum(lengths)])),
            self.classes[chosen],
            self.hits[chosen],
            weights,
        )

    def used(self) -> np.ndarray:
        """Return which keys have hits (c, j), bool."""
        return (np.diff(self.pointers) > 0).reshape(self.shape[:2])

    def key_counts(self) -> np.ndarray:
        """Return the hits of each key (c, j), uint64, or their weight, float64."""
        return self._by_key(self.hits).astype(np.uint64) if self.weights is None else self._by_key(self.weights)

    def key_hits(self) -> np.ndarray:
        """Return the hits of each key (c, j), int64, ignoring weights."""
        return self._by_key(self.hits)

    def _by_key(self, amounts: np.ndarray) -> np.ndarray:
        used, sums = self.used().ravel(), np.zeros(self.shape[0] * self.shape[1], dtype=_wide(amounts))
        if len(amounts):
            sums[used] = np.add.reduceat(amounts, self.pointers[:-1][used].astype(np.int64), dtype=sums.dtype)
        return sums.reshape(self.shape[:2])

    def class_hits(self) -> np.ndarray:
        """Return the hits of each class in one head (k,), int64."""
        end = int(self.pointers[self.shape[1]])
        found = np.bincount(self.classes[:end], weights=self.hits[:end], minlength=self.shape[2])
        return found.astype(np.int64)

    def class_counts(self) -> np.ndarray:
        """Return the hits of each class in one head, or their weight (k,), float64."""
        end = int(self.pointers[self.shape[1]])
        amounts = self.hits if self.weights is None else self.weights
        return np.bincount(self.classes[:end], weights=amounts[:end], minlength=self.shape[2])

    def dense(self) -> np.ndarray:
        """Return the whole table (c, j, k), int64, or float64 with weights."""
        amounts = self.hits if self.weights is None else self.weights
        table = np.zeros(self.shape, dtype=_wide(amounts))
        table.reshape(-1, max(1, self.shape[2]))[self.rows(), self.classes] = amounts
        return table

    def table(self) -> csr_array:
        """Return the table as sparse rows, one per key (c · j, k), float64, read-only."""
        amounts = self.hits if self.weights is None else self.weights
        pointers, classes = self.pointers.astype(np.int64), self.classes.astype(np.int64)
        return csr_array((amounts.astype(np.float64), classes, pointers), (len(pointers) - 1, self.shape[2]))

    def rows(self) -> np.ndarray:
        """Return the key of each pair (p,), numbered through all heads, int64."""
        return np.repeat(np.arange(len(self.pointers) - 1), np.diff(self.pointers))

    def _groups(self, n_more: int) -> Iterator[slice]:
        """Split the heads into groups within the budget for pairs and ``n_more`` hits."""
        n_heads = self.shape[0]
        size = max(1, GROUP_ENTRIES * n_heads // max(1, len(self.hits) + n_more))
        for start in range(0, n_heads, size):
            yield slice(start, min(start + size, n_heads))

    def _combined(self, codes: np.ndarray, labels: np.ndarray, weights: np.ndarray | None, sign: int) -> ClassCounts:
        weighted = weights is not None or self.weights is not None
        if codes.size * FEW_CHANGES <= len(self.hits) and codes.size <= GROUP_ENTRIES:
            return self._changed(_count(codes, labels, weights, self.shape, weighted), weighted, sign)
        parts = []
        for heads in self._groups(codes.size):
            counted = _count(codes[:, heads], labels, weights, self.shape, weighted)
            table = self._part(heads, weighted)
            part = table + counted if sign > 0 else table - counted
            _check_hits(part.data.real)
            parts.append(part)
        return self._from_parts(parts, weighted)

    def _changed(self, more: csr_array, weighted: bool, sign: int) -> ClassCounts:
        """Return the table with a few pairs added or subtracted, given as sparse rows of :func:`_count`.

        The other pairs are copied as they are, so the bits are those of a sum of whole tables.
        """
        cells, amounts = np.repeat(np.arange(more.shape[0]), np.diff(more.indptr)), more.data.real.astype(np.int64)
        places, there = self._places(cells, more.indices)
        known, new = places[there], ~there
        found = self.hits[known].astype(np.int64) + sign * amounts[there]
        if sign < 0:
            _check_hits(found if there.all() else np.array([-1]))
        edit = _Edit(known, gone := found == 0, places[new])
        widest = max(int(each.max(initial=0)) for each in (self.hits, found, amounts))
        hits, weights = edit.of(_narrow(self.hits, widest), found, amounts[new]), None
        if weighted:
            before = (self.hits if self.weights is None else self.weights).astype(np.float64)
            left = np.maximum(before[known] + sign * more.data.imag[there], 0.0)
            weights = edit.of(before, left, more.data.imag[new])
        shifts = np.bincount(cells[new], minlength=more.shape[0]) - np.bincount(cells[there][gone], None, more.shape[0])
        return replace(
            self,
            pointers=_pointers(self.pointers + np.concatenate([[0], np.cumsum(shifts)])),
            classes=edit.of(_narrow(self.classes, max(0, self.shape[2] - 1)), more.indices[there], more.indices[new]),
            hits=_narrow(hits, int(hits.max(initial=0))),
            weights=weights,
        )

    def _places(self, cells: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where pairs of a key and a class are or would be (p,), and which are there (p,), bool."""
        low, end = (self.pointers[each].astype(np.int64) for each in (cells, cells + 1))
        high = end
        while (apart := low < high).any():
            middle = (low + high) // 2
            after = apart & (self.classes[np.minimum(middle, len(self.classes) - 1)] < classes)
            low, high = np.where(after, middle + 1, low), np.where(apart & ~after, middle, high)
        there = low < end
        there[there] = self.classes[low[there]] == classes[there]
        return low, there

    def _part(self, heads: slice, weighted: bool) -> csr_array:
        """Return some heads as sparse rows of complex numbers if weighted: real part hits, imaginary part weights.

        Complex numbers keep both together in every sum; a pair is dropped when its hits are zero.
        """
        _, n_keys, n_classes = self.shape
        pointers = self.pointers[heads.start * n_keys : heads.stop * n_keys + 1].astype(np.int64)
        pairs = slice(pointers[0], pointers[-1])
        data = self.hits[pairs].astype(np.complex128 if weighted else np.int64)
        if weighted:
            data.imag = self.hits[pairs] if self.weights is None else self.weights[pairs]
        indices = self.classes[pairs].astype(np.int32)
        return csr_array((data, indices, (pointers - pointers[0]).astype(np.int32)), (len(pointers) - 1, n_classes))

    def _from_parts(self, parts: list[csr_array], weighted: bool) -> ClassCounts:
        pointers = [np.zeros(1, dtype=np.int64)]
        classes, hits, weights = [], [], []
        for part in parts:
            kept = part.data.real != 0  # scipy drops a sum of zero, but not zero hits with some weight left
            starts = np.concatenate([[0], np.cumsum(kept)])[part.indptr]
            pointers.append(starts[1:] + pointers[-1][-1])
            classes.append(_narrow(part.indices[kept], max(0, self.shape[2] - 1)))
            found = part.data[kept]
            hits.append(_narrow(found.real.astype(np.int64), int(found.real.max(initial=0))))
            weights.append(np.maximum(found.imag, 0.0))  # a small weight may be below the rounding error of large ones
        return replace(
            self,
            pointers=_pointers(np.concatenate(pointers)),
            classes=np.concatenate(classes),
            hits=np.concatenate(hits),
            weights=np.concatenate(weights) if weighted else None,
        )


class _Edit(NamedTuple):
    """Change of pairs: those at ``known`` change or, if ``gone``, are removed; others are inserted before ``new``."""

    known: np.ndarray
    gone: np.ndarray
    new: np.ndarray

    def of(self, amounts: np.ndarray, changed: np.ndarray, added: np.ndarray) -> np.ndarray:
        """Return the amounts of all pairs after the change; ``amounts`` is overwritten."""
        amounts[self.known] = changed
        if self.gone.any():  # subtracting inserts no pair
            return np.delete(amounts, self.known[self.gone])
        return np.insert(amounts, self.new, added) if len(self.new) else amounts


def _count(
    codes: np.ndarray, labels: np.ndarray, weights: np.ndarray | None, shape: tuple[int, int, int], weighted: bool
) -> csr_array:
    """Count the hits of codes of some heads, as sparse rows (heads · j, k)."""
    _, n_keys, n_classes = shape
    n, n_heads, n_selected = codes.shape
    table = (n_heads * n_keys, n_classes)
    per_sample = n_heads * n_selected
    rows = codes + n_keys * np.arange(n_heads, dtype=np.int32)[None, :, None]
    amounts = np.ones(n) if weights is None else weights
    if codes.size < table[0] * n_classes / FEW_HITS:
        data = (1 + 1j * amounts) if weighted else np.ones(n, dtype=np.int64)
        columns = labels.astype(np.int32).repeat(per_sample)
        return csr_array((data.repeat(per_sample), (rows.ravel(), columns)), shape=table)
    pairs = (rows * np.int64(n_classes) + labels[:, None, None]).ravel()
    hits = np.bincount(pairs, minlength=table[0] * n_classes)
    found = np.flatnonzero(hits)
    data = hits[found]
    if weighted:
        data = data + 1j * np.bincount(pairs, weights=amounts.repeat(per_sample), minlength=len(hits))[found]
    pointers = np.searchsorted(found, n_classes * np.arange(table[0] + 1))
    return csr_array((data, found % n_classes, pointers), shape=table)


def _check_hits(hits: np.ndarray) -> None:
    if hits.min(initial=0) < 0:
        raise ValueError(
            "codes hold more hits than were counted; expected codes of counted samples. Subtract only those."
        )


def _narrow(values: np.ndarray, largest: int) -> np.ndarray:
    """Store integers in the smallest unsigned type that holds the largest."""
    return values.astype(np.min_scalar_type(largest))


def _pointers(values: np.ndarray) -> np.ndarray:
    return values.astype(np.uint32 if values[-1] < 2**32 else np.int64)


def _wide(amounts: np.ndarray) -> type[np.generic]:
    return np.float64 if amounts.dtype.kind == "f" else np.int64


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the concatenated positions of several ranges, int64."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - lengths), lengths)


@dataclass(frozen=True, eq=False)
class Likelihoods:
    """Values of ``counts``: logarithms of how likely each class selects each key.

    ``log((S_cjk + a · r_cjk · S_cj / N) / (n_k + a)) + log(n_k / N) / √c`` with ``a = smoothing``, S the counts N_cjk,
    shared between neighbouring keys, and r the ratios of :class:`ClassNormals`. Their mean over heads is naive Bayes as
    if √c of the c heads were independent. Class weights multiply the ``n_k`` of the last term only: they change the
    prior of a class, not what is known about its keys. A weight of zero leaves a class out. The values of a key without
    hits are zero.

    Parameters
    ----------
    counts : ClassCounts
    class_weights : ndarray of shape (k,) or None
    n_selected : int
        Number of keys that a sample selects per head, m.
    smoothing : float
        Pseudo-hits of each class in a head, > 0.
    sharing : csr_array of shape (c · j, c · j), float64, or None
        Share of each key in the counts of all keys. With None, keys do not share counts.
    keys : ndarray of shape (c, j, d), integers, or None
        Coordinates of keys. The pseudo-hits of a class follow its normal distribution over them. With None, they follow
        the hits of all classes.

    Examples
    --------
    >>> codes, labels = np.array([[[0]], [[0]], [[1]], [[0]]], dtype=np.uint8), np.array([0, 0, 0, 1])
    >>> counts = ClassCounts.empty(1, 2).with_classes([], 2).plus(codes, labels, None)
    >>> print(np.exp(Likelihoods(counts, None, 1, 1.0).values()).round(2))  # P(key, class)
    [[[0.52 0.22]
      [0.23 0.03]]]
    """

    counts: ClassCounts
    class_weights: np.ndarray | None
    n_selected: int
    smoothing: float
    sharing: csr_array | None = None
    keys: np.ndarray | None = None

    def values(self) -> np.ndarray:
        """Return the values (c, j, k), float32."""
        n_heads, n_keys, n_classes = self.counts.shape
        table, used = np.zeros((n_heads * n_keys, n_classes), dtype=np.float32), np.flatnonzero(self.counts.used())
        for cells, values in self.of_keys(used):
            table[cells] = values
        return table.reshape(self.counts.shape)

    def of_keys(self, cells: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield groups of keys, counted through all heads, in ascending order, and their values (len, k), float32."""
        for group in self._groups(cells):
            yield group, self._of_group(group).astype(np.float32)

    def read(self, codes: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Pool the values of selected keys without building the whole table, which is large for many classes.

        Parameters
        ----------
        codes : ndarray of shape (n, c, m), integers
        weights : ndarray of shape (n, c, m)
            Weight of each key in the pooled value; the weights of a sample sum to one.

        Returns
        -------
        ndarray of shape (n, k), float32
        """
        cells = codes + self.counts.shape[1] * np.arange(codes.shape[1])[None, :, None]
        known, places = np.unique(cells, return_inverse=True)
        rows = np.arange(0, codes.size + 1, codes[0].size)
        shares = csr_array((weights.ravel(), places.ravel(), rows), shape=(len(codes), len(known))).tocsc()
        pooled, start = np.zeros((len(codes), self.counts.shape[2])), 0
        for group in self._groups(known):
            pooled += shares[:, start : start + len(group)] @ self._of_group(group)
            start += len(group)
        return pooled.astype(np.float32)

    def _groups(self, cells: np.ndarray) -> Iterator[np.ndarray]:
        """Split keys into groups whose values fit into memory at once."""
        size = max(1, VALUE_ENTRIES // max(1, self.counts.shape[2]))
        return (cells[start : start + size] for start in range(0, len(cells), size))

    def _of_group(self, cells: np.ndarray) -> np.ndarray:
        """Return the values of some keys (len, k), counted through all heads, in ascending order."""
        shared = self._weighted[cells] if self.sharing is None else self.sharing[cells] @ self._weighted
        shared.eliminate_zeros()  # entries of classes with a weight of zero
        ratios = np.zeros(shared.shape) if self._normals is None else self._normals.logs(cells)
        values = ratios + self._log_floor(cells)[:, None]
        pairs = np.repeat(np.arange(len(cells)), np.diff(shared.indptr)), shared.indices
        values[pairs] = np.log(shared.data + np.exp(values[pairs]))
        return values + self._base

    @cached_property
    def _weighted(self) -> csr_array:
        """The counts of all classes whose weight is not zero (c · j, k)."""
        table = self.counts.table()
        if self.class_weights is not None:
            table.data = table.data * (self.class_weights > 0)[table.indices]
        return table

    @cached_property
    def _normals(self) -> ClassNormals | None:
        """The normal distributions of the classes, if the coordinates of keys are known."""
        if self.keys is None or not len(self._class_counts()):
            return None
        return ClassNormals.of_counts(self._weighted, self.n_selected * self._class_counts(), self.keys)

    @cached_property
    def _per_key(self) -> np.ndarray:
        """The counts of each key (c · j,)."""
        return self._weighted.sum(axis=1)

    def _log_floor(self, cells: np.ndarray) -> np.ndarray:
        """Return the logarithm of the smoothing term of some keys (len,), without the ratios of the classes."""
        shares = self._per_key[cells] if self.sharing is None else self.sharing[cells] @ self._per_key
        total = self._class_counts().sum() * self.n_selected
        return np.log(self.smoothing) + np.log(np.where(shares > 0, shares, total) / total)

    @cached_property
    def _base(self) -> np.ndarray:
        """Return the term that each class adds to all its values (k,)."""
        per_class = self._class_counts()
        total, seen = per_class.sum(), per_class > 0
        expected = per_class if self.class_weights is None else per_class * self.class_weights
        shares = np.maximum(expected / expected.sum(), np.finfo(np.float64).tiny)
        unseen = shares[seen].min(initial=1) / (1 + total)
        prior = np.log(np.where(seen, shares, unseen)) / np.sqrt(self.counts.shape[0])
        # a class without samples scores below all others
        return prior - np.log(self.n_selected * np.where(seen, per_class, total) + self.smoothing)

    def _class_counts(self) -> np.ndarray:
        per_class = self.counts.class_counts() / self.n_selected
        return per_class if self.class_weights is None else per_class * (self.class_weights > 0)
