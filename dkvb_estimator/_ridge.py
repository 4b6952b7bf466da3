"""Solve values by ridge regression on codes.

Enters: codes (n, c, m), class positions, weights. Leaves: values (c, j, k). Must not know: embeddings, keys. The
(c·j)² matrix of the normal equations is never formed: a product with it is a gather and a scatter over the codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array

from ._place import Here

BLOCK_ROWS = 2048
"""Samples of one block. Blocks are summed in a fixed order, so threads do not change a bit."""
BLOCK_KEYS = 2**13
"""Keys of one block, as many whole heads as hold them: their values for ten classes stay in a core's second cache.
``benchmarks/ridge_product.py`` compares a step with a plain product that holds the whole matrix."""
PIECE_ROWS = 2**14
"""Samples for which a column a class is in memory: 128 MiB with a thousand classes."""
HERE = Here()


@dataclass(frozen=True)
class Samples:
    """Some of the samples that values are solved from.

    Parameters
    ----------
    read : callable from slice to ndarray of shape (len, c, m), unsigned integers
        Gives the codes of some samples, so that they may lie in a file.
    labels : ndarray of shape (n,), integers below k
    weights : ndarray of shape (n,), float64, positive
    """

    read: Callable[[slice], np.ndarray]
    labels: np.ndarray
    weights: np.ndarray


def solve_ridge(
    parts: Sequence[Any],
    shape: tuple[int, int, int],
    n_selected: int,
    alpha: float,
    max_iter: int,
    place: Here = HERE,
) -> Any:
    """Return the values that regress one-hot labels on the selected keys, centred on the class shares.

    With A the 0/1 matrix of selected keys and W the weights, conjugate gradients with a Jacobi preconditioner make
    exactly ``max_iter`` steps from zero on ``(AᵀWA + λI) B = AᵀW (Y − prior)``, λ = alpha × the mean weight of a used
    key. Stopping early regularises; a warm start or a tolerance would make the values depend on history.

    Directions are kept conjugate to the constant table of used keys. Every sample selects c · m of them, so that table
    is almost an eigenvector, with an eigenvalue far above all others; the right side is orthogonal to it and needs none
    of it, but what rounding leaves along it grows with every step: after twenty, sums in another order would change
    values by 1e-2, and so they change them by 1e-5.

    Of the samples, a step needs only sums over the parts: where these are on workers, directions go out and sums come
    back, tables of (c · j, k) both, and the samples stay.

    Parameters
    ----------
    parts : sequence of Samples, or of promises of them by ``place``
    shape : (c, j, k)
    n_selected : int
        Keys read in each head, m.
    alpha : float, > 0
    max_iter : int, ≥ 1
    place : Here
        Where the parts are, and every step runs.

    Returns
    -------
    ndarray of shape (c, j, k), float32, or the place's promise of it
        ``c · m · B + prior``, so that pooling by means gives ``A B + prior``. Unused keys hold the prior.

    References
    ----------
    Saad, Yeung, Erhel, Guyomarc'h (2000), "A deflated version of the conjugate gradient algorithm", SIAM Journal on
    Scientific Computing 21(5), algorithm 3.5, with the constant as the one vector of W.
    """
    call = place.call
    prior = call(_shares, place.fold([call(_class_weights, part, shape[2]) for part in parts], _sum))
    right = place.fold([call(_right_side, part, shape, prior) for part in parts], _sum)
    state = call(_first, right, alpha, shape[0] * n_selected)
    for _ in range(max_iter):
        direction = call(_direction, state)
        images = [call(_image, part, shape, direction) for part in parts]
        state = call(_next, state, place.fold(images, _sum))
    return call(_values, state, prior, shape, n_selected)


def _sum(*arrays: np.ndarray) -> np.ndarray:
    return sum(arrays[1:], start=arrays[0])


def _class_weights(samples: Samples, n_classes: int) -> np.ndarray:
    return np.bincount(samples.labels, weights=samples.weights, minlength=n_classes)


def _shares(class_weights: np.ndarray) -> np.ndarray:
    return class_weights / class_weights.sum()


def _right_side(samples: Samples, shape: tuple[int, int, int], prior: np.ndarray) -> np.ndarray:
    """Return the weight of each key and AᵀW (Y − prior), side by side (c · j, 1 + k)."""
    image = np.zeros((shape[0] * shape[1], 1 + shape[2]))
    for piece in _pieces(samples):
        columns = np.empty((len(piece.labels), 1 + shape[2]))
        columns[:, 0], columns[:, 1:] = 1, -prior
        columns[np.arange(len(columns)), 1 + piece.labels] += 1
        with _matrix(piece, shape) as matrix:
            image += matrix.scatter(piece.weights[:, None] * columns)
    return image


def _image(samples: Samples, shape: tuple[int, int, int], direction: np.ndarray) -> np.ndarray:
    """Return AᵀWA direction (c · j, k)."""
    image = np.zeros_like(direction)
    for piece in _pieces(samples):
        with _matrix(piece, shape) as matrix:
            image += matrix.scatter(piece.weights[:, None] * matrix.gather(direction))
    return image


def _pieces(samples: Samples) -> Iterator[Samples]:
    """Cut samples where a column a class of them would take much memory."""
    for start in range(0, len(samples.labels), PIECE_ROWS):
        part = slice(start, start + PIECE_ROWS)

        def read(rows: slice, start: int = start) -> np.ndarray:
            return samples.read(slice(start + rows.start, start + rows.stop))

        yield Samples(read, samples.labels[part], samples.weights[part])


@contextmanager
def _matrix(samples: Samples, shape: tuple[int, int, int]) -> Iterator[SelectionMatrix]:
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        yield SelectionMatrix(samples.read, len(samples.labels), shape[0], shape[1], pool)


@dataclass(frozen=True)
class _State:
    """Conjugate gradients for all classes at once, each class with its own step lengths, in float64.

    ``shares`` (c · j,) sum to one, and are zero for unused keys; tables whose average by them is zero are conjugate to
    the constant one.
    """

    ridge: float
    diagonal: np.ndarray
    shares: np.ndarray
    solution: np.ndarray
    residual: np.ndarray
    direction: np.ndarray
    slope: np.ndarray


def _first(right: np.ndarray, alpha: float, n_read: int) -> _State:
    hits, right = right[:, 0], np.ascontiguousarray(right[:, 1:])
    ridge = alpha * hits[hits > 0].mean()
    used = hits > 0
    image = np.where(used, n_read * hits + ridge, 0)  # of the constant table of used keys
    shares = image / image[used].sum()
    scaled = _conjugate(right / (hits + ridge)[:, None], shares)
    return _State(ridge, hits + ridge, shares, np.zeros_like(right), right, scaled, (right * scaled).sum(axis=0))


def _conjugate(table: np.ndarray, shares: np.ndarray) -> np.ndarray:
    # summed row after row, so that rows of unused keys, which add zero, change no bit: pruning takes them away
    average = (shares[:, None] * table).sum(axis=0)
    return table - (shares > 0)[:, None] * average


def _direction(state: _State) -> np.ndarray:
    return state.direction


def _next(state: _State, image: np.ndarray) -> _State:
    image = image + state.ridge * state.direction
    curvature = (state.direction * image).sum(axis=0)
    step = np.divide(state.slope, curvature, out=np.zeros_like(curvature), where=curvature > 0)
    residual = state.residual - step * image
    scaled = _conjugate(residual / state.diagonal[:, None], state.shares)
    slope = (residual * scaled).sum(axis=0)
    growth = np.divide(slope, state.slope, out=np.zeros_like(slope), where=state.slope > 0)
    return replace(
        state,
        solution=state.solution + step * state.direction,
        residual=residual,
        direction=scaled + growth * state.direction,
        slope=slope,
    )


def _values(state: _State, prior: np.ndarray, shape: tuple[int, int, int], n_selected: int) -> np.ndarray:
    return (shape[0] * n_selected * state.solution + prior).reshape(shape).astype(np.float32)


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
