"""The entries below a folder of images: files, folders, links, and system files.

Enters: a root. Leaves: the path of every entry, in one of five lists; an error if one cannot be read.
Must not know: classes, splits, data sets.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.data.image_files import reading, suffixes

_NAMED = 5
"""Number of entries that a sentence names."""
_SYSTEM = frozenset({
    "__macosx", "__pycache__", "@eadir", "@recently-snapshot", "@recycle", "#recycle", "#snapshot", "$recycle.bin",
    "desktop.ini", "ehthumbs.db", "ehthumbs_vista.db", "found.000", "icon\r", "lost+found", "lost.dir",
    "network trash folder", "system volume information", "temporary items", "thumbs.db", "~snapshot",
})  # fmt: skip
"""Files that file managers, archives, network drives and file systems leave beside a user's files, in lower case."""
_LEADS_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


@dataclass
class Found:
    """Paths below a root, as text: every entry is in one of the lists.

    Parameters
    ----------
    images, others : list of str
        Files with and without the suffix of an image.
    folders : list of str
    hidden : list of str
        Hidden and system entries, which are not searched.
    repeated : list of str
        Links to folders that are already listed.
    """

    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)


def check_root(name: str, root: Path) -> None:
    """Refuse a root that is not a folder.

    Raises
    ------
    FileNotFoundError
        If it is absent or a file.
    OSError
        If it cannot be read.
    """
    with reading(f"folder {root}"):
        try:
            if stat.S_ISDIR(root.stat().st_mode):
                return
        except OSError as error:
            if error.errno not in _LEADS_NOWHERE:
                raise
    raise FileNotFoundError(
        f"the root of dataset {name} is {root}, which is not a folder; expected one with a sub-folder per class, or "
        "with train and test, which have one per class each. Correct root in params.yaml."
    )


def walk(root: Path, *, follow_links: bool = False) -> Found:
    """Visit every entry below a root; each folder is listed once, even if several links lead to it.

    Raises
    ------
    OSError
        If a folder cannot be read, or a link is broken.
    ValueError
        If a link leads out of the root and may not, or an image's name is not text.
    """
    found, known, top = Found(), suffixes(), os.path.realpath(root)
    seen, waiting, linked = set[str](), [("", top)], list[tuple[str, str]]()
    while waiting or linked:
        place, real = waiting.pop() if waiting else linked.pop(0)  # links come last: a folder keeps its own name
        if real in seen:
            found.repeated.append(place)
            continue
        seen.add(real)
        found.folders += [place] if place else []
        for entry in _entries(root / place):
            path = f"{place}/{entry.name}" if place else entry.name
            if is_hidden(entry.name):
                found.hidden.append(path)
                continue
            mode, is_link = _mode(root, path), entry.is_symlink()
            is_image = stat.S_ISREG(mode) and Path(path).suffix.lower() in known
            target = os.path.realpath(entry.path) if is_link else f"{real}/{entry.name}"
            if is_link and not follow_links and (is_image or stat.S_ISDIR(mode)):
                _check_inside(root, path, target, top)
            if stat.S_ISDIR(mode):
                (linked if is_link else waiting).append((path, target))
            else:
                (found.images if is_image else found.others).append(path)
    for paths in vars(found).values():
        paths.sort(key=lambda path: path.split("/"))
    _check_text(found.images)
    return found


def is_hidden(name: str) -> bool:
    """Return whether an entry belongs to a program or the system, not to the data.

    Examples
    --------
    >>> [is_hidden(name) for name in (".git", "._0.png", "__MACOSX", "Thumbs.db", "cat")]
    [True, True, True, True, False]
    """
    return name.startswith((".", "~$")) or name.casefold() in _SYSTEM


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with reading(f"folder {folder}"), os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _mode(root: Path, path: str) -> int:
    """Return the type of an entry, or of a link's target."""
    with reading(f"{path} in {root}"):
        try:
            return (root / path).stat().st_mode
        except OSError as error:
            if error.errno not in _LEADS_NOWHERE or not (root / path).is_symlink():
                raise
    raise FileNotFoundError(
        f"link {path} in {root} leads to {(root / path).readlink()}, which does not exist; expected a file or a "
        "folder. Fetch it (`dvc pull`, `git annex get`), or remove the link."
    )


def _check_inside(root: Path, path: str, target: str, top: str) -> None:
    if not Path(target).is_relative_to(top):
        raise ValueError(
            f"link {path} in {root} leads to {target}, which is outside it; expected a target inside it. Set "
            "follow_links: true in params.yaml to follow them, or replace the link with a copy."
        )


def _check_text(images: Sequence[str]) -> None:
    """Refuse names that a manifest cannot store: on Linux a file name may contain invalid Unicode."""
    for image in images:
        try:
            image.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the name of image {image!a} is not UTF-8; expected a UTF-8 name. Rename the file."
            ) from error


def some(names: Sequence[str], separator: str = ", ") -> str:
    """Name the first few and count the rest; unprintable characters are escaped.

    Examples
    --------
    >>> some([f"{number}.png" for number in range(7)])
    '0.png, 1.png, 2.png, 3.png, 4.png and 2 more'
    """
    named = separator.join(name if name.isprintable() else ascii(name) for name in names[:_NAMED])
    return named + (f"{separator.strip(' ,')} and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
