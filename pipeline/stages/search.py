"""The stage that compares settings of the estimator by cross-validation.

Room: a stage.
Enters: an entry of ``searches``, the cache that it learns from, and the cache that its keys come from.
Leaves: a table of candidates as CSV, the best as JSON, seconds as JSON.
Must not know: how an estimator or a cache works inside; where files lie, beyond its arguments.

The search is scikit-learn's `GridSearchCV`. Its jobs run in this process; in ``DKVB_WORKERS`` processes; or on the dask
cluster at the address ``DKVB_DASK``, whose workers see the same files.
"""

import argparse
import csv
import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, ParameterGrid, StratifiedKFold
from tqdm import tqdm

from pipeline import cli as console
from pipeline.cache import check_cache, open_cache
from pipeline.config import Search, load_params
from pipeline.evaluation import EXPECTED, Candidate, Source, keys_of, make_estimator, short_names
from pipeline.io import folder_beside, replaced

__all__ = ["build_parser", "main", "search"]

JOBS_A_STEP = 8
"""Jobs of a worker between two steps of the progress bar."""


def search(
    entry: Search, source: Source, labels: np.ndarray, *, n_jobs: int = 1, device: str = "auto"
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Compare all candidates of a grid on the same folds.

    Parameters
    ----------
    entry : Search
        The grid, the settings that all candidates share, folds.
    source : Source
        Where rows and keys come from.
    labels : ndarray of int (n,)
        Of all training rows; rows with −1 are left out.
    n_jobs : int
        Jobs at a time.
    device : str
        Where the estimator computes.

    Returns
    -------
    candidates : list of dict
        ``rank``, ``mean_score``, ``std_score``, the settings, ``error``; best first, equal ones in the order of the
        grid, those that failed last and without numbers.
    seconds : dict of str to float
        For placing keys and encoding, for all fits and tests.

    Raises
    ------
    ValueError
        If a setting is unknown, or a class has fewer rows than there are folds.
    """
    estimator = make_estimator(entry.estimator, device=device)
    make_estimator({name: values[0] for name, values in entry.grid.items()}, device=device)  # refuses unknown names
    candidate = Candidate(estimator, source)
    grid = list(ParameterGrid({f"estimator__{name}": values for name, values in entry.grid.items()}))
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
        fewest = f"class {classes[counts.argmin()]} has {counts.min()} rows" if len(classes) else "no row is labelled"
        raise ValueError(
            f"folds is {n_folds}, but {fewest}; expected a row of every class in each fold. Ask for fewer folds, or "
            "extract more rows."
        )


def _share_keys(candidate: Candidate, grid: Sequence[Mapping[str, Any]], n_jobs: int) -> None:
    """Place keys and encode once for all that have the same; one that fails says so when it is fitted."""
    settings = [clone(candidate.estimator).set_params(**short_names(dict(some))) for some in grid]
    distinct = {json.dumps(keys_of(estimator), sort_keys=True): estimator for estimator in settings}
    jobs = [joblib.delayed(_try_to_start)(candidate.source, estimator) for estimator in distinct.values()]
    done = joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered")(jobs)
    for _ in tqdm(done, total=len(jobs), desc="[search] keys and codes", unit="codebook"):
        pass


def _try_to_start(source: Source, estimator: Any) -> None:
    with suppress(*EXPECTED):
        source.started(estimator)


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
    step = max(1, JOBS_A_STEP * joblib.effective_n_jobs(n_jobs) // entry.folds)
    means, deviations = [], []
    with tqdm(total=len(grid), desc="[search] candidates", unit="candidate") as bar:
        for start in range(0, len(grid), step):
            some = [{name: [value] for name, value in settings.items()} for settings in grid[start : start + step]]
            with warnings.catch_warnings():  # failed candidates are reported by name below
                warnings.filterwarnings("ignore", message="One or more of the test scores are non-finite")
                found = GridSearchCV(candidate, some, cv=folds, n_jobs=n_jobs, refit=False).fit(X, y).cv_results_
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
        failed, settings = bool(np.isnan(means[place])), short_names(dict(grid[place]))
        # Failing is quick and repeatable: the reason is asked for here instead of being carried through the search.
        error = candidate.set_params(**grid[place]).fit(X, y).error_ if failed else None
        numbers: dict[str, Any] = {"rank": None, "mean_score": None, "std_score": None}
        if not failed:
            rank = 1 + int((means > means[place]).sum())
            numbers = {"rank": rank, "mean_score": float(means[place]), "std_score": float(deviations[place])}
        table.append({**numbers, **settings, "error": (error or "no reason found") if failed else None})
    return table


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of this stage."""
    return console.stage_parser(
        "search",
        "Compare settings by cross-validation. DKVB_WORKERS says how many processes work on it, DKVB_DASK "
        "the address of a dask cluster instead.",
        {
            "--cache": "the cache to learn from",
            "--key-cache": "cache to read the rows for keys from; may be the same",
            "--table": "CSV file to write: one line a candidate, best first",
            "--best": "JSON file to write: the best settings",
            "--timings": "JSON file to write: seconds",
        },
        table="searches",
    )


def main(args: argparse.Namespace) -> None:
    """Run the search that the arguments name and write the files that they name."""
    params = load_params(args.params)
    entry = params.search(args.name)
    with open_cache(args.cache) as reader:
        check_cache(reader, backbone=params.embedding_of(entry).backbone)
        labels = reader.labels("train")
    # on a disk that every worker sees, as the outputs' is
    with folder_beside(args.best) as folder, _workers() as n_jobs:
        paths = (str(Path(path).resolve()) for path in (args.cache, args.key_cache, folder))
        found, seconds = search(entry, Source(*paths), labels, n_jobs=n_jobs, device=_device())
    if found[0]["error"]:
        raise ValueError(
            f"all {len(found)} candidates failed, the first with {found[0]['error']}; expected one that can be fitted. "
            f"Correct searches.{args.name}."
        )
    _write_table(Path(args.table), found)
    best = {name: found[0][name] for name in entry.grid}
    console.write_json(
        args.best,
        {"best_params": dict(entry.estimator) | best, "best_score": found[0]["mean_score"], "heat_map": entry.axes()},
    )
    console.write_json(args.timings, seconds)
    for candidate in found:
        if candidate["error"]:
            failed = {name: candidate[name] for name in entry.grid}
            console.say(f"search {args.name}", f"{failed} failed: {candidate['error']}")
    console.say(f"search {args.name}", f"best of {len(found)}: {best}, accuracy {found[0]['mean_score']:.3f}")


def _device() -> str:
    return os.environ.get("DKVB_DEVICE", "auto")


@contextmanager
def _workers() -> Iterator[int]:
    """Say how many jobs run at a time, and where."""
    address = os.environ.get("DKVB_DASK")
    if not address:
        yield int(os.environ.get("DKVB_WORKERS", "1"))
        return
    from distributed import Client

    with Client(address), joblib.parallel_config("dask"):
        yield -1


def _write_table(path: Path, candidates: list[dict[str, Any]]) -> None:
    with replaced(path) as neighbour, neighbour.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(candidates[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(candidates)


if __name__ == "__main__":
    raise SystemExit(console.run(main, build_parser()))
