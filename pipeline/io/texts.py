"""Read text files in the encodings that editors write, and write numbers of things.

Enters: a path. Leaves: its text, with any line ends. Must not know: what the text means.
"""

from __future__ import annotations

import codecs
from pathlib import Path

_MARKS = {  # the longer first: UTF-32 begins as UTF-16 does
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: str | Path) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 or UTF-32 after a byte order mark, without the mark.

    Raises
    ------
    ValueError
        If the bytes are not text in that encoding.
    OSError
        If the file cannot be read.
    """
    content = Path(path).read_bytes()
    encoding = encoding_of(content)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        raise ValueError(
            f"{path} is not text in {name} (byte {error.start} is 0x{content[error.start]:02x}); expected UTF-8. Save "
            "it as UTF-8."
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def encoding_of(content: bytes) -> str:
    """Return the encoding of a byte order mark; UTF-8 without one."""
    return next((encoding for mark, encoding in _MARKS.items() if content.startswith(mark)), "utf-8")


def counted(n: int, noun: str) -> str:
    """Return a number and what it counts.

    Examples
    --------
    >>> counted(1, "row"), counted(1200, "row")
    ('1 row', '1,200 rows')
    """
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def read_names(path: str | Path, what: str) -> tuple[str, ...]:
    """Return the names of a file with one per line; empty lines at the end are ignored.

    Raises
    ------
    ValueError
        If there is no name, an empty line among them, or a name twice.
    """
    names = [line if line.strip() else "" for line in read_text(path).split("\n")]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise ValueError(f"{path} contains no name; expected a {what} on each line. Add them.")
    if "" in names:
        raise ValueError(
            f"line {names.index('') + 1} of {path} is empty; expected a {what} on each line. Add it, or "
            "remove the line."
        )
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise ValueError(f"{path} contains the {what} {twice!r} twice; expected distinct names. Remove or rename one.")
    return tuple(names)
