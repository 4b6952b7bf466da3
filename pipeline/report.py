"""The stage that turns measured numbers into one page.

Room: a stage; with `figures` the only place that draws results.
Enters: metrics, matrices, curves and cache cards of every run, and the settings file.
Leaves: one HTML file without a single outside reference, byte for byte the same for the same input.
Must not know: how anything was measured, models, caches themselves, where files lie (arguments say so).
"""

import argparse
import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from string import Template
from typing import Any

from pipeline import console, figures
from pipeline.figures import (
    Markup,
    block,
    element,
    facts,
    flat,
    marker,
    number,
    number_cell,
    table,
    th,
    written,
)
from pipeline.params import load_params

__all__ = ["RunResult", "build_page", "build_parser", "headline", "main", "read_run"]

CURVE_COLUMNS = ("head", "order_seed", "stage", "classes_seen", "seen_accuracy")

# The four that every page has, in its order; the rest follows by name.
SHOWN_FIRST = ("dkvb", "nearest_class_mean", "linear_probe", "mlp")
HEAT_MAP_HEADS = ("dkvb", "linear_probe", "mlp")

# Names in full and for narrow figures; a head's place here is also its colour and its sign.
HEADS = {
    "dkvb": ("DKVB", "DKVB"),
    "nearest_class_mean": ("nearest class mean", "class mean"),
    "linear_probe": ("linear probe", "linear"),
    "mlp": ("MLP", "MLP"),
    "streaming_lda": ("streaming LDA", "LDA"),
    "random_projection_ridge": ("random-projection ridge", "RP ridge"),
    "joint_linear_probe": ("joint linear probe", "joint"),
    "k_nearest_neighbours": ("k nearest neighbours", "neighbours"),
    "gaussian_naive_bayes": ("naive Bayes", "naive Bayes"),
}

# Name, unit, and which way is better (0: neither). Other metrics are shown under their own key.
METRICS = {
    "final_accuracy": ("final accuracy", "share", 1),
    "average_incremental_accuracy": ("average accuracy", "share", 1),
    "forgetting_best": ("forgetting from best", "points", -1),
    "forgetting_first": ("forgetting from first", "points", -1),
    "backward_transfer": ("backward transfer", "points", 1),
    "learning_accuracy": ("learning accuracy", "share", 1),
    "mean_class_accuracy": ("mean over classes", "share", 1),
    "min_accuracy": ("minimum accuracy", "share", 1),
    "accuracy_std_over_orders": ("spread over orders", "points", 0),
}


@dataclass(frozen=True)
class RunResult:
    """All that the page says about one run.

    Attributes
    ----------
    name : str
        The run's id in the settings file.
    settings : mapping
        The run's settings, as plain nested mappings.
    metrics : mapping
        head → metric → number.
    curves : tuple of mapping
        Rows of the curve file, text as it stands there.
    matrices : mapping
        ``task_classes`` (T lists of names), ``heads`` (head → T,T shares), ``confusion`` (head → k,k counts).
    training : mapping
        What training reported.
    cards : mapping
        embeddings entry → card of its cache; the run's own entry first, then that of its keys.
    """

    name: str
    settings: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, Any]]
    curves: tuple[Mapping[str, str], ...]
    matrices: Mapping[str, Any]
    training: Mapping[str, Any]
    cards: Mapping[str, Mapping[str, Any]]

    @property
    def card(self) -> Mapping[str, Any]:
        """The card of the embeddings that the run learned from."""
        return next(iter(self.cards.values()))


def _read(path: Path, stage: str, parse: Callable[[str], Any], keys: Iterable[str] = ()) -> Any:
    """Return the file's content, or say which stage makes the file anew."""
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        message = f"{path} is missing, but the report needs it; run `dvc repro {stage}` to make it"
        raise FileNotFoundError(message) from error
    except ValueError as error:
        wanted = f"a file as {stage} writes it is expected; run `dvc repro -f {stage}` to rebuild it"
        raise ValueError(f"{path} cannot be read ({error}); {wanted}") from error
    first = content[0] if isinstance(content, tuple) and content else content
    missing = [key for key in keys if not isinstance(first, dict) or first.get(key) is None]
    if missing or not isinstance(first, dict):
        wanted = f"expected: {', '.join(missing) or 'an object'}; run `dvc repro -f {stage}` to rebuild it"
        raise ValueError(f"{path} begins with {str(first)[:60]!r}; {wanted}")
    return content


def _rows(text: str) -> tuple[Mapping[str, str], ...]:
    return tuple(csv.DictReader(text.splitlines()))


def read_run(
    name: str, settings: Mapping[str, Any], *, metrics: Path, matrices: Path, curves: Path, caches: Path
) -> RunResult:
    """Read everything measured for one run.

    Parameters
    ----------
    name : str
        The run's id.
    settings : mapping
        Its settings; ``embeddings`` and ``keys`` name the cards.
    metrics, matrices, curves, caches : Path
        Folders.

    Returns
    -------
    RunResult
        The contents, unchanged.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file is not what its name promises.
    """
    evaluate = f"evaluate@{name}"
    entries = dict.fromkeys((settings["embeddings"], settings["keys"]))
    return RunResult(
        name=name,
        settings=settings,
        metrics=_read(metrics / f"{name}.json", evaluate, json.loads),
        curves=_read(curves / f"{name}.csv", evaluate, _rows, CURVE_COLUMNS),
        matrices=_read(matrices / f"{name}.json", evaluate, json.loads, ("task_classes", "heads")),
        training=_read(metrics / f"train_{name}.json", f"train@{name}", json.loads),
        cards={entry: _read(caches / f"{entry}.json", f"extract@{entry}", json.loads) for entry in entries},
    )


def _lost(share: float) -> str:
    return "nothing" if share < 0.0005 else f"{100 * share:.1f} points"


def _head_name(head: str, *, short: bool = False) -> str:
    name = HEADS[head][short] if head in HEADS else head.replace("_", " ")
    return name[:13] + "…" if short and len(name) > 14 else name


def _metric(metric: str) -> tuple[str, str, int]:
    unit = "share" if metric.endswith(("accuracy", "auroc")) else "number"
    return METRICS.get(metric, (metric.replace("_", " "), unit, 0))


def _ordered(heads: Iterable[str]) -> list[str]:
    heads = list(heads)
    return [head for head in SHOWN_FIRST if head in heads] + sorted(set(heads) - set(SHOWN_FIRST))


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
            who = "Of what it had learned DKVB" if head == "dkvb" else f"the {_head_name(head)}"
            clauses.append(f"{who} lost {_lost(share)}{ends}")
    rest = "; ".join(clauses)
    return f"{text}. {rest[:1].upper()}{rest[1:]}." if rest else f"{text}."


def _look(head: str) -> int:
    # A head looks the same in every run of the page; heads without a name here share the last look.
    return list(HEADS).index(head) if head in HEADS else len(HEADS)


def _named(head: str) -> Markup:
    return element("span", marker(_look(head)), _head_name(head), class_="head-name")


def _tiles(run: RunResult) -> Markup:
    tiles = []
    for head in _ordered(run.metrics):
        lost = number(run.metrics[head].get("forgetting_best"))
        final = element("span", written(run.metrics[head].get("final_accuracy"), "share"), class_="figure")
        under = element("span", "loss unknown" if lost is None else f"lost {_lost(lost)}", class_="under")
        kind = "tile first" if head == "dkvb" else "tile"
        tiles.append(element("div", _named(head), final, under, class_=kind))
    return element("div", *tiles, class_="tiles")


def _curve_block(run: RunResult) -> Markup:
    n_orders = len({row["order_seed"] for row in run.curves})
    orders = f"mean of {n_orders} orders of classes, shaded from lowest to highest" if n_orders > 1 else "one order"
    drawings = []
    for kind, width, height in (("wide", 1080, 430), ("narrow", 360, 330)):
        named = partial(_head_name, short=kind == "narrow")
        heads = [(head, named(head), _look(head)) for head in _ordered(row["head"] for row in run.curves)]
        # DKVB comes first in the page and last in the drawing, where it lies on top.
        lines, ticks = figures.gather_series(run.curves, heads[::-1])
        drawing = figures.line_figure(lines, ticks, width=width, height=height, x_title="classes seen so far")
        drawings.append(element("div", drawing, class_=kind))
    note = f"Test accuracy on every class met up to that point; {orders}."
    return block("Accuracy on all classes seen", element("figure", *drawings), note=note)


def _multiples(run: RunResult, heads: Mapping[str, Any], draw: Callable[[Any, str], Markup]) -> Markup:
    shown = [head for head in HEAT_MAP_HEADS if head in heads] or _ordered(heads)[:3]
    figures = []
    for head in shown:
        title = element("figcaption", _named(head))
        map_ = element("div", draw(heads[head], _head_name(head)), class_="scroll", tabindex=0)
        figures.append(element("figure", title, map_))
    return element("div", *figures, class_="multiples")


def _matrix_block(run: RunResult) -> Markup:
    tasks = [", ".join(map(str, names)) for names in run.matrices["task_classes"]]
    maps = _multiples(run, run.matrices["heads"], lambda matrix, name: figures.accuracy_map(matrix, tasks, name))
    ends = (element("span", word) for word in ("0%", "50%", "100%"))
    key = element("div", *ends, class_="colour-key")
    order = " · ".join(f"stage {i + 1}: {task}" for i, task in enumerate(tasks))
    note = (
        "Percent right, in the first order of classes. Read a column downwards: where a head keeps what it "
        "learned, the colour stays strong. Above the diagonal stand classes that were still to come."
    )
    below = element("p", f"Classes of {order}", class_="note")
    return block("What is kept after each stage", maps, key, below, note=note)


def _confusion_block(run: RunResult) -> Markup:
    confusion = run.matrices.get("confusion") or {}
    if not confusion:
        return Markup("")
    n, names = max(map(len, confusion.values())), [str(name) for name in run.card.get("class_names") or ()]
    names = names if len(names) == n else [str(i) for i in range(n)]
    maps = _multiples(run, confusion, lambda counts, name: figures.confusion_map(counts, names, name))
    note = "Test images after the last stage, counted; the colour is the share of the true class (row)."
    return block("Which classes are confused", maps, note=note)


def _best(metric: str, metrics: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Return the best number of a column; a joint head is a bound, not a competitor."""
    way = _metric(metric)[2]
    numbers = [number(found.get(metric)) for head, found in metrics.items() if not head.startswith("joint")]
    known = [value for value in numbers if value is not None]
    return max(known, key=lambda value: way * value) if way and len(known) > 1 else None


def _metrics_block(run: RunResult) -> Markup:
    present = {metric for found in run.metrics.values() for metric in found}
    columns = [metric for metric in METRICS if metric in present] + sorted(present - set(METRICS))
    best = {metric: _best(metric, run.metrics) for metric in columns}
    rows = []
    for head in _ordered(run.metrics):
        cells = [th(_named(head), scope="row")]
        for metric in columns:
            value = number(run.metrics[head].get(metric))
            wins = value is not None and value == best[metric]
            cells.append(number_cell(run.metrics[head].get(metric), _metric(metric)[1], best=wins))
        rows.append(cells)
    titles = [th("head"), *(th(_metric(metric)[0], kind="number") for metric in columns)]
    drawn = table(titles, rows, kind="sortable", caption=f"Metrics of run {run.name}")
    note = "Means over the orders of classes; the best of a column is bold. A column's title sorts it."
    return block("Metrics", drawn, note=note)


def _keys_block(run: RunResult) -> Markup:
    record = {}
    for key, value in run.training.items():
        share = isinstance(value, float) and 0 <= value <= 1 and "error" not in key
        record[key.replace("_", " ")] = written(value, "share" if share else "number")
    return block("Keys and training", facts(record), kind="block card")


def _provenance_block(run: RunResult) -> Markup:
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


def _reproduce_block(run: RunResult, params: str) -> Markup:
    install, repeat = 'pip install -e ".[pipeline]"', f"dvc repro evaluate@{run.name} && dvc repro -s report"
    seed = (run.settings.get("estimator", {}).get("random_state") or 0) + 1
    setting = f"{params}:runs.{run.name}.estimator.random_state={seed}"
    lines = f"{install}\n{repeat}\n\n# another draw of heads and keys\ndvc exp run -S '{setting}'"
    note = "The same settings, weights and processor give the same files."
    return block("Reproduce", element("pre", element("code", lines), tabindex=0), note=note)


def _run_section(run: RunResult, params: str) -> Markup:
    backbone, tasks = run.card.get("backbone", {}), run.matrices["task_classes"]
    network = f"{backbone.get('id', 'an unnamed network')} ({backbone.get('licence', 'licence unknown')})"
    source = f"{run.card.get('dataset', '–')} through {network}, frozen"
    settings = block("Settings", facts(flat(run.settings)), kind="block card")
    return element(
        "section",
        element("p", f"Run {run.name}", class_="eyebrow"),
        element("h2", headline(run.metrics, len(set(chain.from_iterable(tasks))), len(tasks))),
        element("p", source, class_="note"),
        *(part(run) for part in (_tiles, _curve_block, _matrix_block, _confusion_block, _metrics_block)),
        element("div", _keys_block(run), settings, class_="pair"),
        _provenance_block(run),
        _reproduce_block(run, params),
        id=f"run-{run.name}",
        class_="run",
    )


def _overview(runs: Sequence[RunResult]) -> Markup:
    heads = _ordered({head for run in runs for head in run.metrics})
    rows = []
    for run in runs:
        finals = (run.metrics.get(head, {}).get("final_accuracy") for head in heads)
        solver = run.settings.get("estimator", {}).get("solver", "default")
        words = (solver, run.card.get("dataset", "–"), run.card.get("backbone", {}).get("id", "–"))
        cells = [*(number_cell(value, "share") for value in finals), *(element("td", word) for word in words)]
        rows.append([th(element("a", run.name, href=f"#run-{run.name}"), scope="row"), *cells])
    titles = [th("run"), *(th(_named(head), kind="number") for head in heads)]
    titles += [th(word) for word in ("solver", "dataset", "backbone")]
    drawn = table(titles, rows, kind="sortable", caption="Final accuracy of all runs")
    return element("section", element("h2", "Final accuracy of all runs", class_="quiet"), drawn, class_="overview")


def build_page(runs: Sequence[RunResult], *, params: str = "params.yaml") -> str:
    """Write the whole page as text.

    Parameters
    ----------
    runs : sequence of RunResult
        In the order of the page.
    params : str
        The settings file's name, as the reader would type it.

    Returns
    -------
    str
        A complete HTML document; the same for the same input.
    """
    texts = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("report.html", "report.css"))
    template, style = texts
    return Template(template).substitute(
        style=style.strip(),
        overview=_overview(runs),
        runs="\n".join(_run_section(run, params) for run in runs),
    )


def main(arguments: argparse.Namespace) -> None:
    """Read every run of the settings file, write the page, and say where it is.

    Parameters
    ----------
    arguments : argparse.Namespace
        What `build_parser` describes.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_run`.
    """
    folders = {key: getattr(arguments, key) for key in ("metrics", "matrices", "curves", "caches")}
    found = load_params(arguments.params).runs.items()
    runs = [read_run(name, settings.model_dump(mode="json"), **folders) for name, settings in found]
    page = build_page(runs, params=arguments.params.name)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    # Whoever has the page open must never meet half of it.
    neighbour = arguments.output.with_name(arguments.output.name + ".part")
    neighbour.write_text(page, encoding="utf-8", newline="\n")
    neighbour.replace(arguments.output)
    console.say("report", f"{len(runs)} runs → {arguments.output}")
    print(f"{arguments.output}: open it in a browser; to change a run, edit {arguments.params} and `dvc repro`")


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line: four folders, the settings file and the page."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.report", description="Write one page about all runs.")
    for folder in ("metrics", "matrices", "curves", "caches"):
        parser.add_argument(f"--{folder}", type=Path, default=Path(folder), help=f"folder of {folder}")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="settings file")
    parser.add_argument("--output", type=Path, default=Path("report/index.html"), help="the page to write")
    return parser


if __name__ == "__main__":
    raise SystemExit(console.run(main, build_parser()))
