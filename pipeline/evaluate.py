"""The stage that measures one run, beside what a user would pick instead.

Room: a stage.
Enters: the settings of a run, its cache, and the cache that its keys come from.
Leaves: metrics by head (JSON), curves by head, order and stage (CSV), accuracy and confusion matrices of the
first order (JSON), seconds (JSON).
Must not know: how estimator or cache work inside; where files lie, beyond its arguments.

Every head learns the same stages from the same embeddings. The bottleneck is fitted anew for every order of
classes; its keys are placed and its codes computed once, unless the keys come from an order's own first
stage.
"""

import argparse
import copy
import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dkvb_estimator import DKVBClassifier
from dkvb_estimator.baselines import NearestClassMean
from dkvb_estimator.metrics import mean_class_accuracy
from pipeline import console
from pipeline.cache import CacheReader, check_cache, open_cache
from pipeline.params import Run, load_params
from pipeline.probes import StreamProbe
from pipeline.protocol import (
    Outcome,
    feed_then_test,
    learn_codes,
    make_estimator,
    rows_for_keys,
    summarise,
    timed,
)
from pipeline.streams import Stage, make_stages

__all__ = ["Evaluation", "build_parser", "evaluate", "main"]

# Chosen once on 300 held-out training digits over five orders: each stage is learned to .98, the
# joint probe is at its best. At 1e-3 the MLP failed on some late stages, which would look like forgetting.
PROBES: Mapping[str, Mapping[str, Any]] = {
    "linear_probe": {"hidden": None, "learning_rate": 1e-3, "epochs": 20},
    "mlp": {"hidden": 256, "learning_rate": 3e-4, "epochs": 20},
}


@dataclass(frozen=True)
class Evaluation:
    """All that one run's heads achieved.

    Attributes
    ----------
    outcomes : dict of str to list of Outcome
        Head → one outcome per order.
    joint : ndarray of int64 (n_test,)
        Predictions of a linear probe that saw all classes at once.
    y_test : ndarray of int64 (n_test,)
        Labels of the test rows.
    seeds : tuple of int
        One per order.
    class_names : tuple of str
        By label.
    seconds : dict of str to float
        Wall-clock seconds by head and part.
    """

    outcomes: dict[str, list[Outcome]]
    joint: np.ndarray
    y_test: np.ndarray
    seeds: tuple[int, ...]
    class_names: tuple[str, ...]
    seconds: dict[str, float]


@dataclass(frozen=True)
class _Bench:
    """What every head is given: rows in memory, the stages of every order, and the stopwatch."""

    X: np.ndarray  # n,f
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    orders: list[list[Stage]]
    seconds: dict[str, float]


def evaluate(run: Run, reader: CacheReader, keys: CacheReader, *, device: str = "auto") -> Evaluation:
    """Measure the run's estimator and its rivals on every order of classes.

    Parameters
    ----------
    run : Run
        Settings.
    reader, keys : CacheReader
        The run's own cache with the splits ``train`` and ``test``, and the cache that its keys come from.
    device : str
        Where the estimator computes.

    Returns
    -------
    Evaluation
        Outcomes of all heads.

    Raises
    ------
    ValueError
        If a setting is unknown, a stage has no test rows, or the caches hold different embedding spaces.
    """
    bench = _make_bench(run, reader)
    key_rows = [rows_for_keys(reader, keys, run.key_rows, stages[0]) for stages in _key_orders(run, bench)]
    model = make_estimator(run.estimator, device=device)
    outcomes = {"dkvb": _dkvb_outcomes(model, run, bench, key_rows)}
    outcomes["nearest_class_mean"] = _class_mean_outcomes(bench, normalize=bool(model.normalize))
    for head in PROBES:
        outcomes[head] = _probe_outcomes(head, bench, key_rows)
    with timed(bench.seconds, "joint_linear_probe"):
        labelled = bench.y >= 0
        joint = _probe("linear_probe", bench, key_rows[0], 0).partial_fit(bench.X[labelled], bench.y[labelled])
        predictions = joint.predict(bench.X_test)
    seeds = tuple(seed for seed, _ in run.stream.orders())
    return Evaluation(outcomes, predictions, bench.y_test, seeds, reader.header.class_names, bench.seconds)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of this stage."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.evaluate", description="Measure one run and its rivals.")
    parser.add_argument("name", help="an entry of runs in the settings file")
    for option, text in {
        "--params": "settings file to read",
        "--cache": "the run's own cache to read",
        "--key-cache": "cache to read the rows for keys from; may be the same",
        "--metrics": "JSON file to write: metrics by head",
        "--curves": "CSV file to write: accuracy after every stage",
        "--matrices": "JSON file to write: accuracy and confusion matrices",
        "--timings": "JSON file to write: seconds",
    }.items():
        parser.add_argument(option, required=True, help=text)
    return parser


def main(args: argparse.Namespace) -> None:
    """Evaluate the run that the arguments name and write the files that they name."""
    params = load_params(args.params)
    run = params.run(args.name)
    device = os.environ.get("DKVB_DEVICE", "auto")
    with open_cache(args.cache) as reader, open_cache(args.key_cache) as keys:
        check_cache(reader, backbone=params.embedding_of(run).backbone)
        evaluation = evaluate(run, reader, keys, device=device)
    metrics = _metrics(evaluation)
    console.write_json(args.metrics, metrics)
    _write_curves(args.curves, evaluation)
    console.write_json(args.matrices, _matrices(evaluation))
    console.write_json(args.timings, evaluation.seconds)
    finals = ", ".join(f"{head} {numbers['final_accuracy']:.3f}" for head, numbers in metrics.items())
    console.say(f"evaluate {args.name}", f"final accuracy: {finals} → {args.metrics}")


def _make_bench(run: Run, reader: CacheReader) -> _Bench:
    if "test" not in reader.split_names:
        raise ValueError(
            f"the cache of dataset {reader.header.dataset} has the splits {', '.join(reader.split_names)}; a "
            f"split named test is expected: choose embeddings of a dataset with test images"
        )
    stream, (X, y) = run.stream, reader.as_numpy("train")
    orders = [
        make_stages(
            stream.kind,
            y,
            seed,
            classes_per_stage=stream.classes_per_stage,
            n_stages=stream.n_stages,
            blur=stream.blur,
            order=order,
        )
        for seed, order in stream.orders()
    ]
    X_test, y_test = reader.as_numpy("test")
    return _Bench(X, y, X_test[y_test >= 0], y_test[y_test >= 0], orders, {})


def _key_orders(run: Run, bench: _Bench) -> list[list[Stage]]:
    return bench.orders if run.key_rows == "first_stage" else bench.orders[:1]


def _dkvb_outcomes(model: DKVBClassifier, run: Run, bench: _Bench, key_rows: Sequence[np.ndarray]) -> list[Outcome]:
    classes = np.unique(bench.y[bench.y >= 0]) if run.declare_classes else None
    learn = partial(learn_codes, epochs=run.epochs_per_stage, batch_rows=run.stream.batch_rows, classes=classes)
    outcomes = []
    for position, stages in enumerate(bench.orders):
        if position < len(key_rows):
            with timed(bench.seconds, "dkvb_keys"):
                model.init_keys(key_rows[position])
            with timed(bench.seconds, "dkvb_encode"):
                codes = model.encode(bench.X)
        with timed(bench.seconds, "dkvb"):
            fresh = copy.deepcopy(model)  # keys, and nothing learned
            outcomes.append(feed_then_test(fresh, stages, codes, bench.y, bench.X_test, bench.y_test, learn=learn))
    return outcomes


def _class_mean_outcomes(bench: _Bench, *, normalize: bool) -> list[Outcome]:
    """Nearest class mean on the features that the bottleneck sees: of unit length where it makes them so."""
    with timed(bench.seconds, "nearest_class_mean"):
        return [
            feed_then_test(NearestClassMean(normalize=normalize), stages, bench.X, bench.y, bench.X_test, bench.y_test)
            for stages in bench.orders
        ]


def _probe_outcomes(head: str, bench: _Bench, key_rows: Sequence[np.ndarray]) -> list[Outcome]:
    outcomes = []
    with timed(bench.seconds, head):
        for position, stages in enumerate(bench.orders):
            probe = _probe(head, bench, key_rows[position % len(key_rows)], position)
            outcomes.append(feed_then_test(probe, stages, bench.X, bench.y, bench.X_test, bench.y_test))
    return outcomes


def _probe(head: str, bench: _Bench, key_rows: np.ndarray, seed: int) -> StreamProbe:
    """Make a probe whose scale comes from the rows that the bottleneck's keys come from: no more, no less."""
    n_classes = int(max(bench.y.max(), bench.y_test.max())) + 1
    return StreamProbe(n_classes, random_state=seed, **PROBES[head]).init_scale(key_rows)


def _metrics(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    metrics = {head: summarise(found, evaluation.y_test) for head, found in evaluation.outcomes.items()}
    hits = evaluation.joint == evaluation.y_test
    # Tasks differ between orders, so the mean over tasks does too, though the predictions are the same.
    finals = [
        np.mean([hits[np.isin(evaluation.y_test, task)].mean() for task in outcome.task_classes])
        for outcome in evaluation.outcomes["dkvb"]
    ]
    metrics["joint_linear_probe"] = {
        "final_accuracy": round(float(np.mean(finals)), 6),
        "mean_class_accuracy": round(mean_class_accuracy(evaluation.y_test, evaluation.joint), 6),
        "accuracy_std_over_orders": round(float(np.std(finals)), 6),
    }
    return metrics


def _write_curves(path: str, evaluation: Evaluation) -> None:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["head", "order_seed", "stage", "samples_seen", "classes_seen", "seen_accuracy", "all_accuracy"]
        )
        for head, outcomes in evaluation.outcomes.items():
            for seed, outcome in zip(evaluation.seeds, outcomes):
                writer.writerows([head, seed, *point] for point in _points(outcome))


def _points(outcome: Outcome) -> list[tuple[int, int, int, float, float]]:
    columns = (outcome.samples_seen, outcome.classes_seen, outcome.seen_accuracy, outcome.all_accuracy)
    return [
        (stage, int(samples), int(classes), round(float(seen), 6), round(float(everything), 6))
        for stage, (samples, classes, seen, everything) in enumerate(zip(*columns), start=1)
    ]


def _matrices(evaluation: Evaluation) -> dict[str, Any]:
    names = evaluation.class_names
    first: Mapping[str, Outcome] = {head: outcomes[0] for head, outcomes in evaluation.outcomes.items()}
    return {
        "task_classes": [[names[label] for label in task] for task in first["dkvb"].task_classes],
        "class_names": list(names),
        "heads": {head: outcome.accuracy_matrix.round(6).tolist() for head, outcome in first.items()},
        "confusion": {
            head: _confusion(evaluation.y_test, outcome.predictions, len(names)).tolist()
            for head, outcome in first.items()
        },
    }


def _confusion(y_test: np.ndarray, predictions: np.ndarray, n_classes: int) -> np.ndarray:
    """Count test rows (k,k): one row a true class, one column a predicted class."""
    counts = np.zeros((n_classes, n_classes), dtype=np.int64)
    np.add.at(counts, (y_test, predictions.astype(np.int64)), 1)
    return counts


if __name__ == "__main__":
    raise SystemExit(console.run(main, build_parser()))
