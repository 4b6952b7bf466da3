"""Display classes, as in scikit-learn, for accuracy matrices, streams and key usage.

Enters: accuracies from 0 to 1, predictions and labels, or a :class:`KeyUsage`. Leaves: axes of matplotlib, which is
imported only when something is drawn. Must not know: estimators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["AccuracyMatrixDisplay", "KeyUsageDisplay", "StreamDisplay"]

MAX_VALUES = 20
"""Largest number of columns for which the cells of a heat map show values."""
QUIET = "#59636f"
"""Colour of values in cells without colour."""


class AccuracyMatrixDisplay:
    """Accuracy on each task (columns) after each task (rows), as a heat map.

    Cells of tasks that were not learned yet show their value without colour.

    Parameters
    ----------
    accuracy_matrix : array-like of shape (t, t)
        R[i, j], the accuracy on task j after learning task i, from 0 to 1, or NaN if it was not measured.
    task_names : sequence of t str, optional
        Names of the columns; by default the numbers of the tasks, from 1. Equal names denote a task that is repeated.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the plot, after :meth:`plot`.
    figure_ : matplotlib Figure
    text_ : ndarray of matplotlib Text of shape (t, t), or None
        Texts in the cells, or None if there are none.

    See Also
    --------
    dkvb_estimator.metrics.final_accuracy : Summarises such a matrix.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from dkvb_estimator.plotting import AccuracyMatrixDisplay
    >>> ax = Figure().subplots()
    >>> display = AccuracyMatrixDisplay([[1.0, 0.0], [0.9, 0.95]]).plot(ax)
    >>> [[text.get_text() for text in row] for row in display.text_]
    [['100', '0'], ['90', '95']]
    """

    def __init__(self, accuracy_matrix: ArrayLike, *, task_names: Sequence[str] | None = None) -> None:
        self.accuracy_matrix = np.asarray(accuracy_matrix, dtype=np.float64)
        n_tasks = _side(self.accuracy_matrix, "accuracy_matrix")
        self.task_names = _names(task_names, n_tasks, "task_names")

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        y_pred: Sequence[ArrayLike],
        *,
        task_classes: Sequence[Sequence[Any]],
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the accuracy matrix of predictions after each task.

        Parameters
        ----------
        y_true : array-like of shape (n,)
            Labels of the test samples.
        y_pred : sequence of t array-likes of shape (n,)
            Predictions for all test samples after each task.
        task_classes : sequence of sequence
            Classes of each task, which determine its test samples.
        ax : matplotlib Axes, optional
            Axes to draw in.
        **kwargs
            Passed to :meth:`plot`.

        Examples
        --------
        >>> from matplotlib.figure import Figure
        >>> display = AccuracyMatrixDisplay.from_predictions(
        ...     ["a", "b"], [["a", "a"], ["a", "b"]], task_classes=[["a"], ["b"]], ax=Figure().subplots()
        ... )
        >>> display.accuracy_matrix.tolist()
        [[1.0, 0.0], [1.0, 1.0]]
        """
        labels = np.asarray(y_true)
        right = np.stack([_hits(labels, predictions, f"y_pred[{task}]") for task, predictions in enumerate(y_pred)])
        groups = [np.isin(labels, list(classes)) for classes in task_classes]
        matrix = [[hits[rows].mean() if rows.any() else np.nan for rows in groups] for hits in right]
        names = [", ".join(map(str, classes)) for classes in task_classes]
        return cls(matrix, task_names=names).plot(ax, **kwargs)

    def plot(self, ax: Any = None, *, cmap: Any = "Blues", include_values: bool = True) -> Self:
        """Draw the matrix.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Axes to draw in; by default those of a new figure.
        cmap : str or matplotlib Colormap
            Colours from 0 to 1.
        include_values : bool
            Whether cells show percentages, for up to 20 tasks.

        Returns
        -------
        AccuracyMatrixDisplay
            Itself.
        """
        names, n_tasks = self.task_names, len(self.task_names)
        ahead = np.array([[name not in names[: i + 1] for name in names] for i in range(n_tasks)])
        self.figure_, self.ax_ = _axes(ax)
        self.text_ = _heat_map(self.ax_, self.accuracy_matrix, ahead, cmap, include_values)
        _label_cells(self.ax_, [str(i + 1) for i in range(n_tasks)], names)
        self.ax_.set(xlabel="tested on task", ylabel="after task")
        return self


class KeyUsageDisplay:
    """Overlap of the keys of classes, as a heat map.

    Parameters
    ----------
    overlap : array-like of shape (k, k)
        Overlap of two classes, from 0 to 1; see :class:`KeyUsage`.
    classes : sequence of shape (k,), optional
        Labels of rows and columns; by default 0, 1, …

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the plot, after :meth:`plot`.
    figure_ : matplotlib Figure
    text_ : ndarray of matplotlib Text of shape (k, k), or None
        Texts in the cells, or None if there are none.

    See Also
    --------
    dkvb_estimator.DKVBClassifier.key_usage : Computes the overlap.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from dkvb_estimator import DKVBClassifier, KeyEncoder
    >>> from dkvb_estimator.plotting import KeyUsageDisplay
    >>> X, y = [[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.1]], ["a", "a", "b", "b"]
    >>> model = DKVBClassifier(KeyEncoder(4, 4, 2, random_state=0)).fit(X, y)
    >>> display = KeyUsageDisplay.from_estimator(model, ax=Figure().subplots())
    >>> [[text.get_text() for text in row] for row in display.text_]
    [['100', '0'], ['0', '100']]
    """

    def __init__(self, overlap: ArrayLike, *, classes: Sequence[Any] | None = None) -> None:
        self.overlap = np.asarray(overlap, dtype=np.float64)
        names = None if classes is None else [str(label) for label in classes]
        n_classes = _side(self.overlap, "overlap")
        self.classes = _names(names or [str(i) for i in range(n_classes)], n_classes, "classes")

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None, **kwargs: Any) -> Self:
        """Draw the key usage of a fitted :class:`DKVBClassifier`.

        Parameters
        ----------
        estimator : DKVBClassifier
            Fitted.
        ax : matplotlib Axes, optional
            Axes to draw in.
        **kwargs
            Passed to :meth:`plot`.
        """
        usage = estimator.key_usage()
        return cls(usage.overlap, classes=usage.classes.tolist()).plot(ax, **kwargs)

    def plot(self, ax: Any = None, *, cmap: Any = "Blues", include_values: bool = True) -> Self:
        """Draw the overlaps; the diagonal has no colour.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Axes to draw in; by default those of a new figure.
        cmap : str or matplotlib Colormap
            Colours from 0 to 1.
        include_values : bool
            Whether cells show percentages, for up to 20 classes.

        Returns
        -------
        KeyUsageDisplay
            Itself.
        """
        self.figure_, self.ax_ = _axes(ax)
        own = np.eye(len(self.classes), dtype=bool)
        self.text_ = _heat_map(self.ax_, self.overlap, own, cmap, include_values)
        _label_cells(self.ax_, self.classes, self.classes)
        self.ax_.set(xlabel="shares keys with class", ylabel="class")
        return self


class StreamDisplay:
    """Accuracy along a stream, one line per method.

    Lines show the mean over class orders, and bands the range from the lowest to the highest.

    Parameters
    ----------
    x : array-like of shape (t,)
        Points of measurement: number of tasks, classes or samples seen.
    accuracies : mapping of str to array-like of shape (t,) or (r, t)
        Name of a method → accuracies from 0 to 1, for one or r class orders, or NaN if not measured.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the plot, after :meth:`plot`.
    figure_ : matplotlib Figure
    lines_ : dict of str to matplotlib Line2D
        Line of each method.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from dkvb_estimator.plotting import StreamDisplay
    >>> display = StreamDisplay([2, 4], {"DKVB": [[1.0, 0.9], [0.98, 0.94]]}).plot(Figure().subplots())
    >>> display.lines_["DKVB"].get_ydata().round(2).tolist()
    [0.99, 0.92]
    """

    def __init__(self, x: ArrayLike, accuracies: Mapping[str, ArrayLike]) -> None:
        self.x = np.asarray(x, dtype=np.float64)
        self.accuracies = {
            name: np.atleast_2d(np.asarray(found, dtype=np.float64)) for name, found in accuracies.items()
        }
        for name, found in self.accuracies.items():
            if found.ndim != 2 or found.shape[1:] != self.x.shape:
                raise ValueError(
                    f"accuracies[{name!r}] has shape {found.shape}; expected (r, {self.x.size}), one column per point "
                    "of x. Pass one accuracy per point."
                )
            _check_shares(found, f"accuracies[{name!r}]")

    @classmethod
    def from_predictions(
        cls, y_true: ArrayLike, y_pred: Mapping[str, ArrayLike], *, every: int = 1, ax: Any = None, **kwargs: Any
    ) -> Self:
        """Draw prequential accuracy: the share of samples so far predicted correctly before they were learned.

        Parameters
        ----------
        y_true : array-like of shape (n,)
            Labels in the order of the stream.
        y_pred : mapping of str to array-like of shape (n,)
            Name of a method → its predictions, each made before the sample was learned.
        every : int
            Number of samples between two points of a line; the last sample always has a point.
        ax : matplotlib Axes, optional
            Axes to draw in.
        **kwargs
            Passed to :meth:`plot`.

        Examples
        --------
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> display = StreamDisplay.from_predictions([0, 1, 1, 0], {"DKVB": [1, 1, 1, 0]}, every=2, ax=ax)
        >>> display.x.tolist(), display.accuracies["DKVB"].tolist()
        ([2.0, 4.0], [[0.5, 0.75]])
        """
        labels = np.asarray(y_true)
        ends = np.unique([*range(every, len(labels), every), len(labels)])
        right = {name: np.cumsum(_hits(labels, found, f"y_pred[{name!r}]")) for name, found in y_pred.items()}
        shares = {name: hits[ends - 1] / ends for name, hits in right.items()}
        display = cls(ends, shares).plot(ax, **kwargs)
        display.ax_.set(xlabel="samples seen", ylabel="prequential accuracy")
        return display

    def plot(
        self, ax: Any = None, *, styles: Mapping[str, Mapping[str, Any]] | None = None, legend: bool = True
    ) -> Self:
        """Draw the lines.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Axes to draw in; by default those of a new figure.
        styles : mapping of str to mapping, optional
            Name of a method → keyword arguments of its line.
        legend : bool
            Whether to draw a legend, ordered by the last accuracy.

        Returns
        -------
        StreamDisplay
            Itself.
        """
        self.figure_, self.ax_ = _axes(ax)
        self.lines_ = {}
        for name, found in self.accuracies.items():
            known = np.isfinite(found).any(axis=0)
            x, shares = self.x[known], np.ma.masked_invalid(found[:, known])
            style = {"marker": "o", **(styles or {}).get(name, {})}
            (line,) = self.ax_.plot(x, np.asarray(shares.mean(axis=0)), label=name, **style)
            if len(found) > 1:
                bounds = (np.asarray(shares.min(axis=0)), np.asarray(shares.max(axis=0)))
                self.ax_.fill_between(x, *bounds, color=line.get_color(), alpha=0.15, linewidth=0)
            self.lines_[name] = line
        self.ax_.set(ylim=(-0.02, 1.02), ylabel="accuracy")
        self.ax_.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f}%")
        if legend and self.lines_:
            lines = sorted(self.lines_.values(), key=_last, reverse=True)
            self.ax_.legend(lines, [str(line.get_label()) for line in lines])
        return self


def _last(line: Any) -> float:
    shares = line.get_ydata()
    return float(shares[-1]) if len(shares) else -1.0


def _hits(labels: np.ndarray, predictions: ArrayLike, name: str) -> np.ndarray:
    found = np.asarray(predictions)
    if found.shape != labels.shape:
        raise ValueError(f"{name} has shape {found.shape}; expected {labels.shape}. Pass one prediction per sample.")
    return found == labels


def _side(matrix: np.ndarray, name: str) -> int:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"{name} has shape {matrix.shape}; expected a square matrix. Pass as many rows as columns.")
    _check_shares(matrix, name)
    return len(matrix)


def _check_shares(shares: np.ndarray, name: str) -> None:
    known = shares[~np.isnan(shares)]
    if ((known < -1e-9) | (known > 1 + 1e-9)).any():
        raise ValueError(
            f"{name} runs from {known.min()} to {known.max()}; expected shares from 0 to 1. Divide percentages by 100."
        )


def _names(names: Sequence[str] | None, n: int, argument: str) -> list[str]:
    found = [str(i + 1) for i in range(n)] if names is None else list(map(str, names))
    if len(found) != n:
        raise ValueError(f"{argument} holds {len(found)} names; expected {n}. Pass one name per column.")
    return found


def _axes(ax: Any) -> tuple[Any, Any]:
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.subplots()[1]
    return ax.figure, ax


def _heat_map(ax: Any, shares: np.ndarray, quiet: np.ndarray, cmap: Any, include_values: bool) -> np.ndarray | None:
    """Draw cells of shares (rows downwards), without colour if ``quiet``; return their texts."""
    mesh = ax.pcolormesh(np.ma.masked_where(quiet | np.isnan(shares), shares), cmap=cmap, vmin=0, vmax=1)
    ax.set(xlim=(0, shares.shape[1]), ylim=(shares.shape[0], 0), aspect="equal")
    if not include_values or shares.shape[1] > MAX_VALUES:
        return None
    texts = np.empty(shares.shape, dtype=object)
    for (i, j), share in np.ndenumerate(shares):
        text = "" if np.isnan(share) else f"{100 * share:.0f}"
        colour = QUIET if quiet[i, j] else _ink(mesh.cmap(share))
        texts[i, j] = ax.text(j + 0.5, i + 0.5, text, ha="center", va="center", color=colour)
    return texts


def _ink(colour: Sequence[float]) -> str:
    """Return black or white, whichever has more contrast on a colour over white (WCAG 2, relative luminance)."""
    over = np.asarray(colour[:3]) * colour[3] + 1 - colour[3]
    linear = np.where(over <= 0.04045, over / 12.92, ((over + 0.055) / 1.055) ** 2.4)
    return "#000000" if linear @ [0.2126, 0.7152, 0.0722] > 0.179 else "#ffffff"


def _label_cells(ax: Any, rows: Sequence[str], columns: Sequence[str]) -> None:
    every = 1 if len(columns) <= 2 * MAX_VALUES else 5
    ax.set_yticks(np.arange(0, len(rows), every) + 0.5, rows[::every])
    upright = max(map(len, columns)) > 3
    turned = {"rotation": 90, "ha": "right", "va": "center", "rotation_mode": "anchor"} if upright else {}
    ax.set_xticks(np.arange(0, len(columns), every) + 0.5, columns[::every], **turned)
    ax.tick_params(length=0)
