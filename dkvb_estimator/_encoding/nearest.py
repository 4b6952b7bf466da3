"""Find the nearest keys of each head.

Enters: heads (n, c, d) and keys (c, j, d). Leaves: codes (n, c, m). Must not know: values, labels, where keys come
from. The compiled kernel searches on the CPU; torch searches on other devices, and where the kernel is missing.
"""

from __future__ import annotations

import numpy as np
import torch

from dkvb_estimator._kernel import native
from dkvb_estimator._validation import code_dtype

SCORE_BUDGET_BYTES = 2 * 2**20
"""Bytes of scores held at once, for as many heads as fit: about the size of a core's cache."""

MAX_SELECTED = 16
"""Largest number of keys per head that the kernel finds; torch has no limit."""
BLOCK_ROWS = 128
"""Rows scored at once, padded with zeros: with a fixed shape, a row has the same bits in every batch."""


def nearest_keys(
    heads: torch.Tensor,
    keys: torch.Tensor,
    n_selected: int,
    usable: torch.Tensor | None = None,
    centres: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the positions of the nearest keys of each head, nearest first, ties to the lowest position.

    The nearest key by squared Euclidean distance has the smallest ``½‖key‖² − head·key``. Heads and keys are first
    centred, by default on the head's mean key. This changes no distance, and keeps a common offset of the keys from
    cancelling the differences in float32.

    Parameters
    ----------
    heads : Tensor of shape (n, c, d), float32
    keys : Tensor of shape (c, j, d), float32
    n_selected : int
        m, the number of keys returned for each head, 1 ≤ m ≤ j.
    usable : Tensor of shape (c, j), bool, or None
        Keys that may be returned. If a head has fewer than m, unusable keys fill the end of its list.
    centres : Tensor of shape (c, d), float32, or None

    Returns
    -------
    Tensor of shape (n, c, m), int64

    Examples
    --------
    >>> heads = torch.tensor([[[0.1]], [[0.9]]])
    >>> keys = torch.tensor([[[0.0], [1.0]]])
    >>> nearest_keys(heads, keys, 1).flatten().tolist()
    [0, 1]
    """
    return KeySearch(keys, usable, centres).nearest(heads, n_selected)


class KeySearch:
    """Keys, prepared for search by the compiled kernel or by torch.

    Parameters
    ----------
    keys : Tensor of shape (c, j, d), float32
    usable : Tensor of shape (c, j), bool, or None
    centres : Tensor of shape (c, d), float32, or None
        See :func:`nearest_keys`.
    """

    def __init__(
        self, keys: torch.Tensor, usable: torch.Tensor | None = None, centres: torch.Tensor | None = None
    ) -> None:
        if centres is None:
            centres = keys.double().mean(dim=1).float()
        centred = keys - centres.unsqueeze(1)
        half_norms = (centred.double().square().sum(dim=2) / 2).float()
        if usable is not None:
            half_norms = torch.where(usable, half_norms, torch.inf)
        self._centres, self._centred, self._half_norms, self._native = centres, centred, half_norms, None
        if keys.device.type == "cpu" and native.KERNEL is not None:
            arrays = (centred.numpy(), half_norms.numpy(), centres.numpy())
            self._native = native.NativeKeys(native.KERNEL, *arrays)

    def nearest(self, heads: torch.Tensor, n_selected: int) -> torch.Tensor:
        """Return the nearest keys as :func:`nearest_keys` does (n, c, m), int64."""
        if self._native is None or n_selected > MAX_SELECTED:
            return self._nearest_by_torch(heads, n_selected)
        return torch.from_numpy(self._by_kernel(heads, n_selected).astype(np.int64))

    def codes(self, heads: torch.Tensor, n_selected: int) -> np.ndarray:
        """Return the nearest keys (n, c, m) as an array of the smallest unsigned type."""
        small = code_dtype(self._centred.shape[1])
        if self._native is None:
            return self._nearest_by_torch(heads, n_selected).cpu().numpy().astype(small)
        return self._by_kernel(heads, n_selected).astype(small, copy=False)

    def _by_kernel(self, heads: torch.Tensor, n_selected: int) -> np.ndarray:
        return self._native.nearest(heads.numpy(), n_selected, torch.get_num_threads())  # type: ignore[union-attr]

    def _nearest_by_torch(self, heads: torch.Tensor, n_selected: int) -> torch.Tensor:
        n, n_heads, _ = heads.shape
        codes = torch.empty((n_heads, n, n_selected), dtype=torch.int64, device=heads.device)
        group = max(1, SCORE_BUDGET_BYTES // (4 * BLOCK_ROWS * self._centred.shape[1]))
        for first in range(0, n_heads, group):
            part = slice(first, first + group)
            scorer = torch.cat([-self._centred[part].transpose(1, 2), self._half_norms[part].unsqueeze(1)], dim=1)
            for start in range(0, n, BLOCK_ROWS):
                rows = _padded(heads[start : start + BLOCK_ROWS, part] - self._centres[part])
                stop = min(start + BLOCK_ROWS, n)
                codes[part, start:stop] = _smallest(torch.bmm(rows, scorer), n_selected)[:, : stop - start]
        return codes.permute(1, 0, 2)


def _padded(rows: torch.Tensor) -> torch.Tensor:
    """Return a block of centred heads (c, BLOCK_ROWS, d + 1) with ones as last coordinate, padded with zero rows.

    The keys' half squared norms are the last row of the other factor, so one product gives all scores.
    """
    block = rows.new_zeros((rows.shape[1], BLOCK_ROWS, rows.shape[2] + 1))
    block[:, : len(rows), :-1] = rows.transpose(0, 1)
    block[:, :, -1] = 1
    return block


def _smallest(scores: torch.Tensor, n_selected: int) -> torch.Tensor:
    """Return the positions of the m smallest scores, ascending, ties to the lowest position."""
    if n_selected == 1:
        return scores.argmin(dim=2, keepdim=True)  # documented to return the first of equal minima
    # Partial sorts do not define the order of ties. Each score therefore becomes an integer of the same order, with
    # its position in the low bits, so that no two are equal. Bits of negative floats decrease, hence the flip.
    bits = (scores + 0.0).view(torch.int32)
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(torch.int64)
    position = torch.arange(scores.shape[2], device=scores.device)
    ranked = ordered * 2**16 + position
    if ranked.device.type == "cpu":  # NumPy sorts with vector instructions, in a third of the time
        least = np.partition(ranked.numpy(), n_selected - 1, axis=2)[:, :, :n_selected]
        return torch.from_numpy(np.sort(least, axis=2) & 0xFFFF)
    return torch.topk(ranked, n_selected, dim=2, largest=False, sorted=True).indices


def squared_distances(heads: torch.Tensor, keys: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Return the squared distance from each head to its selected keys (n, c, m), computed from differences.

    Parameters
    ----------
    heads : Tensor of shape (n, c, d)
    keys : Tensor of shape (c, j, d)
    codes : Tensor of shape (n, c, m), int64
    """
    n_heads = keys.shape[0]
    chosen = keys[torch.arange(n_heads, device=keys.device)[None, :, None], codes]  # n,c,m,d
    return (heads.unsqueeze(2) - chosen).square_().sum(dim=3)
