"""Learn a stage, test on everything, go on: the loop that training and evaluation share.

Room: between the leaves and the stages.
Enters: a model, stages of row positions, arrays of training and test samples, settings of a run.
Leaves: an `Outcome` with accuracies after every stage, predictions made before learning; the estimator that a run
describes, with the rows that its keys come from; seconds.
Must not know: how a cache is stored, how an estimator works inside, where files lie.
"""

import difflib
import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dkvb_estimator import DKVBClassifier
from dkvb_estimator.metrics import (
    average_incremental_accuracy,
    backward_transfer,
    final_accuracy,
    forgetting,
    learning_accuracy,
    mean_class_accuracy,
    min_accuracy,
)
from pipeline.cache import CacheReader
from pipeline.config import Stream
from pipeline.evaluation.streams import Stage, make_stages
from pipeline.scratch import stored_codes

__all__ = [
    "Bench",
    "Outcome",
    "batches",
    "feed_then_test",
    "learn_codes",
    "learn_rows",
    "make_bench",
    "make_estimator",
    "per_order",
    "predict_then_learn",
    "rows_for_keys",
    "seen_half",
    "stages_of",
    "summarise",
    "timed",
    "training_codes",
]

# Settings that the pipeline gives itself, and the place where a user says them.
_ELSEWHERE = {
    "device": "the environment variable DKVB_DEVICE",
    "key_data": "the run's keys entry",
    "verbose": "nothing: stages report one line each",
}


@dataclass(frozen=True)
class Outcome:
    """What was measured after each of t stages.

    Attributes
    ----------
    task_classes : tuple of tuple of int
        Classes of each task, in the order of learning.
    accuracy_matrix : ndarray of float64 (t,t)
        Accuracy on the test rows of task j after stage i, unlearned tasks included as measured.
    seen_accuracy : ndarray of float64 (t,)
        Accuracy on test rows of all classes seen so far.
    all_accuracy : ndarray of float64 (t,)
        Accuracy on all test rows.
    samples_seen, classes_seen : ndarray of int64 (t,)
        Training rows and distinct classes so far.
    predictions : ndarray of int64 (n,)
        Predictions on all test rows after the last stage.
    """

    task_classes: tuple[tuple[int, ...], ...]
    accuracy_matrix: np.ndarray
    seen_accuracy: np.ndarray
    all_accuracy: np.ndarray
    samples_seen: np.ndarray
    classes_seen: np.ndarray
    predictions: np.ndarray


@dataclass(frozen=True)
class Bench:
    """What every head is given: rows in memory and the stages of every order.

    Attributes
    ----------
    X, X_test : ndarray of float32 (n,f), (n_test,f)
        Embeddings; test rows without a label are left out.
    y, y_test : ndarray of int64 (n,), (n_test,)
        Their labels; −1 for training rows without one, which belong to no stage.
    seeds : tuple of int
        One per order.
    orders : tuple of list of Stage
        Stages of every order.
    batch_rows : int
        Rows that arrive together.
    class_names : tuple of str
        By label.
    """

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    seeds: tuple[int, ...]
    orders: tuple[list[Stage], ...]
    batch_rows: int
    class_names: tuple[str, ...]

    @property
    def classes(self) -> np.ndarray:
        """Labels of the training rows, sorted (k,)."""
        return np.unique(self.y[self.y >= 0])


def stages_of(stream: Stream, labels: np.ndarray) -> list[list[Stage]]:
    """Return the stages of every order of a stream, for the labels of all training rows (n,)."""
    return [
        make_stages(
            stream.kind,
            labels,
            seed,
            classes_per_stage=stream.classes_per_stage,
            n_stages=stream.n_stages,
            blur=stream.blur,
            order=order,
        )
        for seed, order in stream.orders()
    ]


@dataclass(frozen=True)
class HalfSeen:
    """The first half of a stream's stages, and which test rows (n_test,) carry a class that they hold."""

    stages: list[Stage]
    known: np.ndarray


def seen_half(stages: Sequence[Stage], y: np.ndarray, y_test: np.ndarray) -> HalfSeen | None:
    """Return the first half of the stages, rounded up, or None where no class is left for the other half.

    A blurry stream deals rows of every class to every stage: those of the other half's classes are left out.

    Examples
    --------
    >>> stages = [Stage((0,), np.array([0, 2])), Stage((1,), np.array([1]))]
    >>> half = seen_half(stages, y=np.array([0, 1, 1]), y_test=np.array([0, 1]))
    >>> half.stages[0].rows.tolist(), half.known.tolist()
    ([0], [True, False])
    """
    first = stages[: (len(stages) + 1) // 2]
    classes = sorted({label for stage in first for label in stage.classes})
    known = np.isin(y_test, classes)
    if known.all():
        return None
    return HalfSeen([Stage(stage.classes, stage.rows[np.isin(y[stage.rows], classes)]) for stage in first], known)


def per_order(
    clock: Mapping[str, float], bench: Bench, *, n_orders: int | None = None, n_stages: int | None = None
) -> dict[str, float]:
    """Return the seconds of one order: ``fit`` over all its stages, and ``predict_1000`` for a thousand rows.

    Other parts of the clock, which are done once, stand as they are.
    """
    orders = n_orders or len(bench.orders)
    predictions = orders * (n_stages or len(bench.orders[0])) * len(bench.y_test)
    parts = {name: value for name, value in clock.items() if name not in ("fit", "predict")}
    parts |= {"fit": clock["fit"] / orders, "predict_1000": 1000 * clock["predict"] / predictions}
    return {name: round(value, 4) for name, value in parts.items()}


def make_bench(reader: CacheReader, stream: Stream) -> Bench:
    """Read a cache whole and divide its training rows into the stages of every order.

    Raises
    ------
    ValueError
        If the cache has no test rows, or the stream does not fit its labels.
    """
    if "test" not in reader.split_names:
        raise ValueError(
            f"the cache of dataset {reader.header.dataset} has the splits {', '.join(reader.split_names)}; a "
            f"split named test is expected: choose embeddings of a dataset with test images"
        )
    X, y = reader.as_numpy("train")
    X_test, y_test = reader.as_numpy("test")
    labelled = y_test >= 0
    seeds = tuple(seed for seed, _ in stream.orders())
    orders = tuple(stages_of(stream, y))
    names = tuple(reader.header.class_names)
    return Bench(X, y, X_test[labelled], y_test[labelled], seeds, orders, stream.batch_rows, names)


def make_estimator(settings: Mapping[str, Any], *, device: str = "auto") -> DKVBClassifier:
    """Build an untrained estimator from a run's settings.

    Parameters
    ----------
    settings : mapping
        Constructor parameters of `DKVBClassifier` by name.
    device : str
        Where it computes; comes from the environment, since it must not change what is computed.

    Raises
    ------
    ValueError
        If a name is not a parameter; the message offers the nearest valid one.

    Examples
    --------
    >>> make_estimator({"n_heads": 8, "solver": "counts"}).n_heads
    8
    """
    valid = [name for name in inspect.signature(DKVBClassifier).parameters if name not in _ELSEWHERE]
    for name in settings:
        if name in _ELSEWHERE:
            raise ValueError(
                f"estimator setting {name!r} came from the run's settings; it is expected from {_ELSEWHERE[name]}: "
                f"remove it from the run"
            )
        if name not in valid:
            close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
            hint = f", did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"{name!r} is not an estimator setting{hint}; expected one of {', '.join(valid)}: correct params.yaml"
            )
    return DKVBClassifier(**settings, device=device)


def batches(rows: np.ndarray, batch_rows: int) -> list[np.ndarray]:
    """Cut row positions (n,) into consecutive parts of `batch_rows`, the last one shorter.

    Examples
    --------
    >>> [part.tolist() for part in batches(np.arange(5), 2)]
    [[0, 1], [2, 3], [4]]
    """
    return [rows[start : start + batch_rows] for start in range(0, len(rows), batch_rows)]


def learn_rows(model: Any, X: np.ndarray, y: np.ndarray) -> None:
    """Hand one stage's rows to ``model.partial_fit`` at once: the plain way to learn a stage."""
    model.partial_fit(X, y)


def training_codes(model: DKVBClassifier, reader: CacheReader, folder: str | Path) -> np.ndarray:
    """Return the codes (n,c,m) of a cache's training rows by a model's keys, made at most once and kept in a folder."""
    # how many keys are read stands in no key, and "auto" goes by the solver
    name = f"{model.fingerprint_} {model.n_selected} {model.solver}"
    return stored_codes(reader, "train", model.encode, name, folder)


def learn_codes(
    model: Any,
    codes: np.ndarray,
    y: np.ndarray,
    *,
    epochs: int,
    batch_rows: int,
    classes: np.ndarray | None = None,
) -> None:
    """Teach an estimator one stage from codes: one epoch in batches as they arrive, more epochs over the
    stage.

    Parameters
    ----------
    model : DKVBClassifier
        With keys; it is changed.
    codes : ndarray of unsigned integers (n,c,m)
        What ``model.encode`` gave for the stage's rows.
    y : ndarray of int (n,)
        Their labels.
    epochs : int
        Passes; with more than one a stage has to be kept until it is complete.
    batch_rows : int
        Rows a call where there is one pass.
    classes : ndarray of int (k,), optional
        All classes to come, where the run declares them.
    """
    parts = batches(np.arange(len(y)), batch_rows) if epochs == 1 else [np.arange(len(y))]
    for rows in parts:
        model.partial_fit_codes(codes[rows], y[rows], classes=classes, epochs=epochs)


def rows_for_keys(reader: CacheReader, keys: CacheReader, key_rows: str, first_stage: Stage) -> np.ndarray:
    """Return the unlabelled embeddings (n,f) float32 that keys are placed among.

    Parameters
    ----------
    reader, keys : CacheReader
        The run's own cache, and the cache that its keys come from.
    key_rows : {"all", "first_stage"}
        All training rows of `keys`, or the rows of the run's first stage.
    first_stage : Stage
        The first stage of the order at hand.

    Raises
    ------
    ValueError
        If the two caches do not hold embeddings of one backbone and tap.
    """
    _check_one_space(reader, keys)
    # Sorted: keys depend on the set of rows alone, and the file is read in order.
    return reader.read("train", np.sort(first_stage.rows)) if key_rows == "first_stage" else keys.read("train")


def feed_then_test(
    model: Any,
    stages: Sequence[Stage],
    X: np.ndarray,
    y: np.ndarray,
    X_test: np.ndarray,
    y_test: np.ndarray,
    *,
    learn: Callable[[Any, np.ndarray, np.ndarray], None] = learn_rows,
    seconds: dict[str, float] | None = None,
) -> Outcome:
    """Let a model learn stage after stage and test it on all test rows after each.

    Parameters
    ----------
    model : object
        Anything with ``predict(X_test)``; it is changed.
    stages : sequence of Stage
        Order of learning.
    X : ndarray (n,...)
        What `learn` takes of the training rows: embeddings, or codes.
    y : ndarray of int (n,)
        Their labels.
    X_test : ndarray (n_test,f)
        Test embeddings.
    y_test : ndarray of int (n_test,)
        Their labels.
    learn : callable, optional
        ``learn(model, X_stage, y_stage)``, called once a stage.
    seconds : dict, optional
        Gains ``fit``, the time to learn until the first answer after every stage (some heads solve then), and
        ``predict``, that for all test rows after every stage.

    Returns
    -------
    Outcome
        Accuracies after every stage.

    Raises
    ------
    ValueError
        If a stage's classes have no test row.
    """
    tasks, clock = _task_masks(stages, y_test), {} if seconds is None else seconds
    matrix, seen, everything, predicted = [], [], [], np.empty(0, dtype=np.int64)
    for position, stage in enumerate(stages):
        with timed(clock, "fit"):
            learn(model, X[stage.rows], y[stage.rows])
            model.predict(X_test[:1])
        with timed(clock, "predict"):
            predicted = np.asarray(model.predict(X_test))
        hits = predicted == y_test
        matrix.append([hits[task].mean() for task in tasks])
        seen.append(hits[np.logical_or.reduce(tasks[: position + 1])].mean())
        everything.append(hits.mean())
    return Outcome(
        tuple(stage.classes for stage in stages),
        np.array(matrix),
        np.array(seen),
        np.array(everything),
        np.cumsum([len(stage.rows) for stage in stages]),
        np.array([_n_classes(stages[: position + 1]) for position in range(len(stages))]),
        predicted,
    )


def predict_then_learn(
    model: Any,
    stages: Sequence[Stage],
    bench: Bench,
    X: np.ndarray,
    *,
    learn: Callable[[Any, np.ndarray, np.ndarray], None] = learn_rows,
) -> np.ndarray:
    """Let a model meet the stream in batches, each predicted before it is learned.

    Parameters
    ----------
    model : object
        Anything with ``predict``; it is changed.
    stages : sequence of Stage
        Order of learning.
    bench : Bench
        Gives embeddings and labels, and the rows of a batch.
    X : ndarray (n,...)
        What `learn` takes of the training rows: embeddings, or codes.
    learn : callable, optional
        ``learn(model, X_batch, y_batch)``, called once a batch. Heads that need many passes make them over the batch.

    Returns
    -------
    ndarray of int64 (2,n)
        Labels in order of arrival, and what was predicted for each: −1 for the first batch, of which nothing is known.
    """
    arrived: list[np.ndarray] = []
    predicted: list[np.ndarray] = []
    for stage in stages:
        for rows in batches(stage.rows, bench.batch_rows):
            nothing = np.full(len(rows), -1)
            predicted.append(np.asarray(model.predict(bench.X[rows])) if arrived else nothing)
            arrived.append(bench.y[rows])
            learn(model, X[rows], bench.y[rows])
    return np.stack([np.concatenate(arrived), np.concatenate(predicted)])


def summarise(outcomes: Sequence[Outcome], y_test: np.ndarray) -> dict[str, float]:
    """Return the metrics of one head as means over several orders, rounded to six digits.

    Parameters
    ----------
    outcomes : sequence of Outcome
        One per order.
    y_test : ndarray of int (n_test,)
        Labels of the test rows.

    Returns
    -------
    dict of str to float
        Fractions; ``accuracy_std_over_orders`` is the standard deviation of ``final_accuracy``.
    """
    finals = [final_accuracy(outcome.accuracy_matrix) for outcome in outcomes]
    numbers = {
        "final_accuracy": finals,
        "average_incremental_accuracy": [average_incremental_accuracy(o.seen_accuracy) for o in outcomes],
        "forgetting_best": [forgetting(o.accuracy_matrix, "best") for o in outcomes],
        "forgetting_first": [forgetting(o.accuracy_matrix, "first") for o in outcomes],
        "backward_transfer": [backward_transfer(o.accuracy_matrix) for o in outcomes],
        "min_accuracy": [min_accuracy(o.accuracy_matrix) for o in outcomes],
        "learning_accuracy": [learning_accuracy(o.accuracy_matrix) for o in outcomes],
        "mean_class_accuracy": [mean_class_accuracy(y_test, o.predictions) for o in outcomes],
    }
    summary = {name: round(float(np.mean(values)), 6) for name, values in numbers.items()}
    summary["accuracy_std_over_orders"] = round(float(np.std(finals)), 6)
    return summary


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the wall-clock seconds of the block to ``seconds[name]``.

    Examples
    --------
    >>> seconds: dict[str, float] = {}
    >>> with timed(seconds, "nothing"):
    ...     pass
    >>> seconds["nothing"] >= 0
    True
    """
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = round(seconds.get(name, 0.0) + time.perf_counter() - start, 3)


def _check_one_space(reader: CacheReader, keys: CacheReader) -> None:
    for what, own, other in (
        ("backbone", reader.header.backbone, keys.header.backbone),
        ("tap", reader.header.tap, keys.header.tap),
        ("number of features", reader.n_features, keys.n_features),
    ):
        if own != other:
            raise ValueError(
                f"the key cache of dataset {keys.header.dataset} has {what} {other}, the run's cache has "
                f"{own}; one embedding space is expected: extract both with the same backbone and tap"
            )


def _task_masks(stages: Sequence[Stage], y_test: np.ndarray) -> list[np.ndarray]:
    masks = [np.isin(y_test, stage.classes) for stage in stages]
    for stage, mask in zip(stages, masks):
        if not mask.any():
            raise ValueError(
                f"no test row carries a class of {stage.classes}; one at least is expected for each stage: "
                f"use a split that holds test images of every class"
            )
    return masks


def _n_classes(stages: Sequence[Stage]) -> int:
    return len({label for stage in stages for label in stage.classes})
