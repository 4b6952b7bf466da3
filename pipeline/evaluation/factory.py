"""The classifier that settings describe: build it, place its keys, learn codes. Only this module knows the estimators.

Enters: the settings of a method, embeddings (n, f), codes (n, c, m). Leaves: the classifier, codes, plain numbers.
Must not know: streams, caches, tables, files.
"""

import copy
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from dkvb_estimator import Codes, DKVBClassifier, KeyEncoder, save_model
from pipeline.config import Method, encoder_and_rest, nearest, with_settings

__all__ = [
    "adds_up",
    "check_method",
    "codes_name",
    "describe_keys",
    "encode",
    "fit_codes",
    "forget_codes",
    "fresh",
    "key_facts",
    "key_settings",
    "learn_codes",
    "make_method",
    "novelty_scores",
    "place_keys",
    "reset_learning",
    "set_method",
]

_ELSEWHERE = {
    "device": "the environment variable DKVB_DEVICE",
    "feature_blocks": "the cache, whose layers are the blocks",
    "memory": "the stage, which stores codes in the scratch folder",
    "verbose": "the stage, which reports progress itself",
}
"""Settings that the pipeline sets itself, and where they come from instead."""
STEPS = "solver_params__"
"""Prefix of the settings of gradient steps in a grid."""
N_BUSIEST = 8
"""Number of keys with the most hits that the page of key usage lists."""


def make_method(
    settings: Method,
    *,
    feature_blocks: tuple[int, ...] | None = None,
    class_names: Sequence[str] = (),
    device: str = "auto",
) -> DKVBClassifier:
    """Build an untrained classifier.

    Parameters
    ----------
    settings : mapping
        Settings of the classifier, with those of the key encoder under ``encoder``; missing ones get the package's
        defaults.
    feature_blocks : tuple of int or None
        Numbers of columns of several layers: each layer gets its own heads.
    class_names : sequence of str
        Names of the classes, by label: ``class_weight`` maps names to weights.
    device : str
        Device to compute on; it comes from the environment, because it must not change results.

    Raises
    ------
    ValueError
        If a name is not a setting, or not that of a class; the message suggests the nearest valid one.

    Examples
    --------
    >>> make_method({"encoder": {"n_heads": 8}, "solver": "counts"}).encoder.n_heads
    8
    """
    encoder, rest = encoder_and_rest(settings)
    own = set(DKVBClassifier().get_params(deep=False)) - {"encoder", "random_state", *_ELSEWHERE}
    _check_names("method.encoder", encoder, tuple(sorted(set(KeyEncoder().get_params()) - set(_ELSEWHERE))))
    _check_names("method", rest, ("encoder", *sorted(own)))
    keys = KeyEncoder(**encoder, feature_blocks=feature_blocks, device=device)  # type: ignore[arg-type]
    model = DKVBClassifier(keys, **rest, device=device)  # type: ignore[arg-type]
    return _with_labels(model, class_names) if class_names and isinstance(model.class_weight, dict) else model


def _with_labels(model: DKVBClassifier, class_names: Sequence[str]) -> DKVBClassifier:
    """Let the class weights of a classifier name labels instead of classes."""
    labels = {name: label for label, name in enumerate(class_names)}
    for name in set(model.class_weight) - set(labels):
        raise ValueError(
            f"method.class_weight names {name!r}, which is not a class{nearest(name, class_names)}; expected names of "
            "classes, as in the cache. Correct params.yaml."
        )
    return model.set_params(class_weight={labels[name]: weight for name, weight in model.class_weight.items()})


def check_method(settings: Method, place: str, grid: Mapping[str, Sequence[Any]] | None = None) -> None:
    """Refuse unknown names, and values that are invalid for any data; values of a grid may be, as they fail alone.

    Raises
    ------
    ValueError
        The message begins with ``place``.
    """
    try:
        model = make_method(settings)
        with tempfile.TemporaryDirectory() as folder:
            save_model(model, f"{folder}/model.npz")  # saving checks the values of settings
        for name, values in (grid or {}).items():
            set_method(clone(model), {name: values[0]})
    except (ValueError, TypeError) as error:
        text = re.sub(r"(Set|Change) it with set_params\(.*\)\.$", "Correct params.yaml.", str(error))
        raise ValueError(f"{place}: {text}") from error


def set_method(model: DKVBClassifier, settings: Mapping[str, Any]) -> DKVBClassifier:
    """Change settings named as in a grid, such as ``encoder__n_keys``; return the classifier.

    Examples
    --------
    >>> set_method(make_method({}), {"encoder__n_keys": 8}).encoder.n_keys
    8
    >>> set_method(make_method({}), {"solver_params__learning_rate": 3.0}).solver_params
    {'learning_rate': 3.0}
    """
    steps = {name: value for name, value in settings.items() if name.startswith(STEPS)}
    own = {name: value for name, value in settings.items() if name not in steps}
    if steps:
        found = {name.removeprefix(STEPS): value for name, value in steps.items()}
        own["solver_params"] = {**(model.solver_params or {}), **found}
    make_method(with_settings({}, own))  # refuses unknown names
    return model.set_params(**own)


def place_keys(model: DKVBClassifier, X: np.ndarray) -> DKVBClassifier:
    """Place the keys on unlabelled embeddings (n, f) and freeze them; return the classifier."""
    return model.set_params(encoder=FrozenEstimator(clone(model.encoder).fit(X)))


def encode(model: DKVBClassifier, X: np.ndarray) -> np.ndarray:
    """Return the codes (n, c · m) of embeddings (n, f) by the classifier's keys."""
    return np.asarray(_encoder(model).transform(X))


def learn_codes(
    model: DKVBClassifier, codes: np.ndarray, y: np.ndarray, *, epochs: int = 1, classes: np.ndarray | None = None
) -> None:
    """Let the classifier learn codes (n, c · m) with labels (n,) in some passes; classes (k,) are declared if given."""
    if epochs > 1:
        model.set_params(solver_params={**(model.solver_params or {}), "partial_fit_epochs": epochs})
    model.partial_fit(Codes.of(codes, _encoder(model)), y, classes=classes)


def fit_codes(model: DKVBClassifier, codes: np.ndarray, y: np.ndarray) -> DKVBClassifier:
    """Fit the classifier to these codes only; return it."""
    return model.fit(Codes.of(codes, _encoder(model)), y)


def forget_codes(model: DKVBClassifier, codes: np.ndarray, y: np.ndarray) -> DKVBClassifier:
    """Let the classifier forget learned codes (n, c · m) with labels (n,); return it."""
    return model.forget(Codes.of(codes, _encoder(model)), y)


def adds_up(model: DKVBClassifier) -> bool:
    """Return whether the classifier learns sums over samples, which can be subtracted and merged."""
    return model.solver != "sgd"


def fresh(model: DKVBClassifier) -> DKVBClassifier:
    """Return an unfitted copy with the same keys."""
    return copy.deepcopy(model)


def codes_name(model: DKVBClassifier) -> str:
    """Return a name for the codes of the classifier's keys: equal names mean equal codes."""
    return f"{_encoder(model).fingerprint_} {_encoder(model).n_selected}"


def key_settings(model: DKVBClassifier) -> str:
    """Return the settings that keys and codes depend on, as text.

    Examples
    --------
    >>> key_settings(make_method({"alpha": 3.0})) == key_settings(make_method({}))
    True
    """
    return json.dumps(model.encoder.get_params(), sort_keys=True)


def reset_learning(started: DKVBClassifier, model: DKVBClassifier) -> DKVBClassifier:
    """Give a classifier with keys the other settings of `model`; return it."""
    settings = model.get_params(deep=False)
    return started.set_params(**{name: settings[name] for name in settings if name != "encoder"})


def key_facts(model: DKVBClassifier) -> dict[str, Any]:
    """Return facts about the keys after placing and learning, rounded to six digits."""
    report: Mapping[str, Any] = _encoder(model).key_report_
    return {
        "unused_keys": round(float(report["unused_share"]), 6),
        "quantisation_error": round(float(report["quantisation_error"]), 6),
        "used_keys_after_training": round(float((np.asarray(model.key_counts_) > 0).mean()), 6),
        "key_fingerprint": str(_encoder(model).fingerprint_),
    }


def novelty_scores(model: DKVBClassifier, X: np.ndarray) -> dict[str, np.ndarray]:
    """Return scores (n,) by name; higher is more novel."""
    return {"score_samples": -model.score_samples(X), "max_softmax": 1 - model.predict_proba(X).max(axis=1)}


def describe_keys(model: DKVBClassifier, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Describe key usage, with class names."""
    usage, counts = model.key_usage(), model.key_counts_
    order = np.argsort(-counts.astype(np.float64), axis=None, kind="stable")[:N_BUSIEST]
    busiest = [divmod(int(position), counts.shape[1]) for position in order]
    served = [usage.classes_of(head, key) for head, key in busiest]
    return {
        "classes": [class_names[label] for label in usage.classes],
        "used_share": usage.used_share.round(6).tolist(),
        "classes_per_key": usage.classes_per_key.round(6).tolist(),
        "overlap": usage.overlap.round(6).tolist(),
        "own_share": usage.own_share.round(6).tolist(),
        "busiest": [
            {"head": head, "key": key, "served": {class_names[label]: hits for label, hits in hits_by.items()}}
            for (head, key), hits_by in zip(busiest, served)
        ],
    }


def _encoder(model: DKVBClassifier) -> KeyEncoder:
    """Return the encoder with its keys."""
    return model.encoder_ if hasattr(model, "encoder_") else model.encoder.estimator


def _check_names(place: str, settings: Mapping[str, Any], valid: tuple[str, ...]) -> None:
    for name in settings:
        if name in _ELSEWHERE:
            raise ValueError(
                f"{place}.{name} cannot be set for a method; expected it from {_ELSEWHERE[name]}. Remove it."
            )
        if name not in valid:
            raise ValueError(
                f"{place}.{name} is not a setting{nearest(name, valid)}; expected one of {', '.join(valid)}. Correct "
                "params.yaml."
            )
