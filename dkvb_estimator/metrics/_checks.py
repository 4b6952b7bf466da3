"""Checks of the arguments of metrics."""

from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike


def checked_matrix(accuracy_matrix: ArrayLike) -> np.ndarray:
    matrix = np.asarray(accuracy_matrix, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(
            f"accuracy_matrix has shape {matrix.shape}; expected (t, t). Pass one row per task learned and one column "
            "per task tested."
        )
    check_fractions(matrix, "accuracy_matrix")
    return matrix


def checked_curve(values: ArrayLike, name: str, *, length: int | None = None) -> np.ndarray:
    curve = np.asarray(values, dtype=np.float64)
    if curve.ndim != 1 or not curve.size or (length is not None and len(curve) != length):
        wanted = "one or more" if length is None else str(length)
        raise ValueError(f"{name} has shape {curve.shape}; expected one axis of {wanted} numbers. Pass a flat list.")
    check_fractions(curve, name)
    return curve


def checked_labels(
    y_true: ArrayLike, y_pred: ArrayLike, names: tuple[str, str] = ("y_true", "y_pred")
) -> tuple[np.ndarray, np.ndarray]:
    truth, guess = np.asarray(y_true), np.asarray(y_pred)
    if truth.shape != guess.shape or truth.ndim != 1 or not truth.size:
        raise ValueError(
            f"{names[0]} has shape {truth.shape} and {names[1]} {guess.shape}; expected (n,) for both, n ≥ 1. Pass one "
            "entry per sample in each."
        )
    if (truth.dtype.kind in "US") != (guess.dtype.kind in "US"):
        raise ValueError(
            f"{names[0]} has type {truth.dtype} and {names[1]} {guess.dtype}; expected labels of one type. Convert one "
            "of them."
        )
    return truth, guess


def checked_probabilities(probabilities: ArrayLike, y_true: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    table, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(y_true)
    if table.ndim != 2 or truth.shape != table.shape[:1] or not table.size:
        raise ValueError(
            f"probabilities has shape {table.shape} and y_true {truth.shape}; expected (n, k) and (n,), n ≥ 1. Pass "
            "one row and one label per sample."
        )
    if truth.dtype.kind not in "biu" and not (truth.dtype.kind == "f" and (truth == np.trunc(truth)).all()):
        raise ValueError(
            f"y_true has type {truth.dtype}; expected column positions, or -1. Pass np.searchsorted(model.classes_, y)."
        )
    truth = truth.astype(np.int64)
    if truth.min() < -1 or truth.max() >= table.shape[1]:
        raise ValueError(
            f"y_true runs from {truth.min()} to {truth.max()} for {table.shape[1]} columns; expected column positions, "
            "or -1. Pass np.searchsorted(model.classes_, y)."
        )
    check_fractions(table, "probabilities")
    return table, truth


def check_bins(n_bins: int) -> None:
    if not isinstance(n_bins, Integral) or n_bins < 1:
        raise ValueError(f"n_bins={n_bins!r} is not valid; expected a whole number ≥ 1. Pass one.")


def checked_scores(values: ArrayLike, name: str) -> np.ndarray:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or not scores.size or np.isnan(scores).any():
        raise ValueError(
            f"{name} has shape {scores.shape} and {np.isnan(scores).sum()} NaN values; expected (n,), n ≥ 1, without "
            "NaN. Pass one score per sample."
        )
    return scores


def check_fractions(values: np.ndarray, name: str) -> None:
    if values.size and not bool(((values >= 0) & (values <= 1)).all()):
        raise ValueError(
            f"{name} runs from {values.min()} to {values.max()}; expected fractions from 0 to 1. Divide percentages "
            "by 100."
        )
