"""Let one process at a time into a folder and put files in their place whole, however the process before it ended.

Enters: a folder, or a file about to be written. Leaves: a file held open while the lock is; a file written whole or
not at all. Must not know: what they hold.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_NOT_FOR_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)
"""How systems refuse to synchronise a folder: some file systems never do, and a folder may be closed to readers."""


def lock_folder(folder: Path, work: str) -> IO[str]:
    """Make a folder where it is missing, and lock it until the file returned is closed or the process ends.

    Parameters
    ----------
    folder : Path
    work : str
        What is done there, as "extracting the same embeddings".

    Raises
    ------
    RuntimeError
        If another process holds the lock.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, lock_folder(Path(folder) / "new", "counting") as lock:
    ...     Path(lock.name).name
    'lock'
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise RuntimeError(
            f"another process is {work} (lock in {folder.name[:12]}); expected one at a time. Wait until it has "
            "finished, then start again."
        ) from error
    return lock


@contextmanager
def replaced(path: str | Path) -> Iterator[Path]:
    """Give a neighbour of a file to write to, which takes the file's place at the end; make a missing folder.

    The neighbour is on the disk before it takes the place, and the place is before this ends: power may fail then.
    After an error the neighbour is gone and the file is as it was: what a full disk cut short would fill it further.
    What killed processes left beside the file goes first.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replaced(Path(folder) / "new/a.txt") as neighbour:
    ...         _ = neighbour.write_text("whole")
    ...     [path.name for path in Path(folder, "new").iterdir()]
    ['a.txt']
    """
    target = Path(path)
    neighbour = _neighbour(target)
    try:
        yield neighbour
        _reach_disk(neighbour)
        neighbour.replace(target)
        try:
            _reach_disk(target.parent)
        except OSError as error:
            if error.errno not in _NOT_FOR_FOLDERS:
                raise
    finally:
        neighbour.unlink(missing_ok=True)


@contextmanager
def folder_beside(path: str | Path) -> Iterator[Path]:
    """Give a folder beside a file for as long as the file is worked on; make a missing folder for both.

    What killed processes left beside the file goes first.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, folder_beside(Path(folder) / "a.csv") as scratch:
    ...     scratch.is_dir() and scratch.parent == Path(folder)
    True
    """
    scratch = _neighbour(Path(path))
    shutil.rmtree(scratch, ignore_errors=True)  # of a killed process that had this one's number, as in a container
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch)


def _neighbour(target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target)
    return target.with_name(f".{target.name}.{os.getpid()}.part")


def _reach_disk(path: Path) -> None:
    """Wait until a file, or which files a folder holds, would outlast a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(target: Path) -> None:
    """Delete what killed processes of this machine were still writing beside a file: ``.NAME.PROCESS.part``."""
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        process = leftover.name.split(".")[-2]
        if process.isdecimal() and not _runs(int(process)):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
