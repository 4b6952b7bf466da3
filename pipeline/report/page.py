"""Fill in the page ``template.html``.

Enters: results as `load` reads them. Leaves: one HTML text, the same for the same results. Must not know: files.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from itertools import chain
from statistics import fmean
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.io import counted
from pipeline.report import labels
from pipeline.report.figures import CSS, Figures
from pipeline.report.labels import METRICS, TABLED_ELSEWHERE, flat, method_name, metric_words, number, ordered, written
from pipeline.report.load import RunResult, SearchResult, Toy


def build_page(
    runs: Sequence[RunResult],
    *,
    searches: Sequence[SearchResult] = (),
    toy: Toy | None = None,
    receipts: Sequence[Mapping[str, Any]] = (),
    params: str = "params.yaml",
    empty_tables: Sequence[str] = (),
) -> str:
    """Return the page as text; it names the `empty_tables` of the settings file `params`, and all missing files."""
    loader = PackageLoader("pipeline.report", ".")
    jinja = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    jinja.filters |= {"method": method_name, "written": written, "number": number, "ordered": ordered, "flat": flat}
    asked = (answer, best_baseline, best_of, beyond_accuracy, counted, deletion, flat, headline, losses, metric_columns,
             metric_words, over_orders, provenance, scores_of, seconds_to_learn, served, usage_facts)  # fmt: skip
    jinja.globals |= {function.__name__: function for function in asked} | {"labels": labels, "b64encode": b64encode}
    measured: list[Any] = [*runs, *searches]
    return jinja.get_template("template.html").render(
        css=CSS.strip(), runs=runs, lead=lead_of(runs), searches=searches, toy=toy, receipts=receipts,
        params=params, figures=Figures(), empty_tables=empty_tables,
        missing=dict.fromkeys(chain.from_iterable(part.missing for part in measured)),
    )  # fmt: skip


def best_baseline(metrics: Mapping[str, Mapping[str, Any]]) -> tuple[str | None, float | None]:
    """Return the baseline with the highest final accuracy; a joint method is an upper bound, not a baseline."""
    finals = {method: number(found.get("final_accuracy")) for method, found in metrics.items()}
    others = {name: share for name, share in finals.items() if name != "dkvb" and not name.startswith("joint")}
    known = [(share, name) for name, share in others.items() if share is not None]
    return max(known)[::-1] if known else (None, None)


def headline(metrics: Mapping[str, Mapping[str, Any]], tasks: Sequence[Sequence[str]]) -> list[str]:
    """Summarise a run in sentences: its accuracy against the best baseline, and the loss of each method.

    Examples
    --------
    >>> numbers = {"dkvb": {"final_accuracy": 0.859, "forgetting_first": 0.061},
    ...            "linear_probe": {"final_accuracy": 0.807},
    ...            "mlp": {"final_accuracy": 0.2, "forgetting_first": 0.97}}
    >>> for line in headline(numbers, [["a", "b"], ["c"]]):
    ...     print(line)
    After 3 classes in 2 tasks, DKVB has an accuracy of 85.9%, 5.2 points above the best baseline, linear probe (80.7%).
    DKVB lost 6.1 points of what it had learned; the MLP lost 97.0 points and ends at 20.0%.
    """
    n_classes, n_tasks = len({name for names in tasks for name in names}), len(tasks)
    met = f"{n_classes} class{'es' * (n_classes != 1)} in {n_tasks} task{'s' * (n_tasks != 1)}"
    own = number(metrics.get("dkvb", {}).get("final_accuracy"))
    if own is None:
        return [f"{met}; the accuracy of DKVB was not measured."]
    text = f"After {met}, DKVB has an accuracy of {written(own, 'share')}"
    baseline, best = best_baseline(metrics)
    if baseline is not None and best is not None:
        apart = 100 * (own - best)
        way = f"{abs(apart):.1f} points {'above' if apart > 0 else 'below'}" if abs(apart) >= 0.05 else "level with"
        text += f", {way} the best baseline, {method_name(baseline)} ({written(best, 'share')})"
    clauses = []
    for method in ("dkvb", "linear_probe", "mlp"):
        lost, end = (number(metrics.get(method, {}).get(name)) for name in ("forgetting_first", "final_accuracy"))
        if lost is not None and end is not None:
            who = "DKVB" if method == "dkvb" else f"the {method_name(method)}"
            rest = "of what it had learned" if method == "dkvb" else f"and ends at {written(end, 'share')}"
            clauses.append(f"{who} lost {'nothing' if lost < 0.0005 else f'{100 * lost:.1f} points'} {rest}")
    said = "; ".join(clauses)
    return [f"{text}.", *([f"{said[0].upper()}{said[1:]}."] if said else [])]


def lead_of(runs: Sequence[RunResult]) -> RunResult | None:
    """Return the run of the default method, or otherwise the first run with metrics."""
    measured = [run for run in runs if run.metrics]
    default = [run for run in measured if run.settings.get("method", {}).get("solver", "joint") == "joint"]
    return next(iter(default or measured), None)


def answer(run: RunResult) -> list[dict[str, Any]]:
    """Return accuracy, spread and cost of each method, the best first."""
    rows = [
        {
            "method": method,
            "accuracy": number(found.get("final_accuracy")),
            "spread": None if run.n_orders == 1 else number(found.get("accuracy_std_over_orders")),
            "seconds": seconds_to_learn(run, method),
            "bound": method.startswith("joint"),
        }
        for method, found in run.metrics.items()
    ]
    return sorted(rows, key=lambda row: (row["accuracy"] is None, -(row["accuracy"] or 0), row["method"]))


def over_orders(n_orders: int) -> str:
    """Say of how many orders of classes a number is the mean; 0: their number is not known.

    Examples
    --------
    >>> over_orders(1), over_orders(3)
    ('in one order of classes', 'mean of 3 orders of classes')
    """
    if n_orders == 1:
        return "in one order of classes"
    return f"mean of {n_orders} orders of classes" if n_orders else "mean over the orders of classes"


def beyond_accuracy(run: RunResult) -> list[tuple[str, str]]:
    """Return one line for each result of a run beyond accuracy."""
    lines = [(str(name), written(value)) for name, value in run.guarantees.items()]
    if lost := next((row for row in losses(run) if row["method"] == "dkvb"), None):
        total, real, growth = (written(lost[part], "points") for part in ("total", "real", "growth"))
        said = f"{real} are real forgetting, and {growth} come from having more classes to choose from."
        lines.append(("Points lost since each task was learned", f"{total}, of which {said}"))
    if run.key_usage:
        shares = fmean(run.key_usage["used_share"]), run.key_usage["classes_per_key"][1]
        used, alone = (written(share, "share") for share in shares)
        lines.append(("Key usage", f"{used} of the keys are in use; {alone} of these serve a single class."))
    if kinds := run.confidence.get("calibration"):
        errors = [(kind, written(found["expected_calibration_error"], "share")) for kind, found in kinds.items()]
        said = ", ".join(f"{share} ({labels.CALIBRATION.get(kind, (kind,))[0]})" for kind, share in errors)
        lines.append(("Calibration error", said + "."))
    if scores := run.confidence.get("novelty", {}).get("dkvb"):
        auroc, name = max((found["auroc"], name) for name, found in scores.items())
        by = labels.SCORES.get(name, (name,))[0]
        lines.append(("Unseen classes", f"detected with an AUROC of {written(auroc, 'share')} by {by}."))
    return lines


def losses(run: RunResult) -> list[dict[str, Any]]:
    """Return the loss of each method since each task was learned, in two parts, the smallest loss first."""
    rows = []
    for method, found in run.metrics.items():
        real, growth = (number(found.get(name)) for name in ("real_forgetting", "label_growth"))
        if real is not None and growth is not None:
            rows.append({"method": method, "total": real + growth, "real": real, "growth": growth})
    return sorted(rows, key=lambda row: (row["real"], row["method"]))


def seconds_to_learn(run: RunResult, method: str) -> float | None:
    """Return the seconds of a method to learn a stream, including all preparation."""
    clock = run.seconds.get(method, {})
    parts = [clock[part] for part in ("choose", "keys", "encode", "fit") if part in clock]
    return round(sum(parts), 2) if parts else None


def metric_columns(run: RunResult) -> list[str]:
    """Return the metrics of a run without a separate table, labelled ones first."""
    every = {metric for found in run.metrics.values() for metric in found if not metric.startswith(TABLED_ELSEWHERE)}
    return [metric for metric in METRICS if metric in every] + sorted(every - set(METRICS))


def best_of(metric: str, metrics: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Return the best number of a column; a joint method is an upper bound, not a competitor."""
    way = metric_words(metric)[2]
    numbers = [number(found.get(metric)) for method, found in metrics.items() if not method.startswith("joint")]
    known = [value for value in numbers if value is not None]
    return max(known, key=lambda value: way * value) if way and len(known) > 1 else None


def usage_facts(usage: Mapping[str, Any]) -> dict[str, str]:
    """Return key usage in numbers."""
    used, shares, own = usage["used_share"], usage["classes_per_key"], list(zip(usage["own_share"], usage["classes"]))
    least, most = (f"{written(share, 'share')} ({name})" for share, name in (min(own), max(own)))
    return {
        "keys used, mean over heads": written(fmean(used), "share"),
        "lowest and highest share of a head": f"{written(min(used), 'share')} and {written(max(used), 'share')}",
        "used keys that serve one class": written(shares[1], "share"),
        "used keys that serve several": written(sum(shares[2:]), "share"),
        "hits on keys that no other class uses": f"{least} to {most}",
    }


def served(classes: Mapping[str, float]) -> str:
    """Name the classes that select a key, up to six of them."""
    first = [f"{name}: {written(hits)}" for name, hits in list(classes.items())[:6]]
    return ", ".join(first) + (f" and {len(classes) - 6} more" if len(classes) > 6 else "")


def provenance(run: RunResult) -> list[tuple[str, list[str]]]:
    """Return facts from the cards of embeddings and keys; shared facts are listed once."""
    lines = [flat({key: said for key, said in card.items() if key != "class_names"}) for card in run.cards.values()]
    rows = [(fact, [record.get(fact, "–") for record in lines]) for fact in dict.fromkeys(f for r in lines for f in r)]
    return [(fact, said[:1] if len(set(said)) == 1 else said) for fact, said in rows]


def deletion(receipt: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of a receipt: samples, copies, models that forgot or are trained again, gaps.

    Examples
    --------
    >>> gap = {"measured": True, "bits_of_values": 0, "largest_difference_of_scores": 0.0}
    >>> models = [{"how": "forgot exactly", "gap": gap}, {"how": "trained again"}]
    >>> deletion({"n_samples": {"a": 2, "b": 1}, "n_copies": 1, "models": models})
    {'samples': 3, 'copies': 1, 'exactly': 1, 'again': 1, 'bits': 0, 'difference': 0.0}
    """
    gaps = [model["gap"] for model in receipt["models"] if model.get("gap", {}).get("measured")]
    hows = [model["how"] for model in receipt["models"]]
    bits = [number(gap["bits_of_values"]) for gap in gaps]
    return {
        "samples": sum(receipt["n_samples"].values()),
        "copies": receipt["n_copies"],
        "exactly": hows.count("forgot exactly"),
        "again": hows.count("trained again"),
        "bits": None if not bits or None in bits else int(max(bit for bit in bits if bit is not None)),
        "difference": max((gap["largest_difference_of_scores"] for gap in gaps), default=None),
    }


def scores_of(search: SearchResult) -> dict[tuple[str, str], float]:
    """Return the best mean score of each pair of the two settings that were varied most."""
    best: dict[tuple[str, str], float] = {}
    axes = search.best.get("heat_map") or {}
    for row in search.rows if axes else ():
        pair = row[axes["y"]], row[axes["x"]]
        if (score := number(row["mean_score"])) is not None:
            best[pair] = max(score, best.get(pair, score))
    return best
