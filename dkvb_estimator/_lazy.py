"""The estimator's door for lazy rows: learned block by block in their order, or by dask's workers side by side.

Enters: dask arrays and rows in files. Leaves: what was learned of them. Must not know: how values are solved.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any, Self

import numpy as np

from ._blocks import WORKERS, WorkerCodes, is_dask, is_lazy, map_blocks, stream_blocks, weighty
from ._device import resolve_device
from ._encoding import Codebook, code_dtype
from ._frozen import FrozenHalf
from ._validation import JOINT
from ._values import Learned, Prior, sum_codes

MUCH_STATE_BYTES = 4 * 2**30
"""Codes that are held in memory beyond this are worth a warning."""


class LazyHalf(FrozenHalf):
    """Learn from blocks. The parameters are those of :class:`DKVBClassifier`."""

    solver: str
    remember: bool
    codes_dir: str | None

    def _learn(self, codes: np.ndarray, y: np.ndarray, weights: np.ndarray | None, classes: Any, epochs: int) -> Self:
        raise NotImplementedError

    def _after_learning(self, before: int, epochs: int) -> Self:
        raise NotImplementedError

    def _check_rows(self, X: Any, y: Any, sample_weight: Any, *, reset: bool) -> tuple[Any, Any, Any]:
        """Validate rows in memory; of lazy ones the shape alone, for each block is validated when it is there."""
        if not is_lazy(X):
            return self._check_learning(X, y, sample_weight, reset=reset)
        self._check_features(X, reset=reset)
        return X, y, sample_weight

    def _learn_rows(self, X: Any, y: Any, weights: Any, classes: Any, epochs: int) -> Self:
        if not is_lazy(X):
            return self._learn(self._encode(X), y, weights, classes, epochs)
        on_workers = is_dask(X) and (self.solver == "counts" or (self.solver in JOINT and self.codes_dir is None))
        learn = self._learn_on_workers if on_workers else self._learn_in_order
        return learn(X, y, weights, classes, epochs)

    def _learn_in_order(self, X: Any, y: Any, weights: Any, classes: Any, epochs: int) -> Self:
        """Learn block after block."""
        n_learned = 0
        for block in stream_blocks(X, y, weights):
            rows, labels, some = self._check_learning(*block, reset=False)
            self._learn(self._encode(rows), labels, some, classes, epochs)
            n_learned += len(rows)
        _refuse_nothing(n_learned)
        return self

    def _learn_on_workers(self, X: Any, y: Any, weights: Any, classes: Any, epochs: int) -> Self:
        """Count each block where it is, and bring the sum here; codes stay with the workers."""
        self._encoder()  # refuses settings that changed
        parts = map_blocks(self.light(), LazyHalf._learn_block, X, y, weights, extra=(classes,))
        keeps_rows = self._nothing_learned(None).keeps_rows
        if keeps_rows:
            parts = WORKERS.keep(parts)
        sums = WORKERS.fold([WORKERS.call(Learned.without_rows, part) for part in parts], _merge_all)
        whole: Learned = WORKERS.fetch(sums)[0]
        _refuse_nothing(whole.n_samples)
        if keeps_rows:
            layout = self._layout()
            width = layout.n_heads * layout.n_selected * np.dtype(code_dtype(layout.n_keys)).itemsize
            whole.codes = WorkerCodes(parts, whole.n_samples, whole.n_samples * width)
        known: Learned | None = getattr(self, "_learned", None)
        self._learned = whole if known is None else known.merge(whole)
        return self._after_learning(0 if known is None else known.nbytes, epochs)

    def _learn_block(self, X: np.ndarray, y: Any, weights: Any, classes: Any) -> Learned:
        """Return what one block teaches: a worker's share of learning."""
        learned, (rows, labels, some) = self._nothing_learned(None), weighty(X, y, weights)
        if len(rows):
            rows, labels, some = self._check_learning(rows, labels, some, reset=False)
        codes, labels = self._encoder().encode(rows.astype(np.float32, copy=False)), np.asarray(labels)
        self._count(learned, codes, learned.learn(codes, labels, some, classes), 1)
        return learned

    def _count(self, learned: Learned, codes: np.ndarray, positions: np.ndarray, sign: int) -> None:
        """Add rows of weight one, of classes at ``positions`` (n,), to the sums that are kept instead of them."""
        if learned.sums is not None:
            ones, device = np.ones(len(codes)), resolve_device(self.device)
            sums = sum_codes(codes.__getitem__, positions, ones, self._prior(), len(learned.classes), device)
            learned.add_sums(sums, sign)

    def _prior(self) -> Prior:
        """Return the functions of keys that values are made of."""
        book = self._codebook
        prior: Prior = self._scratch.get("prior", lambda: Prior.of_keys(book.keys, book.centres, book.reaches), book)
        return prior

    def _nothing_learned(self, folder: str | None) -> Learned:
        book: Codebook = self._codebook
        n_heads, n_keys = book.keys.shape[:2]
        width = None if self.remember or self.solver not in JOINT else 2 * n_heads * book.keys.shape[2]
        return Learned(self.solver, n_heads, n_keys, book.layout.n_selected, folder, book.origin, width)

    def _tell_size(self, before: int) -> None:
        """Say what was learned takes, and warn once when it takes much memory that could be a file."""
        size = self._learned.nbytes
        self._say(f"{self._learned.n_samples:,} samples learned so far: {size / 2**20:,.1f} MiB")
        if self.solver in JOINT and self.codes_dir is None and before <= MUCH_STATE_BYTES < size:
            warnings.warn(
                f"{self.solver} holds {size / 2**30:.1f} GiB in memory for {self._learned.n_samples:,} samples; "
                f"expected at most {MUCH_STATE_BYTES / 2**30:.0f} GiB. Pass codes_dir=... to keep the codes in a file, "
                "remember=False to keep sums instead, or fewer n_heads.",
                UserWarning,
                stacklevel=5,
            )


def _merge_all(*parts: Learned) -> Learned:
    return functools.reduce(Learned.merge, parts)


def _refuse_nothing(n_learned: int) -> None:
    if not n_learned:
        raise ValueError(
            "X has no row with a positive weight; expected at least one, for there is nothing to learn. Pass rows, and "
            "other weights or none."
        )
