"""The store as a whole: list its content by network, and remove rows.

Enters: the store's folder, which images to keep. Leaves: sizes by network, blocks without the other images. Must not
know: manifests, why an image is removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.store.blocks import SUFFIX, DamagedBlockError, Head, OtherFormatError, read_head, read_rows, write_block

Keep = Callable[[np.ndarray], np.ndarray]
"""Maps names of images (n, 4) to whether each is kept (n,), bool."""


@dataclass
class Stored:
    """The content of the store for one network.

    Parameters
    ----------
    network : mapping, JSON-able
    n_rows, n_blocks, n_bytes : int
    n_kept : int
        Number of rows of images to keep; all rows if nothing was said about them.
    """

    network: Mapping[str, Any]
    n_rows: int = 0
    n_blocks: int = 0
    n_bytes: int = 0
    n_kept: int = 0


def list_networks(folder: str | Path, keep: Keep | None = None) -> tuple[list[Stored], list[str]]:
    """Return the content of the store, one record per network, and one sentence on each unreadable block."""
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
    """Remove the rows of all other images and unreadable blocks; return the number of removed rows.

    A run that reads the store at the same time computes missing rows again.
    """
    n_removed = 0
    for path, n_gone in rewrite_blocks(folder, keep):
        path.unlink(missing_ok=True)
        n_removed += n_gone
    _remove_empty(folder)
    return n_removed


def rewrite_blocks(folder: str | Path, keep: Keep) -> Iterator[tuple[Path, int]]:
    """Write a new block with the kept rows of each block that has others; yield the old block and its removed rows.

    Nothing is deleted: the caller deletes all old blocks. Damaged blocks are yielded as well, since their content is
    unknown.
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
