"""Turn input that may be lazy into blocks of rows, read in order by this process or mapped over dask's workers.

Enters: an array-like, an iterator of blocks, a dask array, or rows in a file (an array that is read by slices). Leaves:
blocks, not validated; lazy results; what workers learned of their blocks. Must not know: what is done with them.

The model that workers ask travels as a file that every worker process reads
once: scattered, it would be lost with the worker that holds it.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import pickle
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from ._values import CodeStore

BLOCK_BYTES = 32 * 2**20
"""Rows that are read from a file at a time."""

Method = TypeVar("Method", bound=Callable[..., Any])


def is_lazy(X: Any) -> bool:
    """Return whether validation would read all of X: what has chunks is read block by block instead.

    So are dask arrays, HDF5 and zarr data sets, and splits of the pipeline's caches.

    Examples
    --------
    >>> is_lazy(np.zeros((2, 2)))
    False
    """
    return all(hasattr(X, name) for name in ("chunks", "shape", "dtype", "__getitem__"))


def is_dask(X: Any) -> bool:
    """Return whether X is a dask array."""
    return is_lazy(X) and hasattr(X, "__dask_graph__")


def comes_in_blocks(X: Any) -> bool:
    """Return whether X is an iterable of blocks, such as a generator or torch's DataLoader, and no array-like.

    Examples
    --------
    >>> comes_in_blocks(iter([])), comes_in_blocks([[0.0]]), comes_in_blocks(np.zeros((2, 2)))
    (True, False, False)
    """
    array_like = isinstance(X, Sequence | Mapping | Set) or hasattr(X, "__array__") or hasattr(X, "shape")
    return isinstance(X, Iterable) and not array_like


def refuse_frame(X: Any, name: str = "X") -> None:
    """Refuse what has no rows by number: dask's tables and columns, dicts and sets.

    Raises
    ------
    TypeError
    """
    if hasattr(X, "to_dask_array"):
        raise TypeError(
            f"{name} is a dask {type(X).__name__}, whose number of rows is unknown; expected an array. Pass "
            f"{name}.to_dask_array(lengths=True)."
        )
    if isinstance(X, Mapping | Set) and not hasattr(X, "shape"):  # one kind of sparse matrix is a dict
        raise TypeError(
            f"{name} is a {type(X).__name__}; expected an array-like of one entry a sample. Pass an array or a list."
        )


def refuse_blocks(X: Any) -> None:
    """Refuse lazy rows and iterables of blocks where rows in memory are needed.

    Raises
    ------
    TypeError
    """
    refuse_frame(X)
    if comes_in_blocks(X):
        raise TypeError(
            f"X is a {type(X).__name__}, an iterable of blocks; expected rows in memory (n, f) here. Call "
            "KeyEncoder.fit with it, and this method with each of its blocks: partial_fit to learn them."
        )
    if is_lazy(X):
        raise TypeError(
            f"X is a lazy {type(X).__module__.split('.')[0]} array of shape {tuple(X.shape)}; expected rows in memory "
            "here. Pass np.asarray of some rows."
        )


def split_blocks(X: Any, y: Any = None, *, labelled: bool) -> Iterator[tuple[Any, Any]]:
    """Yield pairs of rows and labels (None where they are not wanted), in order.

    Parameters
    ----------
    X : array-like of shape (n, f), lazy or not, or an iterable of such blocks
        Where labels are wanted, the iterable yields pairs of X and y.
    y : array-like of shape (n,) or None
    labelled : bool
        Whether labels are wanted.

    Raises
    ------
    ValueError
        If labels are wanted and missing, or an iterable yields nothing, or what is neither rows nor a pair.

    Examples
    --------
    >>> [rows for rows, _ in split_blocks(iter([[[1.0]], [[2.0]]]), labelled=False)]
    [[[1.0]], [[2.0]]]
    """
    refuse_frame(X)
    if not comes_in_blocks(X):
        if labelled and y is None:
            raise ValueError(_MISSING_LABELS.format("no y"))
        for rows, labels, _ in stream_blocks(X, y if labelled else None) if is_lazy(X) else [(X, y, None)]:
            yield rows, labels if labelled else None
        return
    n_blocks = 0
    for n_blocks, block in enumerate(X, start=1):
        rows, labels = _as_pair(block, n_blocks)
        if labelled and labels is None:
            raise ValueError(_MISSING_LABELS.format(f"block {n_blocks} without labels"))
        yield rows, labels if labelled else None
    if not n_blocks:
        raise ValueError(
            f"X is a {type(X).__name__} that yielded no block; expected at least one (n, f). Pass a fresh one."
        )


def _as_pair(block: Any, position: int) -> tuple[Any, Any]:
    """Return rows and labels (or None) of a block: a tuple, or a list of arrays as torch's DataLoader yields it."""
    first = block[0] if isinstance(block, list) and block else None
    is_list = getattr(first, "ndim", 0) == 2 or (isinstance(first, list) and isinstance((*first, None)[0], list))
    if not (is_list or isinstance(block, tuple | Mapping)):
        return block, None
    if isinstance(block, Mapping) or len(block) > 2:
        raise ValueError(
            f"block {position} of X is a {type(block).__name__} of {len(block)} parts; expected rows (n, f) or a pair "
            "(X, y). Pass an iterable that yields these."
        )
    return (*block, None)[:2]


_MISSING_LABELS = (
    "projection='learned' came with {}; expected labels, or an iterator of pairs (X, y). Pass y, or choose another "
    "projection."
)


def stream_blocks(X: Any, y: Any = None, weights: Any = None) -> Iterator[tuple[Any, Any, Any]]:
    """Yield lazy rows, their labels and weights as NumPy arrays in their order, one block at a time.

    The order is that of X; to choose another, index it: ``X.blocks[order]``. Rows of weight zero are left out.
    """
    _check_lengths(X, y, weights)
    stops = np.cumsum(X.chunks[0]) if is_dask(X) else _stops(X)
    start = 0
    for stop in stops.tolist():
        if stop > start:
            block = weighty(*(None if each is None else _in_memory(each[start:stop]) for each in (X, y, weights)))
            if len(block[0]):
                yield block
        start = stop


def weighty(X: Any, y: Any, weights: Any) -> tuple[Any, Any, Any]:
    """Return rows, labels and weights without those of weight zero: they are as if never given."""
    if weights is None:
        return X, y, None
    kept = np.asarray(weights) != 0
    return X[kept], None if y is None else np.asarray(y)[kept], np.asarray(weights)[kept]


def _stops(X: Any) -> np.ndarray:
    """Return where blocks of rows end: about ``BLOCK_BYTES``, in whole chunks of the file."""
    size = max(1, BLOCK_BYTES // max(1, X.shape[1] * np.dtype(X.dtype).itemsize))
    if X.chunks and 1 < X.chunks[0] < size:
        size -= size % X.chunks[0]
    return np.append(np.arange(size, X.shape[0], size), X.shape[0])


def _in_memory(rows: Any) -> Any:
    return rows.compute() if is_dask(rows) else rows


def _check_lengths(X: Any, y: Any = None, sample_weight: Any = None) -> None:
    """Refuse lazy rows, labels and weights that cannot be matched."""
    given = {"X": X, "y": y, "sample_weight": sample_weight}
    for name, column in given.items():
        refuse_frame(column, name)
        shape = () if column is None else column.shape if hasattr(column, "shape") else (len(column),)
        if shape and np.isnan(shape[0]):
            raise ValueError(
                f"{name} has blocks of unknown length; expected known ones, for rows and labels to be matched. Call "
                f"{name}.compute_chunk_sizes() first."
            )
        if name != "X" and len(shape) > 1:
            raise ValueError(f"{name} has shape {tuple(shape)}; expected one axis (n,). Pass {name}[:, 0].")
        if shape and shape[0] != X.shape[0]:
            raise ValueError(
                f"{name} has {shape[0]} entries for {X.shape[0]} rows of X; expected one a row. Pass those of X."
            )


def by_blocks(method: Method) -> Method:
    """Let a method of rows take lazy ones: dask arrays give dask arrays, others NumPy arrays, block by block."""

    @functools.wraps(method)
    def of_rows_or_blocks(self: Any, X: Any, **options: Any) -> Any:
        if is_dask(X):
            return _map_rows(self, method.__name__, X, options)
        if is_lazy(X):
            return np.concatenate([method(self, rows, **options) for rows, _, _ in stream_blocks(X)])
        return method(self, X, **options)

    return cast("Method", of_rows_or_blocks)


def _map_rows(model: Any, name: str, X: Any, options: dict[str, Any]) -> Any:
    light = model._light(name)
    one = getattr(light, name)(
        np.zeros((1, X.shape[1]), dtype=X.dtype), **options
    )  # has the shape and type of each row
    X, tail = X.rechunk({1: -1}), one.shape[1:]
    return X.map_blocks(
        _of_block,
        _share(light),
        name,
        options,
        np.empty((0, *tail), dtype=one.dtype),
        dtype=one.dtype,
        drop_axis=1,
        new_axis=list(range(1, 1 + len(tail))),
        chunks=(X.chunks[0], *((length,) for length in tail)),
        meta=np.empty((0,) * one.ndim, dtype=one.dtype),
    )


def _of_block(X: np.ndarray, path: str, name: str, options: dict[str, Any], nothing: np.ndarray) -> np.ndarray:
    return getattr(_load(path), name)(X, **options) if len(X) else nothing


def map_blocks(
    model: Any, function: Callable[..., Any], X: Any, *columns: Any, extra: tuple[Any, ...] = ()
) -> list[Any]:
    """Return promises of what a function of the model makes of each block of a dask array and of its columns (n,)."""
    _check_lengths(X, *columns[:2])
    X = X.rechunk({1: -1})
    stops = np.cumsum(X.chunks[0]).tolist()
    lazy = [column.rechunk((X.chunks[0],)).to_delayed() if is_dask(column) else None for column in columns]
    path, promises = _share(model), []
    for position, (rows, start, stop) in enumerate(zip(X.to_delayed()[:, 0], [0, *stops], stops)):
        parts = [
            column if column is None else column[start:stop] if delayed is None else delayed[position]
            for column, delayed in zip(columns, lazy)
        ]
        promises.append(WORKERS.call(_of_part, path, function, rows, *parts, *extra))
    return promises


def _of_part(path: str, function: Callable[..., Any], *arguments: Any) -> Any:
    return function(_load(path), *arguments)


FAN_IN = 8
"""Results that one call folds into one. The tree is the same for the same number of parts, and so is the result."""


class Workers:
    """Run on dask's workers, whatever scheduler is set: a cluster, threads, or this process."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return a promise; arguments may be promises."""
        from dask import delayed

        return delayed(function, pure=False)(*arguments)

    def fetch(self, *promises: Any) -> list[Any]:
        """Compute what was promised."""
        import dask

        return list(dask.compute(*promises))

    def fold(self, parts: Sequence[Any], merge: Callable[..., Any]) -> Any:
        """Merge one part or more, neighbours first, and fetch the result; ``merge`` takes up to ``FAN_IN`` of them."""
        while len(parts) > 1:
            groups = [parts[start : start + FAN_IN] for start in range(0, len(parts), FAN_IN)]
            parts = [self.call(merge, *group) for group in groups]
        return self.fetch(*parts)[0]

    def keep(self, promises: list[Any]) -> list[Any]:
        """Start computing promises whose results stay where they are made; they are made again if a worker is lost."""
        import dask

        return list(dask.persist(*promises))


WORKERS = Workers()


class WorkerCodes(CodeStore):
    """Codes that stay with the workers that made them, until something but a solve asks for them.

    Parameters
    ----------
    owners : list of promises of :class:`Learned`
        In the order of their rows.
    n_rows, nbytes : int
    """

    are_here = False

    def __init__(self, owners: list[Any], n_rows: int, nbytes: int) -> None:
        super().__init__()
        self._owners, self._n_rows, self._nbytes = owners, n_rows, nbytes
        self._lengths: list[int] | None = None

    def __len__(self) -> int:
        return self._n_rows

    @property
    def rows(self) -> np.ndarray:
        """All rows (n, c, m), brought here."""
        if not self._blocks:
            self._blocks = [np.concatenate(WORKERS.fetch(*(WORKERS.call(_codes_of, owner) for owner in self._owners)))]
        return self._blocks[0]

    @property
    def nbytes(self) -> int:
        """Bytes of the rows, wherever they are."""
        return self._nbytes

    def here(self) -> CodeStore:
        """Return a store of the same rows, brought here."""
        return CodeStore().extended(self.rows)

    def summed(self, owner: Any, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return ``function(part, *arguments)``, summed over the workers' parts."""
        return WORKERS.fold([WORKERS.call(function, part, *arguments) for part in self._owners], _sum)

    def take(self, positions: np.ndarray) -> np.ndarray:
        """Return the rows at some positions, brought here alone."""
        if self._blocks:
            return super().take(positions)
        if self._lengths is None:
            self._lengths = WORKERS.fetch(*(WORKERS.call(_n_rows_of, owner) for owner in self._owners))
        stops = np.cumsum(self._lengths)
        owner = np.searchsorted(stops, positions, side="right")
        asked = {which: positions[owner == which] - (stops[which] - self._lengths[which]) for which in np.unique(owner)}
        asked = asked or {0: positions}  # no rows, of the right shape
        parts = WORKERS.fetch(
            *(WORKERS.call(_some_codes_of, self._owners[which], some) for which, some in asked.items())
        )
        rows = np.empty((len(positions), *parts[0].shape[1:]), dtype=parts[0].dtype)
        for which, part in zip(asked, parts, strict=True):
            rows[owner == which] = part
        return rows

    def extended(self, codes: np.ndarray) -> CodeStore:
        """Return a store of these rows and then ``codes``, all of them here."""
        return self.joined(CodeStore().extended(codes))

    def joined(self, other: CodeStore) -> CodeStore:
        """Return a store of these rows and then another's, here unless both are on workers."""
        if isinstance(other, WorkerCodes):
            return WorkerCodes(self._owners + other._owners, len(self) + len(other), self.nbytes + other.nbytes)
        return super().joined(other)


def _sum(*parts: Any) -> Any:
    return functools.reduce(lambda one, other: one.plus(other), parts)


def _codes_of(learned: Any) -> np.ndarray:
    return learned.codes.rows


def _n_rows_of(learned: Any) -> int:
    return len(learned.codes)


def _some_codes_of(learned: Any, positions: np.ndarray) -> np.ndarray:
    return learned.codes.take(positions)


def _share(model: Any) -> str:
    """Write a model into a file that workers read; the same model, the same file, gone when this process ends.

    Its attributes as they are: it may hold less than a model that is kept, whose state is checked when it is read.
    """
    content = pickle.dumps((type(model), vars(model)))
    path = Path(_folder()) / f"{hashlib.sha256(content).hexdigest()[:32]}.pickle"
    if not path.exists():
        path.write_bytes(content)
    return str(path)


@functools.cache
def _folder() -> str:
    import dask

    folder = tempfile.mkdtemp(prefix="dkvb-", dir=dask.config.get("temporary-directory", None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


_LOADING = threading.Lock()


def _load(path: str) -> Any:
    with _LOADING:  # threads of one worker read it once
        return _read(path)


@functools.lru_cache(maxsize=4)
def _read(path: str) -> Any:
    try:
        kind, attributes = pickle.loads(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"a worker finds no {Path(path).name} where the model was put for it; expected a folder that all workers "
            "see, while the process that made it lives. Set dask's temporary-directory to a shared folder."
        ) from error
    model = object.__new__(kind)
    vars(model).update(attributes)
    return model
