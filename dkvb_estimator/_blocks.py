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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from ._place import Here
from ._store import CodeStore

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


def refuse_lazy(X: Any) -> None:
    """Refuse lazy rows where all of them would be read into memory.

    Raises
    ------
    TypeError
    """
    if is_lazy(X):
        raise TypeError(
            f"X is a lazy {type(X).__module__.split('.')[0]} array of shape {tuple(X.shape)}; expected rows in memory "
            "here. Pass encode(X) to the method whose name ends in _codes, or np.asarray of some rows."
        )


def split_blocks(X: Any, y: Any = None, *, labelled: bool) -> Iterator[tuple[Any, Any]]:
    """Yield pairs of rows and labels (None where they are not wanted), in order.

    Parameters
    ----------
    X : array-like of shape (n, f), lazy or not, or an iterator of such blocks
        Where labels are wanted, the iterator yields pairs of X and y.
    y : array-like of shape (n,) or None
    labelled : bool
        Whether labels are wanted.

    Raises
    ------
    ValueError
        If labels are wanted and missing, or an iterator yields nothing.

    Examples
    --------
    >>> [rows for rows, _ in split_blocks(iter([[[1.0]], [[2.0]]]), labelled=False)]
    [[[1.0]], [[2.0]]]
    """
    if not isinstance(X, Iterator):
        if labelled and y is None:
            raise ValueError(_MISSING_LABELS.format("no y"))
        for rows, labels, _ in stream_blocks(X, y if labelled else None) if is_lazy(X) else [(X, y, None)]:
            yield rows, labels if labelled else None
        return
    n_blocks = 0
    for n_blocks, block in enumerate(X, start=1):
        if labelled and not (isinstance(block, tuple) and len(block) == 2):
            raise ValueError(_MISSING_LABELS.format(f"block {n_blocks} without labels"))
        rows, labels = block if isinstance(block, tuple) else (block, None)
        yield rows, labels if labelled else None
    if not n_blocks:
        raise ValueError(
            "the iterator of blocks yielded nothing; expected at least one block (n, f). Pass a fresh one."
        )


_MISSING_LABELS = (
    "projection='learned' came with {}; expected labels, or an iterator of pairs (X, y). Pass y, or choose another "
    "projection."
)


def stream_blocks(X: Any, y: Any = None, weights: Any = None) -> Iterator[tuple[Any, Any, Any]]:
    """Yield lazy rows, their labels and weights as NumPy arrays in their order, one block at a time.

    The order is that of X; to choose another, index it: ``X.blocks[order]``. Rows of weight zero are left out.
    """
    _check_lengths(X, (y, weights))
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


def _check_lengths(X: Any, columns: Sequence[Any]) -> None:
    n = X.shape[0]
    if np.isnan(n):
        raise ValueError(
            "X has blocks of unknown length; expected known ones, for labels to be told apart. Call "
            "X.compute_chunk_sizes() first."
        )
    for column in columns:
        length = n if column is None else column.shape[0] if hasattr(column, "shape") else len(column)
        if length != n:
            raise ValueError(
                f"X has {n} rows, but labels or weights have {length}; expected the same number. Pass those of X."
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
    one = getattr(model, name)(
        np.zeros((1, X.shape[1]), dtype=X.dtype), **options
    )  # tells the shape and type of every row
    X, tail = X.rechunk({1: -1}), one.shape[1:]
    return X.map_blocks(
        _of_block,
        _share(model.light(name)),
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
    _check_lengths(X, columns)
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


class Workers(Here):
    """Run on dask's workers, whatever scheduler is set: a cluster, threads, or this process."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return a promise."""
        from dask import delayed

        return delayed(function, pure=False)(*arguments)

    def fetch(self, *promises: Any) -> list[Any]:
        """Compute what was promised."""
        import dask

        return list(dask.compute(*promises))

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

    place = WORKERS

    def __init__(self, owners: list[Any], n_rows: int, nbytes: int) -> None:
        super().__init__()
        self._owners, self._n_rows, self._nbytes = owners, n_rows, nbytes

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

    def owners(self, whole: Any) -> list[Any]:
        """Return the promises of who holds the rows."""
        return self._owners

    def extended(self, codes: np.ndarray) -> CodeStore:
        """Return a store of these rows and then ``codes``, all of them here."""
        return self.joined(CodeStore().extended(codes))

    def joined(self, other: CodeStore) -> CodeStore:
        """Return a store of these rows and then another's, here unless both are on workers."""
        if isinstance(other, WorkerCodes):
            return WorkerCodes(self._owners + other._owners, len(self) + len(other), self.nbytes + other.nbytes)
        return super().joined(other)


def _codes_of(learned: Any) -> np.ndarray:
    return learned.codes.rows


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
