"""Turn rows into blocks, and read lazy rows block by block.

Enters: an array-like, an iterator of blocks, or a lazy array, which is read by slices. Leaves: blocks, not validated.
Must not know: what is done with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np

from ._validation import check_lengths, check_weights, refuse_frame

BLOCK_BYTES = 32 * 2**20
"""Bytes of rows that are read from a file at once."""


def is_lazy(X: Any) -> bool:
    """Return whether X has chunks and is therefore read block by block.

    This holds for dask arrays, HDF5 and zarr data sets, and splits of the pipeline's caches.

    Examples
    --------
    >>> is_lazy(np.zeros((2, 2)))
    False
    """
    return all(hasattr(X, name) for name in ("chunks", "shape", "dtype", "__getitem__"))


def comes_in_blocks(X: Any) -> bool:
    """Return whether X is an iterable of blocks, such as a generator or torch's DataLoader, and not an array-like.

    Examples
    --------
    >>> comes_in_blocks(iter([])), comes_in_blocks([[0.0]]), comes_in_blocks(np.zeros((2, 2)))
    (True, False, False)
    """
    array_like = isinstance(X, Sequence | Mapping | Set) or hasattr(X, "__array__") or hasattr(X, "shape")
    return isinstance(X, Iterable) and not array_like


def refuse_blocks(X: Any) -> None:
    """Refuse lazy rows and iterables of blocks; rows in memory are needed.

    Raises
    ------
    TypeError
    """
    refuse_frame(X)
    if comes_in_blocks(X):
        raise TypeError(
            f"X is a {type(X).__name__}, an iterable of blocks; expected rows in memory (n, f). Pass one block at a "
            "time (to partial_fit for learning), or fit a KeyEncoder with the iterable."
        )
    if is_lazy(X):
        raise TypeError(
            f"X is a lazy {type(X).__module__.split('.')[0]} array of shape {tuple(X.shape)}; expected rows in memory "
            "(n, f). Load some of the rows with np.asarray first."
        )


def split_blocks(X: Any, y: Any = None, *, labelled: bool) -> Iterator[tuple[Any, Any]]:
    """Yield pairs of rows and labels in order; labels are None unless ``labelled``.

    Parameters
    ----------
    X : array-like of shape (n, f), lazy or not, or an iterable of such blocks
        With ``labelled``, the iterable yields pairs of X and y.
    y : array-like of shape (n,) or None
    labelled : bool
        Whether labels are needed.

    Raises
    ------
    ValueError
        If labels are needed and missing, or an iterable yields nothing, or something other than rows and pairs.

    Examples
    --------
    >>> [rows for rows, _ in split_blocks(iter([[[1.0]], [[2.0]]]), labelled=False)]
    [[[1.0]], [[2.0]]]
    """
    refuse_frame(X)
    if not comes_in_blocks(X):
        if labelled and y is None:
            raise _missing_labels("no y")
        for rows, labels, _ in stream_blocks(X, y if labelled else None) if is_lazy(X) else [(X, y, None)]:
            yield rows, labels if labelled else None
        return
    n_blocks = 0
    for n_blocks, block in enumerate(X, start=1):
        rows, labels = _as_pair(block, n_blocks)
        if labelled and labels is None:
            raise _missing_labels(f"block {n_blocks} without labels")
        yield rows, labels if labelled else None
    if not n_blocks:
        raise ValueError(
            f"X is a {type(X).__name__} that yielded no block; expected at least one block (n, f). Pass a new iterator."
        )


def _as_pair(block: Any, position: int) -> tuple[Any, Any]:
    """Return rows and labels (or None) of a block, which is a tuple, rows, or a list of arrays as of a DataLoader."""
    first = block[0] if isinstance(block, list) and block else None
    is_list = getattr(first, "ndim", 0) == 2 or (isinstance(first, list) and isinstance((*first, None)[0], list))
    if not (is_list or isinstance(block, tuple | Mapping)):
        return block, None
    if isinstance(block, Mapping) or len(block) > 2:
        raise ValueError(
            f"block {position} of X is a {type(block).__name__} with {len(block)} entries; expected rows (n, f) or a "
            "pair (X, y). Pass an iterable that yields rows or pairs."
        )
    return (*block, None)[:2]


def _missing_labels(given: str) -> ValueError:
    return ValueError(
        f"projection='learned' needs labels, but got {given}; expected y, or an iterator of pairs (X, y). Pass y, or "
        "choose another projection."
    )


def stream_blocks(X: Any, y: Any = None, weights: Any = None) -> Iterator[tuple[Any, Any, Any]]:
    """Yield lazy rows, their labels and their weights in order, one block in memory at a time.

    Rows of weight zero are left out. For another order, index X: ``X.blocks[order]``.
    """
    check_lengths(X, y, weights)
    start = 0
    for stop in _stops(X).tolist():
        if stop > start:
            block = weighty(*(None if each is None else _in_memory(each[start:stop]) for each in (X, y, weights)))
            if len(block[0]):
                yield block
        start = stop


def weighty(X: Any, y: Any, weights: Any) -> tuple[Any, Any, Any]:
    """Return rows, labels and weights without samples of weight zero."""
    if weights is None:
        return X, y, None
    weights = check_weights(weights, len(X)) if np.any(weights) else np.zeros(len(X))  # of one block of several
    kept = weights != 0
    return X[kept], None if y is None else np.asarray(y)[kept], weights[kept]


def _stops(X: Any) -> np.ndarray:
    """Return where blocks end: at the chunks of X, or in a file after about ``BLOCK_BYTES``, in whole chunks."""
    if X.chunks and isinstance(X.chunks[0], tuple):
        return np.cumsum(X.chunks[0])
    size = max(1, BLOCK_BYTES // max(1, X.shape[1] * np.dtype(X.dtype).itemsize))
    if X.chunks and 1 < X.chunks[0] < size:
        size -= size % X.chunks[0]
    return np.append(np.arange(size, X.shape[0], size), X.shape[0])


def _in_memory(rows: Any) -> Any:
    return np.asarray(rows) if is_lazy(rows) else rows
