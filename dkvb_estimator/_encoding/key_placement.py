"""Place the keys of every head from unlabelled rows.

Enters: a sketch of embeddings, projected (n, c, d). Leaves: keys (c, j, d) and a report on them. Must not know:
labels, values, the estimator. The sketch is a function of the *set* of rows: their order, duplicates and division into
batches do not matter.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator

import numpy as np
import torch

from .nearest import nearest_keys, squared_distances

KMEANS_STEPS = 3
EMA_EPOCHS, EMA_BATCH, EMA_DECAY, EMA_EPSILON = 10, 256, 0.95, 1e-5
DEAD_SHARE = 0.1
"""A key is dead if its hits fall below this share of those of an average key in one batch."""


def sketch_size(key_init: str, n_keys: int) -> int:
    """Return the size of the sketch: n_keys for ``sample``, else 8 rows per key, at least 4096, at most 32768."""
    return n_keys if key_init == "sample" else min(32768, max(4096, 8 * n_keys))


class RowSketch:
    """Keep the distinct rows whose seeded hash is smallest (a bottom-k sketch).

    Parameters
    ----------
    n_rows : int
        Largest number of rows.
    seed : int
        Seed of the hash, which determines the sample.

    Examples
    --------
    >>> sketch = RowSketch(2, seed=0)
    >>> sketch.add(np.float32([[1, 2], [3, 4], [1, 2]]))
    >>> sketch.rows().shape
    (2, 2)
    """

    def __init__(self, n_rows: int, seed: int) -> None:
        self.n_rows = n_rows
        self._key = seed.to_bytes(8, "little")
        self._rows: dict[bytes, np.ndarray] = {}
        self._limit: bytes | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, X: np.ndarray) -> None:
        """Add rows (n, f), float32."""
        for row in X:
            row = row + np.float32(0)  # turns −0.0 into 0.0, so that equal rows have equal bytes
            digest = hashlib.blake2b(row.tobytes(), digest_size=16, key=self._key).digest()
            if self._limit is None or digest < self._limit:
                self._rows.setdefault(digest, row)
            if len(self._rows) >= self.n_rows + max(64, self.n_rows // 8):
                self._shrink()
        self._shrink()

    def merged(self, *others: RowSketch) -> RowSketch:
        """Return the sketch of the rows of all sketches; the originals stay as they are."""
        both = copy.copy(self)
        both._rows = dict(self._rows)
        for other in others:
            both._rows |= other._rows
        both._shrink()
        return both

    def _shrink(self) -> None:
        if len(self._rows) > self.n_rows:
            dropped = sorted(self._rows)[self.n_rows :]
            self._limit = dropped[0]
            for digest in dropped:
                del self._rows[digest]

    def rows(self) -> np.ndarray:
        """Return the kept rows (≤ n_rows, f) in the order of their hashes, and empty the sketch."""
        kept = sorted(self._rows)
        rows = np.empty((len(kept), *self._rows[kept[0]].shape), dtype=np.float32)
        for place, digest in enumerate(kept):  # one at a time, because these rows dominate the memory for placing keys
            rows[place] = self._rows.pop(digest)
        return rows


def place_keys(heads: torch.Tensor, n_keys: int, key_init: str, rng: np.random.Generator) -> torch.Tensor:
    """Place ``n_keys`` keys in each head.

    Parameters
    ----------
    heads : Tensor of shape (n, c, d), float32
        Distinct projected rows, in an order that does not depend on the order of arrival.
    n_keys : int
        If it exceeds n, further keys are drawn from a normal distribution with the head's mean and shrunk covariance.
    key_init : str
        A name of ``KEY_INITIALISATIONS``.
    rng : numpy.random.Generator

    Returns
    -------
    Tensor of shape (c, j, d), float32

    References
    ----------
    Träuble et al. (2023), section 3, for keys by exponential moving average.
    """
    return KEY_INITIALISATIONS[key_init](heads, n_keys, rng)


def report_keys(heads: torch.Tensor, keys: torch.Tensor) -> tuple[float, float]:
    """Return the share of keys that no row selects, and the mean squared distance from heads to their keys.

    Parameters
    ----------
    heads : Tensor of shape (n, c, d)
    keys : Tensor of shape (c, j, d)
    """
    codes = nearest_keys(heads, keys, 1)
    hits = _hits(codes[:, :, 0], keys.shape[1])
    return float((hits == 0).mean()), float(squared_distances(heads, keys, codes).double().mean())


def _sample(heads: torch.Tensor, n_keys: int, rng: np.random.Generator) -> torch.Tensor:
    """Take the first rows, which are in the order of a random hash."""
    n, n_heads, key_dim = heads.shape
    keys = heads[:n_keys].permute(1, 0, 2)
    if n >= n_keys:
        return keys.contiguous()
    mean, spread = _spread(heads)
    noise = _tensor(rng.standard_normal((n_heads, n_keys - n, key_dim)), heads)
    return torch.cat([keys, mean.unsqueeze(1) + noise @ spread.transpose(1, 2)], dim=1)


def _spread(heads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each head's mean (c, d) and a root (c, d, d) of its covariance, shrunk so that it is not singular."""
    wide = heads.double()
    mean = wide.mean(dim=0)
    centred = (wide - mean).permute(1, 0, 2)
    key_dim = heads.shape[2]
    covariance = centred.transpose(1, 2) @ centred / max(1, heads.shape[0] - 1)
    trace = covariance.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None]
    floor = 1e-2 * wide.square().mean()  # for a single row, or equal rows, whose covariance is zero
    identity = torch.eye(key_dim, dtype=torch.float64, device=heads.device)
    shrunk = 0.9 * covariance + (0.1 * trace + torch.where(floor > 0, floor, 1.0)) * identity
    return mean.float(), torch.linalg.cholesky(shrunk).float()


def _gaussian(heads: torch.Tensor, n_keys: int, rng: np.random.Generator) -> torch.Tensor:
    """Draw keys from a normal distribution with the mean and standard deviation of each coordinate."""
    spread, mean = torch.std_mean(heads.double(), dim=0, correction=0)
    noise = _tensor(rng.standard_normal((heads.shape[1], n_keys, heads.shape[2])), heads)
    return (mean.unsqueeze(1) + noise * spread.unsqueeze(1)).float()


def _uniform(heads: torch.Tensor, n_keys: int, rng: np.random.Generator) -> torch.Tensor:
    """Draw keys uniformly from the bounding box of each head."""
    low, high = heads.amin(dim=0).unsqueeze(1), heads.amax(dim=0).unsqueeze(1)
    return low + _tensor(rng.random((heads.shape[1], n_keys, heads.shape[2])), heads) * (high - low)


def _kmeans(heads: torch.Tensor, n_keys: int, rng: np.random.Generator) -> torch.Tensor:
    """Run a few Lloyd steps from sampled rows; a key without rows moves to a row that is far from its key."""
    keys = _sample(heads, n_keys, rng)
    for _ in range(KMEANS_STEPS):
        codes = nearest_keys(heads, keys, 1)
        sums, hits = _sums_and_hits(heads, codes[:, :, 0], n_keys)
        keys = torch.where(
            _tensor(hits > 0, heads)[..., None], _tensor(sums / np.maximum(hits, 1)[..., None], heads), keys
        )
        keys = _relocate(keys, heads, codes, hits)
    return keys


def _relocate(keys: torch.Tensor, heads: torch.Tensor, codes: torch.Tensor, hits: np.ndarray) -> torch.Tensor:
    """Move keys that no row selects to the rows farthest from their keys, as far as there are such rows."""
    distances = squared_distances(heads, keys, codes)[:, :, 0]  # n,c
    for head in np.flatnonzero((hits == 0).any(axis=1)):
        empty = np.flatnonzero(hits[head] == 0)
        distance, rows = torch.sort(distances[:, head], descending=True, stable=True)
        rows = rows[distance > 0][: len(empty)]
        keys[head, empty[: len(rows)]] = heads[rows, head]
    return keys


def _ema(heads: torch.Tensor, n_keys: int, rng: np.random.Generator) -> torch.Tensor:
    """Run the paper's moving averages with two fixes.

    Keys start at data points, and replacing a key resets its running size and sum. Without these fixes, the first batch
    moves most keys far from the data, and the next batch undoes every replacement.
    """
    keys = _sample(heads, n_keys, rng)
    size = torch.full(keys.shape[:2], 1 - EMA_DECAY, dtype=torch.float64, device=heads.device)
    total = keys.double() * size[..., None]
    for batch in _epochs(heads, rng):
        threshold = _dead_below(len(batch), n_keys)
        keys, size, total = ema_step(batch, keys, size, total)
        dead = size < threshold
        keys = torch.where(dead[..., None], _redraw(batch, keys, rng), keys)
        size = torch.where(dead, torch.full_like(size, max(threshold, 1 - EMA_DECAY)), size)
        total = torch.where(dead[..., None], keys.double() * size[..., None], total)
    return keys


def _ema_faithful(heads: torch.Tensor, n_keys: int, rng: np.random.Generator) -> torch.Tensor:
    """Run the moving averages in the original order of operations, including its instability."""
    shape = (heads.shape[1], n_keys, heads.shape[2])
    keys = _tensor(rng.standard_normal(shape), heads)
    size, total = torch.zeros(shape[:2], dtype=torch.float64, device=heads.device), keys.double()
    for batch in _epochs(heads, rng):
        keys, size, total = ema_step(batch, keys, size, total)
        dead = size < _dead_below(len(batch), n_keys)
        keys = torch.where(dead[..., None], _redraw(batch, keys, rng), keys)
    return keys


def ema_step(
    batch: torch.Tensor, keys: torch.Tensor, size: torch.Tensor, total: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Update every key with one batch of exponential moving averages; sizes are Laplace-smoothed within a head.

    Parameters
    ----------
    batch : Tensor of shape (n, c, d), float32
    keys : Tensor of shape (c, j, d), float32
    size : Tensor of shape (c, j), float64
        Running number of hits of each key.
    total : Tensor of shape (c, j, d), float64
        Running sum of the heads that hit each key.

    Returns
    -------
    keys, size, total : Tensors after the step

    Examples
    --------
    >>> keys, size = torch.tensor([[[0.0], [1.0]]]), torch.zeros((1, 2), dtype=torch.float64)
    >>> batch = torch.tensor([[[0.1]], [[0.2]], [[0.9]]])
    >>> keys, size, _ = ema_step(batch, keys, size, keys.double())
    >>> [round(float(key), 3) for key in keys.flatten()]
    [0.15, 19.899]
    """
    n_keys = keys.shape[1]
    sums, hits = _sums_and_hits(batch, nearest_keys(batch, keys, 1)[:, :, 0], n_keys)
    size = EMA_DECAY * size + (1 - EMA_DECAY) * torch.from_numpy(hits).to(size)
    total = EMA_DECAY * total + (1 - EMA_DECAY) * torch.from_numpy(sums).to(total)
    everything = size.sum(dim=1, keepdim=True)
    smoothed = (size + EMA_EPSILON) / (everything + n_keys * EMA_EPSILON) * everything
    return (total / smoothed[..., None]).float(), size, total


def _epochs(heads: torch.Tensor, rng: np.random.Generator) -> Iterator[torch.Tensor]:
    """Yield shuffled batches for all epochs, including the last partial batch of each."""
    for _ in range(EMA_EPOCHS):
        order = torch.from_numpy(rng.permutation(len(heads))).to(heads.device)
        for start in range(0, len(heads), EMA_BATCH):
            yield heads[order[start : start + EMA_BATCH]]


def _dead_below(batch_rows: int, n_keys: int) -> float:
    return DEAD_SHARE * batch_rows / n_keys


def _redraw(batch: torch.Tensor, keys: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Draw a candidate for every key (c, j, d) from the batch, with replacement."""
    rows = torch.from_numpy(rng.integers(len(batch), size=tuple(keys.shape[:2]))).to(batch.device)
    return batch[rows, torch.arange(keys.shape[0], device=batch.device)[:, None]]


def _hits(codes: torch.Tensor, n_keys: int) -> np.ndarray:
    """Count the rows that select each key (c, j)."""
    n_heads = codes.shape[1]
    flat = codes.cpu().numpy() + n_keys * np.arange(n_heads)
    return np.bincount(flat.ravel(), minlength=n_heads * n_keys).reshape(n_heads, n_keys)


def _sums_and_hits(heads: torch.Tensor, codes: torch.Tensor, n_keys: int) -> tuple[np.ndarray, np.ndarray]:
    """Sum the heads that select each key (c, j, d), float64, in row order, and count them (c, j)."""
    n_heads, key_dim = heads.shape[1:]
    flat = (codes.cpu().numpy() + n_keys * np.arange(n_heads)).ravel()
    columns = heads.cpu().numpy().reshape(-1, key_dim)
    sums = [np.bincount(flat, weights=columns[:, u], minlength=n_heads * n_keys) for u in range(key_dim)]
    return np.stack(sums, axis=1).reshape(n_heads, n_keys, key_dim), _hits(codes, n_keys)


def _tensor(values: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """Copy an array to the device of another tensor; numbers become float32."""
    tensor = torch.from_numpy(np.ascontiguousarray(values)).to(like.device)
    return tensor if tensor.dtype == torch.bool else tensor.float()


KEY_INITIALISATIONS: dict[str, Callable[[torch.Tensor, int, np.random.Generator], torch.Tensor]] = {
    "kmeans": _kmeans,
    "ema": _ema,
    "ema-faithful": _ema_faithful,
    "sample": _sample,
    "gaussian": _gaussian,
    "uniform": _uniform,
}
