"""Read a cache: one HDF5 file of embeddings, verified at every read.

Enters: a path. Leaves: embeddings (n, f), labels (n,), sample ids, and their origin. Only this module,
``format``, ``writer`` and ``pipeline.scratch`` open HDF5. Must not know: images, networks, estimators.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

from pipeline.cache.format import NamingDamage, Split, block_crc, meta_sha256, read_structure
from pipeline.cache.verify import check_in_child

_WINDOW_BYTES = 2**28
"""Bytes of embeddings (float32) that are shuffled together in memory."""


class CacheReader:
    """Read a cache, lazily and read-only; every block of rows is compared with its checksum.

    A reader can be pickled and passed to other processes; each opens the file itself.

    Parameters
    ----------
    path : str or Path

    Attributes
    ----------
    header : CacheHeader
    split_names : tuple of str

    Raises
    ------
    OSError
        If the file is missing, truncated or damaged.
    ValueError
        If it is not a cache, or of a newer version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: h5py.File | None = None
        self._arrays: dict[str, h5py.Dataset] = {}
        self._process = os.getpid()
        if not self.path.is_file():
            raise FileNotFoundError(
                f"there is no cache {self.path.name} in {self.path.parent.name or '.'}/; expected one that a stage "
                "or an import wrote. Run `dvc repro extract`, or correct the path."
            )
        with NamingDamage(self.path):
            self.header, self._splits = read_structure(self._open())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_file": None, "_arrays": {}}

    def __dask_tokenize__(self) -> tuple[str, str]:
        return str(self.path.resolve()), self.header.fingerprint

    def close(self) -> None:
        """Close the file; reading opens it again."""
        if self._file is not None and self._process == os.getpid():
            self._file.close()
        self._file = None

    @property
    def split_names(self) -> tuple[str, ...]:
        """Names of the splits, sorted."""
        return tuple(sorted(self._splits))

    @property
    def content_sha256(self) -> str:
        """Digest of the cache's content: labels, ids, header and the checksums of all embeddings."""
        return meta_sha256(self._open())

    @property
    def n_features(self) -> int:
        """Length of axis f."""
        return max(split.n_features for split in self._splits.values())

    @property
    def feature_blocks(self) -> tuple[int, ...] | None:
        """Numbers of columns of several layers, in order; None if there is only one layer."""
        return tuple(layer.stop - layer.start for layer in self.header.layers) or None

    def n_rows(self, split: str) -> int:
        """Return the number of samples of a split."""
        return len(self._split(split).labels)

    def block_rows(self, split: str) -> int:
        """Return the number of rows that are stored, read and checked together."""
        return self._split(split).block_rows

    def labels(self, split: str) -> np.ndarray:
        """Return the labels of a split (n,), int64; −1: unlabelled."""
        return self._split(split).labels.copy()

    def sample_ids(self, split: str) -> list[str]:
        """Return the ids of a split's samples."""
        return list(self._split(split).sample_ids)

    def max_rounding_error(self, split: str) -> float:
        """Return the largest difference between an embedding and its stored value."""
        return self._split(split).max_rounding_error

    def read(self, split: str, rows: slice | np.ndarray | None = None) -> np.ndarray:
        """Return embeddings of some rows (a slice, or positions in any order; None: all), (n, f) float32.

        Raises
        ------
        OSError
            If a block differs from its checksum.
        IndexError
            If a position is out of range.
        TypeError
            If positions are not integers (rows,): a mask would be mistaken for rows 0 and 1.
        """
        info = self._split(split)
        if rows is None or isinstance(rows, slice):
            rows = np.arange(len(info.labels))[rows if rows is not None else slice(None)]
        rows = _positions(rows)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(info.labels)):
            wrong = rows.min() if rows.min() < 0 else rows.max()
            raise IndexError(
                f"row {wrong} of split {split!r} was asked for; expected 0 to {len(info.labels) - 1}. Ask for "
                "rows that exist."
            )
        return self._read_into(np.empty((len(rows), info.n_features), dtype=np.float32), split, rows)

    def _read_into(self, out: np.ndarray, split: str, rows: np.ndarray) -> np.ndarray:
        info = self._split(split)
        blocks = rows // info.block_rows
        order = np.argsort(blocks, kind="stable")
        starts = np.flatnonzero(np.diff(blocks[order], prepend=-1))
        for first, stop in zip(starts, [*starts[1:], len(rows)]):
            here = order[first:stop]
            block = int(blocks[here[0]])
            # slices for consecutive rows: NumPy copies them several times faster
            inside = _as_slice(rows[here] - block * info.block_rows)
            out[_as_slice(here)] = self._block(split, info, block)[inside]  # and widens to float32
        return out

    def iter_batches(
        self, split: str, batch_rows: int, seed: int | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield embeddings and labels in batches: in order, or shuffled by a seed.

        Every block is read once. When shuffled, blocks come in random order and rows are mixed within windows of at
        most 256 MiB: a split of up to that size in float32 is shuffled uniformly.
        """
        if batch_rows < 1:
            raise ValueError(f"batch_rows={batch_rows} was given; expected at least 1. Ask for a positive number.")
        info = self._split(split)
        X, y = np.empty((0, info.n_features), dtype=np.float32), info.labels[:0]
        for rows in self._windows(info, seed):
            left = len(X)  # rows left from the previous window, too few for a batch
            rest, X = X, np.empty((left + len(rows), info.n_features), dtype=np.float32)
            X[:left], y = rest, np.concatenate([y, info.labels[rows]])
            self._read_into(X[left:], split, rows)
            whole = len(X) // batch_rows * batch_rows
            for start in range(0, whole, batch_rows):
                yield X[start : start + batch_rows], y[start : start + batch_rows]
            X, y = X[whole:], y[whole:]
        if len(X):
            yield X, y

    def _windows(self, info: Split, seed: int | None) -> Iterator[np.ndarray]:
        """Yield rows that are read together: complete blocks, each once."""
        n, starts, rng = len(info.labels), np.arange(0, len(info.labels), info.block_rows), np.random.default_rng(seed)
        shuffled = seed is not None
        n_blocks = max(1, _WINDOW_BYTES // (info.block_rows * info.n_features * 4)) if shuffled else 1
        starts = rng.permutation(starts) if shuffled else starts
        for first in range(0, len(starts), n_blocks):
            blocks = [np.arange(s, min(s + info.block_rows, n)) for s in starts[first : first + n_blocks]]
            rows = np.concatenate(blocks)
            yield rng.permutation(rows) if shuffled else rows

    def as_numpy(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Return all embeddings (n, f), float32, and labels (n,) of a split."""
        return self.read(split), self.labels(split)

    def to_dask(self, split: str) -> Any:
        """Return a split's embeddings as a lazy dask array (n, f), float32, of about 16 MiB a chunk."""
        import dask.array as da

        info = self._split(split)
        rows = info.block_rows * max(1, 2**24 // (info.block_rows * info.n_features * 4))
        return da.from_array(LazyRows(self, split), chunks=(rows, info.n_features), fancy=False)

    def lazy(self, split: str) -> LazyRows:
        """Return a split's embeddings as rows that are read when sliced, for estimators that stream them."""
        return LazyRows(self, split)

    def _split(self, name: str) -> Split:
        if name not in self._splits:
            raise KeyError(
                f"cache {self.path.name} has no split {name!r}; expected one of {', '.join(self.split_names)}. "
                "Ask for one of these."
            )
        return self._splits[name]

    def _open(self) -> h5py.File:
        if self._file is None or self._process != os.getpid():
            # blocks are read completely: HDF5's chunk cache would only add a copy
            self._file, self._process = h5py.File(self.path, "r", rdcc_nbytes=0), os.getpid()
            self._arrays = {}
        return self._file

    def _embeddings(self, split: str) -> h5py.Dataset:
        file = self._open()
        if split not in self._arrays:  # finding an array takes as long as reading some of its rows
            self._arrays[split] = file[split]["embeddings"]
        return self._arrays[split]

    def _block(self, split: str, info: Split, block: int) -> np.ndarray:
        start = block * info.block_rows
        stop = min(start + info.block_rows, len(info.labels))
        with NamingDamage(self.path):
            stored = self._embeddings(split)[start:stop]
            if block_crc(block, stored) != info.crcs[block]:
                raise OSError(f"rows {start} to {stop - 1} of {split}/embeddings differ from their checksum")
        return stored


def _as_slice(positions: np.ndarray) -> slice | np.ndarray:
    """Return positions as a slice if they are consecutive."""
    first, last = int(positions[0]), int(positions[-1])
    if last - first + 1 == len(positions) and (np.diff(positions) == 1).all():
        return slice(first, last + 1)
    return positions


def _positions(rows: np.ndarray) -> np.ndarray:
    given = np.asarray(rows)
    if given.ndim != 1 or (len(given) and given.dtype.kind not in "iu"):
        raise TypeError(
            f"rows of shape {given.shape} and type {given.dtype} were asked for; expected a slice or integer positions "
            "(rows,). Use np.flatnonzero for a mask."
        )
    return given.astype(np.int64)


class LazyRows:
    """Present a split as an array (n, f) that is read in slices, in the chunks of the file."""

    def __init__(self, reader: CacheReader, split: str) -> None:
        self._reader, self._split = reader, split
        self.shape = (reader.n_rows(split), reader.n_features)
        self.chunks = (reader.block_rows(split), reader.n_features)
        self.dtype, self.ndim = np.dtype(np.float32), 2

    def __dask_tokenize__(self) -> tuple[str, ...]:
        return (*self._reader.__dask_tokenize__(), self._split)

    def __getitem__(self, key: slice | tuple[slice, slice]) -> np.ndarray:
        rows, features = key if isinstance(key, tuple) else (key, slice(None))
        return self._reader.read(self._split, rows)[:, features]


def open_cache(path: str | Path) -> CacheReader:
    """Open a cache; see :class:`CacheReader`."""
    return CacheReader(path)


def check_cache(reader: CacheReader, *, backbone: str | None = None, manifest_sha256: str | None = None) -> None:
    """Refuse a cache that another backbone or another manifest wrote.

    Raises
    ------
    ValueError
        If they differ; the message names both.
    """
    header, remedy = reader.header, "Run `dvc repro extract` to rebuild it."
    found = header.backbone.get("id")
    if backbone is not None and found != backbone:
        raise ValueError(
            f"cache {reader.path.name} holds {reader.n_features} features per image of backbone {found!r}; "
            f"expected backbone {backbone!r}. {remedy}"
        )
    if manifest_sha256 is not None and header.manifest_sha256 != manifest_sha256:
        raise ValueError(
            f"cache {reader.path.name} was written from manifest {header.manifest_sha256[:12]}; expected manifest "
            f"{manifest_sha256[:12]}, because the images have changed. {remedy}"
        )


def describe_cache(path: str | Path) -> dict[str, Any]:
    """Return the origin and content of a cache, JSON-able and the same on every machine."""
    with open_cache(path) as reader:
        header = asdict(reader.header) | {"class_names": list(reader.header.class_names)}
        layers = header.pop("layers")  # for several layers only: a card of one layer names it in tap
        header |= {"layers": list(layers)} if layers else {}
        splits = {name: reader.n_rows(name) for name in reader.split_names}
        error = max(reader.max_rounding_error(name) for name in reader.split_names)
        return header | {"n_features": reader.n_features, "splits": splits, "max_rounding_error": error}


def file_sha256(path: str | Path) -> str:
    """Return the sha256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_cache(path: str | Path) -> list[str]:
    """Check a cache from end to end in a separate process, because a damaged file can make HDF5 hang.

    Returns
    -------
    list of str
        The checks that passed.

    Raises
    ------
    OSError, ValueError
        If a check fails; the message describes the problem.
    """
    return check_in_child(path)


def check_everything(path: str | Path) -> list[str]:
    """Check structure, checksums and values of a cache in this process; see :func:`verify_cache`."""
    with open_cache(path) as reader:
        facts = ["attributes, labels, ids and checksums are unchanged"]
        for name in reader.split_names:
            for start in range(0, reader.n_rows(name), 4096):
                if not np.isfinite(reader.read(name, slice(start, start + 4096))).all():
                    raise OSError(
                        f"cache {reader.path.name} holds NaN or infinity in split {name!r}; expected finite numbers."
                    )
            facts.append(f"{name}: {reader.n_rows(name):,} rows of {reader.n_features:,} features, finite, unchanged")
    return facts
