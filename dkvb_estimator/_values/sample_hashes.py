"""Record which samples were learned, as a multiset of 8-byte hashes.

Enters: codes (n, c, m), labels, weights. Leaves: hashes (n,), positions to delete. Counts cannot tell whether a sample
was learned, because other samples may have hit its keys. Must not know: embeddings, values.
"""

from __future__ import annotations

import hashlib

import numpy as np

from dkvb_estimator._labels import label_bytes


def hash_samples(codes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Hash the codes (sorted within a head) and the label of each sample.

    Parameters
    ----------
    codes : ndarray of shape (n, c, m), unsigned integers
    labels : ndarray of shape (n,)
        The labels themselves, so that hashes do not depend on class positions.

    Returns
    -------
    ndarray of shape (n,), uint64
    """
    rows = np.ascontiguousarray(np.sort(codes, axis=2), dtype=np.uint16)
    hashes = np.empty(len(rows), dtype=np.uint64)
    names = [label_bytes(label) for label in labels.tolist()]
    for position, (row, name) in enumerate(zip(rows, names, strict=True)):
        digest = hashlib.blake2b(row, digest_size=8)
        digest.update(name)
        hashes[position] = int.from_bytes(digest.digest(), "little")
    return hashes


def with_weights(hashes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mix the weight of each sample (n,) into its hash, so that other weights give other entries."""
    return hashes * np.uint64(0x9E3779B97F4A7C15) + weights.astype(np.float64).view(np.uint64)


def merge_rows(hashes: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge equal samples, summing their weights, in the order of their hashes.

    The result is a function of the multiset of samples and does not depend on their order.

    Returns
    -------
    positions : ndarray of int64
        First position of each distinct sample.
    hashes, weights : ndarrays of the same length
    """
    order = np.lexsort((weights, hashes))  # sums in the order of weights are reproducible to the bit
    distinct, first, group = np.unique(hashes[order], return_index=True, return_inverse=True)
    return order[first], distinct, np.bincount(group, weights=weights[order])


def find_samples(entries: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, int]:
    """Find one entry for each wanted hash.

    Parameters
    ----------
    entries, wanted : ndarray of shape (n,) and (w,), uint64

    Returns
    -------
    positions : ndarray of int64
        Positions of the entries that were found.
    n_missing : int
        Number of wanted hashes without an entry.

    Examples
    --------
    >>> entries = np.array([7, 5, 7], dtype=np.uint64)
    >>> find_samples(entries, np.array([7, 7, 7], dtype=np.uint64))
    (array([0, 2]), 1)
    """
    order = np.argsort(entries, kind="stable")
    hashes, counts = np.unique(wanted, return_counts=True)
    first = np.searchsorted(entries[order], hashes, side="left")
    there = np.searchsorted(entries[order], hashes, side="right") - first
    taken = np.minimum(counts, there)
    within = np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)
    return order[np.repeat(first, taken) + within], int((counts - taken).sum())
