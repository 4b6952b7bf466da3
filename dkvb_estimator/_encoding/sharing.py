"""Shares of each key in the counts of the used keys around it.

Enters: keys (c, j, d), which of them are used. Leaves: shares as sparse rows (c · j, c · j). Must not know: counts,
codes, classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array

from .nearest import KeySearch, squared_distances

NEIGHBOURS, FEW_NEIGHBOURS, MANY_KEYS, WIDTH = 32, 16, 512, 0.04
"""A key shares counts with at most ``NEIGHBOURS`` used keys, itself included, or ``FEW_NEIGHBOURS`` if heads have
more than ``MANY_KEYS``. The share falls to 1/e at the squared distance WIDTH · reach². One width suits the data sets of
``benchmarks/accuracy.py`` with two coordinates; with many, keys are too far apart to share much."""
KEPT_BYTES = 2**28
"""Shares of at most this size are kept for the next learning."""
GROUP_SHARES = 2**19
"""Shares computed at once, in whole heads: a few arrays of 4 MiB, which stay in the processor's cache."""


@dataclass(frozen=True, eq=False)
class KeySharing:
    """Shares of each key in the counts of all keys of its head.

    A used key distributes its counts over its neighbours, so the total stays the same. Shares of a head depend on which
    of its keys are used, and on nothing else. Instances are immutable.

    Parameters
    ----------
    used : ndarray of shape (c, j), bool
    positions : ndarray of shape (c, j, q), int32
        Neighbours of each key, numbered through all heads.
    shares : ndarray of shape (c, j, q), float64
        Share of the key in the counts of each neighbour.
    """

    used: np.ndarray
    positions: np.ndarray
    shares: np.ndarray

    @classmethod
    def empty(cls, n_heads: int, n_keys: int) -> KeySharing:
        """Return the shares while no key is used."""
        q = min(NEIGHBOURS if n_keys <= MANY_KEYS else FEW_NEIGHBOURS, n_keys)
        shape = (n_heads, n_keys, q)
        return cls(np.zeros(shape[:2], dtype=bool), np.zeros(shape, dtype=np.int32), np.zeros(shape))

    def updated(self, used: np.ndarray, keys: torch.Tensor, centres: torch.Tensor, reaches: np.ndarray) -> KeySharing:
        """Return the shares among other used keys; only heads whose used keys differ are computed.

        Parameters
        ----------
        used : ndarray of shape (c, j), bool
        keys : Tensor of shape (c, j, d), float32
        centres : Tensor of shape (c, d), float32
        reaches : ndarray of shape (c,), float64
        """
        changed = np.flatnonzero((used != self.used).any(axis=1))
        if not len(changed):
            return self
        _, n_keys, q = self.shares.shape
        positions, shares = self.positions.copy(), self.shares.copy()
        for start in range(0, len(changed), size := max(1, GROUP_SHARES // (n_keys * q))):
            heads = changed[start : start + size]
            some = torch.from_numpy(heads).to(keys.device)
            found, shares[heads] = _share(used[heads], keys[some], centres[some], reaches[heads], q)
            positions[heads] = found + n_keys * heads[:, None, None]
        return KeySharing(used, positions, shares)

    @property
    def is_kept(self) -> bool:
        """Whether the arrays are small enough to be kept."""
        return self.positions.nbytes + self.shares.nbytes <= KEPT_BYTES

    def table(self) -> csr_array:
        """Return the shares as sparse rows (c · j, c · j), float64."""
        n_cells, q = self.used.size, self.shares.shape[2]
        pointers = np.arange(0, n_cells * q + 1, q)
        return csr_array((self.shares.ravel(), self.positions.ravel(), pointers), shape=(n_cells, n_cells))


def _share(
    used: np.ndarray, keys: torch.Tensor, centres: torch.Tensor, reaches: np.ndarray, q: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return neighbours (c, j, q), numbered in each head, and shares (c, j, q) of some heads.

    Only used keys are searched and compared, in their order, because early in a stream they are few.
    """
    heads, n_used = np.arange(len(used))[:, None], max(1, int(used.sum(axis=1).max()))
    order = np.argsort(~used, axis=1, kind="stable")[:, :n_used]
    among, few = (
        used[heads, order],
        keys[torch.from_numpy(heads).to(keys.device), torch.from_numpy(order).to(keys.device)],
    )
    rows = few.transpose(0, 1)
    nearest = KeySearch(few, torch.from_numpy(among).to(keys.device), centres).nearest(rows, min(q, n_used))
    squares = squared_distances(rows, few, nearest).transpose(0, 1).cpu().numpy()
    found = nearest.transpose(0, 1).cpu().numpy()
    positions, shares = np.zeros((*used.shape, q), dtype=np.int64), np.zeros((*used.shape, q))
    positions[heads, order, : found.shape[2]] = order[heads[..., None], found]
    shares[heads, order, : found.shape[2]] = _given(
        squares, found, among, WIDTH * np.where(reaches > 0, reaches, 1) ** 2
    )
    return positions, shares


def _given(squares: np.ndarray, found: np.ndarray, used: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Return the share of each key in the counts of its neighbours (c, j, q); what each gives adds up to one."""
    heads = np.arange(len(used))[:, None, None]
    shares = np.exp(-squares.astype(np.float64) / width[:, None, None]) * used[heads, found] * used[..., None]
    given = np.zeros(used.shape)
    np.add.at(given, (heads, found), shares)
    return shares / np.where(given > 0, given, 1)[heads, found]
