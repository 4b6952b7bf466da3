"""The suppression list: keyed hashes of forgotten samples, which must not come back.

Enters: the name of a sample (the sha256 of its image, or its id). Leaves: whether it was forgotten. Must not know: data
sets, caches, callers.

The list holds HMAC-SHA256 of names under a key of the project, which Git ignores: the list alone does not
allow testing which images are on it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.io import replaced

FOLDER = Path("forgotten")
LIST, KEY, PENDING = "list.txt", "key", "pending"
_HEADER = "# Keyed hashes of samples that must not come back; `python -m pipeline forget` writes this file.\n"


@dataclass(frozen=True)
class Suppression:
    """The forgotten samples.

    Parameters
    ----------
    key : bytes
    hashes : frozenset of str
        In hexadecimal.
    """

    key: bytes
    hashes: frozenset[str]

    def hash_of(self, name: str) -> str:
        """Return the keyed hash of a sample's name."""
        return hmac.new(self.key, name.encode(), hashlib.sha256).hexdigest()

    def __contains__(self, name: object) -> bool:
        return bool(self.hashes) and self.hash_of(str(name)) in self.hashes


def id_name(dataset: str, sample_id: str) -> str:
    """Return the name of a sample without a known image, as in imported caches."""
    return f"id {dataset} {sample_id}"


def refuse_forgotten(dataset: str, sample_ids: Iterable[str]) -> None:
    """Refuse forgotten samples without a known image.

    Raises
    ------
    ValueError
        If there is one; the message names the first.
    """
    suppression = read_suppression()
    for sample_id in sample_ids if suppression.hashes else ():
        if id_name(dataset, sample_id) in suppression:
            raise ValueError(
                f"sample {sample_id!r} of {dataset} was forgotten; expected arrays without it. Remove its row."
            )


def read_suppression(folder: str | Path = FOLDER) -> Suppression:
    """Read the list and the key of a project; without a list, nothing was forgotten.

    Raises
    ------
    RuntimeError
        If a deletion was interrupted.
    ValueError
        If the list is damaged.
    OSError
        If there is a list and no key.
    """
    folder = Path(folder)
    if (folder / PENDING / "journal.json").exists():
        raise RuntimeError(
            f"a deletion was interrupted (in {folder / PENDING}); expected it to be finished. Run `python -m "
            "pipeline forget --resume`."
        )
    hashes = read_hashes(folder)
    if not hashes:
        return Suppression(b"", frozenset())
    if not (folder / KEY).is_file():
        raise FileNotFoundError(
            f"there is no key in {folder / KEY} for the {len(hashes)} hashes in {folder / LIST}; expected the "
            "key that wrote the list. Restore it from a backup."
        )
    return Suppression((folder / KEY).read_bytes(), hashes)


def read_hashes(folder: Path) -> frozenset[str]:
    """Return the keyed hashes of a list."""
    path = folder / LIST
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    hashes = [line for line in lines if line and not line.startswith("#")]
    wrong = next((line for line in hashes if len(line) != 64 or not set(line) <= set("0123456789abcdef")), None)
    if wrong is not None:
        raise ValueError(
            f"{path} contains the line {wrong!r:.80}; expected 64 hexadecimal digits. Restore the file from Git."
        )
    return frozenset(hashes)


def make_key(folder: Path) -> bytes:
    """Return the key of a project; make it if there is none."""
    path = folder / KEY
    if not path.is_file():
        if read_hashes(folder):
            read_suppression(folder)  # raises an error that says that its key is missing
        with replaced(path) as neighbour:
            handle = os.open(neighbour, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(32))
    return path.read_bytes()


def add_hashes(folder: Path, hashes: Iterable[str]) -> None:
    """Add keyed hashes to the list, without duplicates."""
    together = sorted(read_hashes(folder) | set(hashes))
    with replaced(folder / LIST) as neighbour:
        neighbour.write_text(_HEADER + "".join(f"{line}\n" for line in together), encoding="utf-8")
