"""Remember which samples were learned, as a multiset of 8-byte hashes.

Enters: codes (n, c, m), labels, weights. Leaves: hashes (n,), positions to delete. Counts alone cannot tell whether a
sample was ever learned: its keys may have been hit by others. Must not know: embeddings, values.
"""

from __future__ import annotations

import hashlib

import numpy as np

from dkvb_estimator._labels import label_bytes


def hash_samples(codes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Hash each sample's codes (sorted within a head) and label.

    Parameters
    ----------
    codes : ndarray of shape (n, c, m), unsigned integers
    labels : ndarray of shape (n,)
        The labels themselves, so that hashes outlive a change of class positions.

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
    """Mix each sample's weight (n,) into its hash: the same sample with another weight is another entry."""
    return hashes * np.uint64(0x9E3779B97F4A7C15) + weights.astype(np.float64).view(np.uint64)


def merge_rows(hashes: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge equal samples into one with their summed weight, in the order of their hashes.

    The result is a function of the multiset of samples, whatever the order they came in.

    Returns
    -------
    positions : ndarray of int64
        Where each distinct sample stands first.
    hashes, weights : ndarrays of the same length
    """
    order = np.lexsort((weights, hashes))  # equal rows are summed in the order of their weights: the same bits
    distinct, first, group = np.unique(hashes[order], return_index=True, return_inverse=True)
    return order[first], distinct, np.bincount(group, weights=weights[order])


def find_samples(ledger: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, int]:
    """Find one entry of the ledger for each wanted hash.

    Parameters
    ----------
    ledger, wanted : ndarray of shape (n,) and (w,), uint64

    Returns
    -------
    positions : ndarray of int64
        Entries of the ledger, one for each hash found.
    n_missing : int
        Wanted hashes for which no entry was left.

    Examples
    --------
    >>> ledger = np.array([7, 5, 7], dtype=np.uint64)
    >>> find_samples(ledger, np.array([7, 7, 7], dtype=np.uint64))
    (array([0, 2]), 1)
    """
    order = np.argsort(ledger, kind="stable")
    hashes, counts = np.unique(wanted, return_counts=True)
    first = np.searchsorted(ledger[order], hashes, side="left")
    there = np.searchsorted(ledger[order], hashes, side="right") - first
    taken = np.minimum(counts, there)
    within = np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)
    return order[np.repeat(first, taken) + within], int((counts - taken).sum())
