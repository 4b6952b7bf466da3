"""Checks of what metrics are given."""

import numpy as np
from numpy.typing import ArrayLike


def checked_matrix(accuracy_matrix: ArrayLike) -> np.ndarray:
    matrix = np.asarray(accuracy_matrix, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(
            f"the accuracy matrix has shape {matrix.shape}; (tasks, tasks) is expected: pass one row per "
            f"task learned and one column per task tested"
        )
    check_fractions(matrix, "the accuracy matrix")
    return matrix


def checked_curve(values: ArrayLike, name: str, *, length: int | None = None) -> np.ndarray:
    curve = np.asarray(values, dtype=np.float64)
    if curve.ndim != 1 or not curve.size or (length is not None and len(curve) != length):
        wanted = "one or more" if length is None else str(length)
        raise ValueError(f"{name} has shape {curve.shape}; a list of {wanted} numbers is expected: pass one value each")
    check_fractions(curve, name)
    return curve


def checked_labels(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    truth, guess = np.asarray(y_true), np.asarray(y_pred)
    if truth.shape != guess.shape or truth.ndim != 1 or not truth.size:
        raise ValueError(
            f"the labels have shape {truth.shape} and the predictions {guess.shape}; one of each a sample is "
            f"expected: pass two lists of one length"
        )
    return truth, guess


def checked_probabilities(probabilities: ArrayLike, y_true: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
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
    check_fractions(table, "probabilities")
    return table, truth


def checked_scores(values: ArrayLike, name: str) -> np.ndarray:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or not scores.size or np.isnan(scores).any():
        raise ValueError(
            f"{name} has shape {scores.shape} and {np.isnan(scores).sum()} NaN; one number or more are expected: pass "
            f"one score a sample"
        )
    return scores


def check_fractions(values: np.ndarray, name: str) -> None:
    if values.size and not bool(((values >= 0) & (values <= 1)).all()):
        raise ValueError(
            f"{name} runs from {values.min()} to {values.max()}; fractions from 0 to 1 are expected: divide "
            f"percentages by 100"
        )
