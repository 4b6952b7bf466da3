"""The prior on values: a value is a linear combination of a few functions of its key's coordinates.

Enters: keys (c, j, d). Leaves: a row of features for each code. Must not know: labels, solvers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEVELS = 63
"""Features are integers from -63 to 63."""
EXACT_ROWS = 4096
"""Number of rows for which float32 sums products without rounding: 4096 · 63² < 2²⁴."""


@dataclass(frozen=True, eq=False)
class Prior:
    """Functions of a key in which values are linear: d coordinates and d curves.

    The curves are the length of the key, relative to the centre of its head, and the products of neighbouring
    coordinates. A normal prior on the coefficients of these functions is a normal prior on values under which
    neighbouring keys have similar values. A head has 2 · d coefficients instead of j values, so that the statistics of
    all rows fit into one matrix (w, w), w = 2 · c · d.

    Parameters
    ----------
    table : ndarray of shape (c, j, 2 * d), int8
        Coordinates, then curves, in ``steps``.
    steps : ndarray of shape (w,), float64
        Unit of each feature.

    Examples
    --------
    >>> keys = np.array([[[-1.0, 1.0], [0.5, 0.0], [2.0, 0.0]]], dtype=np.float32)
    >>> prior = Prior.of_keys(keys, np.zeros((1, 2)), np.array([2.0]))
    >>> (prior.features(np.array([[[0]], [[2]]])) * prior.steps).round(1).tolist()
    [[-1.0, 1.0, 1.4, -1.0], [2.0, 0.0, 2.0, 0.0]]
    """

    table: np.ndarray
    steps: np.ndarray

    @classmethod
    def of_keys(cls, keys: np.ndarray, centres: np.ndarray, reaches: np.ndarray) -> Prior:
        """Evaluate the functions at the keys.

        Parameters
        ----------
        keys : ndarray of shape (c, j, d)
        centres : ndarray of shape (c, d)
        reaches : ndarray of shape (c,)
            Largest magnitude of a coordinate around the centre when the keys were placed.
        """
        (n_heads, _, key_dim), reach = keys.shape, np.where(reaches > 0, reaches, 1).astype(np.float64)
        places = (keys.astype(np.float64) - centres[:, None]) / reach[:, None, None]
        lengths = np.linalg.norm(places, axis=2, keepdims=True) / np.sqrt(key_dim)
        products = 2 * places[:, :, :-1] * places[:, :, 1:]
        levels = np.concatenate([places, lengths, products], axis=2)
        table = np.rint(LEVELS * levels.clip(-1, 1)).astype(np.int8)
        steps = np.ones((n_heads, 2 * key_dim)) * (reach / LEVELS)[:, None]
        steps[:, key_dim] *= np.sqrt(key_dim)
        return cls(table, steps.ravel())

    @property
    def width(self) -> int:
        """Number of features per row, w."""
        return len(self.steps)

    @property
    def coordinates(self) -> np.ndarray:
        """Integer coordinates of keys (c, j, d)."""
        return self.table[:, :, : self.table.shape[2] // 2]

    @property
    def curved(self) -> np.ndarray:
        """Which features are curves (w,), bool."""
        n_heads, _, functions = self.table.shape
        return np.tile(np.arange(functions) >= functions // 2, n_heads)

    def features(self, codes: np.ndarray) -> np.ndarray:
        """Return the features (n, w), int8, of codes (n, c, m); the rounded mean if a head selects several keys."""
        n, n_heads, n_selected = codes.shape
        _, n_keys, functions = self.table.shape
        cells = codes + n_keys * np.arange(n_heads)[:, None]
        if n_selected == 1:  # one look-up per head for all its functions
            whole = self.table.reshape(-1, functions).view(f"V{functions}")
            return np.take(whole, cells.reshape(n, n_heads)).view(np.int8)
        mean = self.table.reshape(-1, functions)[cells].mean(axis=2, dtype=np.float32)
        return np.rint(mean).astype(np.int8).reshape(n, n_heads * functions)

    def values(self, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """Return the values (c, j, k), float32, with mean ``features @ weights + bias`` over heads.

        Parameters
        ----------
        weights : ndarray of shape (w, k)
        bias : ndarray of shape (k,)
        """
        n_heads, _, functions = self.table.shape
        parts = (n_heads * weights).reshape(n_heads, functions, -1).astype(np.float32)
        return self.table.astype(np.float32) @ parts + bias.astype(np.float32)
