"""Names of images: the sha256 of each, as numbers, so that a million are compared at once.

Enters: digests in hexadecimal. Leaves: names (n, 4), and their positions among others. Must not know: images, files.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_AT_ONCE = 2**16
_HEXADECIMAL = set("0123456789abcdef")


def image_names(digests: Sequence[str]) -> np.ndarray:
    """Return the sha256 of images, given in hexadecimal, as four numbers each (n, 4).

    Raises
    ------
    ValueError
        If one is not a sha256.

    Examples
    --------
    >>> image_names(["01" + "00" * 31]).tolist()
    [[1, 0, 0, 0]]
    """
    names = np.empty((len(digests), 4), "<u8")
    for start in range(0, len(digests), _AT_ONCE):
        some = digests[start : start + _AT_ONCE]
        wrong = next((digest for digest in some if len(digest) != 64 or not set(digest) <= _HEXADECIMAL), None)
        if wrong is not None:
            raise ValueError(
                f"an image has the sha256 {wrong!r:.80}; expected 64 hexadecimal digits. Write the manifest again."
            )
        names[start : start + len(some)] = np.frombuffer(bytes.fromhex("".join(some)), "<u8").reshape(-1, 4)
    return names


def places_among(names: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the position (n,) of each name (n, 4) among the known ones (r, 4), or −1; sorts instead of comparing all.

    Examples
    --------
    >>> known = image_names(["01" * 32, "02" * 32])
    >>> places_among(image_names(["02" * 32, "03" * 32]), known).tolist()
    [1, -1]
    """
    if not len(known):
        return np.full(len(names), -1)
    order = np.argsort(known[:, 0])
    beginnings = known[order, 0]
    near = np.searchsorted(beginnings, names[:, 0])
    places = order[near.clip(0, len(known) - 1)]
    equal = (known[places] == names).all(axis=1)
    # few names share a first number: step through these until every name is found or cannot be
    left = np.flatnonzero(~equal)
    while len(left):
        near[left] += 1
        left = left[near[left] < len(known)]
        left = left[beginnings[near[left]] == names[left, 0]]
        places[left] = order[near[left]]
        equal[left] = (known[places[left]] == names[left]).all(axis=1)
        left = left[~equal[left]]
    return np.where(equal, places, -1)


def is_among(names: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return whether each name (n, 4) is among the known ones (r, 4)."""
    return places_among(names, known) >= 0
