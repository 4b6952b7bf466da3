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
import tempfile
from collections.abc import Iterable, Iterator
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
    except OSError as error:
        lock.close()
        if error.errno not in (errno.EAGAIN, errno.EACCES):  # a file system may have no locks
            raise
        raise RuntimeError(
            f"another process is {work} (lock in {folder.name[:12]}); expected one at a time. Wait until it "
            "finishes, then start again."
        ) from error
    return lock


def check_files(reads: Iterable[str | Path], writes: Iterable[str | Path]) -> None:
    """Refuse outputs that would destroy something, before any is written.

    Raises
    ------
    ValueError
        If an output is a folder, one of the inputs (under whatever name), in a folder that is an input, or named twice.
    """
    inputs, seen = [Path(path) for path in reads], set[str]()
    for target in map(Path, writes):
        if target.is_dir():
            raise ValueError(f"the output {target} is a folder; expected a file. Add a file name.")
        if is_special(target):
            continue
        for other in inputs:
            if _same(target, other) or (other.is_dir() and _same(target.parent, other)):
                raise ValueError(
                    f"the output {target} would overwrite what is read from {other}; expected another file. Rename it."
                )
        place = os.path.realpath(target)
        if place in seen:
            raise ValueError(f"the output {target} is named twice; expected different files. Rename one.")
        seen.add(place)


def is_special(path: Path) -> bool:
    """Return whether a path is a device, a pipe or a socket, or what a process has open: nothing to be replaced."""
    open_already = os.path.normpath(path.absolute()).startswith(("/dev/std", "/dev/fd/", "/proc/"))
    return path.exists() and not path.is_dir() and (open_already or not path.is_file())


def _same(one: Path, other: Path) -> bool:
    """Compare what two paths lead to: by links of both kinds, and by case where the file system ignores it."""
    if one.exists() and other.exists():
        return one.samefile(other)
    return os.path.realpath(one) == os.path.realpath(other)


@contextmanager
def replaced(path: str | Path) -> Iterator[Path]:
    """Give a neighbour of a file to write to, which takes the file's place at the end; make a missing folder.

    The neighbour is on the disk before it takes the place, and the place is before this ends: power may fail then.
    After an error the neighbour is gone and the file is as it was: what a full disk cut short would fill it further.
    What killed processes left beside the file goes first. A link stays one: the file that it leads to is replaced. What
    is no file, such as a pipe or ``/dev/null``, is written to.

    Raises
    ------
    OSError
        If it is a folder, a block device, a socket, or a link that leads in a circle or to a write-protected file.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replaced(Path(folder) / "new/a.txt") as neighbour:
    ...         _ = neighbour.write_text("whole")
    ...     [path.name for path in Path(folder, "new").iterdir()]
    ['a.txt']
    """
    if is_special(Path(path)):
        with _written_through(Path(path)) as neighbour:
            yield neighbour
        return
    target = _destination(Path(path))
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
    beside = Path(path)
    scratch = _neighbour(Path(tempfile.gettempdir()) / "scratch" if is_special(beside) else _destination(beside))
    shutil.rmtree(scratch, ignore_errors=True)  # of a killed process that had this one's number, as in a container
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch)


@contextmanager
def _written_through(path: Path) -> Iterator[Path]:
    """Give a file to write to, whose bytes go into a pipe or a device at the end."""
    if path.is_block_device() or path.is_socket():
        kind = "a block device" if path.is_block_device() else "a socket"
        raise OSError(f"the output {path} is {kind}; expected a file, a pipe or a character device. Name another.")
    with tempfile.TemporaryDirectory() as folder:
        neighbour = Path(folder) / path.name
        yield neighbour
        with neighbour.open("rb") as content, path.open("ab", buffering=0) as output:
            shutil.copyfileobj(content, output)


def _destination(path: Path) -> Path:
    """Return the place that a path leads to over links."""
    target = Path(os.path.realpath(path))
    if target.is_dir() or target.is_symlink():
        kind = "a folder" if target.is_dir() else "a link that leads in a circle"
        raise OSError(f"the output {path} is {kind}; expected a file. Name another.")
    if path.is_symlink() and target.exists() and not target.stat().st_mode & 0o222:  # as DVC keeps what it has stored
        raise OSError(
            f"the output {path} is a link to {target}, which is write-protected; expected a file of its own. Run `dvc "
            f"unprotect {path}`, or remove the link."
        )
    return target


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
