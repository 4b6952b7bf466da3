"""The figures of a page: matplotlib's SVG, inline, in the colours of the page.

Enters: numbers and names. Leaves: markup. Must not know: files, runs.

Figures are drawn in the light colours of ``style.css``. In the SVG each colour is replaced by the variable of the same
name, so one drawing serves the light page, the dark page and print.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure

from dkvb_estimator.plotting import AccuracyMatrixDisplay, KeyUsageDisplay, StreamDisplay
from pipeline.report.labels import CALIBRATION, MAPPED, SCORES, cut, look, method_name, number, ordered, written

CSS = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
LIGHT = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", CSS.partition("@media")[0]))
VARIABLES = {colour: f"var(--{name})" for name, colour in LIGHT.items()}
HEAT = ListedColormap([(*to_rgb(LIGHT["heat"]), share) for share in np.linspace(0, 1, 256)])
STRONG = 0.69
"""Share of the strongest colour above which white text (on a light page) or black text (on a dark page) is easier to
read. With both heat colours, the contrast is at least 4.5 on either side of it."""
SERIES = [colour for name, colour in LIGHT.items() if re.fullmatch("c[0-9a-d]", name)]
MARKS = "os^DvPp*XHd<>8"
DASHES = ("-", "-", (0, (5, 2)), (0, (1, 2)), (0, (7, 2, 1, 2)), (0, (3, 1)), ":", "--", "-.", (0, (2, 4)))
STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "dkvb", "text.parse_math": False, "font.size": 12, "lines.markersize": 7,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "axes.labelsize": 12,
    "axes.labelcolor": LIGHT["soft"], "axes.edgecolor": LIGHT["soft"], "xtick.color": LIGHT["soft"],
    "ytick.color": LIGHT["soft"], "text.color": LIGHT["ink"], "grid.color": LIGHT["rule"], "xtick.labelsize": 12,
    "ytick.labelsize": 12, "legend.fontsize": 12, "legend.frameon": False,
}  # fmt: skip


def style_of(method: str, **changes: Any) -> dict[str, Any]:
    """Return colour, marker and dashes of a method's line."""
    i, own = look(method), method == "dkvb"
    # With more methods than colours, all colours but that of DKVB are used again, with other markers.
    rounds, place = divmod(i - 1, len(SERIES) - 1) if i else (0, -1)
    line = {"color": SERIES[place + 1], "linestyle": DASHES[i % len(DASHES)], "linewidth": 3 if own else 1.8}
    sign = MARKS[(place + 1 + rounds) % len(MARKS)]
    return {**line, "zorder": 2 + own, "marker": sign, "markeredgecolor": LIGHT["page"], **changes}


class Figures:
    """Draws the figures of one page, and gives their parts reproducible ids."""

    def __init__(self) -> None:
        self.n_drawn = 0

    def answer(self, rows: Sequence[Mapping[str, Any]]) -> Markup:
        """Draw accuracy, spread over orders and seconds of each method, from top to bottom in the given order."""
        low = min((row["accuracy"] for row in rows if row["accuracy"] is not None), default=0.0)
        slowest = max((row["seconds"] or 0 for row in rows), default=0) or 1

        def draw(figure: Figure, narrow: bool) -> None:
            left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1.2))
            room = (1.1 if narrow else 0.2) * (1 - low)  # for the numbers, right of all points
            names = [method_name(row["method"], short=narrow) + " †" * row["bound"] for row in rows]
            left.set_yticks(range(len(rows)), names)
            left.set(xlim=(low - 0.03, 1 + room), ylim=(len(rows) - 0.5, -0.5), xlabel="final accuracy")
            ticks = mpl.ticker.MaxNLocator(2 if narrow else 5).tick_values(low, 1)
            left.set_xticks([tick for tick in ticks if low <= tick <= 1])
            left.xaxis.set_major_formatter(_percent)
            room = slowest * (2.5 if narrow else 1.4)
            right.set(xticks=[], xlim=(0, room), xlabel="seconds" if narrow else "seconds to learn")
            for y, row in enumerate(rows):
                _answer_row(left, right, row, y)
            for ax in (left, right):
                ax.tick_params(axis="y", length=0, labelcolor=LIGHT["ink"])
                ax.spines[:].set_visible(False)
                ax.grid(axis="y")

        described = "; ".join(f"{method_name(row['method'])} {written(row['accuracy'], 'share')}" for row in rows)
        return self._twice(draw, "Accuracy and cost of each method", described, 60 + 30 * len(rows))

    def losses(self, rows: Sequence[Mapping[str, Any]]) -> Markup:
        """Draw real forgetting and growth of the label space of each method, on one scale, from top to bottom."""
        shares = [row[part] for row in rows for part in ("real", "growth")]
        low, high = min(0.0, *shares), max(0.01, *shares)

        def draw(figure: Figure, narrow: bool) -> None:
            axes = figure.subplots(1, 2, sharey=True)
            axes[0].set_yticks(range(len(rows)), [method_name(row["method"], short=narrow) for row in rows])
            growth = "label space" if narrow else "growth of the label space"
            for ax, part, title in zip(axes, ("real", "growth"), ("real forgetting", growth)):
                room = (0.9 if narrow else 0.25) * (high - low)  # for the numbers, right of the bars
                ax.set(xticks=[], xlim=(low, high + room), ylim=(len(rows) - 0.4, -0.6))
                ax.set_xlabel(title, loc="left")
                ax.axvline(0, color=LIGHT["rule"])
                for y, row in enumerate(rows):
                    _loss_bar(ax, row["method"], row[part], y)
                ax.tick_params(axis="y", length=0, labelcolor=LIGHT["ink"])
                ax.spines[:].set_visible(False)

        described = "; ".join(
            f"{method_name(row['method'])} {written(row['real'], 'points')} and {written(row['growth'], 'points')}"
            for row in rows
        )
        whole = "Points lost: real forgetting, and growth of the label space"
        return self._twice(draw, whole, described, 60 + 30 * len(rows))

    def curves(self, rows: Sequence[Mapping[str, str]]) -> Markup:
        """Draw accuracy on all classes seen, after each task."""
        paces = {(row["task"], row["classes_seen"]) for row in rows}
        # If orders reveal classes at different rates, they share no number of classes: use the number of the task.
        shared = len(paces) == len({task for task, _ in paces}) == len({n for _, n in paces})
        at, title = ("classes_seen", "classes seen") if shared else ("task", "tasks learned")
        return self.stream(rows, at, "seen_accuracy", "Accuracy on all classes seen", title)

    def stream(self, rows: Sequence[Mapping[str, str]], at: str, share: str, title: str, x_title: str) -> Markup:
        """Draw a line per method over the points `at` of a stream, with a band over the orders of classes."""
        x, found = gather(rows, at, share)
        methods = [method for method in ordered(found) if np.isfinite(found[method]).any()]
        display = StreamDisplay(x, {method: found[method] for method in methods[::-1]})

        def draw(figure: Figure, narrow: bool) -> None:
            display.plot(figure.subplots(), styles={method: style_of(method) for method in methods}, legend=False)
            last = {method: line.get_ydata()[-1] for method, line in display.lines_.items()}
            order = sorted(methods, key=lambda method: -last[method])
            names = [f"{method_name(method, short=narrow)} {100 * last[method]:.0f}%" for method in order]
            place = {"loc": "outside lower left", "ncols": 2} if narrow else {"loc": "outside right upper"}
            figure.legend([display.lines_[method] for method in order], names, columnspacing=1, **place)
            display.ax_.grid(axis="y")
            display.ax_.set(xlabel=x_title, ylabel="")
            display.ax_.xaxis.set_major_formatter(lambda place, _: f"{place:,.0f}")
            display.ax_.set_xticks(x if len(x) <= 12 - 6 * narrow else x[:: -(-len(x) // (12 - 6 * narrow))])

        said = ", ".join(method_name(method) for method in methods)
        return self._twice(draw, title, f"A line per method over {x_title}: {said}.", 400, 300 + 11 * len(methods))

    def accuracy_matrices(self, found: Mapping[str, Any], tasks: Sequence[Sequence[str]]) -> list[tuple[str, Markup]]:
        """Draw accuracy on each task after each task, side by side."""
        names = [", ".join(map(str, classes)) for classes in tasks]

        def draw(matrix: Any, ax: Any) -> None:
            AccuracyMatrixDisplay(np.array(matrix, dtype=float), task_names=names).plot(ax, cmap=HEAT)
            if max(map(len, names)) > 5:  # numbers of the tasks, which also label the rows
                ax.set_xticks(ax.get_yticks(), [label.get_text() for label in ax.get_yticklabels()], rotation=0)

        return self._side_by_side(found, draw, "Accuracy on each task after each task")

    def confusions(self, found: Mapping[str, Any], names: Sequence[str]) -> list[tuple[str, Markup]]:
        """Draw confusion matrices, true classes as rows and predicted classes as columns, side by side."""

        def draw(counts: Any, ax: Any) -> None:
            table = np.array(counts, dtype=float)
            known = list(map(str, names)) if len(names) == len(table) else [str(i) for i in range(len(table))]
            heat_map(ax, table / np.maximum(table.sum(axis=1, keepdims=True), 1), table, "{:.0f}", known, known)
            ax.set(xlabel="predicted class", ylabel="true class")

        return self._side_by_side(found, draw, "Confusion of classes")

    def key_usage(self, usage: Mapping[str, Any]) -> Markup:
        """Draw which classes share keys."""
        display = KeyUsageDisplay(usage["overlap"], classes=[cut(str(name)) for name in usage["classes"]])
        return self._map(lambda ax: display.plot(ax, cmap=HEAT), "Keys that classes share")

    def scores(self, scores: Mapping[tuple[str, str], float], axes: Mapping[str, str], title: str) -> Markup:
        """Draw scores of pairs of settings; the range of colours spans the scores."""
        rows, columns = (sorted({pair[i] for pair in scores}, key=_by_number) for i in (0, 1))
        table = np.array([[scores.get((row, column), np.nan) for column in columns] for row in rows])
        low, high = np.nanmin(table), np.nanmax(table)

        def draw(ax: Any) -> None:
            heat_map(ax, 0.08 + 0.92 * (table - low) / (high - low or 1), 100 * table, "{:.1f}", rows, columns)
            ax.set(ylabel=axes["y"], xlabel=axes["x"])

        return self._map(draw, title)

    def calibration(self, found: Mapping[str, Any]) -> Markup:
        """Draw accuracy against confidence, over bins of confidence."""
        points = {kind: [some[:2] for some in numbers["bins"]] for kind, numbers in found.items()}
        lines = [(*CALIBRATION.get(kind, (kind, kind)), some) for kind, some in points.items()]
        return self._square(lines, "confidence", "accuracy")

    def novelty(self, scores: Mapping[str, Mapping[str, Any]]) -> Markup:
        """Draw how well scores separate unseen classes from known ones."""
        found = {name: one["noticed"] for by_name in scores.values() for name, one in by_name.items()}
        lines = [
            (*SCORES.get(name, (name, name)), list(zip(np.linspace(0, 1, len(noticed)), noticed)))
            for name, noticed in found.items()
        ]
        return self._square(lines, "known samples rejected", "unseen samples detected", marker="")

    def _square(self, lines: Iterable[tuple[str, str, Any]], x_title: str, y_title: str, **changes: Any) -> Markup:
        with mpl.rc_context(STYLE):
            ax = Figure(figsize=(4.6, 4.6)).subplots()
            ax.axline((0, 0), slope=1, color=LIGHT["soft"], linestyle=":")
            for label, method, points in lines:
                ax.plot(*np.transpose(points), label=label, **style_of(method, **changes))
            ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel=x_title, ylabel=y_title)
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_formatter(_percent)
            ax.grid()
            ax.legend(loc="upper left", bbox_to_anchor=(-0.2, -0.16))
            title, described = f"{y_title} against {x_title}".capitalize(), "The table beside it gives the summary."
            return self._svg(ax.figure, "square", title, described, tight=True)

    def _side_by_side(self, found: Mapping[str, Any], draw: Callable[..., Any], title: str) -> list[tuple[str, Markup]]:
        shown = [method for method in MAPPED if method in found] or ordered(found)[:3]
        names = {method: method_name(method) for method in shown}
        return [(name, self._map(partial(draw, found[method]), f"{title}: {name}")) for method, name in names.items()]

    def _map(self, draw: Callable[[Any], Any], title: str) -> Markup:
        with mpl.rc_context(STYLE):
            figure = Figure()
            draw(ax := figure.add_axes((0, 0, 1, 1)))
            height, width = (abs(high - low) for low, high in (ax.get_ylim(), ax.get_xlim()))
            sides = ((5, 46), (8, 38), (20, 26), (50, 12))
            side = next((side for limit, side in sides if max(height, width) <= limit), 8)
            figure.set_size_inches(width * side / 72, height * side / 72)
            ax.xaxis.set(ticks_position="top", label_position="top")
            for label in ax.get_xticklabels():
                place = {"ha": "left", "va": "center"} if label.get_rotation() else {"ha": "center", "va": "bottom"}
                label.set(rotation_mode="anchor", **place)
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)
            return self._svg(figure, "heat", title, "A grid of coloured cells, rows from top to bottom.", tight=True)

    def _twice(self, draw: Callable[[Figure, bool], None], title: str, described: str, *heights: int) -> Markup:
        """Draw one figure for a wide page and one for a phone; the page shows one of them."""
        drawn = []
        for kind, width, height in (("wide", 1080, heights[0]), ("narrow", 350, heights[-1])):
            with mpl.rc_context(STYLE):
                figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
                draw(figure, kind == "narrow")
                drawn.append(self._svg(figure, f"lines {kind}", title, described))
        return Markup("").join(drawn)

    def _svg(self, figure: Any, kind: str, title: str, described: str, *, tight: bool = False) -> Markup:
        """Return the figure as an element that uses the colours and the font of the page."""
        self.n_drawn += 1
        buffer, prefix = io.StringIO(), f"figure{self.n_drawn}"
        with warnings.catch_warnings():  # the page's font has the glyphs that matplotlib's lacks
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight" if tight else None)
        text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", buffer.getvalue(), flags=re.DOTALL)
        width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)[0]
        used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
        inside = text[text.index(">", text.index("<svg")) + 1 :]
        body = re.sub("<[^>]+>", lambda tag: _themed(tag[0], prefix, used), inside)
        return Markup(
            f'<svg class="{kind}" role="img" aria-labelledby="{prefix}-title {prefix}-desc" '
            f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
            f'<title id="{prefix}-title">{escape(title)}</title>'
            f'<desc id="{prefix}-desc">{escape(described)}</desc>{body.strip()}'
        )


def gather(rows: Iterable[Mapping[str, str]], at: str, share: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return accuracies by method from rows of text: a row per order of classes, a column per point of the stream."""
    rows = list(rows)
    places = sorted({int(row[at]) for row in rows})
    orders = list(dict.fromkeys(row.get("order_seed", "") for row in rows))
    found = {row["method"]: np.full((len(orders), len(places)), np.nan) for row in rows}
    for row in rows:
        where = orders.index(row.get("order_seed", "")), places.index(int(row[at]))
        found[row["method"]][where] = float(row[share] or "nan")
    return np.array(places), found


def heat_map(
    ax: Any, shares: np.ndarray, numbers: np.ndarray, form: str, rows: Sequence[str], columns: Sequence[str]
) -> None:
    """Draw cells coloured by shares (n,m), with their numbers (n,m) if there are up to 20 columns."""
    ax.pcolormesh(np.ma.masked_invalid(shares), cmap=HEAT, vmin=0, vmax=1)
    ax.set(xlim=(0, shares.shape[1]), ylim=(shares.shape[0], 0))
    for (i, j), value in np.ndenumerate(numbers) if shares.shape[1] <= 20 else ():
        if value and np.isfinite(value):
            colour = LIGHT["strong" if shares[i, j] >= STRONG else "weak"]
            ax.text(j + 0.5, i + 0.5, form.format(value), ha="center", va="center", color=colour)
    every = 1 if max(shares.shape) <= 50 else 5  # labels of smaller cells would overlap
    ax.set_yticks(np.arange(0, len(rows), every) + 0.5, [cut(name) for name in rows[::every]])
    turned = {"rotation": 90} if max(map(len, columns)) > 3 else {}
    ax.set_xticks(np.arange(0, len(columns), every) + 0.5, [cut(name) for name in columns[::every]], **turned)


def _answer_row(left: Any, right: Any, row: Mapping[str, Any], y: int) -> None:
    text = {"va": "center", "weight": "bold" if row["method"] == "dkvb" else "normal"}
    style = style_of(row["method"], linestyle="none", markersize=9)
    if row["bound"]:
        style |= {"markerfacecolor": "none", "markeredgecolor": style["color"]}
    if row["accuracy"] is not None:
        left.errorbar(row["accuracy"], y, xerr=row["spread"] or 0, ecolor=style["color"], elinewidth=4, **style)
    said = written(row["accuracy"], "share")
    if row["spread"] is not None:
        said += f" ± {written(row['spread'], 'points')}"
    left.annotate(said, (1, y), (-4, 0), ("axes fraction", "data"), textcoords="offset points", ha="right", **text)
    seconds = row["seconds"] or 0
    right.barh(y, seconds, height=0.4, color=style["color"])
    right.annotate(written(row["seconds"]), (seconds, y), (5, 0), textcoords="offset points", **text)


def _loss_bar(ax: Any, method: str, share: float, y: int) -> None:
    ax.barh(y, share, height=0.4, color=style_of(method)["color"])
    place, weight = (max(share, 0.0), y), "bold" if method == "dkvb" else "normal"
    ax.annotate(written(share, "points"), place, (5, 0), textcoords="offset points", va="center", weight=weight)


def _percent(share: float, _: Any) -> str:
    return f"{100 * share:.0f}%"


def _by_number(text: str) -> tuple[float, str]:
    found = number(text)
    return (float("inf") if found is None else found), text


def _themed(tag: str, prefix: str, used: set[str]) -> str:
    """Give a tag of a figure the page's colours and font; keep its id only if something refers to it."""
    tag = re.sub(r' id="([^"]*)"', lambda hit: f' id="{prefix}-{hit[1]}"' if hit[1] in used else "", tag)
    tag = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", tag)
    tag = re.sub("#[0-9a-f]{6}", lambda hit: VARIABLES.get(hit[0], hit[0]), tag)
    return re.sub(r"(font(?:-family)?: [^;\"']*)'[^;\"]*", r"\1var(--font)", tag)
