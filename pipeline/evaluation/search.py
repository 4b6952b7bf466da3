"""Search settings by cross-validation: candidates share keys and codes, and are compared on the same folds.

Enters: an entry of ``searches``, the paths of its caches, labels. Leaves: a table of candidates, best first.
Must not know: which files are written.

Keys come from separate unlabelled rows, so they are the same for every fold. Candidates that differ only in how values
learn have the same codes. Both are computed once and kept in a folder that all workers can read. The search is
scikit-learn's `GridSearchCV`.
"""

import functools
import hashlib
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import joblib
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.model_selection import GridSearchCV, ParameterGrid, StratifiedKFold
from tqdm import tqdm

from dkvb_estimator import DKVBClassifier, load_model, save_model
from pipeline.cache import CacheReader, open_cache
from pipeline.config import Search
from pipeline.evaluation.factory import (
    fit_codes,
    key_settings,
    make_method,
    place_keys,
    reset_learning,
    set_method,
)
from pipeline.evaluation.runs import training_codes
from pipeline.io import counted

__all__ = ["Candidate", "Source", "search_settings"]

EXPECTED = (ValueError, TypeError, OSError, MemoryError, RuntimeError)
"""Errors that make a candidate fail without ending the search."""
JOBS_PER_STEP = 8
"""Jobs per worker between two steps of the progress bar."""


@dataclass(frozen=True)
class Source:
    """Paths of the rows and of the kept keys: small enough to send with every job.

    Attributes
    ----------
    cache, key_cache : str
        The cache with the training rows to learn, and the one with the rows to place keys on.
    folder : str
        For keys and codes; every worker can read it.
    """

    cache: str
    key_cache: str
    folder: str

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Return embeddings (n, f) float32 of training rows."""
        return _embeddings(self.cache)[positions]

    def started(self, method: DKVBClassifier) -> tuple[DKVBClassifier, np.ndarray]:
        """Return the method with its keys, and the codes (n, c, m) of all training rows, both computed at most once."""
        name = hashlib.sha256(key_settings(method).encode()).hexdigest()[:24]
        path = Path(self.folder) / f"{name}.npz"
        if not path.exists():
            save_model(place_keys(clone(method), _reader(self.key_cache).read("train")), path)
        model = reset_learning(load_model(path), method)
        return model, training_codes(model, _reader(self.cache), self.folder)


class Candidate(ClassifierMixin, BaseEstimator):
    """Fit and test a method on training rows that are given by their positions (n, 1).

    If it cannot be fitted, it keeps the reason as ``error_`` and scores NaN, so that the others continue.

    Parameters
    ----------
    method : DKVBClassifier
        The settings that all candidates share.
    source : Source
    settings : mapping
        The candidate's own settings, named as in a grid.
    """

    def __init__(self, method: DKVBClassifier, source: Source, settings: Mapping[str, Any] | None = None) -> None:
        self.method = method
        self.source = source
        self.settings = settings

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Learn the codes of some rows."""
        self.error_: str | None = None
        try:
            model, codes = self.source.started(set_method(clone(self.method), self.settings or {}))
            self.model_ = fit_codes(model, codes[X[:, 0]], y)
            self.classes_ = self.model_.classes_
        except EXPECTED as error:
            self.error_ = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the labels (n,) of some rows."""
        return self.model_.predict(self.source.rows(X[:, 0]))

    def score(self, X: np.ndarray, y: np.ndarray, sample_weight: Any = None) -> float:
        """Return the accuracy, or NaN."""
        return float("nan") if self.error_ else super().score(X, y, sample_weight)


def search_settings(
    entry: Search, source: Source, labels: np.ndarray, *, n_jobs: int = 1, device: str = "auto"
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Compare all candidates of a grid on the same folds.

    Parameters
    ----------
    entry : Search
        The grid, the settings that all candidates share, folds.
    source : Source
        The source of rows and keys.
    labels : ndarray of shape (n,), integers
        Labels of all training rows; rows with −1 are left out.
    n_jobs : int
        Jobs at a time.
    device : str
        Where the method computes.

    Returns
    -------
    candidates : list of dict
        ``rank``, ``mean_score``, ``std_score``, the settings, ``error``; best first, ties in the order of the
        grid, failed ones last and without numbers.
    seconds : dict of str to float
        For placing keys and encoding, and for all fits and tests.

    Raises
    ------
    ValueError
        If a setting is unknown, or a class has fewer rows than there are folds.
    """
    blocks, names = _reader(source.cache).feature_blocks, _reader(source.cache).header.class_names
    method = make_method(entry.method, feature_blocks=blocks, class_names=names, device=device)
    candidate = Candidate(method, source)
    grid = list(ParameterGrid(entry.grid))
    set_method(clone(candidate.method), grid[0])  # refuses unknown names before anything is computed
    rows = np.flatnonzero(labels >= 0)
    _check_folds(labels[rows], entry.folds)
    seconds = {}
    started = time.perf_counter()
    _share_keys(candidate, grid, n_jobs)
    seconds["keys_and_codes"] = round(time.perf_counter() - started, 3)
    scores = _scores(candidate, grid, rows[:, None], labels[rows], entry, n_jobs)
    seconds["fit_and_test"] = round(time.perf_counter() - started - seconds["keys_and_codes"], 3)
    return _ranked(candidate, grid, scores, rows[:, None], labels[rows]), seconds


def _check_folds(labels: np.ndarray, n_folds: int) -> None:
    classes, counts = np.unique(labels, return_counts=True)
    if not len(classes) or counts.min() < n_folds:
        fewest = "no row is labelled"
        if len(classes):
            least = counts.argmin()
            fewest = f"class {classes[least]} has {counted(counts[least], 'row')}"
        raise ValueError(
            f"folds is {n_folds}, but {fewest}; expected a row of every class in each fold. Lower folds, or "
            "extract more rows."
        )


def _share_keys(candidate: Candidate, grid: Sequence[Mapping[str, Any]], n_jobs: int) -> None:
    """Place keys and encode once for all candidates with the same keys; a failing one reports its error when fitted."""
    methods = [set_method(clone(candidate.method), some) for some in grid]
    distinct = {key_settings(method): method for method in methods}
    jobs = [joblib.delayed(_try_to_start)(candidate.source, method) for method in distinct.values()]
    done = joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered")(jobs)
    for _ in tqdm(done, total=len(jobs), desc="[search] keys and codes", unit="codebook"):
        pass


def _try_to_start(source: Source, method: Any) -> None:
    with suppress(*EXPECTED):
        source.started(method)


def _scores(
    candidate: Candidate,
    grid: Sequence[Mapping[str, Any]],
    X: np.ndarray,
    y: np.ndarray,
    entry: Search,
    n_jobs: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each candidate's accuracy over the folds (NaN: it failed)."""
    folds = StratifiedKFold(entry.folds, shuffle=True, random_state=entry.seed)
    step = max(1, JOBS_PER_STEP * joblib.effective_n_jobs(n_jobs) // entry.folds)
    means, deviations = [], []
    with tqdm(total=len(grid), desc="[search] candidates", unit="candidate") as bar:
        for start in range(0, len(grid), step):
            some = grid[start : start + step]
            with warnings.catch_warnings():  # failed candidates are reported by name below
                warnings.filterwarnings("ignore", message="One or more of the test scores are non-finite")
                found = (
                    GridSearchCV(candidate, {"settings": some}, cv=folds, n_jobs=n_jobs, refit=False)
                    .fit(X, y)
                    .cv_results_
                )
            means.append(found["mean_test_score"])
            deviations.append(found["std_test_score"])
            bar.update(len(some))
    return np.concatenate(means), np.concatenate(deviations)


def _ranked(
    candidate: Candidate,
    grid: Sequence[Mapping[str, Any]],
    scores: tuple[np.ndarray, np.ndarray],
    X: np.ndarray,
    y: np.ndarray,
) -> list[dict[str, Any]]:
    means, deviations = (np.round(part, 6) for part in scores)
    table = []
    for place in np.argsort(-np.nan_to_num(means, nan=-1.0), kind="stable").tolist():
        failed, settings = bool(np.isnan(means[place])), dict(grid[place])
        # Failing is fast and repeatable, so the reason is determined here instead of being passed through the search.
        error = candidate.set_params(settings=grid[place]).fit(X, y).error_ if failed else None
        numbers: dict[str, Any] = {"rank": None, "mean_score": None, "std_score": None}
        if not failed:
            rank = 1 + int((means > means[place]).sum())
            numbers = {"rank": rank, "mean_score": float(means[place]), "std_score": float(deviations[place])}
        table.append({**numbers, **settings, "error": (error or "no reason found") if failed else None})
    return table


@functools.lru_cache(maxsize=2)
def _reader(path: str) -> CacheReader:
    return open_cache(path)


@functools.lru_cache(maxsize=1)
def _embeddings(path: str) -> np.ndarray:
    return _reader(path).read("train")
