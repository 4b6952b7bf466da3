"""Keep the codes that ``ridge`` solves from, in memory or in a file.

Enters: codes (n, c, m). Leaves: rows of them. Must not know: labels, weights, what is solved.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator

import numpy as np

COPY_ROWS = 4096
"""Rows that are held in memory while a file is rewritten."""


class CodeStore:
    """Append rows of codes, and read any of them.

    Parameters
    ----------
    folder : str or None
        Where an unnamed file holds the rows, gone when the store is; None keeps them in memory.

    Examples
    --------
    >>> store = CodeStore()
    >>> store.append(np.array([[[1]], [[2]]], dtype=np.uint8))
    >>> store.append(np.array([[[3]]], dtype=np.uint8))
    >>> store.rows[np.array([2, 0])].ravel().tolist()
    [3, 1]
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        self._file = None if folder is None else tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open while it lives
        self._blocks: list[np.ndarray] = []
        if self._file is not None:
            weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return sum(len(block) for block in self._blocks)

    @property
    def rows(self) -> np.ndarray:
        """All rows (n, c, m), mapped from the file where there is one; not to be written."""
        if len(self._blocks) > 1:
            self._blocks = [np.concatenate(self._blocks)]
        return self._blocks[0] if self._blocks else np.zeros((0, 0, 0), dtype=np.uint8)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows, wherever they are."""
        return sum(block.nbytes for block in self._blocks)

    def append(self, codes: np.ndarray) -> None:
        """Add rows (n, c, m); every call agrees in c, m and dtype.

        Raises
        ------
        OSError
            If the file's disk is full; the rows are then those from before.
        """
        if self._file is None:
            self._blocks.append(codes)
        elif len(codes):
            n_before = len(self)
            self._file.seek(n_before * codes[0].nbytes)
            codes.tofile(self._file)
            self._file.flush()
            shape = (n_before + len(codes), *codes.shape[1:])
            self._blocks = [np.memmap(self._file, dtype=codes.dtype, mode="r", shape=shape)]

    def kept(self, mask: np.ndarray) -> CodeStore:
        """Return a store of the rows where ``mask`` (n,) holds."""
        return self._copied(rows[mask[start : start + len(rows)]] for start, rows in self._parts())

    def mapped(self, change: Callable[[np.ndarray], np.ndarray]) -> CodeStore:
        """Return a store of changed rows; ``change`` maps some rows to as many."""
        return self._copied(change(rows) for _, rows in self._parts())

    def joined(self, other: CodeStore) -> CodeStore:
        """Return a store of these rows and then another's."""
        return self._copied(rows for store in (self, other) for _, rows in store._parts())

    def _parts(self) -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, len(self), COPY_ROWS):
            yield start, self.rows[start : start + COPY_ROWS]

    def _copied(self, blocks: Iterable[np.ndarray]) -> CodeStore:
        copied = CodeStore(self.folder)
        for block in blocks:
            copied.append(block)
        return copied
