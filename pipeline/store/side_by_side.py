"""Rows of several networks side by side: each layer has its own store.

Enters: names of images, the networks that read each layer. Leaves: rows (n, f) of all layers, or which layers each
image lacks. Must not know: images, caches, what a layer is.

A layer that was read alone is reused when it is read together with others, and vice versa: its rows have the same bits
in both cases.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.store.embeddings import EmbeddingStore, Found, LostRowsError


@dataclass(frozen=True)
class FoundInAll:
    """The places of the rows of some images, in each store.

    Parameters
    ----------
    parts : tuple of Found
    """

    parts: tuple[Found, ...]

    @property
    def lacks(self) -> np.ndarray:
        """Whether each image lacks a row of each layer (n, layers), bool."""
        return np.stack([part.blocks < 0 for part in self.parts], axis=1)

    @property
    def missing(self) -> np.ndarray:
        """Positions of images that lack a row of any layer, ascending."""
        return np.flatnonzero(self.lacks.any(axis=1))

    @property
    def rounding(self) -> np.ndarray:
        """The largest rounding error of each stored row over all layers (n,), float64."""
        return np.max([part.rounding for part in self.parts], axis=0)


class SideBySide:
    """Rows whose columns come from one network or several.

    Parameters
    ----------
    folder : str or Path
        Folder of all networks.
    networks : sequence of mapping, JSON-able
        Everything that determines the columns of each network, in order.

    Examples
    --------
    >>> import tempfile
    >>> images = np.arange(8, dtype=np.uint64).reshape(2, 4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     both = SideBySide(folder, [{"layer": "a"}, {"layer": "b"}])
    ...     _ = both.stores[0].add(images, np.zeros((2, 3), np.float32), np.zeros(2))
    ...     _ = both.stores[1].add(images[:1], np.ones((1, 2), np.float32), np.zeros(1))
    ...     found = both.look_up(images)
    ...     found.missing, found.lacks.tolist(), list(both.windows(found, np.array([0])))
    (array([1]), [[False, False], [False, True]], [array([[0., 0., 0., 1., 1.]], dtype=float32)])
    """

    def __init__(self, folder: str | Path, networks: Sequence[Mapping[str, Any]]) -> None:
        self.folder = Path(folder)
        self.stores = tuple(EmbeddingStore(folder, network) for network in networks)

    def look_up(self, images: np.ndarray) -> FoundInAll:
        """Return the places of the rows of images (n, 4) in each store."""
        return FoundInAll(tuple(store.look_up(images) for store in self.stores))

    def windows(self, found: FoundInAll, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the embeddings of images that were found (n, f), in the order given, a few MiB at a time.

        Raises
        ------
        LostRowsError
            If a row differs from what was written, or its block is gone.
        OSError
            If the disk cannot be read.
        """
        if len(rows):
            pairs = list(zip(self.stores, found.parts, strict=True))
            n = min(store.window_rows(part) for store, part in pairs)
            for columns in zip(*(store.windows(part, rows, n) for store, part in pairs), strict=True):
                yield np.concatenate(columns, axis=1) if len(columns) > 1 else columns[0]

    def mend(self, error: LostRowsError) -> None:
        """Replace the block that an error names by one with its intact rows."""
        for store in self.stores:
            if error.path.parent == store.folder:
                store.mend(error.path)

    def clear_leftovers(self) -> None:
        """Delete temporary files of killed processes."""
        for store in self.stores:
            store.clear_leftovers()

    def take_remarks(self) -> list[str]:
        """Return remarks on unreadable blocks, one sentence each, and clear them."""
        remarks = [remark for store in self.stores for remark in store.remarks]
        for store in self.stores:
            store.remarks = []
        return remarks
