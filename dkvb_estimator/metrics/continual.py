"""Metrics of matrices R (t, t), with R[i, j] the accuracy on task j after task i, and of curves.

Libraries define *forgetting* in two ways, so :func:`forgetting` requires the name of its variant.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ._checks import checked_curve, checked_labels, checked_matrix


def final_accuracy(accuracy_matrix: ArrayLike) -> float:
    """Return the mean accuracy over all tasks after the last one was learned.

    Parameters
    ----------
    accuracy_matrix : array-like of shape (t, t)
        R[i, j], accuracy on task j after task i.

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    ValueError
        If the matrix is not square, is empty, or holds a value outside 0 to 1.

    References
    ----------
    Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017, section 2 (ACC).

    Examples
    --------
    >>> final_accuracy([[1.0, 0.0], [0.5, 0.75]])
    0.625
    """
    return float(checked_matrix(accuracy_matrix)[-1].mean())


def average_incremental_accuracy(seen_accuracy: ArrayLike) -> float:
    """Return the mean over tasks of the accuracy on all classes seen so far, including the first task.

    Parameters
    ----------
    seen_accuracy : array-like of shape (t,)
        After each task, the accuracy on test samples of all classes seen so far.

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    ValueError
        If the curve is empty, not one-dimensional, or outside 0 to 1.

    References
    ----------
    Rebuffi et al., "iCaRL: Incremental Classifier and Representation Learning", CVPR 2017, section 4.

    Examples
    --------
    >>> average_incremental_accuracy([1.0, 0.5])
    0.75
    """
    return float(checked_curve(seen_accuracy, "seen_accuracy").mean())


def learning_accuracy(accuracy_matrix: ArrayLike) -> float:
    """Return the mean accuracy on each task right after it was learned.

    Parameters
    ----------
    accuracy_matrix : array-like of shape (t, t)
        R[i, j], accuracy on task j after task i.

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    ValueError
        If the matrix is not square, is empty, or holds a value outside 0 to 1.

    References
    ----------
    Riemer et al., "Learning to Learn without Forgetting by Maximizing Transfer and Minimizing Interference",
    ICLR 2019, section 5.

    Examples
    --------
    >>> learning_accuracy([[1.0, 0.0], [0.5, 0.5]])
    0.75
    """
    return float(np.diagonal(checked_matrix(accuracy_matrix)).mean())


def backward_transfer(accuracy_matrix: ArrayLike) -> float:
    """Return how much later tasks changed the accuracy on earlier ones; negative means forgetting.

    Parameters
    ----------
    accuracy_matrix : array-like of shape (t, t)
        R[i, j], accuracy on task j after task i.

    Returns
    -------
    float
        From −1 to 1; 0 for a single task.

    Raises
    ------
    ValueError
        If the matrix is not square, is empty, or holds a value outside 0 to 1.

    References
    ----------
    Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017, section 2 (BWT).

    Examples
    --------
    >>> backward_transfer([[1.0, 0.0], [0.25, 1.0]])
    -0.75
    """
    matrix = checked_matrix(accuracy_matrix)
    if len(matrix) == 1:
        return 0.0
    return float((matrix[-1] - np.diagonal(matrix))[:-1].mean())


def forgetting(accuracy_matrix: ArrayLike, variant: Literal["best", "first"]) -> float:
    """Return how much accuracy on earlier tasks is lost by the end.

    Parameters
    ----------
    accuracy_matrix : array-like of shape (t, t)
        R[i, j], accuracy on task j after task i.
    variant : {"best", "first"}
        Reference for the final accuracy on a task: the best accuracy after any task but the last, or the accuracy
        right after the task was learned.

    Returns
    -------
    float
        From −1 to 1, larger is worse; 0 for a single task. ``"first"`` is minus `backward_transfer`.

    Raises
    ------
    ValueError
        If the matrix is not square, is empty, or holds a value outside 0 to 1, or the variant is unknown.

    References
    ----------
    ``best``: Chaudhry et al., "Riemannian Walk for Incremental Learning", ECCV 2018, section 3.2.
    ``first``: the definition used by the Avalanche library.

    Examples
    --------
    >>> matrix = [[0.5, 0.0, 0.0], [1.0, 1.0, 0.0], [0.25, 0.75, 1.0]]
    >>> forgetting(matrix, "best"), forgetting(matrix, "first")
    (0.5, 0.25)
    """
    if variant not in ("best", "first"):
        raise ValueError(f"variant={variant!r} is not valid; expected 'best' or 'first'. Pass one of the two.")
    matrix = checked_matrix(accuracy_matrix)
    if variant == "first" or len(matrix) == 1:
        return -backward_transfer(matrix) + 0.0
    return float((matrix[:-1, :-1].max(axis=0) - matrix[-1, :-1]).mean())


def forgetting_split(accuracy_matrix: ArrayLike, restricted: ArrayLike) -> dict[str, float]:
    """Split the accuracy lost since each task was learned into real forgetting and growth of the label space.

    A class learned early competes with more classes later, so its accuracy falls even if nothing is overwritten. The
    loss that remains when predictions are restricted to the classes known at that time is forgetting; the rest is
    growth.

    Parameters
    ----------
    accuracy_matrix : array-like of shape (t, t)
        R[i, j], accuracy on task j after task i, predicting among all classes seen by then.
    restricted : array-like of shape (t,)
        Accuracy on task j after the last task, predicting only among the classes seen by task j.

    Returns
    -------
    dict
        ``real_forgetting`` and ``label_growth``, means over all tasks but the last, from −1 to 1; larger is worse.
        They add up to ``forgetting(accuracy_matrix, "first")``.

    Raises
    ------
    ValueError
        If the matrix is not square, the lengths differ, or a value is outside 0 to 1.

    References
    ----------
    Defined here; applies the task-aware evaluation of Masana et al., "Class-incremental learning: survey and
    performance evaluation on image classification", TPAMI 2023, to the classes of all earlier tasks.

    Examples
    --------
    >>> matrix = [[1.0, 0.0], [0.5, 1.0]]
    >>> forgetting_split(matrix, [0.75, 1.0])
    {'real_forgetting': 0.25, 'label_growth': 0.25}
    """
    matrix = checked_matrix(accuracy_matrix)
    alone = checked_curve(restricted, "restricted", length=len(matrix))
    if len(matrix) == 1:
        return {"real_forgetting": 0.0, "label_growth": 0.0}
    real, growth = matrix.diagonal() - alone, alone - matrix[-1]
    return {"real_forgetting": float(real[:-1].mean()), "label_growth": float(growth[:-1].mean())}


def forward_transfer(accuracy_matrix: ArrayLike, reference: ArrayLike) -> float:
    """Return how much earlier tasks helped on tasks not yet learned.

    Parameters
    ----------
    accuracy_matrix : array-like of shape (t, t)
        R[i, j], accuracy on task j after task i.
    reference : array-like of shape (t,)
        Accuracy of an untrained model on each task.

    Returns
    -------
    float
        From −1 to 1; 0 for a single task.

    Raises
    ------
    ValueError
        If a value is outside 0 to 1 or the lengths differ.

    References
    ----------
    Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017, section 2 (FWT).

    Examples
    --------
    >>> forward_transfer([[1.0, 0.5], [1.0, 1.0]], reference=[0.25, 0.25])
    0.25
    """
    matrix = checked_matrix(accuracy_matrix)
    base = checked_curve(reference, "reference", length=len(matrix))
    if len(matrix) == 1:
        return 0.0
    return float((np.diagonal(matrix, offset=1) - base[1:]).mean())


def intransigence(accuracy_matrix: ArrayLike, joint: ArrayLike) -> float:
    """Return how far the accuracy right after learning each task lies below that of joint training on all tasks.

    Parameters
    ----------
    accuracy_matrix : array-like of shape (t, t)
        R[i, j], accuracy on task j after task i.
    joint : array-like of shape (t,)
        Accuracy of the jointly trained model on each task.

    Returns
    -------
    float
        From −1 to 1, larger is worse.

    Raises
    ------
    ValueError
        If a value is outside 0 to 1 or the lengths differ.

    References
    ----------
    Chaudhry et al., "Riemannian Walk for Incremental Learning", ECCV 2018, section 3.2.

    Examples
    --------
    >>> intransigence([[0.75, 0.0], [0.5, 0.5]], joint=[1.0, 1.0])
    0.375
    """
    matrix = checked_matrix(accuracy_matrix)
    best = checked_curve(joint, "joint", length=len(matrix))
    return float((best - np.diagonal(matrix)).mean())


def anytime_accuracy(samples_seen: ArrayLike, accuracy: ArrayLike) -> float:
    """Return the area under the curve of accuracy over samples seen, divided by its length.

    Parameters
    ----------
    samples_seen : array-like of shape (p,), integers
        Strictly increasing.
    accuracy : array-like of shape (p,)
        Accuracy at each point.

    Returns
    -------
    float
        From 0 to 1; with one point, its accuracy.

    Raises
    ------
    ValueError
        If the lengths differ, the samples do not increase, or an accuracy is outside 0 to 1.

    References
    ----------
    Koh et al., "Online Continual Learning on Class Incremental Blurry Task Configuration with Anytime
    Inference", ICLR 2022, section 3.2.

    Examples
    --------
    >>> anytime_accuracy([0, 10, 30], [0.0, 1.0, 1.0])
    0.8333333333333334
    """
    seen = np.asarray(samples_seen, dtype=np.float64)
    curve = checked_curve(accuracy, "accuracy", length=seen.size)
    steps = np.diff(seen)
    if seen.ndim != 1 or not np.isfinite(seen).all() or (steps <= 0).any():
        raise ValueError(
            f"samples_seen has shape {seen.shape} and does not increase throughout; expected increasing numbers (p,). "
            "Pass finite numbers in order."
        )
    if len(curve) == 1:
        return float(curve[0])
    return float((steps * (curve[1:] + curve[:-1]) / 2).sum() / steps.sum())


def min_accuracy(accuracy_matrix: ArrayLike) -> float:
    """Return the mean over earlier tasks of the lowest accuracy after the task was learned.

    Parameters
    ----------
    accuracy_matrix : array-like of shape (t, t)
        R[i, j], accuracy on task j after task i.

    Returns
    -------
    float
        From 0 to 1; 1 for a single task.

    Raises
    ------
    ValueError
        If the matrix is not square, is empty, or holds a value outside 0 to 1.

    References
    ----------
    De Lange, van de Ven and Tuytelaars, "Continual evaluation for lifelong learning: identifying the
    stability gap", ICLR 2023, section 3 (min-ACC).

    Examples
    --------
    >>> min_accuracy([[1.0, 0.0, 0.0], [0.25, 1.0, 0.0], [0.75, 0.5, 1.0]])
    0.375
    """
    matrix = checked_matrix(accuracy_matrix)
    if len(matrix) == 1:
        return 1.0
    after = np.tril(np.ones(matrix.shape, dtype=bool), k=-1)
    return float(np.where(after, matrix, np.inf).min(axis=0)[:-1].mean())


def worst_case_accuracy(accuracy_matrix: ArrayLike) -> float:
    """Return the weighted mean of the accuracy on the last task and the lowest accuracies on earlier tasks.

    Parameters
    ----------
    accuracy_matrix : array-like of shape (t, t)
        R[i, j], accuracy on task j after task i.

    Returns
    -------
    float
        From 0 to 1; the last task has weight 1 / t, and `min_accuracy` the rest.

    Raises
    ------
    ValueError
        If the matrix is not square, is empty, or holds a value outside 0 to 1.

    References
    ----------
    De Lange, van de Ven and Tuytelaars, "Continual evaluation for lifelong learning: identifying the
    stability gap", ICLR 2023, section 3 (WC-ACC).

    Examples
    --------
    >>> worst_case_accuracy([[1.0, 0.0], [0.5, 1.0]])
    0.75
    """
    matrix = checked_matrix(accuracy_matrix)
    share = 1.0 / len(matrix)
    return float(share * matrix[-1, -1] + (1.0 - share) * min_accuracy(matrix))


def mean_class_accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Return the mean over the classes in `y_true` of the accuracy on each class.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,)
        Labels and predictions.

    Returns
    -------
    float
        From 0 to 1; every class has the same weight.

    Raises
    ------
    ValueError
        If the arrays are empty or differ in length.

    Examples
    --------
    >>> mean_class_accuracy([0, 0, 0, 1], [0, 0, 0, 0])
    0.5
    """
    truth, guess = checked_labels(y_true, y_pred)
    return float(np.mean([(guess[truth == label] == label).mean() for label in np.unique(truth)]))


def prequential_accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Return the share of samples that were predicted correctly before they were learned.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,)
        Labels, and the prediction for each sample by a model that had learned only earlier samples.

    Returns
    -------
    float
        From 0 to 1; every sample counts once, including the first.

    Raises
    ------
    ValueError
        If the arrays are empty or differ in length.

    References
    ----------
    Gama, Sebastião and Rodrigues, "On evaluating stream learning algorithms", Machine Learning 2013, section 3.

    Examples
    --------
    >>> prequential_accuracy([0, 0, 1, 1], [-1, 0, 0, 1])
    0.5
    """
    truth, guess = checked_labels(y_true, y_pred)
    return float((truth == guess).mean())


def class_order_spread(values: Sequence[float]) -> dict[str, float]:
    """Return the mean, standard deviation and minimum of an accuracy over several class orders.

    Parameters
    ----------
    values : sequence of float
        Accuracy for each order, from 0 to 1.

    Returns
    -------
    dict
        ``mean``, ``std`` (of the given orders, without Bessel's correction) and ``worst``.

    Raises
    ------
    ValueError
        If there is no value, or one is outside 0 to 1.

    Examples
    --------
    >>> class_order_spread([0.5, 1.0])
    {'mean': 0.75, 'std': 0.25, 'worst': 0.5}
    """
    curve = checked_curve(values, "values")
    return {"mean": float(curve.mean()), "std": float(curve.std()), "worst": float(curve.min())}
