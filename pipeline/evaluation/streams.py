"""Orders in which training rows arrive.

Index arithmetic only; no other module decides an order of samples.
Enters: the labels of all training rows (n,) and a seed or a given order of classes.
Leaves: a list of `Task`, each with its classes and the row positions (n_task,) in order of arrival.
Must not know: embeddings, caches, models, paths.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["Task", "blurry", "class_incremental", "class_order", "make_tasks", "shuffled"]


@dataclass(frozen=True)
class Task:
    """Rows that arrive together, and the classes of the task.

    Attributes
    ----------
    classes : tuple of int
        Classes of the task, sorted.
    rows : ndarray of shape (n_task,), int64
        Positions of training rows in order of arrival.
    """

    classes: tuple[int, ...]
    rows: np.ndarray


def class_order(classes: Sequence[int], seed: int) -> list[int]:
    """Return the classes in the order of a seed: sorted for seed 0, shuffled for any other.

    Parameters
    ----------
    classes : sequence of int
        Distinct classes.
    seed : int
        0 or more.

    Examples
    --------
    >>> class_order([2, 0, 1], seed=0)
    [0, 1, 2]
    >>> class_order([0, 1, 2, 3], seed=1) == class_order([3, 2, 1, 0], seed=1)
    True
    """
    ordered = sorted(int(label) for label in classes)
    if seed == 0:
        return ordered
    return [ordered[i] for i in np.random.default_rng(seed).permutation(len(ordered))]


def class_incremental(
    labels: np.ndarray, classes_per_task: int, seed: int, *, order: Sequence[int] | None = None
) -> list[Task]:
    """Divide the rows into tasks of a few classes each, every class in one task only.

    Parameters
    ----------
    labels : ndarray of shape (n,), integers
        Class of each training row; rows with −1 carry no label and are left out.
    classes_per_task : int
        1 or more; the last task has fewer if the number of classes is not a multiple.
    seed : int
        Decides the order of classes (0: sorted) and of the rows within a task.
    order : sequence of int, optional
        The order of classes, instead of the seed's; each class of `labels` exactly once.

    Returns
    -------
    list of Task
        Each labelled row once.

    Raises
    ------
    ValueError
        If no row is labelled, `classes_per_task` is below 1, or `order` is not the classes of `labels`.

    Examples
    --------
    >>> tasks = class_incremental(np.array([0, 1, 2, 3, 0, 1]), classes_per_task=2, seed=0)
    >>> [task.classes for task in tasks]
    [(0, 1), (2, 3)]
    >>> sorted(tasks[0].rows.tolist())
    [0, 1, 4, 5]
    """
    groups = _class_groups(labels, classes_per_task, seed, order)
    rng = np.random.default_rng((seed, 1))
    return [Task(group, rng.permutation(np.flatnonzero(np.isin(labels, group)))) for group in groups]


def shuffled(labels: np.ndarray, n_tasks: int, seed: int) -> list[Task]:
    """Divide the rows into tasks of equal length with all classes, in random order.

    Parameters
    ----------
    labels : ndarray of shape (n,), integers
        Class of each training row; rows with −1 are left out.
    n_tasks : int
        1 or more; lengths differ by one row at most.
    seed : int
        Decides the order.

    Returns
    -------
    list of Task
        Each labelled row once; every task has all classes.

    Raises
    ------
    ValueError
        If there are fewer labelled rows than tasks, or `n_tasks` is below 1.

    Examples
    --------
    >>> [len(task.rows) for task in shuffled(np.array([0, 1, 0, 1, 0]), n_tasks=2, seed=0)]
    [3, 2]
    """
    classes = _labelled_classes(labels)
    rows = np.flatnonzero(np.asarray(labels) >= 0)
    if not 1 <= n_tasks <= len(rows):
        raise ValueError(
            f"n_tasks is {n_tasks} for {len(rows)} labelled rows; expected 1 to {len(rows)}. Correct n_tasks."
        )
    mixed = np.random.default_rng((seed, 2)).permutation(rows)
    return [Task(tuple(classes), part) for part in np.array_split(mixed, n_tasks)]


def blurry(
    labels: np.ndarray, classes_per_task: int, seed: int, *, blur: float, order: Sequence[int] | None = None
) -> list[Task]:
    """Divide the rows as `class_incremental` does, then scatter a share of them over all tasks.

    Parameters
    ----------
    labels, classes_per_task, seed, order
        As for `class_incremental`.
    blur : float
        Share of rows from 0 (the same as `class_incremental`) to 1 that are assigned to tasks at random.

    Returns
    -------
    list of Task
        Each labelled row once; `classes` names the task's own classes, not the scattered ones.

    Raises
    ------
    ValueError
        As for `class_incremental`, and if `blur` is outside 0 to 1.

    Examples
    --------
    >>> tasks = blurry(np.arange(100) % 4, classes_per_task=2, seed=1, blur=0.5)
    >>> sum(len(task.rows) for task in tasks)
    100
    """
    if not 0.0 <= blur <= 1.0:
        raise ValueError(f"blur is {blur}; expected a share from 0 to 1. Correct it.")
    plain = class_incremental(labels, classes_per_task, seed, order=order)
    rng = np.random.default_rng((seed, 3))
    rows = np.concatenate([task.rows for task in plain])
    place = np.repeat(np.arange(len(plain)), [len(task.rows) for task in plain])
    moves = rng.random(len(rows)) < blur
    place[moves] = rng.integers(len(plain), size=int(moves.sum()))
    if not moves.any():
        return plain
    return [Task(task.classes, rng.permutation(rows[place == i])) for i, task in enumerate(plain)]


def make_tasks(
    kind: Literal["class_incremental", "shuffled", "blurry"],
    labels: np.ndarray,
    seed: int,
    *,
    classes_per_task: int = 1,
    n_tasks: int = 1,
    blur: float = 0.0,
    order: Sequence[int] | None = None,
) -> list[Task]:
    """Return the tasks of a named kind of stream; settings of the other kinds are ignored.

    Parameters
    ----------
    kind : {"class_incremental", "shuffled", "blurry"}
        The function of this module to use.
    labels : ndarray of shape (n,), integers
        Class of each training row.
    seed, classes_per_task, n_tasks, blur, order
        As for that function.

    Raises
    ------
    ValueError
        As that function does, and for an unknown kind.

    Examples
    --------
    >>> tasks = make_tasks("class_incremental", np.array([0, 1]), 0, classes_per_task=1)
    >>> [task.classes for task in tasks]
    [(0,), (1,)]
    """
    if kind == "class_incremental":
        return class_incremental(labels, classes_per_task, seed, order=order)
    if kind == "blurry":
        return blurry(labels, classes_per_task, seed, blur=blur, order=order)
    if kind == "shuffled":
        return shuffled(labels, n_tasks, seed)
    raise ValueError(f"the stream's kind is {kind!r}; expected class_incremental, shuffled or blurry. Correct it.")


def _class_groups(
    labels: np.ndarray, classes_per_task: int, seed: int, order: Sequence[int] | None
) -> list[tuple[int, ...]]:
    classes = _labelled_classes(labels)
    if classes_per_task < 1:
        raise ValueError(f"classes_per_task is {classes_per_task}; expected 1 or more. Raise it.")
    if order is not None and sorted(order) != classes:
        raise ValueError(
            f"the class order {list(order)} does not match the classes {classes} of the training rows; expected "
            "each class exactly once. Correct the order."
        )
    ordered = list(order) if order is not None else class_order(classes, seed)
    starts = range(0, len(ordered), classes_per_task)
    return [tuple(sorted(ordered[start : start + classes_per_task])) for start in starts]


def _labelled_classes(labels: np.ndarray) -> list[int]:
    labels = np.asarray(labels)
    classes = np.unique(labels[labels >= 0])
    if not len(classes):
        raise ValueError(
            f"none of {len(labels)} training rows carries a label; expected at least one labelled row. Choose "
            "embeddings of a labelled dataset."
        )
    return [int(label) for label in classes]
