"""Keep the codes from which values are solved, in memory or in a file.

Enters: codes (n, c, m). Leaves: rows of them. Must not know: labels, weights, solvers.
"""

from __future__ import annotations

import copy
import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

COPY_ROWS = 4096
"""Rows in memory while a file is rewritten."""


class CodeStore:
    """Immutable store of codes; every change returns a new store.

    Parameters
    ----------
    folder : str or None
        Folder of an unnamed file for the rows, which disappears with the store; None keeps them in memory.

    Examples
    --------
    >>> store = CodeStore().extended(np.array([[[1]], [[2]]], dtype=np.uint8))
    >>> store = store.extended(np.array([[[3]]], dtype=np.uint8))
    >>> store.rows[np.array([2, 0])].ravel().tolist()
    [3, 1]
    """

    are_here = True
    """Whether this process or its files hold the rows."""

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        self._file = None if folder is None else _UnnamedFile(folder)
        self._blocks: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(len(block) for block in self._blocks)

    @property
    def rows(self) -> np.ndarray:
        """All rows (n, c, m), read-only; mapped from the file, if any."""
        if len(self._blocks) > 1:
            self._blocks = [np.concatenate(self._blocks)]
        return self._blocks[0] if self._blocks else np.zeros((0, 0, 0), dtype=np.uint8)

    def take(self, positions: np.ndarray) -> np.ndarray:
        """Return the rows at some positions (len, c, m)."""
        return self.rows[positions]

    @property
    def nbytes(self) -> int:
        """Bytes of the rows."""
        return sum(block.nbytes for block in self._blocks)

    def here(self) -> CodeStore:
        """Return a store with the same rows in this process or its files."""
        return self

    def detached(self) -> CodeStore:
        """Return a store with the same rows that can be pickled: it may map a file, but does not write to it."""
        return CodeStore().extended(self.rows)

    def summed(self, owner: Any, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return ``function(owner, *arguments)``, summed over all owners of rows; here there is one."""
        return function(owner, *arguments)

    def extended(self, codes: np.ndarray) -> CodeStore:
        """Return a store with ``codes`` (n, c, m) of the same c, m and dtype appended; nothing is copied.

        Raises
        ------
        OSError
            If the disk is full.
        """
        longer = copy.copy(self)
        if self._file is None:
            longer._blocks = [*self._blocks, codes]
        elif len(codes):
            if self._file.size() != self.nbytes:  # another store has appended to the file
                longer = self._copied(rows for _, rows in self._parts())
            longer._blocks = [longer._file.write(longer.nbytes, len(longer), codes)]  # type: ignore[union-attr]
        return longer

    def kept(self, mask: np.ndarray) -> CodeStore:
        """Return a store with the rows where ``mask`` (n,) is true."""
        return self._copied(rows[mask[start : start + len(rows)]] for start, rows in self._parts())

    def mapped(self, change: Callable[[np.ndarray], np.ndarray]) -> CodeStore:
        """Return a store with changed rows; ``change`` maps rows to as many rows."""
        return self._copied(change(rows) for _, rows in self._parts())

    def joined(self, other: CodeStore) -> CodeStore:
        """Return a store with these rows followed by those of another."""
        return self._copied(rows for store in (self, other) for _, rows in store._parts())

    def _parts(self) -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, len(self), COPY_ROWS):
            yield start, self.rows[start : start + COPY_ROWS]

    def _copied(self, blocks: Iterable[np.ndarray]) -> CodeStore:
        copied = CodeStore(self.folder)
        for block in blocks:
            copied = copied.extended(block)
        return copied


class _UnnamedFile:
    """File without a name, closed when the last reference to it disappears."""

    def __init__(self, folder: str) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - stays open
        weakref.finalize(self, self._file.close)

    def size(self) -> int:
        return self._file.seek(0, os.SEEK_END)

    def write(self, offset: int, n_before: int, codes: np.ndarray) -> np.ndarray:
        """Write rows at an offset in bytes, and return all rows up to the end as a memory map."""
        try:
            self._file.seek(offset)
            codes.tofile(self._file)
            self._file.flush()
        except OSError:
            self._file.truncate(offset)
            raise
        shape = (n_before + len(codes), *codes.shape[1:])
        return np.memmap(self._file, dtype=codes.dtype, mode="r", shape=shape)
