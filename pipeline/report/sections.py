"""The parts of a run's section: what it shows in words, figures and tables.

Room: between the page's leaves and the `report` stage.
Enters: a `RunResult`.
Leaves: `Markup`, one block a question.
Must not know: files, how anything was measured.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pipeline.report import figures
from pipeline.report.html import Markup, block, element, facts, flat, number, number_cell, table, th, written
from pipeline.report.labels import (
    HEAT_MAP_HEADS,
    METRICS,
    TABLED_ELSEWHERE,
    head_name,
    look,
    metric_words,
    named,
    ordered,
)
from pipeline.report.load import RunResult

__all__ = [
    "best_of", "confusion_block", "curve_block", "headline", "keys_block", "matrix_block", "metrics_block", "multiples",
    "provenance_block", "reproduce_block", "tiles", "wide_and_narrow",
]  # fmt: skip


def _lost(share: float) -> str:
    return "nothing" if share < 0.0005 else f"{100 * share:.1f} points"


def headline(metrics: Mapping[str, Mapping[str, Any]], n_classes: int, n_stages: int) -> str:
    """Say what a run shows in two plain sentences.

    Parameters
    ----------
    metrics : mapping
        head → metric → share in 0 … 1.
    n_classes, n_stages : int
        What the stream held.

    Returns
    -------
    str
        Says only what the numbers support: above, below or level, and what each head lost.

    Examples
    --------
    >>> numbers = {"dkvb": {"final_accuracy": 0.859, "forgetting_best": 0.061},
    ...            "nearest_class_mean": {"final_accuracy": 0.807},
    ...            "mlp": {"final_accuracy": 0.2, "forgetting_best": 0.97}}
    >>> print(headline(numbers, 10, 5))
    After 10 classes in 5 stages, DKVB recognises 85.9%, 5.2 points above nearest class mean (80.7%).
    Of what it had learned DKVB lost 6.1 points; the MLP lost 97.0 points and ends at 20.0%.
    """
    final = {head: number(found.get("final_accuracy")) for head, found in metrics.items()}
    lost = {head: number(found.get("forgetting_best")) for head, found in metrics.items()}
    own, rival = final.get("dkvb"), final.get("nearest_class_mean")
    if own is None:
        return f"{n_classes} classes in {n_stages} stages; the accuracy of DKVB was not measured."
    text = f"After {n_classes} classes in {n_stages} stages, DKVB recognises {written(own, 'share')}"
    if rival is not None:
        apart = 100 * (own - rival)
        way = f"{abs(apart):.1f} points {'above' if apart > 0 else 'below'}" if abs(apart) >= 0.05 else "level with"
        text += f", {way} nearest class mean ({written(rival, 'share')})"
    clauses = []
    for head in ("dkvb", "linear_probe", "mlp"):
        share, end = lost.get(head), final.get(head)
        if share is not None and end is not None:
            ends = "" if head == "dkvb" else f" and ends at {written(end, 'share')}"
            who = "Of what it had learned DKVB" if head == "dkvb" else f"the {head_name(head)}"
            clauses.append(f"{who} lost {_lost(share)}{ends}")
    rest = "; ".join(clauses)
    return f"{text}. {rest[:1].upper()}{rest[1:]}." if rest else f"{text}."


def tiles(run: RunResult) -> Markup:
    """Show final accuracy and loss of every head at a glance."""
    tiles = []
    for head in ordered(run.metrics):
        lost = number(run.metrics[head].get("forgetting_best"))
        final = element("span", written(run.metrics[head].get("final_accuracy"), "share"), class_="figure")
        under = element("span", "loss unknown" if lost is None else f"lost {_lost(lost)}", class_="under")
        kind = "tile first" if head == "dkvb" else "tile"
        tiles.append(element("div", named(head), final, under, class_=kind))
    return element("div", *tiles, class_="tiles")


def curve_block(run: RunResult) -> Markup:
    """Draw accuracy on all classes seen, after every stage."""
    n_orders = len({row["order_seed"] for row in run.curves})
    orders = f"mean of {n_orders} orders of classes, shaded from lowest to highest" if n_orders > 1 else "one order"

    def draw(names: Callable[[str], str]) -> tuple[list[figures.Series], list[str]]:
        heads = [(head, names(head), look(head)) for head in ordered(row["method"] for row in run.curves)]
        # DKVB comes first in the page and last in the drawing, where it lies on top.
        return figures.gather_series(run.curves, heads[::-1])

    note = f"Test accuracy on every class met up to that point; {orders}."
    return block("Accuracy on all classes seen", wide_and_narrow(draw, "classes seen so far"), note=note)


def wide_and_narrow(
    draw: Callable[[Callable[[str], str]], tuple[list[figures.Series], list[str]]], x_title: str
) -> Markup:
    """Draw lines twice, for a wide page and for a telephone; the page shows one of the two.

    Parameters
    ----------
    draw : callable
        Takes the function that names heads, and returns lines and ticks.
    x_title : str
        The axis title.
    """
    drawings = []
    for kind, width, height in (("wide", 1080, 430), ("narrow", 360, 330)):
        lines, ticks = draw(partial(head_name, short=kind == "narrow"))
        drawing = figures.line_figure(lines, ticks, width=width, height=height, x_title=x_title)
        drawings.append(element("div", drawing, class_=kind))
    return element("figure", *drawings)


def multiples(heads: Mapping[str, Any], draw: Callable[[Any, str], Markup]) -> Markup:
    """Draw the same figure for the heads that a page compares side by side."""
    shown = [head for head in HEAT_MAP_HEADS if head in heads] or ordered(heads)[:3]
    figures = []
    for head in shown:
        title = element("figcaption", named(head))
        map_ = element("div", draw(heads[head], head_name(head)), class_="scroll", tabindex=0)
        figures.append(element("figure", title, map_))
    return element("div", *figures, class_="multiples")


def matrix_block(run: RunResult) -> Markup:
    """Draw what each head still knows of every stage after every stage."""
    tasks = [", ".join(map(str, names)) for names in run.matrices["task_classes"]]
    maps = multiples(run.matrices["methods"], lambda matrix, name: figures.accuracy_map(matrix, tasks, name))
    ends = (element("span", word) for word in ("0%", "50%", "100%"))
    key = element("div", *ends, class_="colour-key")
    order = " · ".join(f"stage {i + 1}: {task}" for i, task in enumerate(tasks))
    note = (
        "Percent right, in the first order of classes. Read a column downwards: where a head keeps what it "
        "learned, the colour stays strong. Above the diagonal stand classes that were still to come."
    )
    below = element("p", f"Classes of {order}", class_="note")
    return block("What is kept after each stage", maps, key, below, note=note)


def confusion_block(run: RunResult) -> Markup:
    """Draw which classes are taken for which."""
    confusion = run.matrices.get("confusion") or {}
    if not confusion:
        return Markup("")
    n, names = max(map(len, confusion.values())), [str(name) for name in run.card.get("class_names") or ()]
    names = names if len(names) == n else [str(i) for i in range(n)]
    maps = multiples(confusion, lambda counts, name: figures.confusion_map(counts, names, name))
    note = "Test images after the last stage, counted; the colour is the share of the true class (row)."
    return block("Which classes are confused", maps, note=note)


def best_of(metric: str, metrics: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Return the best number of a column; a joint head is a bound, not a competitor."""
    way = metric_words(metric)[2]
    numbers = [number(found.get(metric)) for head, found in metrics.items() if not head.startswith("joint")]
    known = [value for value in numbers if value is not None]
    return max(known, key=lambda value: way * value) if way and len(known) > 1 else None


def metrics_block(run: RunResult) -> Markup:
    """Table what accuracy is made of, head by head."""
    every = {metric for found in run.metrics.values() for metric in found}
    present = {metric for metric in every if not metric.startswith(TABLED_ELSEWHERE)}
    columns = [metric for metric in METRICS if metric in present] + sorted(present - set(METRICS))
    best = {metric: best_of(metric, run.metrics) for metric in columns}
    rows = []
    for head in ordered(run.metrics):
        cells = [th(named(head), scope="row")]
        for metric in columns:
            value = number(run.metrics[head].get(metric))
            wins = value is not None and value == best[metric]
            cells.append(number_cell(run.metrics[head].get(metric), metric_words(metric)[1], best=wins))
        rows.append(cells)
    titles = [th("head"), *(th(metric_words(metric)[0], kind="number") for metric in columns)]
    drawn = table(titles, rows, kind="sortable", caption=f"Metrics of run {run.name}")
    note = "Means over the orders of classes; the best of a column is bold. A column's title sorts it."
    return block("Metrics", drawn, note=note)


def keys_block(run: RunResult) -> Markup:
    """List what training said of the keys."""
    record = {}
    for key, value in run.training.items():
        share = isinstance(value, float) and 0 <= value <= 1 and "error" not in key
        record[key.replace("_", " ")] = written(value, "share" if share else "number")
    return block("Keys and training", facts(record), kind="block card")


def provenance_block(run: RunResult) -> Markup:
    """Table where the embeddings come from."""
    cards = [{key: value for key, value in card.items() if key != "class_names"} for card in run.cards.values()]
    lines = [flat(card) for card in cards]
    rows = []
    for fact in dict.fromkeys(fact for record in lines for fact in record):
        values = [record.get(fact, "–") for record in lines]
        same = len(set(values)) == 1
        cells = [element("td", value, colspan=len(lines) if same else None) for value in values]
        rows.append([th(fact, scope="row"), *(cells[:1] if same else cells)])
    roles = ["Embeddings", "Keys from"] if len(lines) == 2 else ["Embeddings and keys"]
    titles = [th(""), *(th(f"{role}: {entry}") for role, entry in zip(roles, run.cards, strict=True))]
    drawn = table(titles, rows, kind="provenance", caption=f"Provenance of run {run.name}")
    note = "Where the numbers come from: network, weights, what was done to each image, and which images."
    return block("Provenance of the caches", drawn, note=note)


def reproduce_block(run: RunResult, params: str) -> Markup:
    """Say what to type for the same numbers, and for others."""
    install, repeat = 'pip install -e ".[pipeline]"', f"dvc repro evaluate@{run.name} && dvc repro -s report"
    seed = (run.settings.get("method", {}).get("encoder", {}).get("random_state") or 0) + 1
    setting = f"{params}:runs.{run.name}.method.encoder.random_state={seed}"
    lines = f"{install}\n{repeat}\n\n# another draw of heads and keys\ndvc exp run -S '{setting}'"
    note = "The same settings, weights and processor give the same files."
    return block("Reproduce", element("pre", element("code", lines), tabindex=0), note=note)
