"""The cache's format, version 1: what lies where in the file, and what proves it. See ``docs/cache_format.md``.

Enters: an open HDF5 file. Leaves: its structure, once it is shown to be whole. Must not know: who writes or reads.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

FORMAT, VERSION = "dkvb-embedding-cache", 1
STORAGE_DTYPES = ("float16", "float32")
DATASETS = ("embeddings", "labels", "sample_ids", "block_crc32")
ATTRIBUTES = (
    "fingerprint",
    "backbone",
    "preprocessing",
    "tap",
    "compute_dtype",
    "storage_dtype",
    "manifest_sha256",
    "dataset",
)
_LARGEST_INFLATION = 1024
"""A compressed array may claim at most this many times the file's length."""


@dataclass(frozen=True)
class CacheHeader:
    """Say where a cache's embeddings come from.

    Parameters
    ----------
    fingerprint : str
        Of everything that decides the embeddings.
    backbone, preprocessing : mapping, JSON-able
    tap, compute_dtype, storage_dtype, manifest_sha256, dataset : str
    class_names : tuple of str
        Label 0 is the first.
    """

    fingerprint: str
    backbone: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    tap: str
    compute_dtype: str
    storage_dtype: str
    manifest_sha256: str
    dataset: str
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class SplitRows:
    """Hold what one split of a cache is written from.

    Parameters
    ----------
    blocks : iterable of ndarray (rows, f)
        Of any numbers of rows, in order.
    labels : ndarray of shape (n,), integers
        −1 where there is none.
    sample_ids : sequence of n distinct str
    """

    blocks: Iterable[np.ndarray]
    labels: np.ndarray
    sample_ids: Sequence[str]


@dataclass(frozen=True)
class Split:
    """Hold everything about a split but its embeddings."""

    labels: np.ndarray
    sample_ids: list[str]
    crcs: np.ndarray
    block_rows: int
    n_features: int
    max_rounding_error: float


class NamingDamage:
    """Turn what HDF5 raises about a damaged file into a sentence about that file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if error is None or isinstance(error, FileNotFoundError | IndexError | NotACacheError | MemoryError):
            return
        if isinstance(error, Exception):
            raise OSError(
                f"cache {self.path.name} is damaged or incomplete ({' '.join(str(error).split())}); expected an "
                "unchanged file of format version 1. Run `dvc repro extract` to rebuild it, or restore a copy."
            ) from error


class NotACacheError(ValueError):
    """A file that is whole, but not what this release reads."""


def read_structure(file: h5py.File) -> tuple[CacheHeader, dict[str, Split]]:
    """Read everything but the embeddings, after checking that nothing is linked, claimed too large or changed."""
    _check_format(file)
    _check_members(file)
    if meta_sha256(file) != _attribute(file, "meta_sha256"):
        raise OSError("attributes, labels, ids or checksums differ from meta_sha256")
    if int(file.attrs.get("complete", 0)) != 1:
        raise OSError("it was never completed")
    values: dict[str, Any] = {name: _attribute(file, name) for name in ATTRIBUTES}
    for name in ("backbone", "preprocessing"):
        values[name] = json.loads(values[name])
    header = CacheHeader(**values, class_names=tuple(_decode(file["class_names"][()])))
    return header, {name: _read_split(file[name]) for name in file if name != "class_names"}


def _check_format(file: h5py.File) -> None:
    name = Path(file.filename).name
    if "format" not in file.attrs or _attribute(file, "format") != FORMAT:
        raise NotACacheError(
            f"{name} is an HDF5 file, but not a {FORMAT}; expected one that `dvc repro extract` wrote. Import other "
            "embeddings with `python -m pipeline import`."
        )
    version = int(file.attrs["version"])
    if version != VERSION:
        raise NotACacheError(
            f"cache {name} has format version {version}; this release reads version {VERSION}. Update the checkout, "
            "or run `dvc repro extract` to rebuild it."
        )


def _check_members(file: h5py.File) -> None:
    """Accept only hard links to the arrays that the format names, none larger than the file can hold."""
    length = Path(file.filename).stat().st_size
    for group, name in [(file, name) for name in file]:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise OSError(f"{name} is a link; only arrays inside the file are read")
        members = [("class_names", file[name])] if name == "class_names" else _members(file[name], name)
        for member, array in members:
            _check_array(f"{name}/{member}", array, length)


def _members(group: h5py.Group, name: str) -> list[tuple[str, h5py.Dataset]]:
    if not isinstance(group, h5py.Group) or set(group) != set(DATASETS):
        raise OSError(f"split {name} does not hold exactly {', '.join(DATASETS)}")
    if any(not isinstance(group.get(member, getlink=True), h5py.HardLink) for member in DATASETS):
        raise OSError(f"split {name} holds a link; only arrays inside the file are read")
    return [(member, group[member]) for member in DATASETS]


def _check_array(name: str, array: h5py.Dataset, length: int) -> None:
    if not isinstance(array, h5py.Dataset) or array.external or array.is_virtual:
        raise OSError(f"{name} is not an array inside the file")
    if array.dtype.kind not in "fiuS":
        raise OSError(f"{name} has type {array.dtype}")
    limit = length * (_LARGEST_INFLATION if array.compression else 1)
    if array.size * array.dtype.itemsize > limit:
        raise OSError(f"{name} claims shape {array.shape}, more than {length} bytes can hold")


def _read_split(group: h5py.Group) -> Split:
    embeddings = group["embeddings"]
    split = Split(
        labels=group["labels"][()],
        sample_ids=_decode(group["sample_ids"][()]),
        crcs=group["block_crc32"][()],
        block_rows=int(group.attrs["block_rows"]),
        n_features=embeddings.shape[1],
        max_rounding_error=float(group.attrs["max_rounding_error"]),
    )
    n_blocks = -(-len(split.labels) // split.block_rows)
    if not len(embeddings) == len(split.labels) == len(split.sample_ids) or len(split.crcs) != n_blocks:
        raise OSError(f"the arrays of split {group.name} differ in length")
    return split


def meta_sha256(file: h5py.File) -> str:
    """Return the sha256 of everything but the embeddings, in canonical JSON."""
    attributes = {
        name: _attribute(file, name) for name in sorted(file.attrs) if name not in ("meta_sha256", "complete")
    }
    meta: dict[str, Any] = {"attributes": attributes, "class_names": _decode(file["class_names"][()]), "splits": {}}
    for name in sorted(set(file) - {"class_names"}):
        group = file[name]
        meta["splits"][name] = {
            "arrays": {member: [list(group[member].shape), group[member].dtype.str] for member in DATASETS},
            "attributes": {key: _attribute(group, key) for key in sorted(group.attrs)},
            "sha256": {m: hashlib.sha256(group[m][()].tobytes()).hexdigest() for m in DATASETS if m != "embeddings"},
        }
    return hashlib.sha256(canonical_json(meta).encode()).hexdigest()


def _attribute(holder: h5py.Group, name: str) -> Any:
    value = holder.attrs[name]
    return value.decode() if isinstance(value, bytes) else value.item()


def canonical_json(value: Any) -> str:
    """Return the one way to write a value as JSON: sorted, without spaces, in ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def fixed_text(values: Iterable[str]) -> np.ndarray:
    """Encode text as UTF-8 of fixed length: variable-length text lies in a heap that no checksum reaches."""
    encoded = [value.encode() for value in values]
    length = max(1, max(map(len, encoded), default=1))
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", length))


def _decode(values: np.ndarray) -> list[str]:
    return [value.decode() for value in values.tolist()]


def block_crc(block: int, stored: np.ndarray) -> int:
    """Return the crc32 of a block's position and bytes: blocks that changed places are noticed too."""
    return zlib.crc32(np.ascontiguousarray(stored), zlib.crc32(struct.pack("<q", block)))
