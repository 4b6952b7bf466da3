"""The frozen half of a bottleneck: a projection and its keys.

Enters: embeddings (n, f) as float32 arrays. Leaves: codes (n, c, m), the arrays of the codebook, their fingerprint.
Must not know: labels, values, solvers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array

from ._device import to_tensor
from ._keys import RowSketch, place_keys, report_keys, sketch_size
from ._nearest import code_dtype, nearest_keys
from ._projection import (
    Projection,
    draw_projection,
    project,
    project_for_learning,
    select_heads,
)
from ._validation import Layout

ENCODE_ROWS = 2048
"""Rows whose heads are held at a time."""
KEY_BUDGET_BYTES = 64 * 2**20
"""Projected sketch rows held at a time while keys are placed."""


def draw_codebook(
    X: np.ndarray, layout: Layout, params: Mapping[str, Any], seed: int, device: torch.device
) -> tuple[Projection, np.ndarray, dict[str, float]]:
    """Draw a projection and place keys for the rows of X.

    Parameters
    ----------
    X : ndarray of shape (n, f), float32
    layout : Layout
    params : mapping
        ``projection``, ``key_init`` and ``normalize`` of the estimator.
    seed : int
        Everything drawn follows from it.
    device : torch.device

    Returns
    -------
    projection : ndarray (f, c, d) or csr_array (f, c * d)
    keys : ndarray of shape (c, j, d), float32
    report : dict
        ``unused_share`` (of keys, over the rows looked at), ``quantisation_error`` (mean squared distance of a head
        to its key), ``n_rows`` (distinct rows looked at).
    """
    rng = np.random.default_rng(seed)
    projection = draw_projection(params["projection"], X.shape[1], layout.n_heads, layout.key_dim, rng)
    sketch = RowSketch(sketch_size(params["key_init"], layout.n_keys), seed)
    sketch.add(X)
    rows = sketch.rows()
    return projection, *_place(rows, projection, layout, params, seed, device)


def _place(
    rows: np.ndarray,
    projection: Projection,
    layout: Layout,
    params: Mapping[str, Any],
    seed: int,
    device: torch.device,
) -> tuple[np.ndarray, dict[str, float]]:
    """Place the keys of as many heads at a time as the budget allows."""
    group = max(1, KEY_BUDGET_BYTES // (4 * len(rows) * layout.key_dim))
    keys, unused, error = [], 0.0, 0.0
    for start in range(0, layout.n_heads, group):
        part = slice(start, min(start + group, layout.n_heads))
        n_heads = part.stop - part.start
        heads = _heads(
            rows,
            _device_projection(select_heads(projection, part, layout.n_heads), device),
            (n_heads, layout.key_dim),
            normalize=params["normalize"],
            device=device,
        )
        placed = place_keys(heads, layout.n_keys, params["key_init"], np.random.default_rng([seed, start]))
        part_unused, part_error = report_keys(heads, placed)
        keys.append(placed.cpu().numpy())
        unused += part_unused * n_heads / layout.n_heads
        error += part_error * n_heads / layout.n_heads
    report = {"unused_share": unused, "quantisation_error": error, "n_rows": len(rows)}
    return np.concatenate(keys), report


def _device_projection(projection: Projection, device: torch.device) -> torch.Tensor | csr_array:
    """Bring a projection to a device as (f, c * d); a sparse one stays where scipy can multiply it."""
    if isinstance(projection, np.ndarray):
        return to_tensor(projection.reshape(len(projection), -1), device)
    return csr_array(projection)


def _heads(
    X: np.ndarray,
    projection: torch.Tensor | csr_array,
    shape: tuple[int, int],
    *,
    normalize: bool,
    device: torch.device,
) -> torch.Tensor:
    return project_for_learning(to_tensor(X, device), projection, shape, normalize=normalize)


class Encoder:
    """Turn embeddings into codes with tensors that stay on a device.

    Parameters
    ----------
    projection : ndarray of shape (f, c, d) or csr_array of shape (f, c * d)
    keys : ndarray of shape (c, j, d)
    normalize : bool
    device : torch.device
    """

    def __init__(self, projection: Projection, keys: np.ndarray, *, normalize: bool, device: torch.device) -> None:
        self._projection = _device_projection(projection, device)
        self._keys = to_tensor(keys, device)
        self._normalize, self._device = normalize, device
        self._shape = (keys.shape[0], keys.shape[2])

    def encode(self, X: np.ndarray, n_selected: int) -> np.ndarray:
        """Return the nearest keys of each head (n, c, m), the same bits whatever the batch; see ``project``."""
        codes = np.empty((len(X), self._shape[0], n_selected), dtype=code_dtype(self._keys.shape[1]))
        for start in range(0, len(X), ENCODE_ROWS):
            rows = to_tensor(X[start : start + ENCODE_ROWS], self._device)
            heads = project_for_learning(rows, self._projection, self._shape, normalize=self._normalize)
            codes[start : start + ENCODE_ROWS] = nearest_keys(heads, self._keys, n_selected).cpu().numpy()
        return codes

    def nearest_usable(self, X: np.ndarray, n_selected: int, usable: torch.Tensor) -> torch.Tensor:
        """Return the nearest usable keys (n, c, m), int64, with low latency for a few rows."""
        heads = project(to_tensor(X, self._device), self._projection, self._shape, normalize=self._normalize)
        return nearest_keys(heads, self._keys, n_selected, usable)


def fingerprint(projection: Projection, keys: np.ndarray, *, normalize: bool) -> str:
    """Return the sha256 of everything that decides a row's codes."""
    digest = hashlib.sha256(b"dkvb-codebook-1" + bytes([normalize]))
    parts = (
        [projection] if isinstance(projection, np.ndarray) else [projection.data, projection.indices, projection.indptr]
    )
    for array in [*parts, keys]:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
