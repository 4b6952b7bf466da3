"""Keep finished parts of an extraction outside the pipeline's outputs, so that a killed one goes on where it was.

Enters: an index and its embeddings (rows, f). Leaves: the same array, bit for bit, or nothing. Must not know: images,
networks, the cache's format.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import IO, Self

import numpy as np

from pipeline.io import lock_folder


class ShardStore:
    """Hold the shards of one extraction, named by its fingerprint.

    One process at a time owns the store, and puts the shards together at the end; any number of helpers may add to it.
    A shard is claimed before it is computed. A claim ends with its process, however that ends, and what is left of it
    tells which process that was.

    Parameters
    ----------
    folder : str or Path
        A scratch folder; the shards lie in a folder of their own below it.
    fingerprint : str
        Of everything that decides the embeddings: another one never sees these shards.
    helper : bool, default=False
        Whether this process only adds shards.
    parent : int or None
        The number of the process that started this one, which claims nothing once that one has ended.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, ShardStore(folder, "abc") as store:
    ...     if store.claim(0):
    ...         store.write(0, np.ones((2, 3), np.float32))
    ...     store.finished(), store.read(0).shape, store.process_of(0) == os.getpid()
    ({0}, (2, 3), True)
    """

    def __init__(
        self, folder: str | Path, fingerprint: str, *, helper: bool = False, parent: int | None = None
    ) -> None:
        self.folder = Path(folder) / fingerprint
        self._helper, self._parent = helper, parent
        self._lock: IO[str] | None = None
        self._claims: dict[int, IO[str]] = {}
        self._written: set[int] = set()

    def __enter__(self) -> Self:
        if self._helper:
            self.folder.mkdir(parents=True, exist_ok=True)
        else:
            self._lock = lock_folder(self.folder, "extracting the same embeddings")
        return self

    def __exit__(self, *_: object) -> None:
        for index in list(self._claims):
            self._release(index)
        if self._lock is not None:
            self._lock.close()

    def claim(self, index: int, *, wait: bool = False) -> bool:
        """Take a shard for this process, and return whether it is this one's to compute.

        It is not where it is finished or, unless told to wait until that one ends, another process has it.
        """
        if index in self._written or self._parent not in (None, os.getppid()):
            return False
        try:
            handle = self._claim(index).open("a")  # which leaves what is written there
        except FileNotFoundError:  # the owner has put everything together and cleared the store
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            taken = not self._is_whole(index)
        except BlockingIOError:
            taken = False
        if taken:
            self._claims[index] = handle
            handle.truncate(0)
            print(os.getpid(), end="", file=handle, flush=True)
        else:
            handle.close()
        return taken

    def finished(self) -> set[int]:
        """Return the indices of whole shards."""
        names = (path.stem for path in self.folder.glob("*.shard"))
        indices = {int(name) for name in names if name.isdecimal()}
        return {index for index in indices if self._is_whole(index)}

    def process_of(self, index: int) -> int:
        """Return the number of the process that last claimed a shard: the one that computed it, once it is finished."""
        return int(self._claim(index).read_text())

    def write(self, index: int, embeddings: np.ndarray) -> None:
        """Keep a shard, which ends its claim; after this returns it survives a killed process."""
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(embeddings), allow_pickle=False)
        content = buffer.getvalue()
        neighbour = self._path(index).with_suffix(".part")
        try:
            with neighbour.open("wb") as file:
                file.write(content + struct.pack("<I", _crc(index, content)))
                file.flush()
                os.fsync(file.fileno())
            neighbour.replace(self._path(index))
        finally:
            neighbour.unlink(missing_ok=True)  # what a full disk cut short would fill it further
        self._written.add(index)
        self._release(index)

    def read(self, index: int) -> np.ndarray:
        """Return a shard (rows, f).

        Raises
        ------
        OSError
            If it is missing or damaged.
        """
        content = self._path(index).read_bytes()
        body, (crc,) = content[:-4], struct.unpack("<I", content[-4:].rjust(4, b"\0"))
        if not body or _crc(index, body) != crc:
            raise OSError(f"shard {index} is damaged; expected what was written. Run the extraction again.")
        return np.load(io.BytesIO(body), allow_pickle=False)

    def clear(self) -> None:
        """Delete all shards of this fingerprint, at one stroke for any helper that comes late."""
        gone = self.folder.with_name(f"{self.folder.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        if self.folder.exists():
            self.folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    def _release(self, index: int) -> None:
        if index in self._claims:
            self._claims.pop(index).close()

    def _is_whole(self, index: int) -> bool:
        try:
            self.read(index)
        except OSError as error:  # a damaged one stays until it is written again: who finds it may not hold its claim
            if error.errno not in (None, errno.ENOENT):
                raise
            return False
        return True

    def _claim(self, index: int) -> Path:
        return self._path(index).with_suffix(".claim")

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:06d}.shard"


def _crc(index: int, content: bytes) -> int:
    # the index is part of it: a shard under another's name would put rows into the wrong place
    return zlib.crc32(content, zlib.crc32(struct.pack("<q", index)))
