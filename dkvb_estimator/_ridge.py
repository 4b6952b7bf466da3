"""Solve values by ridge regression on codes.

Enters: codes (n, c, m), class positions, weights. Leaves: values (c, j, k). Must not know: embeddings, keys. The
(c·j)² matrix of the normal equations is never formed: a product with it is a gather and a scatter over the codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import torch
from scipy.sparse import csr_array

BLOCK_ROWS = 2048
"""Samples of one block. Blocks are summed in a fixed order, so threads do not change a bit."""
BLOCK_KEYS = 2**13
"""Keys of one block, as many whole heads as hold them: their values for ten classes stay in a core's second cache.
``benchmarks/ridge_product.py`` compares a step with a plain product that holds the whole matrix."""


def solve_ridge(
    read: Callable[[slice], np.ndarray],
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
    read : callable from slice to ndarray of shape (len, c, m), unsigned integers
        Gives the codes of some samples, so that they may lie in a file.
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
    n_classes = shape[2]
    prior = np.bincount(labels, weights=weights, minlength=n_classes) / weights.sum()
    target = -np.broadcast_to(prior, (len(labels), n_classes)).copy()
    target[np.arange(len(labels)), labels] += 1
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        matrix = SelectionMatrix(read, len(labels), shape[0], shape[1], pool)
        hits = matrix.scatter(weights[:, None])[:, 0]
        ridge = alpha * hits[hits > 0].mean()
        right = matrix.scatter(weights[:, None] * target)
        solution = _conjugate_gradients(matrix, weights[:, None], right, ridge, hits + ridge, max_iter)
    scale = shape[0] * read(slice(0, 1)).shape[2]
    return (scale * solution + prior).reshape(shape).astype(np.float32)


def _conjugate_gradients(
    matrix: SelectionMatrix,
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
        image = matrix.scatter(weights * matrix.gather(direction)) + ridge * direction
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


@dataclass(frozen=True)
class SelectionMatrix:
    """The 0/1 matrix A of selected keys (n, c · j), multiplied in blocks that are made from codes when they are needed.

    Parameters
    ----------
    read : callable from slice to ndarray of shape (len, c, m)
    n_rows, n_heads, n_keys : int
    pool : ThreadPoolExecutor
    """

    read: Callable[[slice], np.ndarray]
    n_rows: int
    n_heads: int
    n_keys: int
    pool: ThreadPoolExecutor

    def gather(self, table: np.ndarray) -> np.ndarray:
        """Return A table (n, k), threads sharing the samples."""
        image = np.zeros((self.n_rows, table.shape[1]))

        def fill(rows: slice) -> None:
            codes = self.read(rows)
            for heads in self._heads():
                image[rows] += self._block(codes[:, heads]) @ table[self._keys(heads)]

        list(self.pool.map(fill, self._rows()))
        return image

    def scatter(self, rows: np.ndarray) -> np.ndarray:
        """Return Aᵀ rows (c · j, k), threads sharing the heads."""
        image = np.zeros((self.n_heads * self.n_keys, rows.shape[1]))

        def fill(part: slice, codes: np.ndarray, heads: slice) -> None:
            image[self._keys(heads)] += self._block(codes[:, heads]).T @ rows[part]

        for part in self._rows():
            codes = self.read(part)
            list(self.pool.map(fill, repeat(part), repeat(codes), self._heads()))
        return image

    def _block(self, codes: np.ndarray) -> csr_array:
        """Return the part of A for some samples and heads (rows, heads · j)."""
        n, n_heads, n_selected = codes.shape
        cells = (codes + self.n_keys * np.arange(n_heads, dtype=np.int32)[None, :, None]).ravel()
        pointers = np.arange(0, len(cells) + 1, n_heads * n_selected, dtype=np.int32)
        return csr_array((np.ones(len(cells)), cells, pointers), shape=(n, n_heads * self.n_keys))

    def _rows(self) -> Iterator[slice]:
        for start in range(0, self.n_rows, BLOCK_ROWS):
            yield slice(start, min(start + BLOCK_ROWS, self.n_rows))

    def _heads(self) -> Iterator[slice]:
        size = max(1, BLOCK_KEYS // self.n_keys)
        for start in range(0, self.n_heads, size):
            yield slice(start, min(start + size, self.n_heads))

    def _keys(self, heads: slice) -> slice:
        return slice(heads.start * self.n_keys, heads.stop * self.n_keys)
