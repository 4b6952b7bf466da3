"""The store as a whole: what it holds of which network, and taking rows out of it.

Enters: the store's folder, which images to keep. Leaves: sizes by network, blocks without the other images. Must not
know: manifests, why an image goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.store.blocks import SUFFIX, DamagedBlockError, Head, OtherFormatError, read_head, read_rows, write_block

Keep = Callable[[np.ndarray], np.ndarray]
"""Names of images (n, 4) to whether each stays (n,), bool."""


@dataclass
class Stored:
    """Say what the store holds of one network.

    Parameters
    ----------
    network : mapping, JSON-able
    n_rows, n_blocks, n_bytes : int
    n_kept : int
        Rows of images that stay, where it was said which do.
    """

    network: Mapping[str, Any]
    n_rows: int = 0
    n_blocks: int = 0
    n_bytes: int = 0
    n_kept: int = 0


def list_networks(folder: str | Path, keep: Keep | None = None) -> tuple[list[Stored], list[str]]:
    """Return what the store holds, a record for each network, and a sentence on each block that cannot be read."""
    found: dict[str, Stored] = {}
    remarks = []
    for path in _blocks(folder):
        try:
            head = read_head(path)
        except FileNotFoundError:
            continue
        except (DamagedBlockError, OtherFormatError) as error:
            remarks.append(f"{error}.")
            continue
        stored = found.setdefault(path.parent.name, Stored(head.network))
        stored.n_rows += len(head.records)
        stored.n_blocks += 1
        stored.n_bytes += head.offset + len(head.records) * head.row_bytes
        stored.n_kept += int(keep(head.records["image"]).sum()) if keep is not None else len(head.records)
    return list(found.values()), remarks


def remove_rows(folder: str | Path, keep: Keep) -> int:
    """Take the rows of all other images out of the store, and blocks that cannot be read; return how many rows went.

    A run that reads the store meanwhile computes again what it misses.
    """
    n_removed = 0
    for path, n_gone in rewrite_blocks(folder, keep):
        path.unlink(missing_ok=True)
        n_removed += n_gone
    _remove_empty(folder)
    return n_removed


def rewrite_blocks(folder: str | Path, keep: Keep) -> Iterator[tuple[Path, int]]:
    """Write a block of the rows that stay beside each that holds others, and yield the old one, and how many rows go.

    Nothing is deleted: whoever asked deletes the old blocks, all of them. Damaged blocks are yielded too: nobody knows
    what they hold.
    """
    for path in list(_blocks(folder)):
        try:
            head = read_head(path)
        except FileNotFoundError:
            continue
        except (DamagedBlockError, OtherFormatError):
            yield path, 0
            continue
        stays = keep(head.records["image"])
        if not stays.all():
            _write_kept(path, head, np.flatnonzero(stays))
            yield path, int((~stays).sum())


def _write_kept(path: Path, head: Head, positions: np.ndarray) -> None:
    out = np.empty((len(positions), head.n_features), head.dtype)
    whole = read_rows(path, head, positions, out)
    if whole.any():
        records = head.records[positions[whole]]
        write_block(path.parent, head.network, records["image"], out[whole], records["rounding"])


def _blocks(folder: str | Path) -> Iterator[Path]:
    yield from sorted(Path(folder).glob(f"*/*{SUFFIX}"))


def _remove_empty(folder: str | Path) -> None:
    for network in Path(folder).iterdir() if Path(folder).is_dir() else ():
        if network.is_dir() and not any(network.iterdir()):
            network.rmdir()
