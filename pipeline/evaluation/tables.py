"""Tables of outcomes: baselines and runs write the same form, and the two are joined here.

Enters: a bench and what each method achieved on it.
Leaves: one `Tables` of plain numbers and lists; the same read back from JSON; files.
Must not know: methods, caches, settings.
"""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from dkvb_estimator.metrics import mean_class_accuracy, prequential_accuracy
from pipeline.evaluation.loop import Bench, Outcome, summarise
from pipeline.io import read_text, replaced

__all__ = ["CURVE_COLUMNS", "PREQUENTIAL_COLUMNS", "MethodResult", "Tables", "make_tables", "write_csv"]

CURVE_COLUMNS = ("method", "order_seed", "task", "samples_seen", "classes_seen", "seen_accuracy", "all_accuracy")
PREQUENTIAL_COLUMNS = ("method", "samples_seen", "accuracy")


@dataclass(frozen=True)
class MethodResult:
    """The results of one method.

    Attributes
    ----------
    outcomes : list of Outcome
        One per order; empty for a method that sees all classes at once.
    predictions : ndarray of shape (n_test,), int64
        On all test rows, after the last task of the first order.
    met : ndarray of shape (2, n), int64, or None
        Labels of the first order as they arrived, and the predictions made before learning them.
    facts : mapping
        Further numbers: costs that do not depend on the clock, confidence.
    novelty : mapping
        Name of a score → the result of `pipeline.evaluation.calibration.tell_unseen`.
    seconds : mapping
        Wall-clock seconds by part.
    """

    outcomes: list[Outcome]
    predictions: np.ndarray
    met: np.ndarray | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    novelty: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Tables:
    """All numbers of some methods, ready to be written.

    Attributes
    ----------
    metrics : dict
        method → metric → number.
    curves, prequential : list of list
        Rows under `CURVE_COLUMNS` and `PREQUENTIAL_COLUMNS`.
    matrices : dict
        ``task_classes``, ``class_names``; by method, of the first order: ``methods`` (accuracy on each task after each
        task), ``confusion``, ``class_accuracy``.
    novelty : dict
        method → score → numbers.
    """

    metrics: dict[str, dict[str, Any]]
    curves: list[list[Any]]
    prequential: list[list[Any]]
    matrices: dict[str, Any]
    novelty: dict[str, Any]

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read tables from the JSON form of `record`.

        Raises
        ------
        ValueError
            If the file is damaged, or contains something else.
        """
        try:
            return cls(**json.loads(read_text(path)))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path} cannot be read ({error}); expected tables as the stage "
                "`baselines` writes them. Run `dvc repro` to make them again."
            ) from error

    def record(self) -> dict[str, Any]:
        """Return everything as one plain dict."""
        return asdict(self)

    def joined(self, others: "Tables") -> "Tables":
        """Return these methods followed by others, measured on the same stream.

        Raises
        ------
        ValueError
            If the two were measured on other tasks.
        """
        for name in ("task_classes", "class_names"):
            own, theirs = self.matrices[name], others.matrices[name]
            if own != theirs:
                raise ValueError(
                    f"the baselines' {name} are {theirs}, the run's {own}; expected the same stream. Run `dvc "
                    "repro` to measure both again."
                )
        by_method = {
            name: self.matrices[name] | others.matrices[name] for name in ("methods", "confusion", "class_accuracy")
        }
        return Tables(
            self.metrics | others.metrics,
            self.curves + others.curves,
            self.prequential + others.prequential,
            self.matrices | by_method,
            self.novelty | others.novelty,
        )


def make_tables(bench: Bench, results: Mapping[str, MethodResult]) -> Tables:
    """Make tables of the results of methods, rounded to six digits.

    Parameters
    ----------
    bench : Bench
        What they met.
    results : mapping
        By name of the method.
    """
    streamed = {method: result for method, result in results.items() if result.outcomes}
    met = {method: result.met for method, result in results.items() if result.met is not None}
    confusion = {method: _confusion(bench, result.predictions) for method, result in results.items()}
    names = list(bench.class_names)
    return Tables(
        {method: _numbers(bench, result) for method, result in results.items()},
        [
            [method, seed, *point]
            for method, result in streamed.items()
            for seed, outcome in zip(bench.seeds, result.outcomes)
            for point in _points(outcome)
        ],
        [[method, *point] for method, pair in met.items() for point in _prequential_points(pair, bench.batch_rows)],
        {
            "task_classes": [[names[label] for label in task.classes] for task in bench.orders[0]],
            "class_names": names,
            "methods": {method: r.outcomes[0].accuracy_matrix.round(6).tolist() for method, r in streamed.items()},
            "confusion": {method: counts.tolist() for method, counts in confusion.items()},
            "class_accuracy": {method: _class_accuracy(counts) for method, counts in confusion.items()},
        },
        {method: dict(result.novelty) for method, result in results.items() if result.novelty},
    )


def write_csv(path: str | Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows under a line of column names, completely or not at all; create a missing folder."""
    with replaced(path) as neighbour, neighbour.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def _numbers(bench: Bench, result: MethodResult) -> dict[str, Any]:
    numbers = summarise(result.outcomes, bench.y_test) if result.outcomes else _end_alone(bench, result.predictions)
    if result.met is not None:
        numbers["prequential_accuracy"] = round(prequential_accuracy(*result.met), 6)
    return numbers | dict(result.facts)


def _end_alone(bench: Bench, predictions: np.ndarray) -> dict[str, float]:
    """Return the metrics of a method that learned all classes at once."""
    hits = predictions == bench.y_test
    # Tasks differ between orders, so the mean over tasks does too, though the predictions are the same.
    finals = [np.mean([hits[np.isin(bench.y_test, task.classes)].mean() for task in tasks]) for tasks in bench.orders]
    return {
        "final_accuracy": round(float(np.mean(finals)), 6),
        "mean_class_accuracy": round(mean_class_accuracy(bench.y_test, predictions), 6),
        "accuracy_std_over_orders": round(float(np.std(finals)), 6),
    }


def _points(outcome: Outcome) -> list[list[Any]]:
    columns = (outcome.samples_seen, outcome.classes_seen, outcome.seen_accuracy, outcome.all_accuracy)
    return [
        [task, int(samples), int(classes), round(float(seen), 6), round(float(everything), 6)]
        for task, (samples, classes, seen, everything) in enumerate(zip(*columns), start=1)
    ]


def _prequential_points(met: np.ndarray, batch_rows: int) -> list[list[Any]]:
    """Return the accuracy so far, after every batch."""
    right = np.cumsum(met[0] == met[1])
    ends = [*range(batch_rows, len(right), batch_rows), len(right)]
    return [[end, round(float(right[end - 1] / end), 6)] for end in ends]


def _confusion(bench: Bench, predictions: np.ndarray) -> np.ndarray:
    """Count test rows (k, k): one row per true class, one column per predicted class."""
    counts = np.zeros((len(bench.class_names),) * 2, dtype=np.int64)
    np.add.at(counts, (bench.y_test, predictions.astype(np.int64)), 1)
    return counts


def _class_accuracy(counts: np.ndarray) -> list[float | None]:
    """Return the accuracy of each class; None if no test row has it."""
    totals = counts.sum(axis=1)
    return [round(float(right / total), 6) if total else None for right, total in zip(counts.diagonal(), totals)]
