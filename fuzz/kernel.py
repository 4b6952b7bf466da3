"""Fuzz the compiled kernel with shapes and numbers drawn from bytes.

Enters: bytes. Leaves: nothing. Must not know: which fuzzer calls.
"""

from __future__ import annotations

import itertools
import struct
from unittest.mock import patch

import numpy as np

from dkvb_estimator._kernel import native
from fuzz import Finding


def fuzz_kernel(data: bytes) -> None:
    """Check that codes name distinct, existing keys, and that no other key is nearer by more than rounding."""
    if native.KERNEL is None or len(data) < 12:
        return
    n, heads, keys, dim, selected, threads, shape = struct.unpack("<7B", data[:7])
    sizes = 1 + n % 40, 1 + heads % 5, 1 + keys, 1 + dim % 20
    n_selected = min(1 + selected % 16, sizes[2])
    rows, centred, halves, centres = _kernel_arrays(data[7:], *sizes, scale=10.0 ** (shape % 37 - 18))
    searched = native.NativeKeys(native.KERNEL, centred, halves, centres)
    codes = searched.nearest(rows, n_selected, 1 + threads % 3)
    if n_selected == 1:
        _check_arranged(searched, rows, codes)
    if codes.max(initial=0) >= sizes[2]:
        raise Finding(f"code {codes.max()} exceeds {sizes[2]} keys")
    ordered = np.sort(codes, axis=2)
    if n_selected > 1 and (np.diff(ordered.astype(np.int64), axis=2) == 0).any():
        raise Finding("one key was selected twice")
    _check_nearness(rows - centres, centred, halves, codes)


def _check_arranged(searched: native.NativeKeys, rows: np.ndarray, codes: np.ndarray) -> None:
    """Check that searches in boxes and in a grid give the same codes, even if these structures do not pay off."""
    limits = {"MIN_BOXES": 1, "MAX_LOOKED_INTO": 1, "MAX_LISTED": 1}
    with patch.multiple(native, **limits):
        ways = {"boxes": searched._boxed, "a grid": searched._gridded}
    for what, arranged in ways.items():
        with patch.object(searched, "_arranged_for", lambda n_rows, n_selected, arranged=arranged: arranged):
            if not np.array_equal(searched.nearest(rows, 1, 1), codes):
                raise Finding(f"a search in {what} gives other codes than a scan")


def _kernel_arrays(
    data: bytes, n: int, heads: int, keys: int, dim: int, scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw arrays that repeat a few of the input's own numbers, including ties, zeros, huge and tiny numbers."""
    few = np.frombuffer(data[: len(data) // 4 * 4], dtype=np.float32)
    few = np.where(np.isfinite(few), few, 0).clip(-1e18, 1e18)
    rng = np.random.default_rng(list(data[:8]))
    pool = np.concatenate([few, rng.normal(size=8) * scale, [0]]).astype(np.float32)
    rows = rng.choice(pool, size=(n, heads, dim))
    centred = rng.choice(pool, size=(heads, keys, dim))
    halves = (np.square(centred, dtype=np.float64).sum(axis=2) / 2).astype(np.float32)
    halves[rng.random(halves.shape) < 0.2 * (data[0] % 2)] = np.inf
    return rows, centred, halves, rng.choice(pool, size=(heads, dim))


def _check_nearness(rows: np.ndarray, keys: np.ndarray, halves: np.ndarray, codes: np.ndarray) -> None:
    scores = halves.astype(np.float64) - np.einsum("ncd,cjd->ncj", rows.astype(np.float64), keys.astype(np.float64))
    sizes = np.einsum("ncd,cjd->ncj", np.abs(rows, dtype=np.float64), np.abs(keys, dtype=np.float64))
    sizes = sizes + np.where(np.isinf(halves), 0, halves).astype(np.float64)
    slack = 1e-6 * (1 + keys.shape[2]) * sizes.max(axis=2, keepdims=True) + 1e-37
    found = np.take_along_axis(scores, codes.astype(np.int64), axis=2)
    best = np.sort(scores, axis=2)[:, :, : codes.shape[2]]
    usable = np.isfinite(best)
    if (np.isfinite(found) != usable).any() or (
        (found - best)[usable] > np.broadcast_to(slack, best.shape)[usable]
    ).any():
        raise Finding("a nearer key was passed over")


def kernel_seeds() -> list[bytes]:
    """Return shapes at the edges of the kernel's blocks."""
    values = struct.pack("<4f", 0.0, 1.0, -1e18, 1e-38)
    shapes = itertools.product((0, 12, 31), (0,), (0, 15, 64), (0, 13, 19), (0, 7), (0,), (0, 18))
    return [struct.pack("<7B", *shape) + values for shape in shapes]
