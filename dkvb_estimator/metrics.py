"""Continual-learning metrics as pure functions.

Room: imports nothing of ours.
Enters: an accuracy matrix R (t,t) where R[i, j] is the accuracy on task j after learning tasks 0 to i, or a
curve of accuracies, fractions from 0 to 1; labels and predictions (n,), probabilities (n,k), scores (n,).
Leaves: one number, or a small dict of numbers.
Must not know: models, data, files.

Two libraries give the word *forgetting* two meanings, so `forgetting` asks for its variant by name, and
whoever writes the number writes the variant beside it.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

__all__ = [
    "anytime_accuracy",
    "average_incremental_accuracy",
    "backward_transfer",
    "brier_score",
    "class_order_spread",
    "expected_calibration_error",
    "final_accuracy",
    "forget_accuracy",
    "forgetting",
    "forward_transfer",
    "fpr_at_95_tpr",
    "intransigence",
    "learning_accuracy",
    "mean_class_accuracy",
    "min_accuracy",
    "negative_log_likelihood",
    "prequential_accuracy",
    "rejection_auroc",
    "reliability_curve",
    "retain_accuracy",
    "retrain_gap",
    "worst_case_accuracy",
]


def final_accuracy(accuracy_matrix: ArrayLike) -> float:
    """Return the mean accuracy over all tasks after the last one was learned.

    Parameters
    ----------
    accuracy_matrix : array_like of float (t,t)
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
    return float(_checked_matrix(accuracy_matrix)[-1].mean())


def average_incremental_accuracy(seen_accuracy: ArrayLike) -> float:
    """Return the mean over stages of the accuracy on all classes seen so far, the first stage counted.

    Parameters
    ----------
    seen_accuracy : array_like of float (t,)
        Accuracy on test samples of every class seen up to and with each stage.

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    ValueError
        If the curve is empty, not one-dimensional, or leaves 0 to 1.

    References
    ----------
    Rebuffi et al., "iCaRL: Incremental Classifier and Representation Learning", CVPR 2017, section 4.

    Examples
    --------
    >>> average_incremental_accuracy([1.0, 0.5])
    0.75
    """
    return float(_checked_curve(seen_accuracy, "seen_accuracy").mean())


def learning_accuracy(accuracy_matrix: ArrayLike) -> float:
    """Return the mean accuracy on each task right after it was learned.

    Parameters
    ----------
    accuracy_matrix : array_like of float (t,t)
        R[i, j], accuracy on task j after task i.

    Returns
    -------
    float
        From 0 to 1; a head that forgets is fair only if this is high.

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
    return float(np.diagonal(_checked_matrix(accuracy_matrix)).mean())


def backward_transfer(accuracy_matrix: ArrayLike) -> float:
    """Return how much later tasks changed the accuracy on earlier ones; negative means forgetting.

    Parameters
    ----------
    accuracy_matrix : array_like of float (t,t)
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
    matrix = _checked_matrix(accuracy_matrix)
    if len(matrix) == 1:
        return 0.0
    return float((matrix[-1] - np.diagonal(matrix))[:-1].mean())


def forgetting(accuracy_matrix: ArrayLike, variant: Literal["best", "first"]) -> float:
    """Return how much accuracy on earlier tasks was lost by the end.

    Parameters
    ----------
    accuracy_matrix : array_like of float (t,t)
        R[i, j], accuracy on task j after task i.
    variant : {"best", "first"}
        What the final accuracy on a task is compared with: the best reached at any stage before the last, or
        the accuracy right after the task was learned.

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
        raise ValueError(f"variant is {variant!r}; 'best' or 'first' is expected: name one of them")
    matrix = _checked_matrix(accuracy_matrix)
    if variant == "first" or len(matrix) == 1:
        return -backward_transfer(matrix) + 0.0
    return float((matrix[:-1, :-1].max(axis=0) - matrix[-1, :-1]).mean())


def forward_transfer(accuracy_matrix: ArrayLike, reference: ArrayLike) -> float:
    """Return how much earlier tasks helped on tasks not yet learned.

    Parameters
    ----------
    accuracy_matrix : array_like of float (t,t)
        R[i, j], accuracy on task j after task i.
    reference : array_like of float (t,)
        Accuracy on each task of a model that has learned nothing.

    Returns
    -------
    float
        From −1 to 1; 0 for a single task.

    Raises
    ------
    ValueError
        If an argument leaves 0 to 1 or their lengths differ.

    References
    ----------
    Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017, section 2 (FWT).

    Examples
    --------
    >>> forward_transfer([[1.0, 0.5], [1.0, 1.0]], reference=[0.25, 0.25])
    0.25
    """
    matrix = _checked_matrix(accuracy_matrix)
    base = _checked_curve(reference, "reference", length=len(matrix))
    if len(matrix) == 1:
        return 0.0
    return float((np.diagonal(matrix, offset=1) - base[1:]).mean())


def intransigence(accuracy_matrix: ArrayLike, joint: ArrayLike) -> float:
    """Return how far each task, right after it was learned, lies below a model trained on all tasks at once.

    Parameters
    ----------
    accuracy_matrix : array_like of float (t,t)
        R[i, j], accuracy on task j after task i.
    joint : array_like of float (t,)
        Accuracy of the jointly trained model on each task.

    Returns
    -------
    float
        From −1 to 1, larger is worse.

    Raises
    ------
    ValueError
        If an argument leaves 0 to 1 or their lengths differ.

    References
    ----------
    Chaudhry et al., "Riemannian Walk for Incremental Learning", ECCV 2018, section 3.2.

    Examples
    --------
    >>> intransigence([[0.75, 0.0], [0.5, 0.5]], joint=[1.0, 1.0])
    0.375
    """
    matrix = _checked_matrix(accuracy_matrix)
    best = _checked_curve(joint, "joint", length=len(matrix))
    return float((best - np.diagonal(matrix)).mean())


def anytime_accuracy(samples_seen: ArrayLike, accuracy: ArrayLike) -> float:
    """Return the area under accuracy against samples seen, divided by the samples between first and last
    point.

    Parameters
    ----------
    samples_seen : array_like of int (p,)
        Strictly increasing.
    accuracy : array_like of float (p,)
        Accuracy at each point.

    Returns
    -------
    float
        From 0 to 1; with one point, its accuracy.

    Raises
    ------
    ValueError
        If the lengths differ, the samples do not increase, or an accuracy leaves 0 to 1.

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
    curve = _checked_curve(accuracy, "accuracy", length=seen.size)
    steps = np.diff(seen)
    if seen.ndim != 1 or (steps <= 0).any():
        raise ValueError(f"samples_seen is {seen.tolist()}; an increasing list is expected: order the points")
    if len(curve) == 1:
        return float(curve[0])
    return float((steps * (curve[1:] + curve[:-1]) / 2).sum() / steps.sum())


def min_accuracy(accuracy_matrix: ArrayLike) -> float:
    """Return the mean over earlier tasks of the lowest accuracy each fell to after it had been learned.

    Parameters
    ----------
    accuracy_matrix : array_like of float (t,t)
        R[i, j], accuracy on task j after task i.

    Returns
    -------
    float
        From 0 to 1; 1 for a single task, which has nothing to lose.

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
    matrix = _checked_matrix(accuracy_matrix)
    if len(matrix) == 1:
        return 1.0
    after = np.tril(np.ones(matrix.shape, dtype=bool), k=-1)
    return float(np.where(after, matrix, np.inf).min(axis=0)[:-1].mean())


def worst_case_accuracy(accuracy_matrix: ArrayLike) -> float:
    """Return the accuracy on the last task weighed with the lowest that earlier tasks fell to.

    Parameters
    ----------
    accuracy_matrix : array_like of float (t,t)
        R[i, j], accuracy on task j after task i.

    Returns
    -------
    float
        From 0 to 1: one t-th of the last task's accuracy, the rest `min_accuracy`.

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
    matrix = _checked_matrix(accuracy_matrix)
    share = 1.0 / len(matrix)
    return float(share * matrix[-1, -1] + (1.0 - share) * min_accuracy(matrix))


def mean_class_accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Return the mean over the classes in `y_true` of the accuracy on each class.

    Parameters
    ----------
    y_true, y_pred : array_like (n,)
        Labels and predictions.

    Returns
    -------
    float
        From 0 to 1; every class counts the same, however many samples it has.

    Raises
    ------
    ValueError
        If the arrays are empty or differ in length.

    Examples
    --------
    >>> mean_class_accuracy([0, 0, 0, 1], [0, 0, 0, 0])
    0.5
    """
    truth, guess = _checked_labels(y_true, y_pred)
    return float(np.mean([(guess[truth == label] == label).mean() for label in np.unique(truth)]))


def prequential_accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Return the share of a stream's samples that were predicted right before they were learned.

    Parameters
    ----------
    y_true, y_pred : array_like (n,)
        Labels, and what was predicted for each sample by a model that had learned only earlier ones.

    Returns
    -------
    float
        From 0 to 1; every sample counts once, first ones included, of which nothing can be known.

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
    truth, guess = _checked_labels(y_true, y_pred)
    return float((truth == guess).mean())


def forget_accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Return the accuracy on samples that were to be forgotten; that of a retrained model is the aim, not zero.

    Parameters
    ----------
    y_true, y_pred : array_like (n,)
        Labels and predictions of the forgotten samples.

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    ValueError
        If the arrays are empty or differ in length.

    References
    ----------
    Golatkar, Achille and Soatto, "Eternal sunshine of the spotless net", CVPR 2020, section 6.

    Examples
    --------
    >>> forget_accuracy([3, 3], [5, 3])
    0.5
    """
    truth, guess = _checked_labels(y_true, y_pred)
    return float((truth == guess).mean())


def retain_accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Return the accuracy on samples that were to be kept; arguments, errors and source as `forget_accuracy`.

    Examples
    --------
    >>> retain_accuracy([0, 1, 2, 2], [0, 1, 2, 0])
    0.75
    """
    return forget_accuracy(y_true, y_pred)


def retrain_gap(y_pred: ArrayLike, y_retrained: ArrayLike) -> float:
    """Return the share of samples on which a model that forgot disagrees with one that never saw the data.

    Parameters
    ----------
    y_pred, y_retrained : array_like (n,)
        Predictions of the model that forgot, and of the model retrained without the forgotten samples.

    Returns
    -------
    float
        From 0 to 1; 0 after exact forgetting.

    Raises
    ------
    ValueError
        If the arrays are empty or differ in length.

    References
    ----------
    Golatkar, Achille and Soatto, "Eternal sunshine of the spotless net", CVPR 2020, section 6.

    Examples
    --------
    >>> retrain_gap([0, 1, 1, 2], [0, 1, 2, 2])
    0.25
    """
    forgot, retrained = _checked_labels(y_pred, y_retrained)
    return float((forgot != retrained).mean())


def reliability_curve(
    probabilities: ArrayLike, y_true: ArrayLike, n_bins: int = 15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return how often predictions of about the same confidence are right.

    Parameters
    ----------
    probabilities : array_like of float (n,k)
        Of each class; a row sums to one.
    y_true : array_like of int (n,)
        Position of each sample's class among the columns; −1 where it has none, which is never predicted right.
    n_bins : int
        Bins of equal width from 0 to 1 for the largest probability; 1 or more.

    Returns
    -------
    confidence, accuracy : ndarray of float64 (n_bins,)
        Mean largest probability, and share of right predictions, of each bin; NaN where it is empty.
    counts : ndarray of int64 (n_bins,)
        Samples of each bin.

    Raises
    ------
    ValueError
        If the shapes do not fit, a value leaves 0 to 1, or there is no bin.

    References
    ----------
    Guo et al., "On calibration of modern neural networks", ICML 2017, section 2.

    Examples
    --------
    >>> confidence, accuracy, counts = reliability_curve([[0.9, 0.1], [0.7, 0.3]], [0, 1], n_bins=2)
    >>> confidence.round(2).tolist(), accuracy.tolist(), counts.tolist()
    ([nan, 0.8], [nan, 0.5], [0, 2])
    """
    table, truth = _checked_probabilities(probabilities, y_true)
    if n_bins < 1:
        raise ValueError(f"n_bins is {n_bins}; 1 or more is expected: raise it")
    sure, right = table.max(axis=1), table.argmax(axis=1) == truth
    place = np.clip(np.ceil(sure * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    counts = np.bincount(place, minlength=n_bins)
    means = [np.full(n_bins, np.nan) for _ in range(2)]
    for mean, values in zip(means, (sure, right.astype(np.float64))):
        np.divide(np.bincount(place, weights=values, minlength=n_bins), counts, out=mean, where=counts > 0)
    return means[0], means[1], counts


def expected_calibration_error(probabilities: ArrayLike, y_true: ArrayLike, n_bins: int = 15) -> float:
    """Return the mean distance between confidence and accuracy over bins, weighed by their samples.

    Parameters
    ----------
    probabilities, y_true, n_bins
        As for `reliability_curve`.

    Returns
    -------
    float
        From 0 to 1; 0 where predictions are right exactly as often as they claim.

    Raises
    ------
    ValueError
        As `reliability_curve`.

    References
    ----------
    Guo et al., "On calibration of modern neural networks", ICML 2017, equation 3.

    Examples
    --------
    >>> round(expected_calibration_error([[0.9, 0.1], [0.7, 0.3]], [0, 1], n_bins=2), 2)
    0.3
    """
    confidence, accuracy, counts = reliability_curve(probabilities, y_true, n_bins)
    filled = counts > 0
    return float((np.abs(confidence - accuracy)[filled] * counts[filled]).sum() / counts.sum())


def brier_score(probabilities: ArrayLike, y_true: ArrayLike) -> float:
    """Return the mean squared distance between probabilities and the true class, summed over classes.

    Parameters
    ----------
    probabilities, y_true
        As for `reliability_curve`.

    Returns
    -------
    float
        From 0 to 2.

    Raises
    ------
    ValueError
        If the shapes do not fit or a value leaves 0 to 1.

    References
    ----------
    Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 1950, equation 2.

    Examples
    --------
    >>> round(brier_score([[0.9, 0.1], [0.7, 0.3]], [0, 1]), 2)
    0.5
    """
    table, truth = _checked_probabilities(probabilities, y_true)
    return float(((table - (np.arange(table.shape[1]) == truth[:, None])) ** 2).sum(axis=1).mean())


def negative_log_likelihood(probabilities: ArrayLike, y_true: ArrayLike) -> float:
    """Return the mean negative natural logarithm of the true class's probability.

    Parameters
    ----------
    probabilities, y_true
        As for `reliability_curve`.

    Returns
    -------
    float
        0 or more. A probability below the smallest normal double, or a class without a column, counts as that double.

    Raises
    ------
    ValueError
        If the shapes do not fit or a value leaves 0 to 1.

    References
    ----------
    Hastie, Tibshirani and Friedman, "The elements of statistical learning", 2009, equation 7.8 (deviance, halved).

    Examples
    --------
    >>> round(negative_log_likelihood([[0.5, 0.5], [0.25, 0.75]], [0, 1]), 4)
    0.4904
    """
    table, truth = _checked_probabilities(probabilities, y_true)
    of_truth = np.where(truth < 0, 0.0, table[np.arange(len(truth)), np.maximum(truth, 0)])
    return float(-np.log(np.maximum(of_truth, np.finfo(np.float64).tiny)).mean())


def rejection_auroc(known: ArrayLike, unknown: ArrayLike) -> float:
    """Return the probability that an unknown sample looks stranger than a known one, ties counted half.

    Parameters
    ----------
    known, unknown : array_like of float (n,), (u,)
        Strangeness of samples of classes that were learned, and of classes that were not; larger is stranger.

    Returns
    -------
    float
        From 0 to 1; 0.5 is chance.

    Raises
    ------
    ValueError
        If a list is empty or holds a NaN.

    References
    ----------
    Hendrycks and Gimpel, "A baseline for detecting misclassified and out-of-distribution examples in neural networks",
    ICLR 2017, section 2.

    Examples
    --------
    >>> rejection_auroc(known=[0.1, 0.2, 0.4], unknown=[0.3, 0.5])
    0.8333333333333334
    """
    inside, outside = _checked_scores(known, "known"), _checked_scores(unknown, "unknown")
    ordered = np.sort(inside)
    below, up_to = (np.searchsorted(ordered, outside, side) for side in ("left", "right"))
    return float((below + up_to).mean() / (2 * len(inside)))


def fpr_at_95_tpr(known: ArrayLike, unknown: ArrayLike) -> float:
    """Return the share of unknown samples that pass for known where 95 % of the known pass.

    Parameters
    ----------
    known, unknown
        As for `rejection_auroc`.

    Returns
    -------
    float
        From 0 to 1; lower is better.

    Raises
    ------
    ValueError
        If a list is empty or holds a NaN.

    References
    ----------
    Liang, Li and Srikant, "Enhancing the reliability of out-of-distribution image detection in neural networks", ICLR
    2018, section 4.

    Examples
    --------
    >>> fpr_at_95_tpr(known=range(20), unknown=[17.5, 18.5, 30.0, 40.0])
    0.25
    """
    inside, outside = _checked_scores(known, "known"), _checked_scores(unknown, "unknown")
    limit = np.sort(inside)[int(np.ceil(0.95 * len(inside))) - 1]
    return float((outside <= limit).mean())


def class_order_spread(values: Sequence[float]) -> dict[str, float]:
    """Return mean, standard deviation and worst of one accuracy over several orders of the classes.

    Parameters
    ----------
    values : sequence of float
        One accuracy per order, each from 0 to 1.

    Returns
    -------
    dict
        ``mean``, ``std`` (of the orders given, not of a population they are drawn from) and ``worst``.

    Raises
    ------
    ValueError
        If there is no value or one leaves 0 to 1.

    Examples
    --------
    >>> class_order_spread([0.5, 1.0])
    {'mean': 0.75, 'std': 0.25, 'worst': 0.5}
    """
    curve = _checked_curve(values, "values")
    return {"mean": float(curve.mean()), "std": float(curve.std()), "worst": float(curve.min())}


def _checked_matrix(accuracy_matrix: ArrayLike) -> np.ndarray:
    matrix = np.asarray(accuracy_matrix, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(
            f"the accuracy matrix has shape {matrix.shape}; (tasks, tasks) is expected: pass one row per "
            f"task learned and one column per task tested"
        )
    _check_fractions(matrix, "the accuracy matrix")
    return matrix


def _checked_curve(values: ArrayLike, name: str, *, length: int | None = None) -> np.ndarray:
    curve = np.asarray(values, dtype=np.float64)
    if curve.ndim != 1 or not curve.size or (length is not None and len(curve) != length):
        wanted = "one or more" if length is None else str(length)
        raise ValueError(f"{name} has shape {curve.shape}; a list of {wanted} numbers is expected: pass one value each")
    _check_fractions(curve, name)
    return curve


def _checked_labels(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    truth, guess = np.asarray(y_true), np.asarray(y_pred)
    if truth.shape != guess.shape or truth.ndim != 1 or not truth.size:
        raise ValueError(
            f"the labels have shape {truth.shape} and the predictions {guess.shape}; one of each a sample is "
            f"expected: pass two lists of one length"
        )
    return truth, guess


def _checked_probabilities(probabilities: ArrayLike, y_true: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    table, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(y_true)
    if table.ndim != 2 or truth.shape != table.shape[:1] or not table.size:
        raise ValueError(
            f"probabilities have shape {table.shape} and y_true {truth.shape}; (samples, classes) and (samples,) are "
            f"expected: pass one row and one label a sample"
        )
    if truth.min() < -1 or truth.max() >= table.shape[1]:
        raise ValueError(
            f"y_true runs from {truth.min()} to {truth.max()} for {table.shape[1]} columns; positions of columns are "
            f"expected, or -1: look the labels up in classes_"
        )
    _check_fractions(table, "probabilities")
    return table, truth


def _checked_scores(values: ArrayLike, name: str) -> np.ndarray:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or not scores.size or np.isnan(scores).any():
        raise ValueError(
            f"{name} has shape {scores.shape} and {np.isnan(scores).sum()} NaN; one number or more are expected: pass "
            f"one score a sample"
        )
    return scores


def _check_fractions(values: np.ndarray, name: str) -> None:
    if values.size and not bool(((values >= 0) & (values <= 1)).all()):
        raise ValueError(
            f"{name} runs from {values.min()} to {values.max()}; fractions from 0 to 1 are expected: divide "
            f"percentages by 100"
        )
