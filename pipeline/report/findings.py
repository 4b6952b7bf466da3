"""The parts of a run's section beyond accuracy: cost, classes, confidence, what keys serve; searches and the toy.

Room: between the page's leaves and the `report` stage.
Enters: a `RunResult`, a `SearchResult`, a `Toy`.
Leaves: `Markup`, one block a question.
Must not know: files, how anything was measured.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from pipeline.report import figures
from pipeline.report.figures import Cell, Series, SquareLine
from pipeline.report.html import Markup, block, element, facts, marker, number, number_cell, table, th, written
from pipeline.report.labels import head_name, look, named, ordered
from pipeline.report.load import RunResult, SearchResult, Toy
from pipeline.report.sections import wide_and_narrow

__all__ = [
    "audit_block", "class_block", "cost_block", "novelty_block", "prequential_block", "search_section", "toy_section",
    "trust_block",
]  # fmt: skip

# Score → name, and the head whose colour it takes.
SCORES = {
    "novelty": ("distance to used keys (DKVB)", "nearest_class_mean"),
    "relative_novelty": ("the same, less that to any key (DKVB)", "dkvb"),
    "max_softmax": ("one minus the largest probability (DKVB)", "mlp"),
    "mahalanobis": ("Mahalanobis distance (streaming LDA)", "streaming_lda"),
}
TOY_HEADS = {"dkvb": "DKVB, one head of 400 keys", "dkvb_20_heads": "DKVB, 20 heads of 20 keys"}
TRUST = {"plain": ("as they come", 6), "calibrated": ("temperature chosen on rows held out", 0)}


def cost_block(run: RunResult) -> Markup:
    """Table what each head takes: seconds, bytes, passes, and whether it had to know the classes."""
    rows = []
    for head in ordered(run.metrics):
        found, clock = run.metrics[head], run.seconds.get(head, {})
        parts = [clock[part] for part in ("choose", "keys", "encode", "fit") if part in clock]
        state, needs = number(found.get("state_bytes")), found.get("needs_classes")
        rows.append(
            [
                th(named(head), scope="row"),
                number_cell(round(sum(parts), 2) if parts else None),
                number_cell(clock.get("predict_1000")),
                number_cell(None if state is None else round(state / 1e6, 2)),
                number_cell(found.get("passes")),
                element("td", "–" if needs is None else "yes" if needs else "no", class_="number"),
            ]
        )
    words = ("seconds to learn", "seconds to predict 1,000", "state, MB", "passes")
    titles = [th("head"), *(th(word, kind="number") for word in words), th("class list needed", kind="number")]
    drawn = table(titles, rows, kind="sortable", caption=f"Costs in run {run.name}")
    note = (
        "Learning is the whole stream of one order, until the first answer after each stage; for DKVB it holds the "
        "placing of keys and the encoding of all rows, for LDA and ridge the choice of their setting. State is all "
        "that a head keeps, pickled. Seconds were taken on one machine, once."
    )
    return block("What it costs", drawn, note=note)


def prequential_block(run: RunResult) -> Markup:
    """Draw the share of samples predicted right before they were learned."""

    def draw(names: Callable[[str], str]) -> tuple[list[Series], list[str]]:
        heads = ordered(dict.fromkeys(row["method"] for row in run.prequential))
        points = {head: [row for row in run.prequential if row["method"] == head] for head in heads}
        ticks = [f"{int(row['samples_seen']):,}" for row in points[heads[0]]] if heads else []
        lines = []
        for head in heads[::-1]:
            shares = tuple(float(row["accuracy"]) for row in points[head])
            lines.append(Series(names(head), look(head), tuple(range(len(shares))), shares, shares, shares))
        return lines, ticks

    note = (
        "Each batch is predicted before it is learned: the share right so far, in the first order. Samples of a class "
        "that nobody has met can only be wrong, so on a stream of new classes every head stays low."
    )
    return block("Right before it was learned", wide_and_narrow(draw, "samples met so far"), note=note)


def class_block(run: RunResult) -> Markup:
    """Table the accuracy of every class after the last stage."""
    shares: Mapping[str, Sequence[float | None]] = run.matrices.get("class_accuracy") or {}
    if not shares:
        return Markup("")
    heads, names = ordered(shares), run.matrices.get("class_names") or ()
    rows = [
        [th(name, scope="row"), *(number_cell(shares[head][position], "share") for head in heads)]
        for position, name in enumerate(names)
    ]
    titles = [th("class"), *(th(named(head), kind="number") for head in heads)]
    drawn = table(titles, rows, kind="sortable", caption=f"Accuracy of each class in run {run.name}")
    return block(
        "Class by class", drawn, note="Accuracy on the test images of a class, after the last stage of the first order."
    )


def trust_block(run: RunResult) -> Markup:
    """Draw how often predictions of a confidence are right, before and after calibration."""
    trust = run.confidence["trust"]
    if not trust:
        return Markup("")
    lines, rows = [], []
    for kind, found in trust.items():
        words, style = TRUST.get(kind, (kind, len(TRUST)))
        lines.append(SquareLine(words, style, tuple((sure, right) for sure, right, _ in found["bins"])))
        keys = ("expected_calibration_error", "brier_score", "negative_log_likelihood", "temperature")
        cells = [number_cell(found.get(key), "share" if key.startswith("expected") else "number") for key in keys]
        rows.append([th(_signed(style, words), scope="row"), *cells])
    described = "Reliability: share right against confidence, as the table beside it sums up"
    drawn = figures.square_figure(lines, x_title="confidence", y_title="share right", described=described)
    titles = [th("DKVB\u2019s probabilities")]
    titles += [th(word, kind="number") for word in ("calibration error", "Brier score", "log loss", "temperature")]
    summed = table(titles, rows, kind="plain", caption=f"Calibration in run {run.name}")
    note = (
        "On the diagonal, predictions are right as often as they claim; above it they are too modest. Both "
        "lines belong "
        "to a model that learned the first order without the rows held out."
    )
    return block("Can its probabilities be trusted?", element("div", drawn, summed, class_="beside"), note=note)


def novelty_block(run: RunResult) -> Markup:
    """Draw how well scores tell classes not yet seen from those learned."""
    scores = {name: found for by_head in run.confidence["novelty"].values() for name, found in by_head.items()}
    if not scores:
        return Markup("")
    lines, rows = [], []
    for name, found in scores.items():
        words, head = SCORES.get(name, (name.replace("_", " "), name))
        noticed = found["noticed"]
        points = tuple((i / (len(noticed) - 1), share) for i, share in enumerate(noticed))
        lines.append(SquareLine(words, look(head), points, marked=False))
        cells = [number_cell(found["auroc"], "share"), number_cell(found["fpr_at_95_tpr"], "share")]
        rows.append([th(_signed(look(head), words), scope="row"), *cells])
    described = "Share of unseen classes noticed against share of known ones turned away, as the table sums up"
    titles = {"x_title": "known samples turned away", "y_title": "unseen samples noticed"}
    drawn = figures.square_figure(lines[::-1], described=described, **titles)
    heads = [th("score"), th("AUROC", kind="number"), th("unseen let through at 95% of known", kind="number")]
    summed = table(heads, rows, kind="plain", caption=f"Classes not yet seen in run {run.name}")
    note = "After half of the stages, test images of their classes against those of all others; mean of the orders."
    return block("Does it notice what it never learned?", element("div", drawn, summed, class_="beside"), note=note)


def audit_block(run: RunResult) -> Markup:
    """Draw which classes share keys, and table the keys that serve most samples."""
    audit = run.audit
    names = [str(name) for name in audit["classes"]]
    grid = [
        [
            Cell(share, f"{100 * share:.0f}", f"{one} and {other}: {100 * share:.1f}%", quiet=i == j)
            for j, (other, share) in enumerate(zip(names, row, strict=True))
        ]
        for i, (one, row) in enumerate(zip(names, audit["overlap"], strict=True))
    ]
    words = {"row_title": "class", "column_title": "shares keys with", "described": "Overlap of the classes' keys"}
    map_ = element("div", figures.heat_map(grid, names, names, **words), class_="scroll", tabindex=0)
    used = audit["used_share"]
    share_of = audit["classes_per_key"]
    several = sum(share_of[2:])
    record = {
        "keys used, mean of heads": written(fmean(used), "share"),
        "least and most of a head": f"{written(min(used), 'share')} and {written(max(used), 'share')}",
        "used keys that serve one class": written(share_of[1], "share"),
        "used keys that serve several": written(several, "share"),
        "hits on keys of no other class": _least_and_most(names, audit["own_share"]),
    }
    rows = [
        [number_cell(key["head"]), number_cell(key["key"]), element("td", _served(key["served"]))]
        for key in audit["busiest"]
    ]
    titles = [th("head", kind="number"), th("key", kind="number"), th("samples by class")]
    busiest = table(titles, rows, kind="plain", caption=f"Keys with most hits in run {run.name}")
    note = (
        "Percent of hits that two classes have in common, mean of heads: what one class writes where another reads. "
        "Beside it the keys that most samples select, and whom they serve; after forgetting a class, its name "
        "is gone here."
    )
    beside = element("div", facts(record), busiest)
    return block("Who is behind a key", element("div", map_, beside, class_="beside"), note=note)


def search_section(search: SearchResult) -> Markup:
    """Draw what a search over settings found."""
    best = ", ".join(f"{name} = {value}" for name, value in search.best["best_params"].items())
    title = f"Best of {len(search.rows)} settings: {best} ({written(search.best['best_score'], 'share')})"
    parts = [element("p", f"Search {search.name}", class_="eyebrow"), element("h2", title), _search_map(search)]
    columns = [column for column in search.rows[0] if column != "error" or any(row["error"] for row in search.rows)]
    rows = [[_search_cell(column, row[column]) for column in columns] for row in search.rows]
    titles = [th(column.replace("_", " "), kind="number") for column in columns]
    drawn = table(titles, rows, kind="sortable", caption=f"All settings of search {search.name}")
    parts.append(block("All settings", drawn, note="Scores are means over folds of the training rows."))
    return element("section", *parts, id=f"search-{search.name}", class_="run")


def toy_section(toy: Toy) -> Markup:
    """Show the example in the plane."""
    own, probe = (toy.metrics.get(head, {}).get("final_accuracy") for head in ("dkvb", "linear_probe"))
    title = (
        f"Eight classes in the plane, two at a time: at the end DKVB knows {written(own, 'share')} of all, "
        f"a linear probe {written(probe, 'share')}"
    )
    kept = toy.metrics.get("dkvb", {}).get("keys_kept_by_pruning")
    note = (
        "Colours are what each head would answer, after each stage. The linear probe and the MLP answer with the last "
        "two classes everywhere; the bottleneck writes to the keys near its samples only. "
        f"{written(kept, 'share')} of its keys are in use at the end; pruning drops the others and changes no answer."
    )
    source = f"data:image/png;base64,{base64.b64encode(toy.picture).decode('ascii')}"
    described = "Decision regions of a linear probe, an MLP and DKVB after each of four stages"
    # An img has no closing tag: the builder's would be wrong here.
    picture = Markup(f'<img src="{source}" alt="{described}" width="1344" height="1068">')
    figure = element("div", element("div", picture, class_="sheet"), class_="scroll", tabindex=0)
    names = [f"accuracy_after_task_{stage}" for stage in range(1, 5)]
    rows = [
        [
            th(TOY_HEADS.get(head, head_name(head)), scope="row"),
            *(number_cell(found.get(name), "share") for name in names),
        ]
        for head, found in toy.metrics.items()
    ]
    titles = [th("head"), *(th(f"after stage {stage}", kind="number") for stage in range(1, 5))]
    drawn = table(titles, rows, kind="plain", caption="Accuracy on all eight classes")
    parts = [
        element("p", "The idea", class_="eyebrow"),
        element("h2", title),
        element("p", note, class_="note"),
        figure,
    ]
    return element("section", *parts, drawn, id="toy", class_="run")


def _signed(style: int, words: str) -> Markup:
    return element("span", marker(style), words, class_="head-name")


def _least_and_most(names: Sequence[str], shares: Sequence[float]) -> str:
    least, most = (choose(zip(shares, names)) for choose in (min, max))
    return f"{written(least[0], 'share')} ({least[1]}) to {written(most[0], 'share')} ({most[1]})"


def _served(served: Mapping[str, float]) -> str:
    first = [f"{name}: {written(int(hits) if hits == int(hits) else hits)}" for name, hits in list(served.items())[:6]]
    return ", ".join(first) + (f" and {len(served) - 6} more" if len(served) > 6 else "")


def _search_map(search: SearchResult) -> Markup:
    """Draw the best mean score of each pair of the two settings that were varied most."""
    axes = search.best.get("heat_map")
    if not axes:
        return Markup("")
    x, y = axes["x"], axes["y"]
    best: dict[tuple[str, str], float] = {}
    for row in search.rows:
        if (score := _as_number(row["mean_score"])) is not None:
            pair = row[y], row[x]
            best[pair] = max(score, best.get(pair, score))
    rows, columns = (sorted({pair[i] for pair in best}, key=_by_number) for i in (0, 1))
    if not best:
        return Markup("")
    low, high = min(best.values()), max(best.values())
    # The whole range of colours over the scores found: settings differ by points, not by tens of them.
    grid = [
        [_score_cell(best.get((row, column)), low, high, f"{y} {row}, {x} {column}") for column in columns]
        for row in rows
    ]
    words = {"row_title": y, "column_title": x, "described": f"Mean score of search {search.name} by {y} and {x}"}
    map_ = element("div", figures.heat_map(grid, rows, columns, **words), class_="scroll", tabindex=0)
    note = f"Mean score in percent, the best of all other settings; colours from {100 * low:.1f} to {100 * high:.1f}."
    return block("Two settings at a time", map_, note=note)


def _score_cell(score: float | None, low: float, high: float, place: str) -> Cell:
    if score is None:
        return Cell(None, "", f"{place}: not tried")
    share = 0.08 + 0.92 * (score - low) / (high - low or 1.0)
    return Cell(share, f"{100 * score:.1f}", f"{place}: {100 * score:.2f}%")


def _search_cell(column: str, text: str) -> Markup:
    found = _as_number(text)
    if found is None:
        return element("td", text or "–")
    return (
        number_cell(found, "share")
        if column.endswith("_score")
        else number_cell(int(found) if found == int(found) else found)
    )


def _as_number(text: str) -> float | None:
    try:
        return number(float(text))
    except ValueError:
        return None


def _by_number(text: str) -> tuple[float, str]:
    found = _as_number(text)
    return (float("inf") if found is None else found), text
