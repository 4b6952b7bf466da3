"""Solve values by ridge regression on codes.

Enters: codes (n, c, m), class positions, weights. Leaves: values (c, j, k). Must not know: embeddings, keys. The
(c·j)² matrix of the normal equations is never formed: a product with it is a gather and a scatter over the codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from scipy.sparse import csr_array

BLOCK_ENTRIES = 2**21
"""Selected keys in one block of rows. Blocks are summed in a fixed order, so threads do not change a bit."""


def solve_ridge(
    codes: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    shape: tuple[int, int, int],
    alpha: float,
    max_iter: int,
) -> np.ndarray:
    """Return the values that regress one-hot labels on the selected keys, centred on the class shares.

    With A the 0/1 matrix of selected keys and W the weights, conjugate gradients with a Jacobi preconditioner make
    exactly ``max_iter`` steps from zero on ``(AᵀWA + λI) B = AᵀW (Y − prior)``, λ = alpha × the mean weight of a used
    key. Stopping early regularises; a warm start or a tolerance would make the values depend on history.

    Parameters
    ----------
    codes : ndarray of shape (n, c, m), unsigned integers
    labels : ndarray of shape (n,), integers below k
    weights : ndarray of shape (n,), float64, positive
    shape : (c, j, k)
    alpha : float, > 0
    max_iter : int, ≥ 1

    Returns
    -------
    ndarray of shape (c, j, k), float32
        ``c · m · B + prior``, so that pooling by means gives ``A B + prior``. Unused keys hold the prior.
    """
    n_heads, n_keys, n_classes = shape
    blocks = _blocks(codes, n_keys)
    prior = np.bincount(labels, weights=weights, minlength=n_classes) / weights.sum()
    target = -np.broadcast_to(prior, (len(labels), n_classes)).copy()
    target[np.arange(len(labels)), labels] += 1
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        hits = _scatter(pool, blocks, weights[:, None])[:, 0]
        ridge = alpha * hits[hits > 0].mean()
        right = _scatter(pool, blocks, weights[:, None] * target)
        solution = _conjugate_gradients(pool, blocks, weights, right, ridge, hits + ridge, max_iter)
    scale = n_heads * codes.shape[2]
    return (scale * solution + prior).reshape(shape).astype(np.float32)


def _conjugate_gradients(
    pool: ThreadPoolExecutor,
    blocks: list[csr_array],
    weights: np.ndarray,
    right: np.ndarray,
    ridge: float,
    diagonal: np.ndarray,
    max_iter: int,
) -> np.ndarray:
    """Make the steps for all classes at once, each class with its own step lengths, in float64."""
    solution = np.zeros_like(right)
    residual, scaled = right.copy(), right / diagonal[:, None]
    direction, slope = scaled.copy(), (right * scaled).sum(axis=0)
    for _ in range(max_iter):
        image = _normal_product(pool, blocks, weights, direction) + ridge * direction
        curvature = (direction * image).sum(axis=0)
        step = np.divide(slope, curvature, out=np.zeros_like(slope), where=curvature > 0)
        solution += step * direction
        residual -= step * image
        scaled = residual / diagonal[:, None]
        new_slope = (residual * scaled).sum(axis=0)
        growth = np.divide(new_slope, slope, out=np.zeros_like(slope), where=slope > 0)
        direction = scaled + growth * direction
        slope = new_slope
    return solution


def _blocks(codes: np.ndarray, n_keys: int) -> list[csr_array]:
    """Return A in blocks of rows (rows, c·j); all blocks share one vector of ones."""
    n, n_heads, n_selected = codes.shape
    per_row = n_heads * n_selected
    rows = max(1, BLOCK_ENTRIES // per_row)
    ones = np.ones(min(rows, n) * per_row)
    offsets = (n_keys * np.arange(n_heads, dtype=np.int32))[None, :, None]
    blocks = []
    for start in range(0, n, rows):
        cells = (codes[start : start + rows].astype(np.int32) + offsets).ravel()
        pointers = np.arange(0, len(cells) + 1, per_row, dtype=np.int32)
        shape = (len(pointers) - 1, n_heads * n_keys)
        blocks.append(csr_array((ones[: len(cells)], cells, pointers), shape=shape))
    return blocks


def _spans(blocks: list[csr_array]) -> Iterator[tuple[csr_array, slice]]:
    start = 0
    for block in blocks:
        yield block, slice(start, start + block.shape[0])
        start += block.shape[0]


def _scatter(pool: ThreadPoolExecutor, blocks: list[csr_array], rows: np.ndarray) -> np.ndarray:
    """Return Aᵀ rows (c·j, k)."""
    parts = pool.map(lambda pair: pair[0].T @ rows[pair[1]], _spans(blocks))
    return _sum_in_order(parts)


def _normal_product(
    pool: ThreadPoolExecutor, blocks: list[csr_array], weights: np.ndarray, direction: np.ndarray
) -> np.ndarray:
    """Return AᵀWA direction (c·j, k)."""

    def product(pair: tuple[csr_array, slice]) -> np.ndarray:
        block, rows = pair
        return block.T @ (weights[rows, None] * (block @ direction))

    return _sum_in_order(pool.map(product, _spans(blocks)))


def _sum_in_order(parts: Iterator[np.ndarray]) -> np.ndarray:
    total = next(parts)
    for part in parts:
        total += part
    return total
