"""The evaluation loop: learn a task, test on all test rows, continue with the next task.

Enters: a method, tasks of row positions, arrays of training and test samples.
Leaves: an `Outcome` with accuracies after every task, predictions made before learning, seconds.
Must not know: how a cache is stored, which method learns, where files are.
"""

import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dkvb_estimator.metrics import (
    average_incremental_accuracy,
    backward_transfer,
    final_accuracy,
    forgetting,
    forgetting_split,
    learning_accuracy,
    mean_class_accuracy,
    min_accuracy,
)
from pipeline.cache import CacheReader
from pipeline.config import Stream
from pipeline.evaluation.streams import Task, make_tasks

__all__ = [
    "Bench",
    "Outcome",
    "Scores",
    "answer",
    "batches",
    "check_tasks",
    "feed_then_test",
    "learn_rows",
    "make_bench",
    "outcome_of",
    "restricted_accuracy",
    "rows_for_keys",
    "state_bytes",
    "summarise",
    "tasks_of",
    "timed",
]


@dataclass(frozen=True)
class Outcome:
    """The measurements after each of t tasks.

    Attributes
    ----------
    task_classes : tuple of tuple of int
        Classes of each task, in the order of learning.
    accuracy_matrix : ndarray of shape (t, t), float64
        Accuracy on the test rows of task j after task i, including tasks that are not yet learned.
    seen_accuracy : ndarray of shape (t,), float64
        Accuracy on test rows of all classes seen so far.
    all_accuracy : ndarray of shape (t,), float64
        Accuracy on all test rows.
    samples_seen, classes_seen : ndarray of shape (t,), int64
        Training rows and distinct classes so far.
    predictions : ndarray of shape (n,), int64
        Predictions on all test rows after the last task.
    restricted : ndarray of shape (t,), float64, or None
        Accuracy on the test rows of task j after the last task, with answers restricted to the classes of tasks 0 to j;
        None for a method without class scores.
    """

    task_classes: tuple[tuple[int, ...], ...]
    accuracy_matrix: np.ndarray
    seen_accuracy: np.ndarray
    all_accuracy: np.ndarray
    samples_seen: np.ndarray
    classes_seen: np.ndarray
    predictions: np.ndarray
    restricted: np.ndarray | None = None


@dataclass(frozen=True)
class Bench:
    """The data of every method: rows in memory and the tasks of every order.

    Attributes
    ----------
    X, X_test : ndarray of shape (n, f) and (n_test, f), float32
        Embeddings; unlabelled test rows are left out.
    y, y_test : ndarray of shape (n,) and (n_test,), int64
        Their labels; −1 for unlabelled training rows, which belong to no task.
    seeds : tuple of int
        One per order.
    orders : tuple of list of Task
        Tasks of every order.
    batch_rows : int
        Rows that arrive together.
    class_names : tuple of str
        By label.
    feature_blocks : tuple of int or None
        Numbers of columns of several layers; None: a single layer.
    """

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    seeds: tuple[int, ...]
    orders: tuple[list[Task], ...]
    batch_rows: int
    class_names: tuple[str, ...]
    feature_blocks: tuple[int, ...] | None = None

    @property
    def classes(self) -> np.ndarray:
        """Labels of the training rows, sorted (k,)."""
        return np.unique(self.y[self.y >= 0])


def tasks_of(stream: Stream, labels: np.ndarray) -> list[list[Task]]:
    """Return the tasks of every order of a stream, for the labels of all training rows (n,)."""
    return [
        make_tasks(
            stream.kind,
            labels,
            seed,
            classes_per_task=stream.classes_per_task,
            n_tasks=stream.n_tasks,
            blur=stream.blur,
            order=order,
        )
        for seed, order in stream.orders()
    ]


def make_bench(reader: CacheReader, stream: Stream) -> Bench:
    """Read a cache completely and divide its training rows into the tasks of every order.

    Raises
    ------
    ValueError
        If the cache has no test rows, or the stream does not fit its labels.
    """
    if "test" not in reader.split_names:
        raise ValueError(
            f"the cache of dataset {reader.header.dataset} has the splits {', '.join(reader.split_names)}; "
            "expected a split named test. Choose embeddings of a dataset with test images."
        )
    X, y = reader.as_numpy("train")
    X_test, y_test = reader.as_numpy("test")
    labelled = y_test >= 0
    seeds = tuple(seed for seed, _ in stream.orders())
    orders, names = tuple(tasks_of(stream, y)), tuple(reader.header.class_names)
    for tasks in orders:
        check_tasks(tasks, y_test[labelled], names)
    rows = X, y, X_test[labelled], y_test[labelled]
    return Bench(*rows, seeds, orders, stream.batch_rows, names, reader.feature_blocks)


def batches(rows: np.ndarray, batch_rows: int) -> list[np.ndarray]:
    """Split row positions (n,) into consecutive parts of `batch_rows`; the last may be shorter.

    Examples
    --------
    >>> [part.tolist() for part in batches(np.arange(5), 2)]
    [[0, 1], [2, 3], [4]]
    """
    return [rows[start : start + batch_rows] for start in range(0, len(rows), batch_rows)]


def learn_rows(model: Any, X: np.ndarray, y: np.ndarray) -> None:
    """Pass all rows of a task to ``model.partial_fit`` at once: the default way to learn a task."""
    model.partial_fit(X, y)


def rows_for_keys(reader: CacheReader, keys: CacheReader, key_rows: str, first_task: Task) -> np.ndarray:
    """Return the unlabelled embeddings (n, f) float32 that keys are placed on.

    Parameters
    ----------
    reader, keys : CacheReader
        The run's own cache, and the cache that its keys come from.
    key_rows : {"all", "first_task"}
        All training rows of `keys`, or the rows of the run's first task.
    first_task : Task
        The first task of this order.

    Raises
    ------
    ValueError
        If the two caches do not hold embeddings of one backbone and layer.
    """
    _check_one_space(reader, keys)
    # Sorted, so that keys depend only on the set of rows, and the file is read in order.
    return reader.read("train", np.sort(first_task.rows)) if key_rows == "first_task" else keys.read("train")


def feed_then_test(
    model: Any,
    tasks: Sequence[Task],
    X: np.ndarray,
    y: np.ndarray,
    X_test: np.ndarray,
    y_test: np.ndarray,
    *,
    learn: Callable[[Any, np.ndarray, np.ndarray], None] = learn_rows,
    tested: list[np.ndarray] | None = None,
    seconds: dict[str, float] | None = None,
    on_task: Callable[[], Any] = lambda: None,
) -> Outcome:
    """Let a model learn task after task and test it on all test rows after each.

    Parameters
    ----------
    model : object
        Any object with ``predict(X_test)``; it is changed. If it has ``decision_function``, its scores give both the
        predictions and the restricted accuracies.
    tasks : sequence of Task
        Order of learning.
    X : ndarray of shape (n, ...)
        Training rows as `learn` takes them: embeddings or codes.
    y : ndarray of shape (n,), integers
        Their labels.
    X_test : ndarray of shape (n_test, f)
        Test embeddings.
    y_test : ndarray of shape (n_test,), integers
        Their labels.
    learn : callable, optional
        ``learn(model, X_task, y_task)``, called once per task.
    tested : list of ndarray of shape (n_test,), integers, optional
        Predictions after the first tasks, which the model has already learned; gains those after the others.
    seconds : dict, optional
        Gains ``fit``, the time to learn up to the first prediction after every task (some methods solve then), and
        ``predict``, the time to predict all test rows after every task.
    on_task : callable, optional
        Called after every task.

    Returns
    -------
    Outcome
        Accuracies after every task.

    Raises
    ------
    ValueError
        If a task's classes have no test row.
    """
    clock, tested = {} if seconds is None else seconds, [] if tested is None else tested
    check_tasks(tasks, y_test)
    left = tasks[len(tested) :]
    for task in left:
        with timed(clock, "fit"):
            learn(model, X[task.rows], y[task.rows])
            model.predict(X_test[:1])
        with timed(clock, "predict"):
            labels, scores = answer(model, X_test)
        tested.append(labels)
        on_task()
    if not left:
        _, scores = answer(model, X_test)
    return outcome_of(tasks, np.stack(tested), y, y_test, scores)


class Scores(NamedTuple):
    """The classes (k,) of a method, and its scores for some rows (n, k)."""

    classes: np.ndarray
    values: np.ndarray


def answer(model: Any, X: np.ndarray) -> tuple[np.ndarray, Scores | None]:
    """Return predictions (n,) for rows (n, f), and their scores, or None for a method without scores.

    Examples
    --------
    >>> from dkvb_estimator.baselines import NearestClassMean
    >>> labels, scores = answer(NearestClassMean().fit([[0.0], [2.0]], [3, 5]), np.array([[1.9]]))
    >>> labels.tolist(), scores.classes.tolist(), scores.values.shape
    ([5], [3, 5], (1, 2))
    """
    if not hasattr(model, "decision_function"):
        return np.asarray(model.predict(X)), None
    values, classes = np.asarray(model.decision_function(X)), np.asarray(model.classes_)
    if values.ndim == 1:  # for two classes: the second's minus the first's
        values = np.column_stack([np.zeros_like(values), values])
    return classes[values.argmax(axis=1)], Scores(classes, values)


def restricted_accuracy(tasks: Sequence[Task], scores: Scores, y: np.ndarray, y_test: np.ndarray) -> np.ndarray:
    """Return the accuracy on each task (t,), with answers restricted to the classes learned up to that task.

    Parameters
    ----------
    tasks : sequence of Task
        Order of learning.
    scores : Scores
        After the last task, for all test rows.
    y : ndarray of shape (n,), integers
        Labels of the rows that tasks name.
    y_test : ndarray of shape (n_test,), integers
        Labels of the test rows.

    Raises
    ------
    ValueError
        If a task's classes have no test row.

    Examples
    --------
    >>> tasks = [Task((0, 1), np.array([0])), Task((2,), np.array([1]))]
    >>> scores = Scores(np.arange(3), np.array([[0.4, 0.1, 0.5], [0.0, 0.4, 0.6], [0.1, 0.2, 0.7]]))
    >>> restricted_accuracy(tasks, scores, y=np.array([0, 2]), y_test=np.array([0, 1, 2])).tolist()
    [1.0, 1.0]
    """
    known, found = np.zeros(len(scores.classes), dtype=bool), []
    for task, rows in zip(tasks, check_tasks(tasks, y_test)):
        known |= np.isin(scores.classes, [*task.classes, *y[task.rows]])  # a blurry task also has rows of other classes
        best = scores.values[np.ix_(rows, known)].argmax(axis=1)
        found.append((scores.classes[known][best] == y_test[rows]).mean())
    return np.array(found)


def outcome_of(
    tasks: Sequence[Task], predictions: np.ndarray, y: np.ndarray, y_test: np.ndarray, scores: Scores | None = None
) -> Outcome:
    """Return the outcome of predictions (t, n_test) on all test rows after each task, and of scores after the last one.

    Raises
    ------
    ValueError
        If a task's classes have no test row.
    """
    masks, hits = check_tasks(tasks, y_test), predictions == y_test
    return Outcome(
        tuple(task.classes for task in tasks),
        np.array([[after[mask].mean() for mask in masks] for after in hits]),
        np.array([after[np.logical_or.reduce(masks[: i + 1])].mean() for i, after in enumerate(hits)]),
        hits.mean(axis=1),
        np.cumsum([len(task.rows) for task in tasks]),
        np.array([_n_classes(tasks[: position + 1]) for position in range(len(tasks))]),
        predictions[-1],
        None if scores is None else restricted_accuracy(tasks, scores, y, y_test),
    )


def summarise(outcomes: Sequence[Outcome], y_test: np.ndarray) -> dict[str, float]:
    """Return the metrics of one method as means over several orders, rounded to six digits.

    Parameters
    ----------
    outcomes : sequence of Outcome
        One per order.
    y_test : ndarray of shape (n_test,), integers
        Labels of the test rows.

    Returns
    -------
    dict of str to float
        Fractions; ``accuracy_std_over_orders`` is the standard deviation of ``final_accuracy``. ``real_forgetting``
        and ``label_growth``, which add up to ``forgetting_first``, are missing for a method without scores.
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
    splits = [forgetting_split(o.accuracy_matrix, o.restricted) for o in outcomes if o.restricted is not None]
    if len(splits) == len(outcomes):
        numbers |= {name: [split[name] for split in splits] for name in splits[0]}
    summary = {name: round(float(np.mean(values)), 6) for name, values in numbers.items()}
    summary["accuracy_std_over_orders"] = round(float(np.std(finals)), 6)
    return summary


def state_bytes(model: Any) -> int:
    """Return the total bytes of all arrays of a method, independent of the file format.

    Examples
    --------
    >>> state_bytes({"values": np.zeros(3), "name": "a"})
    24
    """
    sizes: list[int] = []
    pickle.dumps(model, protocol=5, buffer_callback=lambda buffer: sizes.append(buffer.raw().nbytes))
    return sum(sizes)


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
        ("layer", reader.header.tap, keys.header.tap),
        ("number of features", reader.n_features, keys.n_features),
        ("columns of each layer", reader.feature_blocks, keys.feature_blocks),
    ):
        if own != other:
            raise ValueError(
                f"the key cache of dataset {keys.header.dataset} has {what} {other}, the run's cache has {own}; "
                "expected one embedding space. Extract both with the same backbone and layer."
            )


def check_tasks(tasks: Sequence[Task], y_test: np.ndarray, names: Sequence[str] = ()) -> list[np.ndarray]:
    """Return a mask (n_test,) of each task's test rows, or raise ValueError if a task has none."""
    masks = [np.isin(y_test, task.classes) for task in tasks]
    for task, mask in zip(tasks, masks):
        if not mask.any():
            raise ValueError(
                f"the test rows contain none of the classes {_named(task, names)} of a task; expected at least one row "
                "per task. Use a split with test samples of every class, or let --test-fraction or test_fraction draw "
                "one."
            )
    return masks


def _named(task: Task, names: Sequence[str]) -> str:
    return ", ".join(names[label] for label in task.classes) if names else str(task.classes)


def _n_classes(tasks: Sequence[Task]) -> int:
    return len({label for task in tasks for label in task.classes})
