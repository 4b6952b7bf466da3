"""The cache's format, versions 1 and 2: the layout of the file, and its checksums. See ``docs/cache_format.md``.

Enters: an open HDF5 file. Leaves: its structure, once verified. Must not know: who writes or reads it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.io import describe_lock, system_error

FORMAT, VERSION, VERSION_OF_LAYERS = "dkvb-embedding-cache", 1, 2
"""A cache of one layer has version 1, a cache of several layers version 2."""
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
"""Compressed embeddings may claim at most this many times the file's length: deflate cannot compress more."""
_LARGEST_ATTRIBUTE = 2**16
"""Largest size of an attribute in bytes: HDF5 stores larger ones elsewhere."""


@dataclass(frozen=True)
class LayerColumns:
    """The columns of a layer in the embeddings: from ``start`` up to, not including, ``stop``.

    Parameters
    ----------
    name : str
    start, stop : int
    """

    name: str
    start: int
    stop: int


def layers_in_order(widths: Mapping[str, int]) -> tuple[LayerColumns, ...]:
    """Return the columns of each layer, from their numbers of columns, in order.

    Examples
    --------
    >>> layers_in_order({"layer3": 2, "avgpool": 3})[1]
    LayerColumns(name='avgpool', start=2, stop=5)
    """
    stops = np.cumsum(list(widths.values())).tolist()
    return tuple(LayerColumns(name, stop - widths[name], stop) for name, stop in zip(widths, stops, strict=True))


def tap_of(names: Iterable[str]) -> str:
    """Return the text that names one layer or several."""
    return "+".join(names)


@dataclass(frozen=True)
class CacheHeader:
    """The origin of a cache's embeddings.

    Parameters
    ----------
    fingerprint : str
        Digest of everything that determines the embeddings.
    backbone, preprocessing : mapping, JSON-able
    tap : str
        The layer, by the name that the file's attribute has; several are joined by ``+``.
    compute_dtype, storage_dtype, manifest_sha256, dataset : str
    class_names : tuple of str
        Label 0 is the first.
    layers : tuple of LayerColumns
        Columns of several layers, in order; empty if ``tap`` names the only layer.
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
    layers: tuple[LayerColumns, ...] = ()


def fingerprint_of(origin: Mapping[str, Any]) -> str:
    """Return the fingerprint of everything that determines the embeddings: the header without itself and the names."""
    named = {name: origin[name] for name in ATTRIBUTES if name != "fingerprint"}
    if layers := origin.get("layers"):
        named["layers"] = [one if isinstance(one, Mapping) else asdict(one) for one in layers]
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class SplitRows:
    """The data from which one split of a cache is written.

    Parameters
    ----------
    blocks : iterable of ndarray of shape (rows, f)
        In order, with any number of rows each.
    labels : ndarray of shape (n,), integers
        −1: unlabelled.
    sample_ids : sequence of n distinct str
    rounding_error : float, default=0
        The largest rounding error so far, if blocks already have the storage type.
    """

    blocks: Iterable[np.ndarray]
    labels: np.ndarray
    sample_ids: Sequence[str]
    rounding_error: float = 0.0


@dataclass(frozen=True)
class Split:
    """Everything about a split except its embeddings."""

    labels: np.ndarray
    sample_ids: list[str]
    crcs: np.ndarray
    block_rows: int
    n_features: int
    max_rounding_error: float


class NamingDamage:
    """Turn errors that HDF5 raises for a damaged file into a sentence about that file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, NotACacheError | MemoryError):
            return
        if lock := describe_lock(error):
            raise OSError(f"cache {self.path.name} {lock}") from error
        if (number := system_error(error)) is not None:  # which says nothing about what the file holds
            raise OSError(number, f"cache {self.path.name} cannot be read: {os.strerror(number)}") from error
        raise OSError(
            f"cache {self.path.name} is damaged or incomplete ({' '.join(str(error).split())}); expected an unchanged "
            "file of format version 1 or 2. Run `dvc repro extract` or the import again to rebuild it, or restore a "
            "copy."
        ) from error


class NotACacheError(ValueError):
    """An intact file that this release does not read."""


def read_structure(file: h5py.File) -> tuple[CacheHeader, dict[str, Split]]:
    """Read everything except the embeddings, after checking for links, excessive size claims and changes.

    Raises
    ------
    NotACacheError
        If the file is something else, or of another version.
    OSError, ValueError, KeyError
        If it is damaged; :class:`NamingDamage` turns them into one sentence.
    """
    _check_format(file)
    _check_members(file)
    if meta_sha256(file) != _attribute(file, "meta_sha256"):
        raise OSError("attributes, labels, ids or checksums differ from meta_sha256")
    if _attribute(file, "complete") != 1:
        raise OSError("its attribute complete is not 1")
    header = _read_header(file)
    splits = {name: _read_split(file[name]) for name in split_names(file)}
    for name, split in splits.items():
        _check_split(name, split, file[name]["embeddings"], header)
    widths = {split.n_features for split in splits.values() if len(split.labels)}
    if not splits or len(widths) > 1:
        raise OSError("its splits have different numbers of features, or there are none")
    if header.layers and widths - {header.layers[-1].stop}:
        raise OSError(f"its layers end at column {header.layers[-1].stop} of {max(widths)}")
    return header, splits


def split_names(file: h5py.File) -> list[str]:
    """Return the names of the splits, sorted."""
    return sorted(set(file) - {"class_names"})


def _check_format(file: h5py.File) -> None:
    name = Path(file.filename).name
    found = file.attrs.get_id("format") if "format" in file.attrs else None
    if found is None or found.dtype.kind != "S" or _attribute(file, "format") != FORMAT:
        raise NotACacheError(
            f"{name} is an HDF5 file, but not a {FORMAT}; expected one that `dvc repro extract` wrote. Pass such "
            "a file, usually from caches/."
        )
    version = _attribute(file, "version")
    if version not in (VERSION, VERSION_OF_LAYERS):
        raise NotACacheError(
            f"cache {name} has format version {version}; expected {VERSION} or "
            f"{VERSION_OF_LAYERS}. Update the checkout, or run `dvc repro extract` to rebuild it."
        )


def _check_members(file: h5py.File) -> None:
    """Accept only hard links to the arrays of the format, none larger than the file can hold."""
    length = Path(file.filename).stat().st_size
    _check_hard_links(file)
    _check_array("class_names", file["class_names"], length)
    for name in split_names(file):
        group = file[name]
        if not isinstance(group, h5py.Group) or set(group) != set(DATASETS):
            raise OSError(f"split {name} does not consist of exactly {', '.join(DATASETS)}")
        _check_hard_links(group)
        for member in DATASETS:
            _check_array(f"{name}/{member}", group[member], length)


def _check_hard_links(group: h5py.Group) -> None:
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise OSError(f"{group.name.rstrip('/')}/{name} is a link; only arrays inside the file are read")


def _check_array(name: str, array: h5py.Dataset, length: int) -> None:
    """Compare the claims of an array with the format and the file's length, before memory is allocated for it."""
    if not isinstance(array, h5py.Dataset) or array.external or array.is_virtual:
        raise OSError(f"{name} is not an array inside the file")
    member = name.rpartition("/")[2]
    kinds = {"embeddings": ("<f2", "<f4"), "labels": ("<i8",), "block_crc32": ("<u4",)}
    if array.dtype.str not in kinds[member] if member in kinds else array.dtype.kind != "S":
        raise OSError(f"{name} has type {array.dtype}")
    if len(array.shape) != (2 if member == "embeddings" else 1):
        raise OSError(f"{name} has shape {array.shape}")
    packed = member == "embeddings" and array.compression == "gzip"
    limit = length * (_LARGEST_INFLATION if packed else 1)
    for what, shape in (("shape", array.shape), ("chunks of", array.chunks or ())):
        if math.prod(map(int, shape)) * array.dtype.itemsize > limit:
            raise OSError(f"{name} has {what} {shape}, more than a file of {length} bytes can hold")


def _read_header(file: h5py.File) -> CacheHeader:
    values: dict[str, Any] = {name: _attribute(file, name) for name in ATTRIBUTES}
    for name in ("backbone", "preprocessing"):
        values[name] = json.loads(values[name])
        if not isinstance(values[name], dict):
            raise OSError(f"attribute {name} is not a JSON object")
    if not all(isinstance(values[name], str | dict) for name in ATTRIBUTES):
        raise OSError("an attribute that should be text is a number")
    if ("layers" in file.attrs) != (_attribute(file, "version") == VERSION_OF_LAYERS):
        raise OSError("its version is 1 with the attribute layers, or 2 without it")
    layers = _read_layers(_attribute(file, "layers"), values["tap"]) if "layers" in file.attrs else ()
    return CacheHeader(**values, class_names=tuple(_decode(file["class_names"][()])), layers=layers)


def _read_layers(text: Any, tap: str) -> tuple[LayerColumns, ...]:
    """Read the columns of layers: distinct names, and contiguous columns from the first on."""
    found = json.loads(text)
    triples = isinstance(found, list) and all(isinstance(one, list) and len(one) == 3 for one in found)
    if not triples or not all(type(n) is str and type(a) is int and type(b) is int and b > a for n, a, b in found):
        raise OSError("attribute layers is not a list of names and bounds of columns")
    names, starts, stops = zip(*found, strict=True) if len(found) > 1 else ((), (), ())
    if len(set(names)) < 2 or len(set(names)) < len(names) or starts != (0, *stops[:-1]) or tap_of(names) != tap:
        raise OSError("its layers do not follow each other, repeat a name, or differ from those in tap")
    return tuple(LayerColumns(*one) for one in found)


def _read_split(group: h5py.Group) -> Split:
    return Split(
        labels=group["labels"][()],
        sample_ids=_decode(group["sample_ids"][()]),
        crcs=group["block_crc32"][()],
        block_rows=int(_attribute(group, "block_rows")),
        n_features=int(group["embeddings"].shape[1]),
        max_rounding_error=float(_attribute(group, "max_rounding_error")),
    )


def _check_split(name: str, split: Split, embeddings: h5py.Dataset, header: CacheHeader) -> None:
    """Check that the parts of a split agree: the file may come from another program."""
    n = len(split.labels)
    n_blocks = -(-n // split.block_rows) if split.block_rows > 0 else -1
    if not n == len(embeddings) == len(split.sample_ids) or len(split.crcs) != n_blocks:
        raise OSError(f"the arrays of split /{name} differ in length")
    if embeddings.dtype != np.dtype(header.storage_dtype):
        raise OSError(f"{name}/embeddings are {embeddings.dtype}, not {header.storage_dtype}")
    if n and (split.labels.min() < -1 or split.labels.max() >= len(header.class_names)):
        raise OSError(f"{name}/labels contain a class that has no name")
    if len(set(split.sample_ids)) != n:
        raise OSError(f"{name}/sample_ids contain an id twice")


def meta_sha256(file: h5py.File) -> str:
    """Return the sha256 of everything except the embeddings, as canonical JSON."""
    attributes = {
        name: _attribute(file, name) for name in sorted(file.attrs) if name not in ("meta_sha256", "complete")
    }
    meta: dict[str, Any] = {"attributes": attributes, "class_names": _decode(file["class_names"][()]), "splits": {}}
    for name in split_names(file):
        group = file[name]
        meta["splits"][name] = {
            "arrays": {member: [list(group[member].shape), group[member].dtype.str] for member in DATASETS},
            "attributes": {key: _attribute(group, key) for key in sorted(group.attrs)},
            "sha256": {m: hashlib.sha256(group[m][()].tobytes()).hexdigest() for m in DATASETS if m != "embeddings"},
        }
    return hashlib.sha256(canonical_json(meta).encode()).hexdigest()


def _attribute(holder: h5py.Group, name: str) -> str | int | float:
    """Return a scalar attribute, after checking its claimed type and size."""
    identifier = holder.attrs.get_id(name)
    kind, size = identifier.dtype.kind, identifier.dtype.itemsize
    if identifier.shape != () or kind not in "Siuf" or size > _LARGEST_ATTRIBUTE:
        raise OSError(f"attribute {name} is not one number or one text of fixed length")
    value = holder.attrs[name]
    return value.decode() if kind == "S" else value.item()


def canonical_json(value: Any) -> str:
    """Return a value as canonical JSON: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def fixed_text(values: Iterable[str]) -> np.ndarray:
    """Encode text as UTF-8 of fixed length: variable-length text is in a heap that the checksums do not cover."""
    try:
        encoded = [value.encode() for value in values]
    except UnicodeEncodeError as error:
        raise ValueError(
            f"an id or a class name, {error.object!a}, contains invalid Unicode; expected text that UTF-8 can "
            "encode. Rename it."
        ) from error
    if any(b"\0" in value for value in encoded):
        raise ValueError(
            "an id or a class name contains the character NUL, which ends text in a cache; expected text without it. "
            "Rename it."
        )
    length = max(1, max(map(len, encoded), default=1))
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", length))


def _decode(values: np.ndarray) -> list[str]:
    return [value.decode() for value in values.tolist()]


def block_crc(block: int, stored: np.ndarray) -> int:
    """Return the crc32 of a block's position and bytes, which also detects swapped blocks."""
    return zlib.crc32(np.ascontiguousarray(stored), zlib.crc32(struct.pack("<q", block)))
