"""Rows to forget in models: a model forgets them exactly, or is trained again.

Enters: a model file, the cache that it learned from. Leaves: a new model file or none, and its entry in the receipt.
Must not know: manifests, the store.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dkvb_estimator import DKVBClassifier, load_model, read_card, save_model
from pipeline.cache import CacheReader

_ROWS_AT_ONCE = 4096
_ROWS_COMPARED = 2000


@dataclass(frozen=True)
class Change:
    """The change of a cache.

    Parameters
    ----------
    old, new : CacheReader
    rows : ndarray of int64
        Its training rows to remove.
    old_sha256, new_sha256 : str
    """

    old: CacheReader
    new: CacheReader
    rows: np.ndarray
    old_sha256: str
    new_sha256: str


def forget_in_model(path: Path, changes: dict[str, Change], staged: Path) -> dict[str, Any] | None:
    """Write the model after forgetting beside the old one; return the receipt entry, or None if it does not change.

    If the entry says ``"trained again"``, nothing was written.
    """
    try:
        card = read_card(path)
    except (OSError, ValueError):
        return None
    own, keys = (changes.get(str(card.get(name))) for name in ("cache_sha256", "key_cache_sha256"))
    if own is None and keys is None:
        return None
    record = {"path": path.name, "run": card.get("run")}
    if keys is not None and len(keys.rows):
        return record | _again("its keys were placed on rows that are deleted")
    model = load_model(path)
    new_card = dict(card)
    if keys is not None:
        new_card["key_cache_sha256"] = keys.new_sha256
    if own is not None:
        labels = own.old.labels("train")
        rows = own.rows[labels[own.rows] >= 0]
        if len(rows) and not model.forgetting_is_exact_:
            return record | _again(
                f"solver {model.solver} with keys of {card.get('key_dataset')} cannot forget exactly"
            )
        if len(rows):
            try:
                model.forget(own.old.read("train", rows), labels[rows])
            except ValueError as error:
                return record | _again(str(error).partition(";")[0])
            if not hasattr(model, "classes_"):
                return record | _again("it learned only these samples")
            record |= _gap(model, own.new)
        new_card["cache_sha256"] = own.new_sha256
    save_model(model, staged, new_card)
    return record | {"how": "forgot exactly" if "gap" in record else "learned none of them; only its card changes"}


def _again(why: str) -> dict[str, Any]:
    return {"how": "trained again", "why": f"{why}: the file is deleted, and `dvc repro` trains it again"}


def _gap(model: DKVBClassifier, cache: CacheReader) -> dict[str, Any]:
    """Compare a model after forgetting with one with the same keys that learned only the remaining rows."""
    blank = copy.deepcopy(model)
    classes = model.classes_
    try:
        blank.forget_classes(classes)
    except ValueError as error:
        return {"gap": {"measured": False, "why": str(error).partition(";")[0]}}
    labels = cache.labels("train")
    rows = np.flatnonzero(labels >= 0)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        here = rows[start : start + _ROWS_AT_ONCE]
        blank.partial_fit(cache.read("train", here), labels[here], classes=classes)
    ours, theirs = (np.ascontiguousarray(one.values_) for one in (model, blank))
    X = cache.read("train", rows[:: max(1, len(rows) // _ROWS_COMPARED)])
    difference = np.abs(model.decision_function(X) - blank.decision_function(X)).max(initial=0.0)
    same_shape = ours.shape == theirs.shape and ours.dtype == theirs.dtype
    bits = int(np.unpackbits(ours.view(np.uint8) ^ theirs.view(np.uint8)).sum()) if same_shape else None
    return {
        "gap": {
            "measured": True,
            "to": f"a model with the same keys that learned only the other {len(rows)} rows",
            "bits_of_values": bits,
            "largest_difference_of_scores": float(difference),
            "n_rows_compared": len(X),
        }
    }
