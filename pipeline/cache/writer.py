"""Write a cache, completely or not at all.

Enters: a header, blocks of embeddings (n, f), labels, ids. Leaves: a file in the cache's format. Must not know: the
origin of embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

from pipeline.cache.format import (
    ATTRIBUTES,
    FORMAT,
    STORAGE_DTYPES,
    VERSION,
    VERSION_OF_LAYERS,
    CacheHeader,
    SplitRows,
    block_crc,
    canonical_json,
    fixed_text,
    meta_sha256,
)
from pipeline.cache.verify import check_in_child
from pipeline.io import replaced

CHUNK_BYTES = 2**20
"""Largest size of a chunk in bytes; a chunk is also the unit of the checksums."""
COMPRESSION: dict[str, dict[str, Any]] = {
    "none": {},
    "gzip": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
}


def write_cache(
    path: str | Path, header: CacheHeader, splits: Mapping[str, SplitRows], *, compression: str = "none"
) -> None:
    """Write a cache, whole or not at all.

    The same content gives the same bytes: the file contains no time, machine name or path.

    Parameters
    ----------
    path : str or Path
    header : CacheHeader
    splits : mapping from split name to SplitRows
    compression : {"none", "gzip"}, default="none"
        ``gzip`` halves the size of features that are half zeros, and reads several times slower.

    Raises
    ------
    ValueError
        If a value is not finite or overflows the storage type (the sample is named), labels do not match the class
        names, ids repeat, or lengths differ. The file at ``path`` is unchanged.
    """
    path = Path(path)
    if not splits:
        raise ValueError(f"cache {path.name} was given no split; expected at least one. Write the manifest again.")
    if compression not in COMPRESSION:
        raise ValueError(
            f"compression={compression!r} is unknown; expected one of {', '.join(COMPRESSION)}. Choose one of these."
        )
    with replaced(path) as neighbour:
        with Sink(neighbour) as sink, h5py.File(sink, "w", libver=("earliest", "v110")) as file:
            _write_header(file, header)
            for name, rows in splits.items():
                _write_split(file, name, header, rows, compression)
                sink.check()
            widths = {name: file[name]["embeddings"].shape[1] for name in splits if len(file[name]["labels"])}
            _check_widths(widths, header)
            file.attrs["meta_sha256"] = np.bytes_(meta_sha256(file))
            file.attrs["complete"] = np.uint8(1)
        check_in_child(neighbour)


class Sink:
    """A file that HDF5 writes to; after a failed write it discards further writes, and reports the error at the end.

    HDF5 cannot close a file on a full disk: it raises arbitrary errors, then crashes the process.

    Raises
    ------
    OSError
        On exit, the first error that occurred.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self._error: OSError | None = None
        self.seek, self.tell = self._file.seek, self._file.tell
        self.read, self.readinto = self._file.read, self._file.readinto

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, _: object) -> None:
        self._file.close()
        self.check()

    def check(self) -> None:
        """Raise the first error so far, if any."""
        if self._error is not None:
            raise self._error

    def write(self, content: memoryview) -> int:
        """Write all bytes."""
        done = 0
        while done < len(content) and self._error is None:
            done += self._try(self._file.write, content[done:]) or 0
        return len(content)

    def truncate(self, length: int) -> int:
        """Set the length of the file."""
        self._try(self._file.truncate, length)
        return length

    def flush(self) -> None:
        """Do nothing: writes are not buffered."""

    def _try(self, call: Callable[[Any], int | None], argument: Any) -> int | None:
        try:
            return call(argument)
        except OSError as error:
            self._error = self._error or error
            return None


def _write_header(file: h5py.File, header: CacheHeader) -> None:
    if header.storage_dtype not in STORAGE_DTYPES:
        raise ValueError(
            f"storage_dtype={header.storage_dtype!r} is unknown; expected one of {', '.join(STORAGE_DTYPES)}. "
            "Change it in params.yaml."
        )
    file.attrs["format"] = np.bytes_(FORMAT)
    file.attrs["version"] = np.int64(VERSION_OF_LAYERS if header.layers else VERSION)
    values = asdict(header)
    for name in ATTRIBUTES:
        value = values[name]
        file.attrs[name] = np.bytes_((value if isinstance(value, str) else canonical_json(value)).encode())
    if header.layers:
        file.attrs["layers"] = np.bytes_(canonical_json([list(vars(one).values()) for one in header.layers]).encode())
    file.create_dataset("class_names", data=fixed_text(header.class_names))


def _write_split(file: h5py.File, name: str, header: CacheHeader, rows: SplitRows, compression: str) -> None:
    _check_name(name)
    labels, ids = _whole_labels(name, rows.labels), tuple(rows.sample_ids)
    _check_split(name, labels, ids, len(header.class_names))
    blocks = iter(rows.blocks)
    first = next(blocks, np.zeros((0, 1), np.float32))
    _check_shape(name, first, np.shape(first)[-1] if np.ndim(first) else 0)
    dtype, n_features = np.dtype(header.storage_dtype), first.shape[1]
    block_rows = max(1, CHUNK_BYTES // (n_features * dtype.itemsize))
    block_rows = max(1, min(block_rows, len(labels)))
    group = file.create_group(name)
    embeddings = group.create_dataset(
        "embeddings",
        shape=(len(labels), n_features),
        dtype=dtype,
        # HDF5 has no chunks in an array without rows
        **({"chunks": (block_rows, n_features), **COMPRESSION[compression]} if len(labels) else {}),
    )
    crcs: list[int] = []
    error, start = rows.rounding_error, 0
    for block in _reblock(first, _alike(name, blocks, n_features), block_rows):
        if start + len(block) > len(labels):
            raise ValueError(
                f"split {name!r} got more rows of embeddings than its {len(labels)} labels; expected the same "
                "number. Extract again."
            )
        _check_finite(name, block, ids[start : start + len(block)])
        with np.errstate(over="ignore"):
            stored = block.astype(dtype)
        _check_overflow(name, stored, ids[start : start + len(block)])
        embeddings[start : start + len(block)] = stored
        error = max(error, float(np.abs(stored.astype(np.float64) - block).max(initial=0)))
        crcs.append(block_crc(len(crcs), stored))
        start += len(block)
        file.flush()
    if start != len(labels):
        raise ValueError(
            f"split {name!r} got {start} rows of embeddings for {len(labels)} labels; expected the same number. "
            "Extract again."
        )
    group.create_dataset("labels", data=labels)
    group.create_dataset("sample_ids", data=fixed_text(ids))
    group.create_dataset("block_crc32", data=np.array(crcs, dtype=np.uint32))
    group.attrs["block_rows"] = np.int64(block_rows)
    group.attrs["max_rounding_error"] = np.float64(error)


def _check_widths(widths: dict[str, int], header: CacheHeader) -> None:
    if len(set(widths.values())) > 1:
        raise ValueError(
            f"the splits have different numbers of features: {widths}; expected the same for all. Extract again."
        )
    if header.layers and set(widths.values()) - {header.layers[-1].stop}:
        raise ValueError(
            f"the embeddings have {max(widths.values())} features, but layers end at column {header.layers[-1].stop}; "
            "expected the features of all layers. Extract again."
        )


def _reblock(first: np.ndarray, rest: Iterator[np.ndarray], block_rows: int) -> Iterator[np.ndarray]:
    """Yield the same rows in blocks of ``block_rows``; the last may be shorter."""
    waiting = first
    for block in rest:
        waiting = np.concatenate([waiting, block])
        while len(waiting) >= block_rows:
            yield waiting[:block_rows]
            waiting = waiting[block_rows:]
    for start in range(0, len(waiting), block_rows):
        yield waiting[start : start + block_rows]


def _check_split(name: str, labels: np.ndarray, ids: tuple[str, ...], n_classes: int) -> None:
    if len(ids) != len(labels):
        raise ValueError(
            f"split {name!r} has {len(ids)} sample ids for {len(labels)} labels; expected the same number. Write "
            "the manifest again."
        )
    if len(labels) and (labels.min() < -1 or labels.max() >= n_classes):
        wrong = labels[(labels < -1) | (labels >= n_classes)][0]
        raise ValueError(
            f"split {name!r} holds label {wrong}, but there are {n_classes} class names; expected −1 (unlabelled) to "
            f"{n_classes - 1}. Name all classes, or correct the labels."
        )
    if len(set(ids)) != len(ids):
        seen: set[str] = set()
        twice = next(i for i in ids if i in seen or seen.add(i))  # type: ignore[func-returns-value]
        raise ValueError(
            f"split {name!r} holds the sample id {twice!r} twice; expected distinct ids. Remove one of the samples."
        )


def _alike(name: str, blocks: Iterator[np.ndarray], n_features: int) -> Iterator[np.ndarray]:
    for block in blocks:
        _check_shape(name, block, n_features)
        yield block


def _check_name(name: str) -> None:
    if not name.isidentifier() or name == "class_names":
        raise ValueError(
            f"split {name!r} has a reserved or invalid name; expected letters, digits and underscores, as in "
            "train. Rename it in the manifest."
        )


def _whole_labels(name: str, given: np.ndarray) -> np.ndarray:
    """Return labels as int64; rounding 0.9 to class 0 would be a silent mistake."""
    labels = np.asarray(given)
    if labels.ndim != 1 or (len(labels) and labels.dtype.kind not in "iu"):
        raise ValueError(
            f"split {name!r} has labels of shape {labels.shape} and type {labels.dtype}; expected integers (n,). "
            "Number the classes from 0."
        )
    return labels.astype(np.int64)


def _check_shape(name: str, block: np.ndarray, n_features: int) -> None:
    if not isinstance(block, np.ndarray) or block.dtype.kind not in "fiu":
        raise ValueError(
            f"split {name!r} got a block of {getattr(block, 'dtype', type(block).__name__)}; expected a NumPy array of "
            "real numbers (rows, features). Convert it first."
        )
    if block.ndim != 2 or block.shape[1] != n_features or not n_features:
        raise ValueError(
            f"split {name!r} got a block of shape {block.shape}; expected (rows, {n_features or 'features'}). Extract "
            "again."
        )


def _check_finite(name: str, block: np.ndarray, ids: tuple[str, ...]) -> None:
    bad = ~np.isfinite(block).all(axis=1)
    if bad.any():
        raise ValueError(
            f"the embedding of sample {ids[int(bad.argmax())]!r} (split {name!r}) holds NaN or infinity; expected "
            "finite numbers. Check that image and the weights, then extract again."
        )


def _check_overflow(name: str, stored: np.ndarray, ids: tuple[str, ...]) -> None:
    bad = ~np.isfinite(stored).all(axis=1)
    if bad.any():
        raise ValueError(
            f"the embedding of sample {ids[int(bad.argmax())]!r} (split {name!r}) overflows {stored.dtype}; expected "
            f"magnitudes up to {np.finfo(stored.dtype).max:g}. "
            + ("Set storage_dtype: float32." if stored.dtype == np.float16 else "Check that image and the weights.")
        )
