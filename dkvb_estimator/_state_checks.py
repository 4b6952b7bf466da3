"""Check a stored state, which may come from an untrusted file.

Enters: the state of an estimator as plain values and arrays. Leaves: nothing, or an error that names the part. Must not
know: files, how anything is computed. Compiled code (scipy, the kernel, torch) does not check indices, so a wrong index
in a file could otherwise read beyond an array.
"""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from dkvb_estimator._validation import CHOICES, FROZEN, JOINT, MAX_KEYS, MAX_SELECTED
from dkvb_estimator._values import LEVELS

BOOK = {"projection", "keys", "centres", "reaches", "mask", "origin", "layout", "settings", "seed", "report"}
LEARNED = {
    "solver",
    "n_selected",
    "classes",
    "declared",
    "counts",
    "hashes",
    "labels",
    "weights",
    "codes",
    "table",
    "sums",
}
SUMS, ROUNDING = {"gram", "by_class", "weights"}, 1e-9
ADDED = {"origin", "reaches", "sums", "source"}
"""Names that some releases do not store."""
COUNTS = {"shape", "pointers", "classes", "hits", "weights"}
REPORT = ("unused_share", "quantisation_error", "n_rows", "novelty_unit")


def check_encoder_state(state: Mapping[str, Any]) -> None:
    """Refuse a state that no encoder can have.

    Parameters
    ----------
    state : mapping
        Result of ``__getstate__``.

    Raises
    ------
    ValueError
        If a part is not valid; the message names it.

    Examples
    --------
    >>> check_encoder_state({"_codebook": {"keys": 3}})
    Traceback (most recent call last):
    ...
    ValueError: _codebook has missing or unknown entries ...
    """
    if "_codebook" not in state:
        return
    book = _mapping(state["_codebook"], "_codebook")
    _check_names("_codebook", book, BOOK)
    _check_features(state, _check_codebook(book))


def check_classifier_state(state: Mapping[str, Any], book: Any) -> None:
    """Refuse a state that no classifier with this codebook can have.

    Parameters
    ----------
    state : mapping
        Result of ``__getstate__``.
    book : Codebook or None
        Codebook of the encoder.

    Raises
    ------
    ValueError
        If a part is not valid; the message names it.
    """
    if book is None:
        if "_learned" in state or "encoder_" in state:
            raise ValueError("learned values are stored without keys; expected both")
        return
    layout = book.layout
    n_features = book.projection.shape[0]
    if state.get("encoder") == "precomputed":
        n_features = layout.n_heads * layout.n_selected
    _check_features(state, n_features)
    temperature = state.get("_temperature", 1.0)
    if not _is_finite(temperature) or temperature <= 0:
        raise ValueError(f"the temperature is {temperature!r}; expected a finite number > 0")
    for name, value in _mapping(state.get("_temperature_with", {}), "_temperature_with").items():
        if isinstance(value, np.ndarray) or (isinstance(value, Mapping) and not all(map(_is_finite, value.values()))):
            raise ValueError(
                f"_temperature_with holds a {type(value).__name__} for {name}; expected the value of a parameter"
            )
    learned_with = _mapping(state.get("_learned_with"), "_learned_with")
    if set(learned_with) != {"solver", "remember"} or not isinstance(state.get("_keys_were_frozen"), bool):
        raise ValueError(f"_learned_with holds {dict(learned_with)}; expected solver and remember")
    if "_learned" in state:
        learned = _mapping(state["_learned"], "_learned")
        _check_names("_learned", learned, LEARNED)
        _check_names("counts", _mapping(learned["counts"], "counts"), COUNTS)
        _check_learned(learned, (layout.n_heads, layout.n_keys, layout.key_dim, layout.n_selected), book.origin)
        if learned["solver"] != learned_with["solver"]:
            raise ValueError(
                f"_learned has solver {learned['solver']!r}, _learned_with has {learned_with['solver']!r}; expected "
                "the same"
            )


def _check_features(state: Mapping[str, Any], n_features: int) -> None:
    if state.get("n_features_in_") != n_features:
        raise ValueError(
            f"n_features_in_ is {state.get('n_features_in_')}; expected {n_features}, as many as the projection has"
        )
    names = state.get("feature_names_in_")
    if names is not None:
        _array("feature_names_in_", names, "OU", (n_features,))


def _check_names(what: str, given: Mapping[str, Any], names: set[str]) -> None:
    wrong = set(given) ^ names
    if wrong - ADDED:
        raise ValueError(
            f"{what} has missing or unknown entries {', '.join(sorted(map(str, wrong)))}; expected "
            f"{', '.join(sorted(names))}"
        )


def _check_layout(layout: Any) -> tuple[int, int, int, int]:
    if not isinstance(layout, Mapping):
        raise ValueError(f"layout is {layout!r}; expected four whole numbers")
    limits = {"n_heads": 2**31, "n_keys": MAX_KEYS, "key_dim": 2**31, "n_selected": MAX_SELECTED}
    if set(layout) != set(limits):
        raise ValueError(f"layout has entries {', '.join(map(str, layout))}; expected {', '.join(limits)}")
    for name, largest in limits.items():
        if not _is_whole(layout[name]) or not 1 <= layout[name] <= largest:
            raise ValueError(f"{name} is {layout[name]!r}; expected a whole number from 1 to {largest:,}")
    return tuple(int(layout[name]) for name in limits)  # type: ignore[return-value]


def _check_codebook(book: Mapping[str, Any]) -> int:
    """Check the arrays of a codebook, and return the number of features of its projection."""
    n_heads, n_keys, key_dim, _ = _check_layout(book["layout"])
    _array("keys", book.get("keys"), "f4", (n_heads, n_keys, key_dim))
    _array("centres", book.get("centres"), "f4", (n_heads, key_dim))
    if book.get("reaches") is not None:
        _array("reaches", book["reaches"], "f4", (n_heads,))
    for name, kind in (("mask", "b"), ("origin", "u2")):
        if book.get(name) is not None:
            _array(name, book[name], kind, (n_heads, n_keys))
    if book.get("mask") is not None and not book["mask"].any(axis=1).all():
        raise ValueError("a head has no key; expected at least one")
    settings, report = _mapping(book.get("settings"), "settings"), _mapping(book.get("report"), "report")
    if not {"normalize"} <= set(settings) <= {*FROZEN, "solver", "remember"} or not isinstance(
        settings["normalize"], bool
    ):
        raise ValueError(f"settings has entries {', '.join(map(str, settings))}; expected {', '.join(FROZEN)}")
    if set(report) != set(REPORT) or not all(map(_is_finite, report.values())) or report["novelty_unit"] <= 0:
        raise ValueError(f"report is {dict(report)}; expected finite numbers named {', '.join(REPORT)}")
    if not _is_whole(book.get("seed")):
        raise ValueError(f"the seed is {book.get('seed')!r}; expected a whole number")
    n_features = _check_projection(book.get("projection"), n_heads, key_dim)
    _check_feature_blocks(settings.get("feature_blocks"), n_features, n_heads)
    return n_features


def _check_feature_blocks(blocks: Any, n_features: int, n_heads: int) -> None:
    if blocks is None:
        return
    whole = isinstance(blocks, tuple) and all(_is_whole(width) and width > 0 for width in blocks)
    if not whole or sum(blocks) != n_features or len(blocks) > n_heads:
        raise ValueError(f"feature_blocks is {blocks!r:.80}; expected widths that add up to {n_features} features")


def _check_projection(projection: Any, n_heads: int, key_dim: int) -> int:
    if not isinstance(projection, csr_array):
        _array("projection", projection, "f4", (None, n_heads, key_dim))
        return len(projection)
    if projection.shape[1] != n_heads * key_dim:
        raise ValueError(f"projection has shape {projection.shape}; expected (features, {n_heads * key_dim})")
    _array("projection", projection.data, "f4", (None,))
    if (np.diff(projection.indptr) < 0).any():  # check_format stops early if the last pointer is zero
        raise ValueError("projection.indptr descends; expected positions where the entries of each feature begin")
    projection.check_format(full_check=True)  # scipy's products do not check indices
    return int(projection.shape[0])


def _check_learned(learned: Mapping[str, Any], sizes: tuple[int, int, int, int], origin: np.ndarray | None) -> None:
    n_heads, n_keys, key_dim, n_selected = sizes
    solver = learned.get("solver")
    if solver not in CHOICES["solver"] or learned.get("n_selected") != n_selected:
        raise ValueError(
            f"solver is {solver!r}, with n_selected={learned.get('n_selected')}; expected a known solver, with "
            f"n_selected={n_selected}"
        )
    n_classes = _check_classes("classes", learned.get("classes"))
    if learned.get("declared") is not None:
        _check_classes("declared classes", learned["declared"])
    per_head = _check_counts(_mapping(learned.get("counts"), "counts"), (n_heads, n_keys, n_classes))
    n = per_head // n_selected
    if per_head % n_selected or not n:
        raise ValueError(f"the hits of a head add up to {per_head}; expected a positive multiple of {n_selected}")
    mine = learned.get("origin")
    if (mine is None) != (origin is None) or (origin is not None and not np.array_equal(np.asarray(mine), origin)):
        raise ValueError("origin differs between the learned values and the keys; expected the same")
    _check_samples(learned, solver, n if learned.get("sums") is None else 0, n_classes)
    if learned.get("sums") is not None:
        _check_sums(_mapping(learned["sums"], "sums"), n, n_classes, 2 * n_heads * key_dim)
    rows = n if solver in JOINT and learned.get("sums") is None else 0
    _array("codes", learned.get("codes"), "u", (rows, n_heads, n_selected) if rows else (0, None, None))
    if rows and learned["codes"].max() >= n_keys:
        raise ValueError(f"codes holds key {learned['codes'].max()}; expected keys below {n_keys}")
    if solver == "sgd":
        _array("table", learned.get("table"), "f4", (n_heads, n_keys, n_classes + 1))
    elif learned.get("table") is not None:
        raise ValueError(f"table is stored with solver {solver!r}; expected it only with 'sgd'")


def _check_sums(sums: Mapping[str, Any], n: int, n_classes: int, width: int) -> None:
    _check_names("sums", sums, SUMS)
    _array("sums.gram", sums["gram"], "f8", (width, width))
    _array("sums.by_class", sums["by_class"], "f8", (n_classes, width))
    _array("sums.weights", sums["weights"], "f8", (n_classes,))
    if (sums["weights"] < 0).any() or sums["weights"].sum() != n:
        raise ValueError(f"sums cover {sums['weights'].sum()} rows; expected {n}, the number of counted rows")
    gram, by_class = sums["gram"], sums["by_class"]
    if (gram != gram.T).any() or any((each != np.rint(each)).any() for each in (gram, by_class)):
        raise ValueError(
            "sums.gram is not symmetric, or sums.gram or sums.by_class holds fractions; expected sums of whole numbers"
        )
    if np.abs(gram).max() > LEVELS**2 * n or (np.abs(by_class) > LEVELS * sums["weights"][:, None]).any():
        raise ValueError(f"sums.gram or sums.by_class is too large for {n} rows; expected sums of rows")
    seen = sums["weights"] > 0
    within = gram - by_class[seen].T @ (by_class[seen] / sums["weights"][seen, None])
    within.flat[:: width + 1] += ROUNDING * gram.diagonal().max(initial=1)
    try:
        np.linalg.cholesky(within)
    except np.linalg.LinAlgError as error:
        raise ValueError(
            "sums.gram is not positive semidefinite within classes; expected sums of products of rows"
        ) from error


def _check_samples(learned: Mapping[str, Any], solver: str, n: int, n_classes: int) -> None:
    """Check the blocks that hold one entry per sample."""
    lengths = {"hashes": n, "labels": n, "weights": n}
    lengths |= {"sgd": dict.fromkeys(lengths, 0), "counts": {"weights": 0}, **{name: {} for name in JOINT}}[solver]
    for (name, length), kind in zip(lengths.items(), ("u8", "i", "f8")):
        blocks = learned.get(name)
        if not isinstance(blocks, list) or sum(map(np.size, blocks)) != length:
            raise ValueError(f"{name} does not hold {length} entries in blocks; expected one per sample")
        for block in blocks:
            _array(name, block, kind, (None,))
            if name == "labels" and len(block) and not 0 <= block.min() <= block.max() < n_classes:
                raise ValueError(
                    f"labels holds values from {block.min()} to {block.max()}; expected 0 to {n_classes - 1}"
                )
            if name == "weights" and (block <= 0).any():
                raise ValueError(f"weights holds {block.min()}; expected weights > 0")


def _check_classes(name: str, classes: Any) -> int:
    _array(name, classes, "biufUSO", (None,))
    if classes.dtype.kind == "O" and not all(isinstance(label, str) for label in classes):
        raise ValueError(f"{name} holds Python objects; expected text or numbers")
    if len(classes) and not np.array_equal(np.unique(classes), classes):
        raise ValueError(f"{name} is not sorted, or repeats a label; expected distinct labels in ascending order")
    return len(classes)


def _check_counts(counts: Mapping[str, Any], shape: tuple[int, int, int]) -> int:
    """Check sparse counts of (c, j, k), and return the number of hits of each head."""
    n_heads, n_keys, n_classes = shape
    _array("counts.shape", counts.get("shape"), "iu", (3,))
    if tuple(counts["shape"].tolist()) != shape:
        raise ValueError(f"counts.shape is {tuple(counts['shape'].tolist())}; expected {shape}")
    _array("counts.pointers", counts.get("pointers"), "iu", (n_heads * n_keys + 1,))
    _array("counts.hits", counts.get("hits"), "u", (None,))
    n_pairs, pointers = len(counts["hits"]), counts["pointers"].astype(np.int64)
    if pointers[0] != 0 or pointers[-1] != n_pairs or (np.diff(pointers) < 0).any():
        raise ValueError(
            f"counts.pointers does not ascend from 0 to {n_pairs}; expected positions where the pairs of each key begin"
        )
    _array("counts.classes", counts.get("classes"), "u", (n_pairs,))
    if n_pairs and (counts["classes"].max() >= n_classes or counts["hits"].min() < 1):
        raise ValueError(
            f"counts holds a class above {n_classes - 1}, or a pair without hits; expected pairs that occurred"
        )
    keys = np.repeat(np.arange(n_heads * n_keys), np.diff(pointers))
    if (np.diff(keys * np.int64(n_classes) + counts["classes"]) <= 0).any():
        raise ValueError("counts.classes does not ascend within a key; expected each pair once")
    if counts.get("weights") is not None:
        _array("counts.weights", counts["weights"], "f8", (n_pairs,))
        least, largest = counts["weights"].min(initial=0), counts["weights"].max(initial=0)
        if least < -1e-6 * largest or not largest < 1e200:  # forgetting may leave small negative rounding errors
            raise ValueError(f"counts.weights holds values from {least} to {largest}; expected 0 to 1e200")
    return _hits_of_a_head(counts["hits"], pointers[::n_keys])


def _hits_of_a_head(hits: np.ndarray, starts: np.ndarray) -> int:
    totals = np.diff(np.concatenate([[0], np.cumsum(hits, dtype=np.uint64).astype(np.int64)])[starts])
    if (totals != totals[0]).any():
        raise ValueError(
            f"the hits of a head add up to {totals.min()} in one head and {totals.max()} in another; expected the same "
            "sum in each"
        )
    return int(totals[0])


def _array(name: str, array: Any, kinds: str, shape: tuple[int | None, ...]) -> None:
    """Refuse anything but a finite array of a kind and shape (None: any length)."""
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name} is a {type(array).__name__}; expected an array")
    of_kind = array.dtype.str[1:] == kinds if kinds[-1].isdigit() else array.dtype.kind in kinds
    fits = len(array.shape) == len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape))
    if not of_kind or not fits:
        wanted = tuple("any" if length is None else length for length in shape)
        raise ValueError(f"{name} is {array.dtype} of shape {array.shape}; expected {kinds} of shape {wanted}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinity; expected finite numbers")
    if array.dtype.kind == "U" and array.view(f"{array.dtype.str[0]}u4").max(initial=0) > sys.maxunicode:
        raise ValueError(f"{name} contains invalid Unicode; expected text")  # Python cannot decode it


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is a {type(value).__name__}; expected a mapping")
    return value


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
