"""Share the blocks of one extraction among processes, and let one of them write the cache.

Enters: the name of a block. Leaves: whether this process computes it. Must not know: the content of a block.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from typing import IO, Self

from pipeline.io import lock_folder


class Claims:
    """The claims of the processes of one extraction, in a scratch folder that is deleted at the end.

    One process at a time owns the extraction, and writes the cache at the end; any number of helpers may compute. A
    process claims a block before computing it. A claim ends with its process, however that ends; its file then still
    names the process and the file that it wrote.

    Parameters
    ----------
    folder : str or Path
        A scratch folder; the claims are in a separate folder below it.
    fingerprint : str
        Digest of everything that determines the cache.
    helper : bool, default=False
        Whether this process only computes.
    parent : int or None
        The id of the parent process; this process claims nothing after the parent has ended.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, Claims(folder, "abc") as claims:
    ...     taken = claims.claim("a"), claims.claim("a")
    ...     written = Path(folder) / "a.rows"
    ...     _ = written.write_text("")
    ...     claims.finish("a", written)
    ...     taken, claims.claim("a"), claims.process_of("a") == os.getpid()
    ((True, False), False, True)
    """

    def __init__(
        self, folder: str | Path, fingerprint: str, *, helper: bool = False, parent: int | None = None
    ) -> None:
        self.folder = Path(folder) / fingerprint
        self._helper, self._parent = helper, parent
        self._lock: IO[str] | None = None
        self._held: dict[str, IO[str]] = {}

    def __enter__(self) -> Self:
        if self._helper:
            self.folder.mkdir(parents=True, exist_ok=True)
        else:
            self._lock = lock_folder(self.folder, "extracting the same embeddings")
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._held):
            self._held.pop(name).close()
        if self._lock is not None:
            self._lock.close()

    def claim(self, name: str, *, wait: bool = False) -> bool:
        """Claim a block for this process, and return whether to compute it.

        Not if its file is written or, unless told to wait for it, another process has claimed it.
        """
        if self._parent not in (None, os.getppid()):
            return False
        try:
            handle = self._path(name).open("a+")  # which leaves what is written there
        except FileNotFoundError:  # the owner has written the cache and cleared the claims
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            taken = not self._is_written(handle)
        except BlockingIOError:
            taken = False
        if taken:
            self._held[name] = handle
            handle.truncate(0)
            print(os.getpid(), end="", file=handle, flush=True)
        else:
            handle.close()
        return taken

    def finish(self, name: str, *written: Path) -> None:
        """Record the files of a block, and end its claim."""
        handle = self._held.pop(name)
        print("", "\n".join(map(str, written)), end="", file=handle, flush=True)
        handle.close()

    def process_of(self, name: str) -> int:
        """Return the id of the process that last claimed a block."""
        return int(self._path(name).read_text().partition(" ")[0])

    def clear(self) -> None:
        """Delete all claims, atomically for late helpers."""
        gone = self.folder.with_name(f"{self.folder.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        if self.folder.exists():
            self.folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    def _is_written(self, handle: IO[str]) -> bool:
        handle.seek(0)
        written = handle.read().partition(" ")[2]
        return bool(written) and all(Path(path).exists() for path in written.split("\n"))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.claim"
