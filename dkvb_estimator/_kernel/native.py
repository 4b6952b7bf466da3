"""Bindings of the compiled kernel, if the package was built with one.

Enters: NumPy arrays in C order. Leaves: heads (n, c · d), codes (n, c, m). Must not know: torch, the meaning of keys.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

SMALL_WORK = 4_000_000
"""Multiply-adds below which starting threads takes longer than the work: a tenth of a millisecond."""
MIN_BOXES, MAX_LOOKED_INTO, MAX_BOXED_DIM = 16, 0.5, 16
"""Scoring all keys is faster with fewer panels of keys, if a search visits a larger part of them, or with more
coordinates (measured)."""
PROBED_HEADS, SMALL_BATCH = 4, 64
MAX_GRID_KEYS, KEYS_A_ROW, MAX_LISTED = 512, 4, 0.5
"""A grid is slower than boxes or a scan with more keys, with more keys per row of a batch, or if cells list more than
this part of the keys (measured)."""
BUILDS = {4: "_kernel_v4", 3: "_kernel_v3"}
"""Builds by the x86-64 level that they need; the plain ``_kernel`` runs everywhere."""


def load_kernel(folder: Path = Path(__file__).parent) -> ctypes.CDLL | None:
    """Return the most capable build that this processor runs, or None if there is none."""
    plain = open_kernel("_kernel", folder)
    if plain is None:
        logger.info(
            "dkvb_estimator is installed without its compiled kernel, so torch searches for the nearest keys, which "
            "is several times slower. Install a C++ compiler, then install the package again."
        )
        return None
    level = int(plain.dkvb_level())
    capable = (open_kernel(name, folder) for needed, name in BUILDS.items() if needed <= level)
    return next((library for library in capable if library is not None), plain)


def open_kernel(name: str, folder: Path = Path(__file__).parent) -> ctypes.CDLL | None:
    """Return one build of the kernel, or None if it is missing or cannot be loaded."""
    for suffix in EXTENSION_SUFFIXES:
        try:
            library = ctypes.CDLL(str(folder / f"{name}{suffix}"))
            library.dkvb_panel.restype = library.dkvb_cells.restype = library.dkvb_parts.restype = ctypes.c_int64
            pointer, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
            library.dkvb_nearest.argtypes = [pointer] * 5 + [size] * 4 + [number] * 3
            library.dkvb_nearest_boxed.argtypes = [pointer] * 8 + [size] * 4 + [number] * 2
            library.dkvb_arrange.argtypes = [pointer] * 5 + [size] * 3 + [number] * 2
            library.dkvb_nearest_in_grid.argtypes = [pointer] * 8 + [size] * 3 + [number] * 2
            library.dkvb_divide.argtypes = [pointer] * 5 + [size] * 2 + [number] * 2
            library.dkvb_list.argtypes = [pointer] * 2 + [size] * 2
            library.dkvb_project.argtypes = [pointer] * 3 + [size] * 2 + [number] * 2
            library.dkvb_nearest.restype = library.dkvb_nearest_boxed.restype = library.dkvb_project.restype = None
            library.dkvb_nearest_in_grid.restype = library.dkvb_divide.restype = library.dkvb_list.restype = None
            library.dkvb_sides.restype, library.dkvb_sides.argtypes = size, [size]
            library.dkvb_arrange.restype = ctypes.c_double
        except (OSError, AttributeError):
            continue
        return library
    return None


KERNEL = load_kernel()


def panels(vectors: np.ndarray, panel: int) -> np.ndarray:
    """Return vectors (..., j, d) in the kernel's layout (..., ⌈j / panel⌉, d, panel), padded with zeros."""
    *before, count, length = vectors.shape
    filled = np.zeros((*before, -(-count // panel), length, panel), dtype=np.float32)
    whole = count // panel
    filled[..., :whole, :, :] = vectors[..., : whole * panel, :].reshape(*before, whole, panel, length).swapaxes(-1, -2)
    if count % panel:
        filled[..., whole, :, : count % panel] = vectors[..., whole * panel :, :].swapaxes(-1, -2)
    return filled


def threads_for(work: int, n_threads: int) -> int:
    """Return the number of threads for some number of multiply-adds."""
    return 1 if work < SMALL_WORK else n_threads


def addresses(*arrays: np.ndarray, dtype: type[np.generic] = np.float32) -> list[int]:
    """Return the addresses of arrays; the kernel does not check their type and order.

    Raises
    ------
    TypeError
        If an array has another type or order.
    """
    for array in arrays:
        if array.dtype != dtype or not array.flags.c_contiguous:
            order = "C" if array.flags.c_contiguous else "another"
            raise TypeError(
                f"array holds {array.dtype} in {order} order; expected {np.dtype(dtype)} in C order. Convert "
                "it with np.ascontiguousarray."
            )
    return [array.ctypes.data for array in arrays]


class NativeProjection:
    """Projection in the kernel's layout; sums run over features in order, so a row has the same bits in every batch.

    Parameters
    ----------
    kernel : ctypes.CDLL
    projection : ndarray of shape (f, c * d), float32
    """

    def __init__(self, kernel: ctypes.CDLL, projection: np.ndarray) -> None:
        self._kernel, self._shape = kernel, projection.shape
        self._panels = panels(-projection.T, int(kernel.dkvb_panel()))

    def project(self, rows: np.ndarray, heads: np.ndarray, n_threads: int) -> None:
        """Project rows (n, f) into heads (n, c * d), float32 and contiguous, without holding the GIL."""
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        n_features, n_columns = self._shape
        if heads.size:
            sizes = (len(rows), n_columns, n_features, threads_for(rows.size * n_columns, n_threads))
            self._kernel.dkvb_project(*addresses(rows, self._panels, heads), *sizes)


class NativeKeys:
    """Nearest keys by the kernel: in a grid or in boxes if coordinates are few, otherwise by scoring all keys.

    Parameters
    ----------
    kernel : ctypes.CDLL
    centred : ndarray of shape (c, j, d), float32
        Keys minus the centre of their head.
    half_norms : ndarray of shape (c, j), float32
        Half the squared length of each key, infinite for keys that must not be selected.
    centres : ndarray of shape (c, d), float32
    """

    def __init__(self, kernel: ctypes.CDLL, centred: np.ndarray, half_norms: np.ndarray, centres: np.ndarray) -> None:
        self._kernel, self._half_norms = kernel, np.ascontiguousarray(half_norms, dtype=np.float32)
        self._made: dict[Callable[..., Any], Any] = {}
        self._centred = np.ascontiguousarray(centred, dtype=np.float32)
        self._centres, self._searched = np.ascontiguousarray(centres, dtype=np.float32), 0

    @property
    def _all(self) -> PackedKeys:
        packed: PackedKeys = self._once(PackedKeys)
        return packed

    @property
    def _boxed(self) -> BoxedKeys | None:
        boxed: BoxedKeys | None = self._once(box_keys)
        return boxed

    @property
    def _gridded(self) -> GriddedKeys | None:
        gridded: GriddedKeys | None = self._once(grid_keys)
        return gridded

    def _once(self, make: Callable[..., Any]) -> Any:
        """Cache a structure built from the keys. There is no lock, since a fork could leave it held: two threads may
        both build it, and the first stays, because a search of another thread may be reading its arrays by address.
        """
        if make not in self._made:
            self._made.setdefault(make, make(self._kernel, self._centred, self._half_norms))
        return self._made[make]

    def _arranged_for(self, n_rows: int, n_selected: int) -> GriddedKeys | BoxedKeys | None:
        """Return a grid or boxes once they pay off: building them takes as long as searching for about j rows.

        Small batches never build them, to keep their latency low.
        """
        if n_selected > 1 or self._searched < self._centred.shape[1]:
            self._searched += n_rows if n_selected == 1 and n_rows >= SMALL_BATCH else 0
            return None
        enough = n_rows >= max(SMALL_BATCH, self._centred.shape[1] / KEYS_A_ROW)
        return (self._gridded if enough else None) or self._boxed

    def nearest(self, heads: np.ndarray, n_selected: int, n_threads: int) -> np.ndarray:
        """Return the nearest keys (n, c, m), uint16, nearest first, without holding the GIL.

        Parameters
        ----------
        heads : ndarray of shape (n, c, d), float32
        n_selected : int
            m, at most 16.
        n_threads : int
        """
        heads = np.ascontiguousarray(heads, dtype=np.float32)
        n_heads, n_keys, key_dim = self._centred.shape
        codes = np.empty((len(heads), n_heads, n_selected), dtype=np.uint16)
        if codes.size:
            search, arrays, sizes, last = self._search_for(len(heads), n_selected)
            n_threads = threads_for(heads.size * n_keys, n_threads)
            outer = *addresses(heads), *arrays, *addresses(codes, dtype=np.uint16)
            search(*outer, len(heads), n_heads, n_keys, *sizes, key_dim, *last, n_threads)
        return codes

    def _search_for(self, n_rows: int, n_selected: int) -> tuple[Callable[..., None], list[int], list[int], list[int]]:
        """Return a search function of the kernel, its arrays, their sizes, and its last arguments."""
        arranged = self._arranged_for(n_rows, n_selected)
        if isinstance(arranged, GriddedKeys):
            arrays = addresses(self._centred, self._half_norms, self._centres, arranged.cuts)
            arrays += [*addresses(arranged.starts, dtype=np.int64), *addresses(arranged.names, dtype=np.uint16)]
            return self._kernel.dkvb_nearest_in_grid, arrays, [], []
        packed = arranged.packed if arranged else self._all
        arrays, sizes = addresses(packed.keys, packed.half_norms, self._centres), [packed.half_norms.shape[1]]
        if arranged is None:
            return self._kernel.dkvb_nearest, arrays, sizes, [n_selected]
        arrays += [*addresses(arranged.sides), *addresses(arranged.names, dtype=np.int32), *addresses(arranged.reaches)]
        return self._kernel.dkvb_nearest_boxed, arrays, sizes, []


class PackedKeys:
    """Keys in panels, padded with keys that cannot be selected."""

    def __init__(self, kernel: ctypes.CDLL, centred: np.ndarray, half_norms: np.ndarray) -> None:
        panel = int(kernel.dkvb_panel())
        self.keys = panels(centred, panel)
        n_heads, n_panels, _, _ = self.keys.shape
        self.half_norms = np.full((n_heads, n_panels * panel), np.inf, dtype=np.float32)
        self.half_norms[:, : half_norms.shape[1]] = half_norms


@dataclass(frozen=True)
class BoxedKeys:
    """Keys in panels of neighbours, with the bounding box of each panel (see ``boxes.h``).

    Attributes
    ----------
    packed : PackedKeys
    names : ndarray of shape (c, padded j), int32
        The key at each place.
    sides : ndarray of float32
        Lower and upper sides of the boxes.
    reaches : ndarray of shape (c,), float32
        Length of the longest key.
    """

    packed: PackedKeys
    names: np.ndarray
    sides: np.ndarray
    reaches: np.ndarray


def box_keys(kernel: ctypes.CDLL, centred: np.ndarray, half_norms: np.ndarray) -> BoxedKeys | None:
    """Arrange keys (c, j, d) in boxes, or return None if the first heads show that scoring all keys is faster."""
    n_panels = -(-centred.shape[1] // int(kernel.dkvb_panel()))
    if n_panels < MIN_BOXES or centred.shape[2] > MAX_BOXED_DIM:
        return None
    half_norms = np.ascontiguousarray(half_norms, dtype=np.float32)
    *_, looked_into = arrange(kernel, centred[:PROBED_HEADS], half_norms[:PROBED_HEADS])
    if looked_into > MAX_LOOKED_INTO:
        return None
    names, sides, reaches, _ = arrange(kernel, centred, half_norms)
    order = names[:, : centred.shape[1]]
    there = np.take_along_axis(centred, order[:, :, None], axis=1), np.take_along_axis(half_norms, order, axis=1)
    return BoxedKeys(PackedKeys(kernel, *there), names, sides, reaches)


def arrange(
    kernel: ctypes.CDLL, centred: np.ndarray, half_norms: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return names, sides and reaches of :class:`BoxedKeys`, and the share of boxes that a search visits."""
    (n_heads, n_keys, key_dim), panel = centred.shape, int(kernel.dkvb_panel())
    padded = -(-n_keys // panel) * panel
    names = np.empty((n_heads, padded), dtype=np.int32)
    sides = np.empty((n_heads, kernel.dkvb_sides(padded), key_dim), dtype=np.float32)
    reaches = np.empty(n_heads, dtype=np.float32)
    pointers = [*addresses(centred, half_norms), *addresses(names, dtype=np.int32), *addresses(sides, reaches)]
    looked_into = kernel.dkvb_arrange(*pointers, n_heads, n_keys, padded, key_dim, os.cpu_count() or 1)
    return names, sides, reaches, looked_into


@dataclass(frozen=True)
class GriddedKeys:
    """Keys that can be nearest to a sample in each cell of a head (see ``grid.h``).

    Attributes
    ----------
    cuts : ndarray of shape (c, d, parts + 1), float32
        Boundaries of the cells along each coordinate.
    starts : ndarray of shape (c * cells + 1,), int64
        Start of the list of each cell in ``names``.
    names : ndarray of uint16
        Keys, ascending in every list.
    """

    cuts: np.ndarray
    starts: np.ndarray
    names: np.ndarray


def grid_keys(kernel: ctypes.CDLL, centred: np.ndarray, half_norms: np.ndarray) -> GriddedKeys | None:
    """List the keys (c, j, d) of every cell, or return None if boxes or scoring all keys are faster."""
    n_heads, n_keys, key_dim = centred.shape
    n_cells, parts = kernel.dkvb_cells(), kernel.dkvb_parts(key_dim)
    if not parts or n_keys > MAX_GRID_KEYS:
        return None
    cuts = np.empty((n_heads, key_dim, parts + 1), dtype=np.float32)
    members = np.empty((n_heads, n_cells, -(-n_keys // 32)), dtype=np.uint32)
    counts = np.empty((n_heads, n_cells), dtype=np.int64)
    pointers = [*addresses(centred, half_norms, cuts), *addresses(members, dtype=np.uint32)]
    threads = os.cpu_count() or 1
    kernel.dkvb_divide(*pointers, *addresses(counts, dtype=np.int64), n_heads, n_keys, key_dim, threads)
    starts = np.concatenate([[0], np.cumsum(counts)])
    if starts[-1] > MAX_LISTED * n_keys * counts.size:
        return None
    names = np.empty(starts[-1], dtype=np.uint16)
    kernel.dkvb_list(pointers[-1], *addresses(names, dtype=np.uint16), n_heads * n_cells, n_keys)
    return GriddedKeys(cuts, starts, names)
