"""What values may look like: sums of a few functions of a key's coordinates, shared by neighbouring keys.

Enters: keys (c, j, d). Leaves: a row of features for each code. Must not know: labels, what is solved.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEVELS = 63
"""Features are whole numbers from -63 to 63."""
EXACT_ROWS = 4096
"""Rows whose products float32 sums without rounding: 4096 · 63² < 2²⁴."""


@dataclass(frozen=True, eq=False)
class Prior:
    """Functions of a key in which values are linear: coordinates and curves, d of each.

    With u the key's place around the centre of its head, the curves are its length and the products of neighbouring
    coordinates. A normal prior on what these functions are multiplied by is a normal prior on values, in which near
    keys of a head have nearly equal values. It takes 2 · d functions a head instead of j values, so that what rows
    teach fits into one matrix (w, w), w = 2 · c · d.

    Parameters
    ----------
    table : ndarray of shape (c, j, 2 * d), int8
        Coordinates, then curves, in ``steps``.
    steps : ndarray of shape (w,), float64
        What a one of each feature is worth.

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
        """Make the functions of keys.

        Parameters
        ----------
        keys : ndarray of shape (c, j, d)
        centres : ndarray of shape (c, d)
        reaches : ndarray of shape (c,)
            The largest magnitude of a coordinate around the centre, when keys were placed.
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
        """Features of a row, w."""
        return len(self.steps)

    @property
    def coordinates(self) -> np.ndarray:
        """Whole coordinates of keys (c, j, d)."""
        return self.table[:, :, : self.table.shape[2] // 2]

    @property
    def curved(self) -> np.ndarray:
        """Which features are curves (w,), bool."""
        n_heads, _, functions = self.table.shape
        return np.tile(np.arange(functions) >= functions // 2, n_heads)

    def features(self, codes: np.ndarray) -> np.ndarray:
        """Return the features of codes (n, c, m): (n, w), int8; the rounded mean where a head reads several keys."""
        n, n_heads, n_selected = codes.shape
        _, n_keys, functions = self.table.shape
        cells = codes + n_keys * np.arange(n_heads)[:, None]
        if n_selected == 1:  # one look-up a head, of all its functions at once
            whole = self.table.reshape(-1, functions).view(f"V{functions}")
            return np.take(whole, cells.reshape(n, n_heads)).view(np.int8)
        mean = self.table.reshape(-1, functions)[cells].mean(axis=2, dtype=np.float32)
        return np.rint(mean).astype(np.int8).reshape(n, n_heads * functions)

    def values(self, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """Return the values (c, j, k), float32, whose mean over heads is ``features @ weights + bias``.

        Parameters
        ----------
        weights : ndarray of shape (w, k)
        bias : ndarray of shape (k,)
        """
        n_heads, _, functions = self.table.shape
        parts = (n_heads * weights).reshape(n_heads, functions, -1).astype(np.float32)
        return self.table.astype(np.float32) @ parts + bias.astype(np.float32)
