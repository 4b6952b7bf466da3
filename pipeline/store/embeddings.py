"""Look up, read and add rows of one network by their images.

Enters: names of images, finished rows (n, f). Leaves: the same rows bit for bit, or which of them are missing.
Must not know: images, networks, caches.

The blocks of a network are in a separate folder, and each names its rows. Look-ups read the blocks themselves, so no
index can disagree with them. Any block may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.io import remove_leftovers
from pipeline.store.blocks import (
    SUFFIX,
    DamagedBlockError,
    Head,
    OtherFormatError,
    read_head,
    read_rows,
    write_block,
)
from pipeline.store.names import places_among

_WINDOW_BYTES = 2**23
"""Size of rows that are read together, in the order of the blocks."""


class LostRowsError(OSError):
    """Rows that were found in the store, but are damaged or missing when they are read.

    Parameters
    ----------
    path : Path
        The block.
    reason : str
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(reason)
        self.path = path


@dataclass(frozen=True)
class Found:
    """The places of the rows of some images.

    Parameters
    ----------
    blocks : ndarray of shape (n,), int32
        Position in ``paths``; −1 if the store has no row.
    positions : ndarray of shape (n,), int32
        The row's place in its block.
    rounding : ndarray of shape (n,), float64
        The largest difference between the network's output and its stored value.
    paths : tuple of Path
    """

    blocks: np.ndarray
    positions: np.ndarray
    rounding: np.ndarray
    paths: tuple[Path, ...]

    @property
    def missing(self) -> np.ndarray:
        """Positions of images without a row, ascending."""
        return np.flatnonzero(self.blocks < 0)


class EmbeddingStore:
    """The rows of one network; any number of processes may read and add at once.

    Parameters
    ----------
    folder : str or Path
        Folder of all networks.
    network : mapping, JSON-able
        Everything except the image that determines a row: another network never uses these rows.

    Attributes
    ----------
    remarks : list of str
        Remarks on unreadable blocks, one sentence each.

    Examples
    --------
    >>> import tempfile
    >>> images = np.arange(8, dtype=np.uint64).reshape(2, 4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = EmbeddingStore(folder, {"weights_sha256": "abc"})
    ...     path = store.add(images[:1], np.ones((1, 3), np.float32), np.zeros(1))
    ...     found = store.look_up(images)
    ...     found.missing, store.read(found, np.array([0]))
    (array([1]), array([[1., 1., 1.]], dtype=float32))
    """

    def __init__(self, folder: str | Path, network: Mapping[str, Any]) -> None:
        self.network = json.loads(json.dumps(network))
        self.folder = Path(folder) / network_name(network)
        self.remarks: list[str] = []
        self._heads: dict[Path, Head] = {}

    def look_up(self, images: np.ndarray) -> Found:
        """Return the places of the rows of images (n, 4), from the current blocks."""
        self._read_heads()
        paths = tuple(sorted(self._heads))
        ends = np.cumsum([0, *(len(self._heads[path].records) for path in paths)])
        known, errors = np.empty((ends[-1], 4), "<u8"), np.zeros(ends[-1] + 1)
        for path, start, stop in zip(paths, ends, ends[1:]):
            records = self._heads[path].records
            known[start:stop], errors[start:stop] = records["image"], records["rounding"]
        places = places_among(images, known)
        blocks = np.searchsorted(ends, places, side="right") - 1
        positions = np.where(places < 0, -1, places - ends[blocks])
        return Found(blocks.astype(np.int32), positions.astype(np.int32), errors[places], paths)

    def read(self, found: Found, rows: np.ndarray) -> np.ndarray:
        """Return the stored embeddings of some found images (n, f).

        Raises
        ------
        LostRowsError
            If a row differs from what was written, or its block is gone.
        OSError
            If the disk cannot be read.
        """
        blocks, positions = found.blocks[rows], found.positions[rows]
        order = np.lexsort((positions, blocks))
        first = self._heads[found.paths[blocks[0]]]
        out = np.empty((len(rows), first.n_features), first.dtype)
        starts = np.flatnonzero(np.diff(blocks[order], prepend=-1))
        for start, stop in zip(starts, [*starts[1:], len(rows)]):
            here = order[start:stop]
            out[here] = self._read_block(found.paths[blocks[here[0]]], positions[here])
        return out

    def windows(self, found: Found, rows: np.ndarray, n: int | None = None) -> Iterator[np.ndarray]:
        """Yield the embeddings of images that were found, in the order given, n at a time; see :meth:`read`.

        Without n, a few MiB at a time.
        """
        if len(rows):
            n = n or self.window_rows(found)
            for start in range(0, len(rows), n):
                yield self.read(found, rows[start : start + n])

    def window_rows(self, found: Found) -> int:
        """Return the number of rows in a few MiB, given at least one found image."""
        return max(1, _WINDOW_BYTES // self._heads[found.paths[found.blocks.max()]].row_bytes)

    def add(self, images: np.ndarray, rows: np.ndarray, rounding: np.ndarray) -> Path:
        """Store rows (n, f) of images (n, 4); after this returns they survive a killed process."""
        return write_block(self.folder, self.network, images, rows, rounding)

    def mend(self, path: Path) -> None:
        """Replace a block by one with its intact rows; if the block is missing, do nothing."""
        if not path.is_file():
            return
        try:
            head = read_head(path)
            out = np.empty((len(head.records), head.n_features), head.dtype)
            whole = read_rows(path, head, np.arange(len(head.records)), out)
        except DamagedBlockError:
            whole = np.zeros(0, bool)
        except FileNotFoundError:
            return
        if whole.any():
            records = head.records[whole]
            if self.add(records["image"], out[whole], records["rounding"]) == path:
                return
        path.unlink(missing_ok=True)

    def clear_leftovers(self) -> None:
        """Delete temporary files of killed processes."""
        for leftover in self.folder.glob(f".*{SUFFIX}.*.part"):
            remove_leftovers(self.folder / f"{leftover.name[1:].rpartition(SUFFIX)[0]}{SUFFIX}")

    def _read_block(self, path: Path, positions: np.ndarray) -> np.ndarray:
        head = self._heads[path]
        out = np.empty((len(positions), head.n_features), head.dtype)
        try:
            whole = read_rows(path, head, positions, out)
        except FileNotFoundError as error:
            raise LostRowsError(path, f"block {path.name} of the store is missing") from error
        if not whole.all():
            raise LostRowsError(path, f"{(~whole).sum()} rows of block {path.name} in the store are damaged")
        return out

    def _read_heads(self) -> None:
        """Read the headers of new blocks, and drop those of deleted blocks."""
        there = set(self.folder.glob(f"*{SUFFIX}"))
        for path in [path for path in self._heads if path not in there]:
            del self._heads[path]
        for path in sorted(there - set(self._heads)):
            try:
                head = read_head(path)
            except FileNotFoundError:
                continue
            except OtherFormatError as error:
                self.remarks.append(f"{error}: left as it is; its rows are computed again.")
                continue
            except DamagedBlockError as error:
                self.remarks.append(f"{error}: deleted; its rows are computed again.")
                path.unlink(missing_ok=True)
                continue
            if head.network == self.network:
                self._heads[path] = head
            else:
                self.remarks.append(f"block {path.name} is from another network: left as it is, and not used.")


def network_name(network: Mapping[str, Any]) -> str:
    """Return the name of the folder that holds a network's rows.

    Examples
    --------
    >>> network_name({"side": 96, "weights": "ab"}) == network_name({"weights": "ab", "side": 96})
    True
    """
    text = json.dumps(network, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
