"""Keep the codes of a cache's rows, so that no row is encoded twice with the same projection and keys.

Enters: a cache, and what turns embeddings into codes. Leaves: codes (n, c, m), read from the file as they are needed.
Must not know: how keys are chosen, what is learned from them.

A file of codes is scratch: it is made again if it is missing, damaged, or of other embeddings or keys.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from pipeline.cache import CacheReader, Sink
from pipeline.io import replaced

__all__ = ["stored_codes"]

BLOCK_ROWS = 4096
"""Number of rows that are encoded, written and checked at a time."""


def stored_codes(
    reader: CacheReader,
    split: str,
    encode: Callable[[np.ndarray], np.ndarray],
    fingerprint: str,
    folder: str | Path,
) -> np.ndarray:
    """Return the codes of a split from their file; make the file if there is none.

    Parameters
    ----------
    reader : CacheReader
        The embeddings.
    split : str
    encode : callable
        ``encode(X)`` returns the codes of embeddings of shape (n, f), unsigned integers of shape (n, c, m).
    fingerprint : str
        Fingerprint of projection and keys: others have a different file.
    folder : str or Path
        Folder of the files of codes; it may be deleted when nothing runs.

    Returns
    -------
    ndarray of shape (n, c, m), unsigned integers
        A read-only view of the file: only rows in use are loaded.

    Raises
    ------
    OSError
        If the cache is damaged, or the folder cannot be written.

    References
    ----------
    The file is HDF5: one array ``codes``, stored in one piece; ``crc32`` of every 4,096 rows; the attribute
    ``names`` with the digests of embeddings, split and keys.
    """
    names = f"{reader.content_sha256} {split} {fingerprint}"
    path = Path(folder) / f"{hashlib.sha256(names.encode()).hexdigest()[:32]}.h5"
    found = _open_codes(path, names, reader.n_rows(split))
    if found is None:
        _write_codes(path, names, reader, split, encode)
        found = _open_codes(path, names, reader.n_rows(split))
    if found is None:
        raise OSError(f"codes written to {path.name} read back differently; expected the same. Check the disk.")
    return found


def _open_codes(path: Path, names: str, n_rows: int) -> np.ndarray | None:
    """Memory-map a file of codes after checking every block; None if it is damaged or of other codes."""
    try:
        with h5py.File(path, "r") as file:
            array, crcs = file["codes"], file["crc32"][()]
            known, offset = file.attrs["names"], array.id.get_offset()
            dtype, shape = array.dtype, array.shape
        if known != names or shape[0] != n_rows or (offset is None and n_rows) or dtype.kind != "u":
            return None
        codes = np.memmap(path, dtype, "r", offset or 0, shape) if n_rows else np.empty(shape, dtype)
        whole = [_crc(codes[start : start + BLOCK_ROWS]) for start in range(0, n_rows, BLOCK_ROWS)]
    except (OSError, KeyError, ValueError, RuntimeError, TypeError):
        return None  # scratch: a damaged file is made again
    return codes if np.array_equal(whole, crcs) else None


def _write_codes(
    path: Path, names: str, reader: CacheReader, split: str, encode: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Encode block by block into a temporary file, which is renamed when complete."""
    n_rows, crcs = reader.n_rows(split), []
    with replaced(path) as neighbour, Sink(neighbour) as sink, h5py.File(sink, "w") as file:
        first = encode(reader.read(split, slice(0, BLOCK_ROWS)))
        array = file.create_dataset("codes", (n_rows, *first.shape[1:]), first.dtype)
        for start in range(0, n_rows, BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            block = first if start == 0 else encode(reader.read(split, rows))
            array[rows] = block
            sink.check()
            crcs.append(_crc(block))
        file["crc32"] = np.array(crcs, dtype=np.uint32)
        file.attrs["names"] = names


def _crc(block: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(block))
