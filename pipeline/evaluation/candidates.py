"""One candidate of a search: an estimator that shares keys and codes with others like it.

Room: between the leaves and the stages.
Enters: positions of rows, settings, where the caches are. Leaves: a fitted candidate, or the reason why it cannot be.
Must not know: which candidates there are, how they are compared.

Keys come from rows without labels that lie apart, so they are the same for every fold; candidates that differ only in
how values learn have the same codes. Both are made once and kept in a folder that all workers see.
"""

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone

from dkvb_estimator import DKVBClassifier, load_model, save_model
from pipeline.cache import CacheReader, open_cache
from pipeline.evaluation.loop import training_codes

__all__ = ["EXPECTED", "Candidate", "Source", "keys_of", "short_names"]

LEARNING = (
    "objective",
    "alpha",
    "curvature",
    "smoothing",
    "learning_rate",
    "batch_size",
    "label_smoothing",
    "clip_norm",
    "max_iter",
    "class_weight",
    "codes_dir",
    "device",
    "verbose",
)
"""Settings of how values learn: no key and no code depends on them."""
EXPECTED = (ValueError, TypeError, OSError, MemoryError, RuntimeError)
"""What makes a candidate fail without ending the search."""


def keys_of(estimator: DKVBClassifier) -> dict[str, Any]:
    """Return the settings that keys and codes depend on.

    Examples
    --------
    >>> keys_of(DKVBClassifier(alpha=3.0)) == keys_of(DKVBClassifier())
    True
    """
    return {name: value for name, value in estimator.get_params(deep=False).items() if name not in LEARNING}


@dataclass(frozen=True)
class Source:
    """Where rows come from and keys are kept, by paths: small enough to travel with every task.

    Attributes
    ----------
    cache, key_cache : str
        The cache whose training rows are learned, and the one whose rows keys are placed from.
    folder : str
        For keys and codes; every worker sees it.
    """

    cache: str
    key_cache: str
    folder: str

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Return embeddings (n,f) float32 of training rows."""
        return _embeddings(self.cache)[positions]

    def started(self, estimator: DKVBClassifier) -> tuple[DKVBClassifier, np.ndarray]:
        """Return the estimator with its keys, and the codes (n,c,m) of all training rows, both made at most once."""
        name = hashlib.sha256(json.dumps(keys_of(estimator), sort_keys=True).encode()).hexdigest()[:24]
        path = Path(self.folder) / f"{name}.npz"
        if not path.exists():
            save_model(clone(estimator).init_keys(_reader(self.key_cache).read("train")), path)
        model = load_model(path).set_params(**{name: estimator.get_params()[name] for name in LEARNING})
        return model, training_codes(model, _reader(self.cache), self.folder)


class Candidate(ClassifierMixin, BaseEstimator):
    """Fit and test an estimator on training rows that are given by their positions (n,1).

    One that cannot be fitted keeps the reason as ``error_`` and scores NaN, so that no other is lost with it.

    Parameters
    ----------
    estimator : DKVBClassifier
        Its settings are searched, as ``estimator__<name>``.
    source : Source
    """

    def __init__(self, estimator: DKVBClassifier, source: Source) -> None:
        self.estimator = estimator
        self.source = source

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Learn the codes of some rows."""
        self.error_: str | None = None
        try:
            model, codes = self.source.started(self.estimator)
            self.model_ = model.fit_codes(codes[X[:, 0]], y)
            self.classes_ = self.model_.classes_
        except EXPECTED as error:
            self.error_ = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the labels (n,) of some rows."""
        return self.model_.predict(self.source.rows(X[:, 0]))

    def score(self, X: np.ndarray, y: np.ndarray, sample_weight: Any = None) -> float:
        """Return the share of rows predicted right, or NaN."""
        return float("nan") if self.error_ else super().score(X, y, sample_weight)


def short_names(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings by their own names instead of ``estimator__<name>``."""
    return {name.removeprefix("estimator__"): value for name, value in settings.items()}


@functools.lru_cache(maxsize=2)
def _reader(path: str) -> CacheReader:
    return open_cache(path)


@functools.lru_cache(maxsize=1)
def _embeddings(path: str) -> np.ndarray:
    return _reader(path).read("train")
