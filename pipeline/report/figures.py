"""The figures of a page, as inline SVG.

Room: a leaf beside the `report` stage.
Enters: plain numbers and words.
Leaves: `Markup`, text that may stand in a page as it is. Colours are left to the page: marks carry the
classes ``series-0`` … ``series-13`` and ``heat``, so that one drawing serves a light and a dark page.
Must not know: files, runs, metrics, the names of heads.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from pipeline.report.html import MARKERS, Markup, element

__all__ = [
    "Cell", "Series", "SquareLine", "accuracy_map", "confusion_map", "gather_series", "heat_map", "line_figure",
    "spread", "square_figure",
]  # fmt: skip

DASHES = ("none", "none", "7 3", "2 3", "9 3 2 3", "4 2", "1 3", "10 4", "6 2", "3 6")

# The share of the strongest colour from which white (on a light page) or black (on a dark one) reads better.
# With the page's two heat colours both letter colours have a contrast of at least 4.5 on either side of it.
STRONG = 0.69

LETTER = 7.6  # mean advance of a 12-pixel letter in DejaVu Sans, which is wide: the page's font is not known here


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions as little as a simple sweep can so that neighbours keep `gap` between `low` and `high`.

    Where the room is too small for all of them, the gap shrinks evenly.

    Examples
    --------
    >>> spread([10.0, 11.0, 50.0], 15.0, 0.0, 60.0)
    [10.0, 25.0, 50.0]
    >>> spread([58.0, 59.0], 10.0, 0.0, 60.0)
    [50.0, 60.0]
    """
    gap = min(gap, (high - low) / max(1, len(positions) - 1))
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    placed = list(positions)
    floor = low
    for i in order:
        placed[i] = floor = max(placed[i], floor)
        floor += gap
    ceiling = high
    for i in reversed(order):
        placed[i] = ceiling = min(placed[i], ceiling)
        ceiling -= gap
    return placed


@dataclass(frozen=True)
class Series:
    """One line of a figure: shares over stages.

    Attributes
    ----------
    label : str
        Written at the line's end.
    style : int
        Which of the ten colours and markers.
    stages : tuple of int
        Positions on the horizontal axis, from 0.
    mean, low, high : tuple of float
        Shares in 0 … 1, one per stage; `low` and `high` bound the shaded band.
    """

    label: str
    style: int
    stages: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def gather_series(
    rows: Iterable[Mapping[str, str]], heads: Sequence[tuple[str, str, int]]
) -> tuple[list[Series], list[str]]:
    """Fold the rows of a curve file over the orders of classes.

    Parameters
    ----------
    rows : iterable of mapping
        ``head``, ``stage``, ``classes_seen`` and ``seen_accuracy`` as text, one row per head, order and stage.
    heads : sequence of tuple
        Key, label and style of each head, in the order wanted.

    Returns
    -------
    series : list of Series
        Means, lowest and highest over the orders; rows without a finite accuracy are left out.
    ticks : list of str
        One label per stage.
    """
    shares: dict[str, dict[int, list[float]]] = {head: {} for head, _, _ in heads}
    classes: dict[int, set[str]] = {}
    for row in rows:
        stage, share = int(row["task"]), float(row["seen_accuracy"] or "nan")
        classes.setdefault(stage, set()).add(row["classes_seen"])
        if math.isfinite(share):
            shares[row["method"]].setdefault(stage, []).append(share)
    stages = sorted(classes)
    # Orders that reveal classes at another pace share no count; the stage's own number then stands.
    ticks = [min(classes[stage]) if len(classes[stage]) == 1 else f"#{i + 1}" for i, stage in enumerate(stages)]
    lines = []
    for head, label, style in heads:
        known = [stage for stage in stages if stage in shares[head]]
        places = tuple(stages.index(stage) for stage in known)
        mean, low, high = (tuple(fold(shares[head][stage]) for stage in known) for fold in (fmean, min, max))
        lines.append(Series(label, style, places, mean, low, high))
    return [line for line in lines if line.stages], ticks


@dataclass(frozen=True)
class _Frame:
    left: float
    right: float
    top: float
    bottom: float
    n_ticks: int

    def x(self, stage: float) -> float:
        if self.n_ticks < 2:
            return (self.left + self.right) / 2
        return self.left + 18 + (self.right - self.left - 28) * stage / (self.n_ticks - 1)

    def y(self, share: float) -> float:
        return self.bottom - (self.bottom - self.top) * share


def line_figure(series: Sequence[Series], ticks: Sequence[str], *, width: int, height: int, x_title: str) -> Markup:
    """Draw lines with bands and a label at each line's end.

    Parameters
    ----------
    series : sequence of Series
        Drawn in this order, so the last lies on top.
    ticks : sequence of str
        One label per stage.
    width, height : int
        In pixels.
    x_title : str
        The axis title.

    Returns
    -------
    Markup
        One ``svg`` element; the labels stand for it where it cannot be seen.
    """
    labels = [f"{one.label} {100 * one.mean[-1]:.0f}%" for one in series]
    margin = LETTER * max((len(label) for label in labels), default=0) + 30
    frame = _Frame(52, width - margin, 14, height - 48, len(ticks))
    body = [
        _axes(frame, ticks, x_title),
        *(_band(frame, one) for one in series),
        *(_line(frame, one) for one in series),
        _end_labels(frame, series, labels),
    ]
    return element(
        "svg",
        *body,
        class_="lines",
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=f"{x_title}: {', '.join(reversed(labels))}",
    )


def _text(words: str, x: float, y: float, kind: str = "tick", anchor: str = "middle", turn: int = 0) -> Markup:
    place = f"translate({x:.2f} {y:.2f})" + (f" rotate({turn})" if turn else "")
    return element("text", words, transform=place, text_anchor=anchor, class_=kind)


def _axes(frame: _Frame, ticks: Sequence[str], x_title: str) -> Markup:
    parts = []
    for percent in (0, 25, 50, 75, 100):
        y, kind = frame.y(percent / 100), "grid" if percent else "axis"
        parts.append(element("line", x1=frame.left, x2=frame.right, y1=y, y2=y, class_=kind))
        parts.append(_text(f"{percent}%", frame.left - 9, y + 4, anchor="end"))
    room = (frame.right - frame.left) / max(1, len(ticks))
    widest = LETTER * max((len(tick) for tick in ticks), default=1) + 8
    for i in range(0, len(ticks), math.ceil(widest / room)):
        x = frame.x(i)
        parts.append(element("line", x1=x, x2=x, y1=frame.bottom, y2=frame.bottom + 4, class_="axis"))
        parts.append(_text(ticks[i], x, frame.bottom + 19))
    parts.append(_text(x_title, (frame.left + frame.right) / 2, frame.bottom + 41, "axis-title"))
    return element("g", *parts)


def _band(frame: _Frame, one: Series) -> Markup:
    upper = [(frame.x(stage), frame.y(share)) for stage, share in zip(one.stages, one.high, strict=True)]
    lower = [(frame.x(stage), frame.y(share)) for stage, share in zip(one.stages, one.low, strict=True)]
    points = " ".join(f"{x:.2f},{y:.2f}" for x, y in upper + lower[::-1])
    return element("polygon", points=points, class_=f"band series-{one.style % len(MARKERS)}")


def _line(frame: _Frame, one: Series) -> Markup:
    style = one.style % len(MARKERS)
    places = [(frame.x(stage), frame.y(share)) for stage, share in zip(one.stages, one.mean, strict=True)]
    parts = [
        element("polyline", points=" ".join(f"{x:.2f},{y:.2f}" for x, y in places), stroke_dasharray=DASHES[style])
    ]
    for (x, y), stage, share in zip(places, one.stages, one.mean, strict=True):
        hint = element("title", f"{one.label}, stage {stage + 1}: {100 * share:.1f}%")
        parts.append(element("path", hint, d=MARKERS[style], transform=f"translate({x:.2f} {y:.2f})"))
    return element("g", *parts, class_=f"line series-{style}")


def _end_labels(frame: _Frame, series: Sequence[Series], labels: Sequence[str]) -> Markup:
    wanted = [frame.y(one.mean[-1]) for one in series]
    placed = spread(wanted, 17.0, frame.top, frame.bottom)
    parts = []
    for one, label, at, y in zip(series, labels, wanted, placed, strict=True):
        end = frame.x(one.stages[-1]) + 8
        leader = element("path", d=f"M{end:.2f},{at:.2f}L{frame.right:.2f},{y:.2f}h6", class_="leader")
        text = _text(label, frame.right + 10, y + 4, "label", "start")
        parts.append(element("g", leader, text, class_=f"series-{one.style % len(MARKERS)}"))
    return element("g", *parts)


@dataclass(frozen=True)
class Cell:
    """One square of a heat map.

    Attributes
    ----------
    share : float or None
        Strength of the colour in 0 … 1; ``None`` leaves the square empty.
    text, note : str
        Written in the square, and shown when it is pointed at.
    quiet : bool
        Draws text without colour, for what is there but is not the point.
    """

    share: float | None
    text: str
    note: str
    quiet: bool = False


def heat_map(
    grid: Sequence[Sequence[Cell]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    row_title: str,
    column_title: str,
    described: str,
) -> Markup:
    """Draw a table of coloured squares with their numbers, rows downwards.

    Up to 20 columns carry numbers; beyond that colour and the pointer's note speak alone.

    Parameters
    ----------
    grid : sequence of sequence of Cell
        Rows of squares.
    rows, columns : sequence of str
        Labels; names longer than 14 letters are cut, long column names stand upright.
    row_title, column_title, described : str
        Axis titles, and the sentence that stands for the figure where it cannot be seen.

    Returns
    -------
    Markup
        One ``svg`` element in its natural size.
    """
    side = _side(max(len(rows), len(columns)))
    rows, columns = ([name if len(name) <= 14 else name[:13] + "…" for name in names] for names in (rows, columns))
    longest = LETTER * max((len(column) for column in columns), default=0)
    left = 34 + LETTER * max((len(row) for row in rows), default=0)
    top = 30 + longest if longest > side else 42.0
    width, height = left + side * len(columns) + 2, top + side * len(rows) + 2
    parts = [
        _text(column_title, left, 13, "axis-title", "start"),
        _text(row_title, 12, top + side * len(rows) / 2, "axis-title", turn=-90),
        element("rect", x=left, y=top, width=side * len(columns), height=side * len(rows), class_="empty"),
        *_map_labels(rows, columns, left, top, side, upright=longest > side),
    ]
    for i, row in enumerate(grid):
        parts.extend(_square(cell, left + side * j, top + side * i, side) for j, cell in enumerate(row))
    drawn = {"width": width, "height": height, "viewBox": f"0 0 {width:.2f} {height:.2f}"}
    return element("svg", *parts, class_="heat-map", role="img", aria_label=described, **drawn)


def _map_labels(
    rows: Sequence[str], columns: Sequence[str], left: float, top: float, side: int, *, upright: bool
) -> list[Markup]:
    every = 1 if side >= 12 else 5  # labels of smaller squares would run into each other
    anchor, turn, shift = ("start", -90, 4) if upright else ("middle", 0, 0)
    labels = []
    for j in range(0, len(columns), every):
        labels.append(_text(columns[j], left + side * (j + 0.5) + shift, top - 7, anchor=anchor, turn=turn))
    for i in range(0, len(rows), every):
        labels.append(_text(rows[i], left - 7, top + side * (i + 0.5) + 4, anchor="end"))
    return labels


def _side(n: int) -> int:
    sides = ((5, 52), (6, 46), (8, 36), (12, 28), (20, 24), (50, 12))
    return next((side for limit, side in sides if n <= limit), 8)


def _square(cell: Cell, x: float, y: float, side: int) -> Markup:
    share = 0.0 if cell.share is None else min(1.0, max(0.0, cell.share))
    if side < 12 and not share:
        return Markup("")  # a hundred classes are ten thousand squares, nearly all of them empty
    gap = 1.0 if side > 12 else 0.5
    box = {
        "x": x + gap,
        "y": y + gap,
        "width": side - 2 * gap,
        "height": side - 2 * gap,
        "rx": 2 if gap == 1 else 0,
    }
    parts = [element("title", cell.note)] if cell.note and side >= 12 else []
    parts.append(element("rect", class_="empty", **box))
    if share > 0 and not cell.quiet:
        parts.append(element("rect", class_="heat", fill_opacity=share, **box))
    if cell.text and side >= 20:
        kind = "quiet" if cell.quiet else "strong" if share >= STRONG else "weak"
        size = min(12.5, (side - 5) / (0.62 * len(cell.text)))
        middle = {"x": x + side / 2, "y": y + side / 2, "dominant_baseline": "central"}
        parts.append(element("text", cell.text, text_anchor="middle", class_=kind, font_size=size, **middle))
    return element("g", *parts)


def accuracy_map(matrix: Sequence[Sequence[float | None]], tasks: Sequence[str], name: str) -> Markup:
    """Draw accuracy on each stage's classes (columns) after each stage (rows).

    Parameters
    ----------
    matrix : sequence of sequence of float or None
        T,T shares; squares of classes still to come keep their number and lose their colour.
    tasks : sequence of str
        The classes of each stage; they stand over the columns where all are short, else the stages' numbers.
    name : str
        Whose matrix it is.

    Returns
    -------
    Markup
        One ``svg`` element.
    """
    stages = [str(i + 1) for i in range(len(tasks))]
    short = all(LETTER * len(task) <= _side(len(tasks)) for task in tasks)
    grid = []
    for i, row in enumerate(matrix):
        known = [None if share is None or share != share else share for share in row]
        hints = [f"after stage {i + 1}, classes of stage {j + 1} ({task})" for j, task in enumerate(tasks)]
        texts = ["" if share is None else f"{100 * share:.0f}" for share in known]
        # A shuffled stream has the same classes in every stage: none of them is still to come.
        ahead = [task not in tasks[: i + 1] for task in tasks]
        squares = zip(known, texts, hints, ahead, strict=True)
        grid.append([Cell(share, text, f"{hint}: {text or '–'}%", quiet) for share, text, hint, quiet in squares])
    title = "tested on classes" if short else "tested on the classes of stage"
    words = {"row_title": "after stage", "column_title": title, "described": f"Accuracy matrix of {name}"}
    return heat_map(grid, stages, tasks if short else stages, **words)


def confusion_map(counts: Sequence[Sequence[int]], names: Sequence[str], name: str) -> Markup:
    """Draw how often each true class (rows) was taken for each class (columns).

    Parameters
    ----------
    counts : sequence of sequence of int
        k,k; the colour is the share of the row.
    names : sequence of str
        The k classes.
    name : str
        Whose confusions they are.

    Returns
    -------
    Markup
        One ``svg`` element.
    """
    grid = []
    for true, row in zip(names, counts, strict=True):
        total = sum(row) or 1
        hints = [f"true {true}, predicted {predicted}: {n}" for predicted, n in zip(names, row, strict=True)]
        grid.append([Cell(n / total, str(n or ""), hint) for n, hint in zip(row, hints, strict=True)])
    words = {
        "row_title": "true class",
        "column_title": "predicted class",
        "described": f"Confusion matrix of {name}",
    }
    return heat_map(grid, names, names, **words)


@dataclass(frozen=True)
class SquareLine:
    """One line of a figure whose two axes are shares.

    Attributes
    ----------
    label : str
        Shown where the line is pointed at; the page names it beside the figure.
    style : int
        Which of the ten colours and markers.
    points : tuple of tuple of float
        Pairs of shares in 0 … 1.
    marked : bool
        Draws a marker at each point.
    """

    label: str
    style: int
    points: tuple[tuple[float, float], ...]
    marked: bool = True


def square_figure(lines: Sequence[SquareLine], *, x_title: str, y_title: str, described: str) -> Markup:
    """Draw lines over the unit square, and the diagonal that they are read against.

    Parameters
    ----------
    lines : sequence of SquareLine
        Drawn in this order, so the last lies on top.
    x_title, y_title, described : str
        Axis titles, and the sentence that stands for the figure where it cannot be seen.

    Returns
    -------
    Markup
        One ``svg`` element, 340 pixels wide.
    """
    left, top, side = 60.0, 12.0, 260.0
    bottom = top + side
    parts = []
    for percent in (0, 25, 50, 75, 100):
        at, kind = side * percent / 100, "grid" if percent else "axis"
        parts.append(element("line", x1=left, x2=left + side, y1=bottom - at, y2=bottom - at, class_=kind))
        parts.append(element("line", x1=left + at, x2=left + at, y1=top, y2=bottom, class_=kind))
        parts.append(_text(f"{percent}%", left - 8, bottom - at + 4, anchor="end"))
        parts.append(_text(f"{percent}%", left + at, bottom + 18))
    parts.append(element("line", x1=left, y1=bottom, x2=left + side, y2=top, class_="diagonal"))
    parts.append(_text(x_title, left + side / 2, bottom + 40, "axis-title"))
    parts.append(_text(y_title, 13, top + side / 2, "axis-title", turn=-90))
    parts.extend(_square_line(line, left, bottom, side) for line in lines)
    drawn = {"width": 340, "height": 320, "viewBox": "0 0 340 320"}
    return element("svg", *parts, class_="square", role="img", aria_label=described, **drawn)


def _square_line(line: SquareLine, left: float, bottom: float, side: float) -> Markup:
    style = line.style % len(MARKERS)
    places = [(left + side * x, bottom - side * y) for x, y in line.points]
    path = " ".join(f"{x:.2f},{y:.2f}" for x, y in places)
    parts = [element("polyline", element("title", line.label), points=path, stroke_dasharray=DASHES[style])]
    for (x, y), (share, height) in zip(places, line.points, strict=True) if line.marked else ():
        hint = element("title", f"{line.label}: {100 * share:.1f}%, {100 * height:.1f}%")
        parts.append(element("path", hint, d=MARKERS[style], transform=f"translate({x:.2f} {y:.2f})"))
    return element("g", *parts, class_=f"line series-{style}")
