"""Change many files of a project, all or none: stage new content first, then carry out a journal of replacements.

Enters: new files, files to delete. Leaves: a project with all changes, or none. Must not know: the content of the
files.

Before the journal is written nothing has changed; afterwards every step can be repeated, and the next command finishes
it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.io import remove_leftovers, replaced
from pipeline.suppression import PENDING, add_hashes


class Journal:
    """Collects the changes.

    Parameters
    ----------
    folder : Path
        Folder of the suppression list; files are staged in a separate folder below it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / PENDING
        shutil.rmtree(self.folder, ignore_errors=True)  # of one that ended before it changed anything
        self.folder.mkdir(parents=True)
        self.replace: list[tuple[str, str]] = []
        self.delete: list[str] = []

    def stage(self, target: Path) -> Path:
        """Return where to write the new content of a file."""
        staged = self.folder / f"{len(self.replace)}{target.suffix}"
        self.replace.append((str(staged), str(target)))
        return staged

    def commit(self, hashes: list[str], receipt: Mapping[str, Any], receipt_path: Path) -> None:
        """Carry out all changes; if this process ends, :func:`resume` finishes them."""
        record = {"hashes": hashes, "replace": self.replace, "delete": self.delete}
        record |= {"receipt": receipt, "receipt_path": str(receipt_path)}
        with replaced(self.folder / "journal.json") as neighbour:
            neighbour.write_text(json.dumps(record), encoding="utf-8")
        resume(self.folder.parent)


def resume(folder: Path) -> Path | None:
    """Finish a committed deletion; return its receipt, or None if there is none."""
    pending = folder / PENDING
    if not (pending / "journal.json").is_file():
        return None
    record = json.loads((pending / "journal.json").read_text(encoding="utf-8"))
    add_hashes(folder, record["hashes"])
    for staged, target in record["replace"]:
        remove_leftovers(Path(target))
        if Path(staged).exists():
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged, target)  # noqa: PTH105 - the place itself, not what a link of DVC's leads to
    for path in map(Path, record["delete"]):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    receipt = Path(record["receipt_path"])
    with replaced(receipt) as neighbour:
        text = json.dumps(record["receipt"], indent=2, ensure_ascii=False, allow_nan=False)
        neighbour.write_text(text + "\n", encoding="utf-8")
    (pending / "journal.json").unlink()
    shutil.rmtree(pending)
    return receipt
