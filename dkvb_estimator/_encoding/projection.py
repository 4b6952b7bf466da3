"""Project embeddings into heads.

Enters: embeddings (n, f). Leaves: heads (n, c, d). Must not know: keys, values, labels, scikit-learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from scipy.sparse import block_diag, csr_array

from dkvb_estimator._device import to_tensor
from dkvb_estimator._kernel import native

BLOCK_ROWS = 128
"""Rows per matrix product without the kernel. The last bits of a product depend on its shape, so all products have this
shape, padded with zeros. The codes of a row then depend neither on its batch nor on its position."""

SMALL_BLOCK_ROWS = 8
"""Rows per product for predicting a few rows, for which padding would be most of the work."""

KERNEL_ROWS = 512
"""Rows that the kernel projects at once; it bounds the float64 copy for normalisation."""

HEAD_LIMIT = 1e18
"""Coordinates of heads are clipped to this magnitude, or less for more than 50 of them: see ``head_limit``."""

Projection: TypeAlias = np.ndarray | csr_array


def draw_projection(
    kind: str,
    n_features: int,
    n_heads: int,
    key_dim: int,
    rng: np.random.Generator,
    density: float | str = "auto",
) -> Projection:
    """Draw the fixed projection of all heads.

    Parameters
    ----------
    kind : {"orthogonal", "gaussian", "sparse", "chunk", "identity"}
        ``orthogonal``: as many random rotations as c · d columns need, so that all heads together keep every direction
        of an embedding equally; with f ≤ d, ``gaussian`` is used, since rotations would only turn the same heads.
        ``gaussian``: independent standard normal entries, with each column scaled to unit length. ``sparse``: a share
        ``density`` of the entries is non-zero, with random signs and columns of unit length. ``chunk``: head c takes
        features ``c * d`` to ``(c + 1) * d``. ``identity``: one head takes all features.
    n_features, n_heads, key_dim : int
        Lengths of the axes f, c and d.
    rng : numpy.random.Generator
        Source of randomness.
    density : float in (0, 1] or "auto"
        Used by ``sparse``; ``"auto"`` is 1 / sqrt(f).

    Returns
    -------
    ndarray of shape (f, c, d), float32, or scipy.sparse.csr_array of shape (f, c * d) for ``sparse``

    References
    ----------
    Träuble et al. (2023), section 3, for unit-length Gaussian columns. Mezzadri (2007), "How to generate random
    matrices from the classical compact groups", for rotations. Li, Hastie and Church (2006), "Very sparse random
    projections", for the density.

    Examples
    --------
    >>> P = draw_projection("gaussian", 5, 3, 2, np.random.default_rng(0))
    >>> P.shape, bool(np.allclose((P**2).sum(axis=0), 1))
    ((5, 3, 2), True)
    """
    if kind in ("chunk", "identity"):
        return np.eye(n_features, dtype=np.float32).reshape(n_features, n_heads, key_dim)
    if kind == "sparse":
        share = 1 / np.sqrt(n_features) if isinstance(density, str) else density
        return _draw_sparse(n_features, n_heads * key_dim, share, rng)
    if kind == "orthogonal" and n_features > key_dim:
        return _draw_rotations(n_features, n_heads * key_dim, rng).reshape(n_features, n_heads, key_dim)
    matrix = rng.standard_normal((n_features, n_heads, key_dim))
    return (matrix / np.linalg.norm(matrix, axis=0)).astype(np.float32)


def _draw_rotations(n_features: int, n_columns: int, rng: np.random.Generator) -> np.ndarray:
    """Draw columns (f, columns), float32; each group of f consecutive columns is orthogonal."""
    size = min(n_features, n_columns)
    rotations, triangles = np.linalg.qr(rng.standard_normal((-(-n_columns // size), n_features, size)))
    rotations *= np.sign(np.diagonal(triangles, axis1=1, axis2=2))[:, None]
    return np.ascontiguousarray(np.concatenate(rotations, axis=1)[:, :n_columns], dtype=np.float32)


def _draw_sparse(n_features: int, n_columns: int, density: float, rng: np.random.Generator) -> csr_array:
    """Draw unit-length columns with about ``density · f`` non-zero entries each, at least one."""
    per_column = np.maximum(1, rng.binomial(n_features, density, size=n_columns))
    rows = np.concatenate([rng.choice(n_features, size=count, replace=False) for count in per_column])
    columns = np.repeat(np.arange(n_columns), per_column)
    signs = rng.choice(np.array([-1.0, 1.0]), size=len(rows)) / np.sqrt(per_column[columns])
    return csr_array((signs.astype(np.float32), (rows, columns)), shape=(n_features, n_columns))


def share_heads(blocks: Sequence[int] | None, n_features: int, n_heads: int) -> list[tuple[slice, int]]:
    """Return the columns of each block of features, and the number of heads that read them, equal up to one.

    Examples
    --------
    >>> share_heads((2, 3), 5, 7)
    [(slice(0, 2, None), 4), (slice(2, 5, None), 3)]
    >>> share_heads(None, 5, 7)
    [(slice(0, 5, None), 7)]
    """
    widths = [n_features] if blocks is None else list(map(int, blocks))
    stops = np.cumsum(widths).tolist()
    columns = [slice(start, stop) for start, stop in zip([0, *stops], stops)]
    few, more = divmod(n_heads, len(widths))
    return [(part, few + (place < more)) for place, part in enumerate(columns)]


def join_blocks(parts: Sequence[Projection]) -> Projection:
    """Join the projections of blocks into one of all features, which is zero where a head reads another block.

    Examples
    --------
    >>> join_blocks([np.ones((1, 1, 1), np.float32), np.full((1, 1, 1), 2, np.float32)])[:, :, 0].tolist()
    [[1.0, 0.0], [0.0, 2.0]]
    """
    if len(parts) == 1:
        return parts[0]
    if not isinstance(parts[0], np.ndarray):
        return csr_array(block_diag(parts, format="csr"))
    sizes = np.cumsum([(0, 0), *(part.shape[:2] for part in parts)], axis=0)
    whole = np.zeros((*sizes[-1], parts[0].shape[2]), np.float32)
    for part, (row, head) in zip(parts, sizes.tolist()):
        whole[row : row + part.shape[0], head : head + part.shape[1]] = part
    return whole


def select_heads(projection: Projection, heads: slice, n_heads: int) -> Projection:
    """Return the projection of some heads."""
    if isinstance(projection, np.ndarray):
        return projection[:, heads]
    key_dim = projection.shape[1] // n_heads
    return projection[:, heads.start * key_dim : heads.stop * key_dim]


def head_limit(key_dim: int) -> float:
    """Return the magnitude L at which coordinates are clipped, so that no squared distance overflows float32.

    After centring, a coordinate is at most 2L, and half a squared norm minus a product at most 6 · d · L² < 3.4e38.
    """
    return min(HEAD_LIMIT, float(np.sqrt(5e37 / key_dim)))


def normalize_rows(X: torch.Tensor, blocks: Sequence[int] | None = None) -> torch.Tensor:
    """Divide each row (n, f), or each block of its features, by its Euclidean length; a zero row stays zero.

    Lengths are computed in float64 after dividing by the largest entry, so that no finite row overflows or underflows.
    """
    if blocks is not None:
        return torch.cat([normalize_rows(part) for part in X.split(list(blocks), dim=1)], dim=1)
    largest = torch.linalg.vector_norm(X, torch.inf, dim=1, keepdim=True).double()
    rows = X.double().div_(torch.where(largest > 0, largest, 1.0))
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows.div_(torch.where(length > 0, length, 1.0)).float()


class Projector:
    """Project rows into heads, with the same bits in every batch and at every position.

    On the CPU, the compiled kernel sums over features in order. On other devices, and for a sparse projection, matrix
    products have a fixed shape, padded with zeros.

    Parameters
    ----------
    projection : ndarray of shape (f, c, d), float32, or csr_array of shape (f, c * d)
    shape : (c, d)
    device : torch.device
    normalize : bool
        Whether rows are first divided by their Euclidean length.
    blocks : sequence of int or None
        Widths of blocks of features; each block is divided by its own length.
    """

    def __init__(
        self,
        projection: Projection,
        shape: tuple[int, int],
        device: torch.device,
        *,
        normalize: bool,
        blocks: Sequence[int] | None = None,
    ) -> None:
        self._shape, self._normalize, self._blocks = shape, normalize, blocks
        self._native: native.NativeProjection | None = None
        self._matrix: torch.Tensor | csr_array
        if not isinstance(projection, np.ndarray):
            self._matrix = csr_array(projection)  # scipy multiplies it on the CPU
        elif device.type == "cpu" and native.KERNEL is not None:
            self._native = native.NativeProjection(native.KERNEL, projection.reshape(len(projection), -1))
        else:
            self._matrix = to_tensor(projection.reshape(len(projection), -1), device)

    def project(self, X: torch.Tensor, *, small: bool = False, room: torch.Tensor | None = None) -> torch.Tensor:
        """Return the heads (n, c, d) of rows, float32, every entry within ±1e18.

        Parameters
        ----------
        X : Tensor of shape (n, f), float32
        small : bool
            Whether a few rows may use a smaller product, which is faster, but whose last bits may differ.
        room : Tensor of shape (≥ n, c * d), float32, or None
            Memory to write the heads to; allocating it costs a tenth of the time.
        """
        heads = X.new_empty((len(X), self._shape[0] * self._shape[1])) if room is None else room[: len(X)]
        if self._native is not None:
            for rows, part in zip(X.split(KERNEL_ROWS), heads.split(KERNEL_ROWS), strict=True):
                rows = normalize_rows(rows, self._blocks) if self._normalize else rows
                self._native.project(rows.numpy(), part.numpy(), torch.get_num_threads())
        else:
            self._by_blocks(X, heads, SMALL_BLOCK_ROWS if small and len(X) <= SMALL_BLOCK_ROWS else BLOCK_ROWS)
        return _clip(heads.reshape(len(X), *self._shape))

    def _by_blocks(self, X: torch.Tensor, heads: torch.Tensor, size: int) -> None:
        for rows, part in zip(X.split(size), heads.split(size), strict=True):
            block = torch.cat([rows, rows.new_zeros((size - len(rows), rows.shape[1]))])
            block = normalize_rows(block, self._blocks) if self._normalize else block
            part.copy_(self._multiply(block)[: len(rows)])

    def _multiply(self, rows: torch.Tensor) -> torch.Tensor:
        if isinstance(self._matrix, torch.Tensor):
            return rows @ self._matrix
        product = (self._matrix.T @ rows.cpu().numpy().T).T
        return torch.from_numpy(np.ascontiguousarray(product)).to(rows.device)


def _clip(heads: torch.Tensor) -> torch.Tensor:
    limit = head_limit(heads.shape[2])
    return torch.nan_to_num_(heads, nan=0.0).clamp_(-limit, limit)
