"""Turn errors of libraries and the system into parts of our messages.

Enters: an exception. Leaves: its first sentence, its errno, a remedy. Must not know: who raised it.
"""

from __future__ import annotations

import errno
import re

_LONGEST = 300
"""Largest number of characters of a foreign sentence."""
_TERMINAL_CODES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|.)")

_ROOM = "expected free space for the output. Free some, or name a folder on another disk."
_PERMISSION = "expected permission to use it. Change its permissions, or name another."
_HANDLES = "expected fewer open files. Close some, or raise the limit (`ulimit -n`)."
_DEVICE = "expected the disk and the network to respond. Check them, then try again."
_FOLDER = "expected a folder on the path to the file. Name another path."
_PATH = "expected a path that exists. Correct it."
_READER = "expected a reader of all lines. Read them to the end, or write to a file."
_NO_LOCKS = (
    "expected a file system with locks. Set HDF5_USE_FILE_LOCKING=FALSE to read and write caches without them, and "
    "DKVB_SCRATCH to a folder on a disk that has them."
)
_LOCKED = (
    "expected a file that no other process uses. Wait until the other process has finished; if both only read, set "
    "HDF5_USE_FILE_LOCKING=FALSE in both."
)
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EFBIG, errno.EDQUOT), _ROOM),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _PERMISSION),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), _HANDLES),
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.ETIMEDOUT, errno.EREMOTEIO), _DEVICE),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG), _FOLDER),
    **dict.fromkeys((errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP), _NO_LOCKS),
    errno.EAGAIN: _LOCKED,
    errno.ENOENT: _PATH,
    errno.EPIPE: _READER,
}
_OF_CONTENT = (0, errno.EINVAL, errno.EOVERFLOW)
"""Error numbers of calls with arguments from a damaged file, such as a negative offset."""


def first_sentence(error: BaseException) -> str:
    r"""Return the first sentence of an error, in one line, without terminal color codes.

    Examples
    --------
    >>> first_sentence(ValueError("\x1b[1mbad\x1b[0m magic\nnumber in a.pth. Try another.\nThen"))
    'bad magic number in a.pth'
    """
    text = " ".join(_TERMINAL_CODES.sub("", str(error)).split())
    if found := re.search(r"\bGLOBAL (\S+)", text):  # torch writes this after a page on how to load the file anyway
        return "it holds " + ("a NumPy array" if found[1].startswith("numpy") else f"a {found[1]}")
    sentence = re.split(r"(?<=[^.\s])[.!?](?=\s+[A-Z(\[\"'`]|$)", text, maxsplit=1)[0]
    if len(sentence) > _LONGEST:
        sentence = sentence[:_LONGEST].rpartition(" ")[0].rstrip(",;:") + " …"
    return sentence or type(error).__name__


def system_error(error: BaseException) -> int | None:
    """Return the errno of an error that says nothing about the content of a file; None for any other error.

    HDF5 and Arrow write the number into their text, where Python does not look for it.

    Examples
    --------
    >>> system_error(KeyError("file read failed: errno = 5, error message = 'Input/output error'"))
    5
    >>> system_error(OSError("truncated file")) is None
    True
    """
    found = re.search(r"errno[ =:]+(\d+)", str(error), flags=re.IGNORECASE)
    number = (error.errno if isinstance(error, OSError) else None) or (int(found[1]) if found else 0)
    return None if number in _OF_CONTENT else number


def remedy(number: int | None) -> str:
    """Return the expectation and the remedy for a system error; an empty text if its own message is enough."""
    return _REMEDIES.get(number or 0, "")


def describe_lock(error: BaseException) -> str:
    """Return the problem and the remedy if a file could not be locked; an empty text for any other error."""
    text = str(error)
    if "already open for" in text:  # HDF5's own flag in the file, which survives a killed writer
        return (
            "is open for writing, or its writer was killed; expected a closed file. Wait until the writer has "
            "finished, or run `h5clear -s` on the file."
        )
    if "unable to lock file" not in text and not isinstance(error, BlockingIOError):
        return ""
    number = system_error(error)
    if number in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
        return f"is on a file system without locks (errno {number}); {_NO_LOCKS}"
    return f"is locked by another process (errno {number}); {_LOCKED}"
