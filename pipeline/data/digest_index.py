"""Recognise image files without reading them: the sha256 of each file with unchanged size, times and place.

Enters: a file, and a function that reads it. Leaves: its sha256. Must not know: images, folders, data sets.

The index file contains a sorted record for each image (a hash of the file's size, times and place, and the image's
sha256) and the crc32 of all records: 48 bytes each, on disk and in memory.
"""

from __future__ import annotations

import hashlib
import time
import zlib
from collections.abc import Callable, Container
from pathlib import Path

import numpy as np

from pipeline.data.image_files import reading
from pipeline.io import replaced

_RULES = 2
"""Version of the rules for refusing images: a file that was seen under other rules is read again."""
_SETTLED = 2 * 10**9
"""Nanoseconds after which a file's times show any later change: clocks of file systems may tick that slowly."""
_RECORD = np.dtype([("file", "S16"), ("sha256", "V32")])


class DigestIndex:
    """Remember the sha256 of files until their size, times or place on the disk change.

    Parameters
    ----------
    path : str or Path or None
        The index file; if it is absent or damaged, every image is read. None: nothing is remembered.
    rehash : bool, default=False
        Whether to read every image regardless of the index.
    forgotten : container of str
        Digests that are not remembered.

    Examples
    --------
    >>> index = DigestIndex(None)
    >>> index.digest(Path("pipeline/__init__.py"), lambda: "ab" * 32) == "ab" * 32
    True
    """

    def __init__(
        self, path: str | Path | None, *, rehash: bool = False, forgotten: Container[str] = frozenset()
    ) -> None:
        self._forgotten = forgotten
        self._path = Path(path) if path is not None else None
        self._known = np.zeros(0, _RECORD) if rehash else self._load()
        self._files = np.ascontiguousarray(self._known["file"])
        self._seen = bytearray()

    def digest(self, file: Path, read: Callable[[], str]) -> str:
        """Return the remembered result of ``read`` for this file, or call it: 64 hexadecimal digits."""
        with reading(f"image {file}"):
            times = file.stat()
        now = time.time_ns()
        mark = (_RULES, times.st_size, times.st_mtime_ns, times.st_ctime_ns, times.st_dev, times.st_ino)
        text = f"{mark} {file.absolute()}".encode("utf-8", "surrogateescape")
        name = hashlib.blake2b(text, digest_size=16).digest()
        known = self._find(name)
        found = known if known is not None else read()
        # a file that changes again within one clock tick would keep its times
        if now - max(times.st_mtime_ns, times.st_ctime_ns) > _SETTLED and found not in self._forgotten:
            self._seen += name + bytes.fromhex(found)
        return found

    def save(self, *, forget: bool = True) -> None:
        """Write the index for the next run; files that were not seen now are dropped, unless told otherwise."""
        if self._path is None:
            return
        seen = np.frombuffer(bytes(self._seen), _RECORD)
        if not forget:
            seen = np.concatenate([seen, self._known[~np.isin(self._files, seen["file"])]])
        _write(self._path, seen[np.argsort(seen["file"], kind="stable")])

    def save_as(self, path: Path) -> None:
        """Write the index to another file."""
        _write(path, self._known)

    def drop(self, sha256s: set[str]) -> bool:
        """Drop the files with some digests; return whether there were any."""
        digests = self._known["sha256"].tobytes()
        goes = np.array([digests[at : at + 32].hex() in sha256s for at in range(0, len(digests), 32)], bool)
        self._known = self._known[~goes]
        self._files = np.ascontiguousarray(self._known["file"])
        return bool(goes.any())

    def _find(self, name: bytes) -> str | None:
        place = int(np.searchsorted(self._files, name))
        if place == len(self._files) or self._known[place]["file"].ljust(16, b"\0") != name:
            return None
        return self._known[place]["sha256"].tobytes().hex()

    def _load(self) -> np.ndarray:
        try:
            content = self._path.read_bytes() if self._path is not None else b""
        except OSError:
            content = b""
        body, crc = content[:-4], content[-4:]
        if len(body) % _RECORD.itemsize or zlib.crc32(body).to_bytes(4, "little") != crc:
            body = b""
        return np.frombuffer(body, _RECORD)


def _write(path: Path, records: np.ndarray) -> None:
    content = records.tobytes()
    with replaced(path) as neighbour:
        neighbour.write_bytes(content + zlib.crc32(content).to_bytes(4, "little"))
