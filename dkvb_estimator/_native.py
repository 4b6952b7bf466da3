"""Load the compiled kernel, where the package was built with one.

Enters: NumPy arrays in C order. Leaves: heads (n, c · d), codes (n, c, m). Must not know: torch, what keys mean.
"""

from __future__ import annotations

import ctypes
import logging
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy as np

logger = logging.getLogger(__name__)

SMALL_WORK = 4_000_000
"""Multiply-adds below which threads would take longer to start than to work: a tenth of a millisecond."""
BUILDS = {4: "_kernel_v4", 3: "_kernel_v3"}
"""Builds by the level of x86-64 that they need; the plain ``_kernel`` runs everywhere."""


def load_kernel(folder: Path = Path(__file__).parent) -> ctypes.CDLL | None:
    """Return the most capable build that this processor runs, or None where there is none."""
    plain = open_kernel("_kernel", folder)
    if plain is None:
        logger.info(
            "dkvb_estimator was installed without its compiled kernel: nearest keys are found by torch, several times "
            "slower. Install a C++ compiler, then install the package again."
        )
        return None
    level = int(plain.dkvb_level())
    capable = (open_kernel(name, folder) for needed, name in BUILDS.items() if needed <= level)
    return next((library for library in capable if library is not None), plain)


def open_kernel(name: str, folder: Path = Path(__file__).parent) -> ctypes.CDLL | None:
    """Return one build of the kernel, or None where it is absent or cannot be loaded."""
    for suffix in EXTENSION_SUFFIXES:
        try:
            library = ctypes.CDLL(str(folder / f"{name}{suffix}"))
            library.dkvb_panel.restype = ctypes.c_int64
            pointer, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
            library.dkvb_nearest.argtypes = [pointer] * 5 + [size] * 4 + [number] * 3
            library.dkvb_project.argtypes = [pointer] * 3 + [size] * 2 + [number] * 2
            library.dkvb_nearest.restype = library.dkvb_project.restype = None
        except (OSError, AttributeError):
            continue
        return library
    return None


KERNEL = load_kernel()


def panels(vectors: np.ndarray, panel: int) -> np.ndarray:
    """Return vectors (..., j, d) as the kernel reads them: (..., ⌈j / panel⌉, d, panel), zeros where vectors end."""
    *before, count, length = vectors.shape
    filled = np.zeros((*before, -(-count // panel), length, panel), dtype=np.float32)
    whole = count // panel
    filled[..., :whole, :, :] = vectors[..., : whole * panel, :].reshape(*before, whole, panel, length).swapaxes(-1, -2)
    if count % panel:
        filled[..., whole, :, : count % panel] = vectors[..., whole * panel :, :].swapaxes(-1, -2)
    return filled


def threads_for(work: int, n_threads: int) -> int:
    """Return how many threads some multiply-adds are worth."""
    return 1 if work < SMALL_WORK else n_threads


class NativeProjection:
    """Hold a projection as the kernel reads it. A head is summed over features in order: the same bits in every batch.

    Parameters
    ----------
    kernel : ctypes.CDLL
    projection : ndarray of shape (f, c * d), float32
    """

    def __init__(self, kernel: ctypes.CDLL, projection: np.ndarray) -> None:
        self._kernel, self._shape = kernel, projection.shape
        self._panels = panels(-projection.T, int(kernel.dkvb_panel()))

    def project(self, rows: np.ndarray, n_threads: int) -> np.ndarray:
        """Return rows (n, f), float32, as heads (n, c * d), float32; the interpreter is free meanwhile."""
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        n_features, n_columns = self._shape
        heads = np.empty((len(rows), n_columns), dtype=np.float32)
        if heads.size:
            sizes = (len(rows), n_columns, n_features, threads_for(rows.size * n_columns, n_threads))
            self._kernel.dkvb_project(*(array.ctypes.data for array in (rows, self._panels, heads)), *sizes)
        return heads


class NativeKeys:
    """Hold keys as the kernel reads them: centred, coordinates first, padded with keys that are never selected.

    Parameters
    ----------
    kernel : ctypes.CDLL
    centred : ndarray of shape (c, j, d), float32
        Keys less the centre of their head.
    half_norms : ndarray of shape (c, j), float32
        Half the squared length of each, infinite where it may not be selected.
    centres : ndarray of shape (c, d), float32
    """

    def __init__(self, kernel: ctypes.CDLL, centred: np.ndarray, half_norms: np.ndarray, centres: np.ndarray) -> None:
        n_heads, n_keys, _ = centred.shape
        panel = int(kernel.dkvb_panel())
        padded = -(-n_keys // panel) * panel
        self._kernel, self._shape, self._padded = kernel, centred.shape, padded
        self._keys = panels(centred, panel)
        self._half_norms = np.full((n_heads, padded), np.inf, dtype=np.float32)
        self._half_norms[:, :n_keys] = half_norms
        self._centres = np.ascontiguousarray(centres, dtype=np.float32)

    def nearest(self, heads: np.ndarray, n_selected: int, n_threads: int) -> np.ndarray:
        """Return the nearest keys (n, c, m), uint16, nearest first; the interpreter is free meanwhile.

        Parameters
        ----------
        heads : ndarray of shape (n, c, d), float32
        n_selected : int
            m, at most 16.
        n_threads : int
        """
        heads = np.ascontiguousarray(heads, dtype=np.float32)
        n_heads, n_keys, key_dim = self._shape
        codes = np.empty((len(heads), n_heads, n_selected), dtype=np.uint16)
        if codes.size:
            n_threads = threads_for(heads.size * n_keys, n_threads)
            arrays = (heads, self._keys, self._half_norms, self._centres, codes)
            sizes = (len(heads), n_heads, n_keys, self._padded, key_dim, n_selected, n_threads)
            self._kernel.dkvb_nearest(*(array.ctypes.data for array in arrays), *sizes)
        return codes
