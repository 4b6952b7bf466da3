"""Rows of several networks side by side: the columns of each layer lie in a store of its own.

Enters: names of images, the networks that read each layer. Leaves: rows (n, f) of all layers, or which of them each
image lacks. Must not know: images, caches, what a layer is.

A layer that was read alone before is known to those that are read together with others, and the other way round: a
row of a layer has the same bits in both cases.
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
    """Say where the rows of some images lie, in each store.

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
        """The largest difference that storing a row made, over all layers (n,), float64."""
        return np.max([part.rounding for part in self.parts], axis=0)


class SideBySide:
    """Hold rows whose columns come from several networks, or from one.

    Parameters
    ----------
    folder : str or Path
        Of all networks.
    networks : sequence of mapping, JSON-able
        What decides the columns of each, in order.

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
        """Return where the rows of images (n, 4) lie in each store."""
        return FoundInAll(tuple(store.look_up(images) for store in self.stores))

    def windows(self, found: FoundInAll, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the embeddings of images that were found (n, f), in the order given, a few MiB at a time.

        Raises
        ------
        LostRowsError
            If a row differs from what was written, or its block is gone.
        OSError
            If the disk does not answer.
        """
        if len(rows):
            pairs = list(zip(self.stores, found.parts, strict=True))
            n = min(store.window_rows(part) for store, part in pairs)
            for columns in zip(*(store.windows(part, rows, n) for store, part in pairs), strict=True):
                yield np.concatenate(columns, axis=1) if len(columns) > 1 else columns[0]

    def mend(self, error: LostRowsError) -> None:
        """Replace the block that an error names by one with those of its rows that are as written."""
        for store in self.stores:
            if error.path.parent == store.folder:
                store.mend(error.path)

    def clear_leftovers(self) -> None:
        """Delete what killed processes were still writing."""
        for store in self.stores:
            store.clear_leftovers()

    def take_remarks(self) -> list[str]:
        """Return what was found that no row can be read from, a sentence each, once."""
        remarks = [remark for store in self.stores for remark in store.remarks]
        for store in self.stores:
            store.remarks = []
        return remarks
