"""Check what users pass in: parameters, rows, weights, codes.

Enters: parameters of an estimator, or arrays. Leaves: resolved settings and valid arrays, or an error that says what is
wrong, what is expected and what to do. Must not know: how any of it is used.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.utils.validation import _check_sample_weight

Constructor = TypeVar("Constructor", bound=Callable[..., None])

MAX_KEYS = 65_536
MAX_SELECTED = 16
MAX_SHOWN = 80
"""Characters of a value that a message shows."""
MAX_WEIGHT = 1e15
"""Largest weight of a sample or class; products, squares and sums of such weights do not overflow."""
CHOICES = {
    "projection": ("orthogonal", "gaussian", "sparse", "chunk", "identity", "learned"),
    "key_init": ("kmeans", "ema", "ema-faithful", "sample", "gaussian", "uniform"),
    "solver": ("joint", "ridge", "counts", "sgd"),
    "objective": ("auto", "ridge", "discriminant"),
}
JOINT = ("joint", "ridge")
"""Solvers that solve all values together; ``ridge`` is ``joint`` with ``objective="ridge"``."""
FLOATS = [np.float32, np.float64]
FROZEN = (
    "n_heads", "n_keys", "key_dim", "n_selected", "normalize", "projection", "density", "key_init", "feature_blocks",
    "random_state",
)  # fmt: skip
"""Parameters of an encoder that must not change after its keys are placed."""
GRADIENT = {
    "learning_rate": 0.3,
    "batch_size": 256,
    "label_smoothing": 0.1,
    "clip_norm": 1.0,
    "max_iter": 10,
    "partial_fit_epochs": 1,
}
"""Settings of ``sgd`` and their defaults."""


class ReadsNamesOnce:
    """Mixin: reads the names of an estimator's parameters once per class.

    scikit-learn inspects the constructor at each ``get_params``, which took a quarter of the time of predicting one
    row.
    """

    @classmethod
    @functools.cache
    def _get_param_names(cls) -> list[str]:
        names: list[str] = super()._get_param_names()  # type: ignore[misc]
        return names


@dataclass(frozen=True)
class Layout:
    """Shape of a codebook: c heads, j keys per head, d coordinates, m keys selected per head."""

    n_heads: int
    n_keys: int
    key_dim: int
    n_selected: int


def check_encoder(params: Mapping[str, Any]) -> None:
    """Refuse parameters of an encoder that are invalid for any data.

    Raises
    ------
    TypeError, ValueError
    """
    _check_choices(params, ("projection", "key_init"))
    for name, largest in {"n_heads": None, "n_keys": MAX_KEYS, "key_dim": None}.items():
        check_integer(name, params[name], largest)
    _check_flag("normalize", params["normalize"])
    _check_real_or_auto("density", params["density"], positive=True)
    if params["density"] != "auto" and params["density"] > 1:
        _refuse("density", params["density"], "'auto' or a number in (0, 1]")
    _check_feature_blocks(params)


def _check_feature_blocks(params: Mapping[str, Any]) -> None:
    blocks = params["feature_blocks"]
    if blocks is None:
        return
    listed = isinstance(blocks, Sequence | np.ndarray) and not isinstance(blocks, str) and np.ndim(blocks) == 1
    if not listed or not len(blocks):
        _refuse("feature_blocks", blocks, "None or the widths of blocks, such as (96, 1280)")
    for width in blocks:
        check_integer("feature_blocks", width)
    if len(blocks) > params["n_heads"]:
        _refuse("feature_blocks", blocks, f"at most n_heads={params['n_heads']} blocks, one head per block")
    if params["projection"] in ("chunk", "identity"):
        raise ValueError(
            f"projection={params['projection']!r} does not support feature_blocks={blocks!r}, because its heads read "
            "fixed features; expected feature_blocks=None. Choose projection='orthogonal', or set feature_blocks=None."
        )


def check_parameters(params: Mapping[str, Any]) -> None:
    """Refuse parameters of a classifier that are invalid for any data.

    Raises
    ------
    TypeError, ValueError
    """
    _check_choices(params, ("solver", "objective"))
    _check_real("smoothing", params["smoothing"], positive=True)
    _check_flag("remember", params["remember"])
    _check_real_or_auto("alpha", params["alpha"], positive=True)
    _check_real_or_auto("curvature", params["curvature"], positive=False)
    gradient_settings(params["solver_params"])
    _check_class_weight(params["class_weight"])
    if params["class_weight"] is not None and keeps_sums(params["solver"], params["remember"]):
        _refuse("class_weight", params["class_weight"], "None with remember=False, which keeps sums and no samples")
    folder = params["codes_dir"]
    if folder is not None and not (isinstance(folder, str | os.PathLike) and Path(folder).is_dir()):
        _refuse("codes_dir", folder, "None or an existing folder")


def gradient_settings(given: Any) -> dict[str, Any]:
    """Return all settings of ``sgd``: those in ``solver_params``, and defaults for the others.

    Raises
    ------
    TypeError, ValueError
        If a name or a value is not valid.
    """
    if given is None:
        return dict(GRADIENT)
    if not isinstance(given, Mapping):
        _refuse("solver_params", given, "None or a dict")
    if unknown := set(given) - set(GRADIENT):
        raise ValueError(
            f"solver_params has no setting {short(min(unknown, key=str))}; expected names among {', '.join(GRADIENT)}. "
            "Set it with set_params(solver_params=...)."
        )
    settings = GRADIENT | given
    for name in ("batch_size", "max_iter", "partial_fit_epochs"):
        check_integer(name, settings[name])
    for name, positive in {"learning_rate": True, "clip_norm": True, "label_smoothing": False}.items():
        _check_real(name, settings[name], positive)
    if settings["label_smoothing"] >= 1:
        _refuse("label_smoothing", settings["label_smoothing"], "a number in [0, 1)")
    return settings


def _check_choices(params: Mapping[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        if params[name] not in CHOICES[name]:
            _refuse(name, params[name], "one of " + ", ".join(map(repr, CHOICES[name])))


def _check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool | np.bool_):
        _refuse(name, value, "True or False")


def _check_real_or_auto(name: str, value: object, *, positive: bool) -> None:
    if not (isinstance(value, str) and value == "auto"):
        _check_real(name, value, positive, "'auto' or ")


MOVED = {
    **dict.fromkeys(FROZEN[:-2], "encoder=KeyEncoder({name}=...)"),
    **dict.fromkeys(GRADIENT, "solver_params={{'{name}': ...}}"),
    "key_data": "encoder=FrozenEstimator(KeyEncoder(...).fit(key_data))",
}
"""Parameters of earlier releases, and their replacements."""


def refuse_renamed(init: Constructor) -> Constructor:
    """Let a constructor refuse parameters of earlier releases, and name their replacements.

    Raises
    ------
    TypeError
    """

    @functools.wraps(init)
    def checked(self: Any, *arguments: Any, **options: Any) -> None:
        for name in MOVED.keys() & options.keys():
            raise TypeError(
                f"{name}={short(options[name])} is a parameter of an earlier release; expected "
                f"{MOVED[name].format(name=name)}. Pass that instead."
            )
        init(self, *arguments, **options)

    return cast("Constructor", checked)


def check_integer(name: str, value: object, largest: int | None = None) -> None:
    """Refuse anything but an integer from 1 to ``largest``."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}={short(value)} is a {type(value).__name__}; expected a whole number. Pass an int.")
    if value < 1 or (largest is not None and value > largest):
        _refuse(name, value, "a whole number ≥ 1" + (f" and ≤ {largest:,}" if largest else ""))


def _check_real(name: str, value: object, positive: bool, other: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}={short(value)} is a {type(value).__name__}; expected {other}a number. Pass a float.")
    if not np.isfinite(float(value)) or value < 0 or (positive and value == 0):
        _refuse(name, value, f"{other}a finite number {'>' if positive else '≥'} 0")


def _check_class_weight(value: object) -> None:
    if value is None or (isinstance(value, str) and value == "balanced"):
        return
    if not isinstance(value, dict):
        _refuse("class_weight", value, "None, 'balanced' or a dict from label to weight")
    elif not all(isinstance(label, str | np.bool_) or _is_number(label) for label in value):
        _refuse("class_weight", value, "labels that are text or finite numbers")
    elif not all(_is_number(weight) and 0 <= weight <= MAX_WEIGHT for weight in value.values()):
        _refuse("class_weight", value, f"weights from 0 to {MAX_WEIGHT:.0e}")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and bool(np.isfinite(float(value)))


def short(value: object) -> str:
    """Return the repr of a value for a message, without the middle of a long one.

    Examples
    --------
    >>> short("a"), len(short(list(range(1000))))
    ("'a'", 80)
    """
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 33]}...{text[-30:]}"


def _refuse(name: str, value: object, expected: str) -> None:
    setting = f"solver_params={{{name!r}: ...}}" if name in GRADIENT else f"{name}=..."
    raise ValueError(f"{name}={short(value)} is not valid; expected {expected}. Set it with set_params({setting}).")


def resolve_layout(params: Mapping[str, Any], n_features: int) -> Layout:
    """Return the shape of the codebook for embeddings with ``n_features`` features.

    Raises
    ------
    ValueError
        If ``chunk`` or ``identity`` does not fit the number of features, or ``n_selected`` exceeds ``n_keys``.
    """
    n_heads, n_keys, key_dim = params["n_heads"], params["n_keys"], params["key_dim"]
    if params["projection"] == "identity":
        key_dim = n_features
        if n_heads != 1:
            _refuse("n_heads", n_heads, "1 with projection='identity', which has a single head")
    if params["projection"] == "chunk" and n_heads * key_dim != n_features:
        raise ValueError(
            f"projection='chunk' with n_heads={n_heads} and key_dim={key_dim} reads {n_heads * key_dim} features; "
            f"expected {n_features}. Choose n_heads × key_dim = {n_features}, or projection='gaussian'."
        )
    blocks = params["feature_blocks"]
    if blocks is not None and sum(map(int, blocks)) != n_features:
        raise ValueError(
            f"feature_blocks={plain_setting(blocks)} covers {sum(map(int, blocks))} features, but X has {n_features}; "
            "expected the widths of all blocks of X. Correct feature_blocks, or pass X with these columns."
        )
    return Layout(n_heads, n_keys, key_dim, _resolve_n_selected(params, n_keys))


def plain_setting(value: Any) -> Any:
    """Return a parameter as a plain value that compares by ``==``: numbers of Python, sequences as tuples.

    Examples
    --------
    >>> plain_setting([96, np.int64(1280)]), plain_setting(np.float64(0.5)), plain_setting("auto")
    ((96, 1280), 0.5, 'auto')
    """
    if isinstance(value, list | tuple | np.ndarray):
        return tuple(plain_setting(one) for one in value)
    return value.item() if isinstance(value, np.generic) else value


def check_unchanged(drawn_with: Mapping[str, Any], params: Mapping[str, Any], prefix: str = "") -> None:
    """Refuse settings that changed after fitting; ``prefix`` precedes their names in the message.

    Raises
    ------
    ValueError
    """
    for name, value in drawn_with.items():
        if plain_setting(params[name]) != value:
            raise ValueError(
                f"{prefix}{name}={short(params[name])} was set after fitting with {short(value)}; expected the same "
                "value. Set it back, or fit clone(model)."
            )


def _resolve_n_selected(params: Mapping[str, Any], n_keys: int) -> int:
    n_selected = params["n_selected"]
    if isinstance(n_selected, str):
        if n_selected != "auto":
            _refuse("n_selected", n_selected, f"'auto' or a whole number from 1 to {MAX_SELECTED}")
        return 1
    check_integer("n_selected", n_selected, MAX_SELECTED)
    if n_selected > n_keys:
        _refuse("n_selected", n_selected, f"at most n_keys={n_keys}")
    return int(n_selected)


def refuse_frame(X: Any, name: str = "X") -> None:
    """Refuse what has no numbered rows: dask data frames and series, dicts and sets.

    Raises
    ------
    TypeError
    """
    if hasattr(X, "to_dask_array"):
        raise TypeError(
            f"{name} is a dask {type(X).__name__}, whose number of rows is unknown; expected an array. Pass "
            f"{name}.to_dask_array(lengths=True)."
        )
    if isinstance(X, Mapping | Set) and not hasattr(X, "shape"):  # one kind of sparse matrix is a dict
        raise TypeError(
            f"{name} is a {type(X).__name__}; expected an array-like with one entry per sample. Pass an array or "
            "a list."
        )


def check_axes(X: Any) -> None:
    """Refuse lazy rows that do not have two axes."""
    if len(X.shape) != 2:
        raise ValueError(f"X has shape {tuple(X.shape)}; expected two axes (n, f). Reshape X.")


def check_lengths(X: Any, y: Any = None, sample_weight: Any = None) -> None:
    """Refuse lazy rows, labels and weights of unknown or different lengths."""
    given = {"X": X, "y": y, "sample_weight": sample_weight}
    for name, column in given.items():
        refuse_frame(column, name)
        shape = () if column is None else column.shape if hasattr(column, "shape") else (len(column),)
        if shape and np.isnan(shape[0]):
            raise ValueError(
                f"{name} has blocks of unknown length; expected known lengths. Call {name}.compute_chunk_sizes() first."
            )
        if name != "X" and len(shape) > 1:
            raise ValueError(f"{name} has shape {tuple(shape)}; expected one axis (n,). Pass {name}[:, 0].")
        if shape and shape[0] != X.shape[0]:
            raise ValueError(
                f"{name} has {shape[0]} entries for {X.shape[0]} rows of X; expected one per row. Pass one entry for "
                "each row of X."
            )


def as_array(X: object) -> Any:
    """Convert a torch tensor of any device to NumPy; leave everything else to scikit-learn's checks."""
    if not isinstance(X, torch.Tensor):
        return X
    X = X.detach().cpu()
    return (X.float() if X.dtype == torch.bfloat16 else X).numpy()  # NumPy has no bfloat16; float32 holds all of it


def as_float32(X: np.ndarray) -> np.ndarray:
    """Convert finite rows (n, f) to float32 in C order.

    Raises
    ------
    ValueError
        If a value exceeds the range of float32.
    """
    with np.errstate(over="ignore"):
        narrow = np.ascontiguousarray(X, dtype=np.float32)
    if X.dtype == np.float64 and X.any() and not narrow.any():
        raise ValueError(
            f"X holds no number above {np.abs(X).max():.3g}, and float32 cannot represent any of them; expected "
            "magnitudes above 1e-38. Rescale X."
        )
    if X.dtype == np.float64 and not np.isfinite(narrow).all():
        raise ValueError(
            f"X holds {np.abs(X).max():.3g}, which float32 cannot represent; expected magnitudes below 3.4e38. Rescale "
            "X."
        )
    return narrow


def check_weights(sample_weight: object, n_samples: int) -> np.ndarray:
    """Return weights of samples as float64 (n,).

    Raises
    ------
    ValueError
        If a weight is negative, too large or not finite, or if their number is wrong.
    """
    weights = _check_sample_weight(
        as_array(sample_weight), np.empty((n_samples, 1)), dtype=np.float64, ensure_non_negative=True
    )
    if weights.max(initial=0) > MAX_WEIGHT:
        raise ValueError(
            f"sample_weight holds {weights.max():.3g}; expected weights up to {MAX_WEIGHT:.0e}. Divide all weights by "
            "one number."
        )
    return weights


def drop_weightless(
    rows: np.ndarray, y: np.ndarray, sample_weight: object
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return rows, labels and weights (or None) without samples of weight zero.

    Raises
    ------
    ValueError
        If a weight is negative or not finite, if their number is wrong, or if all are zero.
    """
    if sample_weight is None:
        return rows, y, None
    given = np.asarray(as_array(sample_weight))
    if given.ndim != 1:
        raise ValueError(
            f"sample_weight has shape {given.shape}; expected (n,), one weight per sample. Pass a flat list, or None."
        )
    if given.size and not given.any():
        raise ValueError(
            f"sample_weight is zero for all {given.size} samples; expected at least one positive weight. Pass a "
            "positive weight, or sample_weight=None."
        )
    weights = check_weights(given, len(rows))
    kept = weights > 0
    return rows[kept], y[kept], weights[kept]


def check_codes(codes: object, layout: Layout, mask: np.ndarray | None = None) -> np.ndarray:
    """Return codes as (n, c, m) in the smallest unsigned type; refuse codes that no encoder of this layout makes.

    Raises
    ------
    TypeError, ValueError
        If the dtype or the shape is wrong, or a code names no key.
    """
    codes = np.asarray(as_array(codes))
    if codes.dtype.kind != "u" or issparse(codes):
        raise TypeError(
            f"codes have dtype {codes.dtype}; expected unsigned integers, as KeyEncoder.transform returns. Pass "
            "encoder.transform(X)."
        )
    width = layout.n_heads * layout.n_selected
    if codes.ndim != 2 or codes.shape[1] != width:
        raise ValueError(
            f"codes have shape {codes.shape}; expected (n, {width}), {layout.n_selected} per head. Encode again with "
            "encoder.transform(X)."
        )
    if codes.size and int(codes.max()) >= layout.n_keys:
        raise ValueError(
            f"codes hold key {int(codes.max())}; expected keys below {layout.n_keys}. Encode again with "
            "encoder.transform(X)."
        )
    codes = codes.reshape(-1, layout.n_heads, layout.n_selected).astype(code_dtype(layout.n_keys), copy=False)
    if mask is not None and not mask[np.arange(layout.n_heads)[None, :, None], codes].all():
        raise ValueError(
            "codes hold keys that prune() removed; expected codes made after pruning. Encode again with "
            "encoder_.transform(X)."
        )
    return codes


def code_dtype(n_keys: int) -> type[np.unsignedinteger]:
    """Return the smallest unsigned integer type that holds ``n_keys - 1``."""
    return np.uint8 if n_keys <= 2**8 else np.uint16


def refuse_sgd(solver: str, problem: str, remedy: str) -> None:
    """Refuse what ``sgd`` cannot do."""
    if solver == "sgd":
        raise ValueError(
            f"solver='sgd' {problem}; expected 'joint' or 'counts'. {remedy}, or fit a new model with one of the two."
        )


def keeps_sums(solver: str, remember: bool) -> bool:
    """Return whether a model keeps sums over samples instead of samples."""
    return solver in JOINT and not remember


def refuse_weights(weights: np.ndarray | None) -> None:
    """Refuse weights other than one, for a model that keeps sums.

    Raises
    ------
    ValueError
    """
    if weights is not None and not (weights == 1).all():
        raise ValueError(
            f"sample_weight holds {weights[weights != 1][0]:.3g}, but remember=False supports only weights of one; "
            "expected one, or zero to leave a sample out. Pass no weights, or fit a new model with remember=True."
        )


def refuse_forgetful(solver: str, remember: bool, method: str) -> None:
    """Refuse what needs samples, for a model that keeps sums."""
    if keeps_sums(solver, remember):
        raise ValueError(
            f"remember=False keeps sums over samples, but {method} needs the samples; expected remember=True. Call "
            "forget(X, y) with the samples, or fit a new model with remember=True."
        )


def check_mergeable(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Refuse to merge models with different solvers, settings, layouts or keys (by fingerprint)."""
    differ = [name for name in mine if mine[name] != theirs[name]]
    if differ:
        here, there = (", ".join(f"{name}={each[name]!r}" for name in differ) for each in (mine, theirs))
        raise ValueError(
            f"other has {there}, this model has {here}; expected the same. Pass the same FrozenEstimator(encoder) to "
            "both models, and prune after merging."
        )


def class_weights(option: object, classes: np.ndarray, class_counts: np.ndarray) -> np.ndarray | None:
    """Return the weight of each class (k,), or None if all are one.

    ``"balanced"`` gives n / (number of seen classes × n_k), as in scikit-learn; a class without samples gets one.
    """
    if option is None:
        return None
    seen = class_counts > 0
    if isinstance(option, Mapping):
        known = classes.tolist()
        if strange := [key for key in option if isinstance(key, str) != isinstance(known[0], str)]:
            raise ValueError(
                f"class_weight has the key {short(strange[0])}, but the learned classes have another type, such as "
                f"{short(known[0])}; expected keys of one type with them. Change it with set_params(class_weight=...)."
            )
        given = np.array([float(option.get(label, 1.0)) for label in known])
        if not given[seen].any():
            raise ValueError(
                f"class_weight={short(option)} gives every learned class weight zero; expected at least one positive "
                "weight. Change it with set_params(class_weight=...)."
            )
        return given
    weights = np.ones(len(classes))
    weights[seen] = class_counts.sum() / (seen.sum() * class_counts[seen])
    return weights
