"""Let dask's workers encode, count and predict: the only module that uses dask.

Enters: a dask array, and an estimator. Leaves: lazy results, and sums of what workers learned from their blocks. Must
not know: what an estimator computes.

The estimator travels as a file that every worker process reads once: if it were scattered, it would be lost with the
worker that holds it.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import pickle
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from ._blocks import is_lazy, stream_blocks
from ._progress import Progress
from ._validation import check_axes, check_lengths
from ._values import CodeStore, Learned

FAN_IN = 8
"""Number of results that one call merges. The tree, and thus the result, depends only on the number of parts."""

Method = TypeVar("Method", bound=Callable[..., Any])


def is_dask(X: Any) -> bool:
    """Return whether X is a dask array."""
    return is_lazy(X) and hasattr(X, "__dask_graph__")


def by_blocks(method: Method) -> Method:
    """Let a method accept lazy rows: it returns a dask array for a dask array, and a NumPy array for other rows."""

    @functools.wraps(method)
    def of_rows_or_blocks(self: Any, X: Any, **options: Any) -> Any:
        if not is_lazy(X):
            return method(self, X, **options)
        check_axes(X)
        if is_dask(X):
            return _map_rows(self, method.__name__, X, options)
        if not X.shape[0]:
            return method(self, np.asarray(X), **options)  # raises an error with the expected number of rows
        parts = []
        with Progress.of(self).bar(method.__name__, X.shape[0], "rows") as advance:
            for rows, _, _ in stream_blocks(X):
                parts.append(method(self, rows, **options))
                advance(len(rows))
        return np.concatenate(parts)

    return cast("Method", of_rows_or_blocks)


def _map_rows(model: Any, name: str, X: Any, options: dict[str, Any]) -> Any:
    light = model._light(name)
    row = np.zeros((1, X.shape[1]), dtype=X.dtype)
    one = getattr(light, name)(row, **options)  # shows the shape and dtype of the result
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
    """Return a delayed ``function(model, block, *column blocks, *extra)`` for each block of a dask array.

    Columns (n,) are labels and weights, lazy or not, or None.
    """
    check_lengths(X, *columns[:2])
    X = X.rechunk({1: -1})
    stops = np.cumsum(X.chunks[0]).tolist()
    lazy = [column.rechunk((X.chunks[0],)).to_delayed() if is_dask(column) else None for column in columns]
    path, promises = _share(model), []
    for position, (rows, start, stop) in enumerate(zip(X.to_delayed()[:, 0], [0, *stops], stops)):
        parts = [
            column if column is None else column[start:stop] if delayed is None else delayed[position]
            for column, delayed in zip(columns, lazy)
        ]
        promises.append(_call(_of_part, path, function, rows, *parts, *extra))
    return promises


def _of_part(path: str, function: Callable[..., Any], *arguments: Any) -> Any:
    return function(_load(path), *arguments)


def merge_learned(parts: list[Any], row_bytes: int) -> Learned:
    """Merge what workers learned from their blocks, and fetch the result.

    Parameters
    ----------
    parts : list of delayed :class:`Learned`
        In the order of their rows.
    row_bytes : int
        Bytes of the codes of a row, which stay on the workers; 0 if no codes are kept.
    """
    if row_bytes:
        import dask

        parts = list(dask.persist(*parts))  # starts now; the parts of a lost worker are computed again
    whole: Learned = fold([_call(Learned.without_rows, part) for part in parts], _merge_all)
    if row_bytes:
        whole.codes = WorkerCodes(parts, whole.n_samples, whole.n_samples * row_bytes)
    return whole


def fold(parts: Sequence[Any], merge: Callable[..., Any]) -> Any:
    """Merge delayed parts, neighbours first, and fetch the result; ``merge`` takes up to ``FAN_IN`` of them."""
    while len(parts) > 1:
        groups = [parts[start : start + FAN_IN] for start in range(0, len(parts), FAN_IN)]
        parts = [_call(merge, *group) for group in groups]
    return _fetch(*parts)[0]


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return a delayed ``function(*arguments)``; arguments may be delayed too."""
    from dask import delayed

    return delayed(function, pure=False)(*arguments)


def _fetch(*promises: Any) -> list[Any]:
    import dask

    try:
        return list(dask.compute(*promises))
    except Exception as error:
        if "Missing dependency" in str(error) or "Cancelled" in type(error).__name__:  # has no type of its own
            raise RuntimeError(
                "the dask workers that hold the codes of this model are gone; expected the cluster that learned them. "
                "Learn again, and save the model before the cluster closes, or use remember=False or codes_dir=..., "
                "which need no workers afterwards."
            ) from error
        raise


class WorkerCodes(CodeStore):
    """Codes that stay on the workers that computed them; solvers sum over them there.

    Parameters
    ----------
    owners : list of delayed :class:`Learned`
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
        """All rows (n, c, m), fetched."""
        if not self._blocks:
            self._blocks = [np.concatenate(_fetch(*(_call(_codes_of, owner) for owner in self._owners)))]
        return self._blocks[0]

    @property
    def nbytes(self) -> int:
        """Bytes of the rows."""
        return self._nbytes

    def here(self) -> CodeStore:
        """Return a store with the same rows in this process."""
        return CodeStore().extended(self.rows)

    def detached(self) -> CodeStore:
        """Return this store: its rows are fetched only if they are needed."""
        return self

    def summed(self, owner: Any, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return ``function(part, *arguments)``, summed over the parts of all workers."""
        return fold([_call(function, part, *arguments) for part in self._owners], _sum)

    def take(self, positions: np.ndarray) -> np.ndarray:
        """Return the rows at some positions; only these are fetched."""
        if self._blocks:
            return super().take(positions)
        if self._lengths is None:
            self._lengths = _fetch(*(_call(_n_rows_of, owner) for owner in self._owners))
        stops = np.cumsum(self._lengths)
        owner = np.searchsorted(stops, positions, side="right")
        asked = {which: positions[owner == which] - (stops[which] - self._lengths[which]) for which in np.unique(owner)}
        asked = asked or {0: positions}  # returns an empty array of the right shape
        parts = _fetch(*(_call(_some_codes_of, self._owners[which], some) for which, some in asked.items()))
        rows = np.empty((len(positions), *parts[0].shape[1:]), dtype=parts[0].dtype)
        for which, part in zip(asked, parts, strict=True):
            rows[owner == which] = part
        return rows

    def extended(self, codes: np.ndarray) -> CodeStore:
        """Return a store with ``codes`` appended, in this process."""
        return self.joined(CodeStore().extended(codes))

    def joined(self, other: CodeStore) -> CodeStore:
        """Return a store with the rows of another appended; it is in this process unless both are on workers."""
        if isinstance(other, WorkerCodes):
            return WorkerCodes(self._owners + other._owners, len(self) + len(other), self.nbytes + other.nbytes)
        return super().joined(other)


def _merge_all(*parts: Learned) -> Learned:
    return functools.reduce(Learned.merge, parts)


def _sum(*parts: Any) -> Any:
    return functools.reduce(lambda one, other: one.plus(other), parts)


def _codes_of(learned: Any) -> np.ndarray:
    return learned.codes.rows


def _n_rows_of(learned: Any) -> int:
    return len(learned.codes)


def _some_codes_of(learned: Any, positions: np.ndarray) -> np.ndarray:
    return learned.codes.take(positions)


def _share(model: Any) -> str:
    """Write a model to a file for workers, named by its content and removed when this process ends.

    The file holds plain attributes, since a model for workers may be incomplete and would fail the checks of a state.
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
    with _LOADING:  # only one thread of a worker reads the file
        return _read(path)


@functools.lru_cache(maxsize=4)
def _read(path: str) -> Any:
    try:
        kind, attributes = pickle.loads(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{Path(path).name}, which holds the model, is missing on a worker; expected a file in a folder that all "
            "workers share, kept while the client process runs. Set dask's temporary-directory to a shared folder."
        ) from error
    model = object.__new__(kind)
    vars(model).update(attributes)
    return model
