"""Share the blocks of one extraction among processes, and let one of them put everything together.

Enters: the name of a block. Leaves: whether it is this process's to compute. Must not know: what a block holds.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from typing import IO, Self

from pipeline.io import lock_folder


class Claims:
    """Hold what the processes of one extraction have begun, in a scratch folder that is gone when it ends.

    One process at a time owns the extraction, and writes the cache at the end; any number of helpers may compute. A
    block is claimed before it is computed. A claim ends with its process, however that ends, and what is left of it
    tells which process that was, and which file it wrote.

    Parameters
    ----------
    folder : str or Path
        A scratch folder; the claims lie in a folder of their own below it.
    fingerprint : str
        Of everything that decides the cache.
    helper : bool, default=False
        Whether this process only computes.
    parent : int or None
        The number of the process that started this one, which claims nothing once that one has ended.

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
        """Take a block for this process, and return whether it is this one's to compute.

        It is not where its file is written or, unless told to wait until that one ends, another process has it.
        """
        if self._parent not in (None, os.getppid()):
            return False
        try:
            handle = self._path(name).open("a+")  # which leaves what is written there
        except FileNotFoundError:  # the owner has put everything together and cleared the claims
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
        """Note the files that a block is in, and end its claim."""
        handle = self._held.pop(name)
        print("", "\n".join(map(str, written)), end="", file=handle, flush=True)
        handle.close()

    def process_of(self, name: str) -> int:
        """Return the number of the process that last claimed a block."""
        return int(self._path(name).read_text().partition(" ")[0])

    def clear(self) -> None:
        """Delete all claims, at one stroke for any helper that comes late."""
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
