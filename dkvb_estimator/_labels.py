"""Check labels, and find their positions among classes.

Enters: labels as users pass them. Leaves: arrays (n,), classes (k,), positions, or an error. Must not know: what is
learned from labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np

from ._validation import as_array, short

EXACT_FLOATS = 2.0**53
"""From here on, float64 does not represent every integer."""


def as_labels(labels: Any, name: str = "y") -> Any:
    """Convert tensors and dask collections to NumPy; refuse lists that NumPy would change.

    Raises
    ------
    ValueError
        If text ends in NUL, or a list mixes text with other labels.
    """
    if hasattr(labels, "__dask_graph__"):
        labels = labels.compute()
    if isinstance(labels, list | tuple):
        others = [label for label in labels if not isinstance(label, str)]
        if 0 < len(others) < len(labels):
            _refuse_type(others, name)
        if not others:
            _refuse_nul(labels, name)
    if isinstance(labels, np.ndarray) and labels.dtype.kind == "T":
        return labels.astype(object)  # scikit-learn does not support NumPy's variable-length text
    return as_array(labels)


def check_labels(labels: np.ndarray, name: str = "y") -> np.ndarray:
    """Refuse labels other than text, numbers and booleans, and floats that are not exact.

    Returns
    -------
    ndarray of shape (n,)
        uint64 becomes int64 if that holds all labels.

    Raises
    ------
    ValueError
    """
    kind, listed = labels.dtype.kind, [] if labels.dtype.kind in "biufU" else labels.ravel().tolist()
    if others := [label for label in listed if not isinstance(label, str)]:
        _refuse_type(others, name)
    _refuse_nul(listed, name)
    if kind == "f":
        wide = labels.astype(np.float64)
        if (wrong := wide[~(np.abs(wide) < EXACT_FLOATS)]).size:
            raise ValueError(
                f"{name} holds the float {wrong[0].item()!r}, and floats are exact labels only if finite and below "
                f"2**53 in magnitude; expected text or integers of one type. Convert {name} before it becomes float."
            )
    return labels.astype(np.int64) if labels.dtype == np.uint64 and labels.max(initial=0) < 2**63 else labels


def as_classes(classes: Any, name: str = "classes") -> np.ndarray:
    """Return the sorted, distinct labels (k,) of an array-like, another iterable, or a single label.

    Raises
    ------
    ValueError
        If an entry is not a valid label.
    """
    if isinstance(classes, Iterable) and not isinstance(classes, str) and not hasattr(classes, "__array__"):
        classes = list(classes)
    found = np.atleast_1d(np.asarray(as_labels(classes, name)))
    if found.ndim > 1:
        raise ValueError(f"{name} has shape {found.shape}; expected one axis (k,). Pass {name}.ravel() or a list.")
    return np.unique(check_labels(found, name))


def _refuse_type(labels: Sequence[Any], name: str) -> None:
    """Refuse labels in a list or an object array; the message shows one that is not a number, if any."""
    strange = next((label for label in labels if not isinstance(label, Real)), labels[0])
    raise ValueError(
        f"{name} holds {short(strange)} (Unknown label type: {type(strange).__name__}); expected an array of text, "
        f"integers or booleans. Convert {name}, for example with np.asarray({name}, dtype=str)."
    )


def _refuse_nul(texts: Sequence[str], name: str) -> None:
    for text in texts:
        if text.endswith("\0"):
            raise ValueError(
                f"{name} holds {short(text)}, which ends in NUL, and NumPy drops trailing NULs; expected text that "
                f"does not end in NUL. Remove or replace the NUL in all of {name}."
            )


def merge_classes(known: np.ndarray, labels: np.ndarray, name: str = "y") -> np.ndarray:
    """Return the sorted union of known classes and labels.

    Raises
    ------
    ValueError
        If one holds text and the other numbers, or no type holds all of them exactly.
    """
    labels = np.unique(labels)
    if not len(known):
        return labels
    if not len(labels):
        return known
    if _is_text(known) != _is_text(labels):
        raise ValueError(
            f"{name} holds {short(labels.tolist()[0])}, but the learned classes have another type, such as "
            f"{short(known.tolist()[0])}; expected labels of one type. Convert {name} to the type of the learned "
            "classes."
        )
    if _differ_in_size(known, labels):
        return _joined_exactly(known, labels, name)
    return np.union1d(known, labels)


def positions_of(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the positions (n,), int64, of labels among sorted classes that contain them."""
    return np.searchsorted(*_comparable(classes, labels))


def are_among(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return which labels are among classes (n,), bool."""
    return np.isin(*_comparable(labels, classes))


def _differ_in_size(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether NumPy would compare integers as floats, which is inexact for large ones."""
    integers = [each for each in (one, other) if each.dtype.kind in "iu"]
    return bool(integers) and one.dtype.kind in "iufb" and np.result_type(one, other).kind == "f"


def _comparable(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(one) and len(other) and _differ_in_size(one, other):
        return one.astype(object), other.astype(object)  # Python compares numbers exactly
    return one, other


def _joined_exactly(known: np.ndarray, labels: np.ndarray, name: str) -> np.ndarray:
    """Return the union in the first of int64, uint64 and float64 that holds it exactly."""
    numbers = known.tolist() + labels.tolist()
    lowest, highest = min(numbers), max(numbers)
    if "f" in (known.dtype.kind, labels.dtype.kind):
        fits = "f8" if max(-lowest, highest) < EXACT_FLOATS else ""
    else:
        fits = "i8" if highest < 2**63 else "u8" if lowest >= 0 else ""
    if not fits:
        raise ValueError(
            f"{name} and the learned classes hold labels from {lowest} to {highest}, of types {labels.dtype} and "
            f"{known.dtype}; expected labels that one type holds exactly. Convert the labels to text in every "
            "call."
        )
    return np.union1d(known.astype(fits), labels.astype(fits))


def _is_text(labels: np.ndarray) -> bool:
    return labels.dtype.kind in "US" or (labels.dtype.kind == "O" and isinstance(labels.flat[0], str))


def check_known_labels(y: np.ndarray, classes: np.ndarray) -> None:
    """Refuse labels that were never learned."""
    unknown = y[~are_among(y, classes)]
    if len(unknown):
        raise ValueError(
            f"y holds {short(unknown.tolist()[0])}, which is not among the {len(classes)} learned classes; expected "
            "labels in classes_. Leave out the samples with other labels."
        )


def label_bytes(label: object) -> bytes:
    """Serialise a label so that equal labels have equal bytes: 1, 1.0 and True are one class."""
    if isinstance(label, int | float):
        return f"n{int(label)}".encode() if float(label).is_integer() else f"n{label!r}".encode()
    return f"t{label}".encode(errors="surrogatepass")  # file names may contain lone surrogates


def label_columns(labels: np.ndarray) -> np.ndarray:
    """Hash each label to two whole numbers below 2²⁴ (n, 2), float32, independently of other labels."""
    numbers = [int.from_bytes(hashlib.blake2b(label_bytes(label), digest_size=6).digest()) for label in labels.tolist()]
    return np.array([divmod(number, 2**24) for number in numbers], dtype=np.float32)
