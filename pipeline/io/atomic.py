"""Lock folders, and replace files atomically, even after killed processes.

Enters: a folder, or a file about to be written. Leaves: a file that is open while the lock is held; a file written
completely or not at all. Must not know: their content.
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
"""Errors of systems that do not synchronise folders: some file systems never do, and a folder may be unreadable."""


def lock_folder(folder: Path, work: str) -> IO[str]:
    """Create a missing folder, and lock it until the returned file is closed or the process ends.

    Parameters
    ----------
    folder : Path
    work : str
        The work in the folder, such as "extracting the same embeddings".

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
    """Refuse outputs that would overwrite inputs or each other, before any is written.

    Raises
    ------
    ValueError
        If an output is a folder, one of the inputs (under whatever name), in a folder that is an input, or named twice.
    """
    inputs, seen = [Path(path) for path in reads], set[str]()
    for target in map(Path, writes):
        if target.is_dir():
            raise ValueError(f"the output {target} is a folder; expected a file. Add a file's name.")
        if is_special(target):
            continue
        for other in inputs:
            if _same(target, other) or (other.is_dir() and _same(target.parent, other)):
                raise ValueError(
                    f"the output {target} would overwrite the input {other}; expected another file. Rename it."
                )
        place = os.path.realpath(target)
        if place in seen:
            raise ValueError(f"the output {target} is named twice; expected different files. Rename one.")
        seen.add(place)


def is_special(path: Path) -> bool:
    """Return whether a path is a device, a pipe, a socket or an open file of a process, which must not be replaced."""
    open_already = os.path.normpath(path.absolute()).startswith(("/dev/std", "/dev/fd/", "/proc/"))
    return path.exists() and not path.is_dir() and (open_already or not path.is_file())


def _same(one: Path, other: Path) -> bool:
    """Return whether two paths lead to the same file, through links of both kinds and file systems that ignore case."""
    if one.exists() and other.exists():
        return one.samefile(other)
    return os.path.realpath(one) == os.path.realpath(other)


@contextmanager
def replaced(path: str | Path) -> Iterator[Path]:
    """Yield a temporary file beside a file, which replaces it at the end; create a missing folder.

    The temporary file is synchronised before it replaces the file, and the folder afterwards, so that both outlast a
    power cut. After an error the temporary file is deleted, so that it does not fill a full disk, and the file is
    unchanged. Leftovers of killed processes are deleted first. A link stays a link: its target is replaced. A pipe or a
    device such as ``/dev/null`` is written to.

    Raises
    ------
    OSError
        If it is a folder, a block device, a socket, a circular link, or a link to a write-protected file.

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
    """Yield a temporary folder beside a file; create a missing folder for both.

    Leftovers of killed processes are deleted first.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, folder_beside(Path(folder) / "a.csv") as scratch:
    ...     scratch.is_dir() and scratch.parent == Path(folder)
    True
    """
    beside = Path(path)
    scratch = _neighbour(Path(tempfile.gettempdir()) / "scratch" if is_special(beside) else _destination(beside))
    shutil.rmtree(scratch, ignore_errors=True)  # of a killed process with the same id, as in a container
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch)


@contextmanager
def _written_through(path: Path) -> Iterator[Path]:
    """Yield a temporary file, whose bytes are written to a pipe or a device at the end."""
    if path.is_block_device() or path.is_socket():
        kind = "a block device" if path.is_block_device() else "a socket"
        raise OSError(f"the output {path} is {kind}; expected a file, a pipe or a character device. Name another.")
    with tempfile.TemporaryDirectory() as folder:
        neighbour = Path(folder) / path.name
        yield neighbour
        with neighbour.open("rb") as content, path.open("ab", buffering=0) as output:
            shutil.copyfileobj(content, output)


def _destination(path: Path) -> Path:
    """Return the path after following links."""
    target = Path(os.path.realpath(path))
    if target.is_dir() or target.is_symlink():
        kind = "a folder" if target.is_dir() else "a circular link"
        raise OSError(f"the output {path} is {kind}; expected a file. Name another.")
    if path.is_symlink() and target.exists() and not target.stat().st_mode & 0o222:  # as DVC protects its cached files
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
    """Synchronise a file or a folder, so that it outlasts a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(target: Path) -> None:
    """Delete temporary files of killed processes of this machine beside a file: ``.NAME.PROCESS.part``."""
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
