"""A block of the embedding store: one immutable file of finished rows, each with its own checksum.

Enters: the names of images, their rows (n, f), how far each was rounded. Leaves: the same, or an error that
distinguishes damage from a failing disk. Must not know: paths of blocks, their network, caches.

A file holds, little-endian: ``dkvbrows``, the version and the length of a JSON object (uint32 each), that object
(``network``, ``dtype``, ``n_rows``, ``n_features``), a record for each row (the sha256 of its image, the crc32 of that
and of the row's bytes, its rounding error), the crc32 of everything so far, then the rows.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.io import replaced

SUFFIX = ".rows"
MAGIC, VERSION = b"dkvbrows", 1
RECORD = np.dtype([("image", "<u8", 4), ("crc", "<u4"), ("rounding", "<f8")])
"""The record of each row in a block."""
DTYPES = ("float16", "float32")
_BEGINNING = struct.Struct("<8sII")
_CHECK = struct.Struct("<I")


class DamagedBlockError(OSError):
    """A block that differs from what was written."""


class OtherFormatError(ValueError):
    """A block that another release wrote."""


@dataclass(frozen=True)
class Head:
    """Everything about a block except its rows.

    Parameters
    ----------
    network : mapping, JSON-able
        The origin of the rows, besides their images.
    dtype : str
    n_features : int
    records : ndarray of shape (n,), RECORD
    offset : int
        Offset of the first row in the file.
    """

    network: Mapping[str, Any]
    dtype: str
    n_features: int
    records: np.ndarray
    offset: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.n_features * np.dtype(self.dtype).itemsize


def write_block(
    folder: Path, network: Mapping[str, Any], images: np.ndarray, rows: np.ndarray, rounding: np.ndarray
) -> Path:
    """Write a block, completely or not at all, under a name derived from its content; return its path.

    Parameters
    ----------
    folder : Path
    network : mapping, JSON-able
    images : ndarray of shape (n, 4), uint64
    rows : ndarray of shape (n, f), float16 or float32
    rounding : ndarray of shape (n,), float64
    """
    stored = np.ascontiguousarray(rows, rows.dtype.newbyteorder("<"))
    records = np.zeros(len(rows), RECORD)
    records["image"], records["rounding"] = images, rounding
    records["crc"] = [_row_crc(image, row) for image, row in zip(records["image"], stored)]
    about = {"network": network, "dtype": stored.dtype.name, "n_rows": len(rows), "n_features": rows.shape[1]}
    text = json.dumps(about, sort_keys=True, separators=(",", ":")).encode()
    head = _BEGINNING.pack(MAGIC, VERSION, len(text)) + text + records.tobytes()
    path = folder / f"{hashlib.sha256(head).hexdigest()[:32]}{SUFFIX}"
    with replaced(path) as neighbour, neighbour.open("wb") as file:
        file.write(head + _CHECK.pack(zlib.crc32(head)))
        file.write(stored.data)
    return path


def read_head(path: Path) -> Head:
    """Read everything except the rows.

    Raises
    ------
    DamagedBlockError
        If the file differs from what was written.
    OtherFormatError
        If it has another version.
    OSError
        If it is missing or cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        beginning = file.read(_BEGINNING.size)
        if len(beginning) < _BEGINNING.size or not beginning.startswith(MAGIC):
            raise DamagedBlockError(f"block {path.name} does not begin with {MAGIC.decode()}")
        _, version, length = _BEGINNING.unpack(beginning)
        if version != VERSION:
            raise OtherFormatError(f"block {path.name} has format version {version}; this release reads {VERSION}")
        try:
            text = file.read(min(length, size))
            about = json.loads(text)
            n_rows, n_features, dtype = about["n_rows"], about["n_features"], about["dtype"]
            kept = file.read(min(n_rows * RECORD.itemsize, size))
            (crc,) = _CHECK.unpack(file.read(_CHECK.size))
            records = np.frombuffer(kept, RECORD)
        except (ValueError, KeyError, TypeError, struct.error, OverflowError, RecursionError) as error:
            raise DamagedBlockError(f"the header of block {path.name} cannot be read") from error
    if zlib.crc32(kept, zlib.crc32(beginning + text)) != crc or dtype not in DTYPES:
        raise DamagedBlockError(f"the header of block {path.name} does not match its checksum")
    head = Head(about["network"], dtype, n_features, records, _BEGINNING.size + len(text) + len(kept) + _CHECK.size)
    if size != head.offset + n_rows * head.row_bytes:
        raise DamagedBlockError(f"block {path.name} has {size} bytes, which does not match its header")
    return head


def read_rows(path: Path, head: Head, positions: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Read some rows of a block into an array (n, f) and return which of them are intact (n,), bool.

    Consecutive rows are read at once; each requested byte is read once.

    Raises
    ------
    OSError
        If the file is missing or cannot be read.
    """
    whole = np.zeros(len(positions), bool)
    runs = np.flatnonzero(np.diff(positions, prepend=-2) != 1)
    with path.open("rb", buffering=0) as file:
        for first, stop in zip(runs, [*runs[1:], len(positions)]):
            start = head.offset + int(positions[first]) * head.row_bytes
            content = os.pread(file.fileno(), (stop - first) * head.row_bytes, start)
            if len(content) < (stop - first) * head.row_bytes:
                continue  # cut short while it was open
            out[first:stop] = np.frombuffer(content, np.dtype(head.dtype).newbyteorder("<")).reshape(stop - first, -1)
            for place in range(first, stop):
                record = head.records[positions[place]]
                whole[place] = _row_crc(record["image"], out[place]) == record["crc"]
    return whole


def _row_crc(image: np.ndarray, row: np.ndarray) -> int:
    # the image is part of it, so that a row under another image's name is detected
    return zlib.crc32(row.data, zlib.crc32(image.tobytes()))
