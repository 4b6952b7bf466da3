"""The stage that measures one run, and puts it beside what a user would pick instead.

Room: a stage.
Enters: the settings of a run, its cache, the cache that its keys come from, and the tables of its rivals.
Leaves: metrics by head (JSON), curves by head, order and stage, and by head and batch (CSV), accuracy and confusion
matrices of the first order, confidence, an audit of the keys (JSON), seconds (JSON).
Must not know: how estimator or cache work inside; how rivals were measured; where files lie, beyond its arguments.

The bottleneck is fitted anew for every order of classes; its keys are placed and its codes computed once, unless the
keys come from an order's own first stage.
"""

import argparse
import copy
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dkvb_estimator import DKVBClassifier
from pipeline import cli as console
from pipeline.cache import CacheReader, check_cache, open_cache
from pipeline.config import Run, load_params
from pipeline.evaluation import (
    CURVE_COLUMNS,
    PREQUENTIAL_COLUMNS,
    Bench,
    HeadResult,
    Tables,
    describe_trust,
    feed_then_test,
    learn_codes,
    make_bench,
    make_estimator,
    make_tables,
    per_order,
    predict_then_learn,
    rows_for_keys,
    seen_half,
    tell_unseen,
    timed,
    write_csv,
)

__all__ = ["Evaluation", "build_parser", "evaluate", "main"]

HELD_OUT_SEED = 0
N_BUSIEST = 8
"""Keys with the most hits, which the audit names one by one."""


@dataclass(frozen=True)
class Evaluation:
    """All that one run's estimator achieved.

    Attributes
    ----------
    bench : Bench
        What it met.
    result : HeadResult
        Accuracies, predictions, costs, novelty.
    trust : dict
        ``plain`` and ``calibrated`` (see `pipeline.trust.describe_trust`) and the ``temperature`` of each; empty where
        the run holds no rows out.
    audit : dict
        What the keys are used for after the last stage of the first order.
    """

    bench: Bench
    result: HeadResult
    trust: dict[str, Any]
    audit: dict[str, Any]


def evaluate(run: Run, reader: CacheReader, keys: CacheReader, *, device: str = "auto") -> Evaluation:
    """Measure the run's estimator on every order of classes.

    Parameters
    ----------
    run : Run
        Settings.
    reader, keys : CacheReader
        The run's own cache with the splits ``train`` and ``test``, and the cache that its keys come from.
    device : str
        Where the estimator computes.

    Raises
    ------
    ValueError
        If a setting is unknown, a stage has no test rows, or the caches hold different embedding spaces.
    """
    bench, clock = make_bench(reader, run.stream), dict[str, float]()
    field = _Field(run, bench, _place_keys(run, bench, reader, keys, device, clock))
    outcomes, models = [], []
    for order, stages in enumerate(bench.orders):
        model, codes = field.fresh(order)
        tested = (bench.X_test, bench.y_test)
        outcomes.append(feed_then_test(model, stages, codes, bench.y, *tested, learn=field.learn, seconds=clock))
        models.append(model)
    model, codes = field.fresh(0)
    met = predict_then_learn(model, bench.orders[0], bench, codes, learn=field.learn)
    novelty, trust = _novelty(field), _trust(field)
    facts = _facts(run, models[0]) | _flat_numbers(novelty, trust)
    result = HeadResult(outcomes, outcomes[0].predictions, met, facts, novelty, per_order(clock, bench))
    return Evaluation(bench, result, trust, _describe_keys(models[0], bench))


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of this stage."""
    parser = console.stage_parser(
        "evaluate",
        "Measure one run.",
        {
            "--cache": "the run's own cache to read",
            "--key-cache": "cache to read the rows for keys from; may be the same",
            "--metrics": "JSON file to write: metrics by head",
            "--curves": "CSV file to write: accuracy after every stage",
            "--prequential": "CSV file to write: share predicted right before it was learned, after every batch",
            "--matrices": "JSON file to write: accuracy and confusion matrices",
            "--confidence": "JSON file to write: how sure heads are, what they notice",
            "--audit": "JSON file to write: what keys are used for",
            "--timings": "JSON file to write: seconds",
        },
        table="runs",
    )
    parser.add_argument("--rivals", help="folder of tables to read, where the run names rivals")
    return parser


def main(args: argparse.Namespace) -> None:
    """Evaluate the run that the arguments name and write the files that they name."""
    params = load_params(args.params)
    run = params.run(args.name)
    device = os.environ.get("DKVB_DEVICE", "auto")
    with open_cache(args.cache) as reader, open_cache(args.key_cache) as keys:
        check_cache(reader, backbone=params.embedding_of(run).backbone)
        evaluation = evaluate(run, reader, keys, device=device)
    tables = make_tables(evaluation.bench, {"dkvb": evaluation.result})
    if args.rivals and run.rivals:
        tables = tables.joined(Tables.read(Path(args.rivals) / f"{run.rivals}.json"))
    _write(args, tables, evaluation)
    finals = ", ".join(f"{head} {numbers['final_accuracy']:.3f}" for head, numbers in tables.metrics.items())
    console.say(f"evaluate {args.name}", f"final accuracy: {finals} → {args.metrics}")


def _write(args: argparse.Namespace, tables: Tables, evaluation: Evaluation) -> None:
    console.write_json(args.metrics, tables.metrics)
    write_csv(args.curves, CURVE_COLUMNS, tables.curves)
    write_csv(args.prequential, PREQUENTIAL_COLUMNS, tables.prequential)
    console.write_json(args.matrices, tables.matrices)
    console.write_json(args.confidence, {"trust": evaluation.trust, "novelty": tables.novelty})
    console.write_json(args.audit, evaluation.audit)
    console.write_json(args.timings, {"dkvb": evaluation.result.seconds})


@dataclass(frozen=True)
class _Field:
    """A run, what it meets, and its estimator before it learns: with keys, beside the codes of all training rows.

    There is one such start for all orders, or one an order.
    """

    run: Run
    bench: Bench
    starts: list[tuple[DKVBClassifier, np.ndarray]]

    def fresh(self, order: int) -> tuple[DKVBClassifier, np.ndarray]:
        """Return an estimator that has learned nothing, and the codes of its keys."""
        model, codes = self.starts[order % len(self.starts)]
        return copy.deepcopy(model), codes

    def learn(self, model: DKVBClassifier, codes: np.ndarray, y: np.ndarray) -> None:
        classes = self.bench.classes if self.run.declare_classes else None
        learn_codes(
            model, codes, y, epochs=self.run.epochs_per_stage, batch_rows=self.bench.batch_rows, classes=classes
        )


def _place_keys(
    run: Run, bench: Bench, reader: CacheReader, keys: CacheReader, device: str, clock: dict[str, float]
) -> list[tuple[DKVBClassifier, np.ndarray]]:
    starts = []
    for stages in bench.orders if run.key_rows == "first_stage" else bench.orders[:1]:
        rows = rows_for_keys(reader, keys, run.key_rows, stages[0])
        model = make_estimator(run.estimator, device=device)
        with timed(clock, "keys"):
            model.init_keys(rows)
        with timed(clock, "encode"):
            starts.append((model, model.encode(bench.X)))
    return starts


def _facts(run: Run, model: DKVBClassifier) -> dict[str, int]:
    return {
        "state_bytes": len(pickle.dumps(model)),
        "passes": run.epochs_per_stage,
        "needs_classes": int(run.declare_classes),
    }


def _flat_numbers(novelty: dict[str, Any], trust: dict[str, Any]) -> dict[str, float]:
    """Choose what of confidence stands among the metrics."""
    numbers: dict[str, float] = {}
    for score, found in novelty.items():
        numbers |= {f"{score}_{name}": found[name] for name in ("auroc", "fpr_at_95_tpr")}
    for kind, found in trust.items():
        numbers[f"calibration_error_{kind}"] = found["expected_calibration_error"]
    return numbers


def _novelty(field: _Field) -> dict[str, Any]:
    """Learn the first half of the stages, and score test rows of its classes and of all others."""
    bench = field.bench
    pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"novelty": [], "relative_novelty": [], "max_softmax": []}
    for order, stages in enumerate(bench.orders):
        half = seen_half(stages, bench.y, bench.y_test)
        if half is None:
            return {}
        model, codes = field.fresh(order)
        for stage in half.stages:
            field.learn(model, codes[stage.rows], bench.y[stage.rows])
        scores = (
            model.novelty(bench.X_test),
            model.novelty(bench.X_test, relative=True),
            1 - model.predict_proba(bench.X_test).max(axis=1),
        )
        for found, score in zip(pairs.values(), scores, strict=True):
            found.append((score[half.known], score[~half.known]))
    return {name: tell_unseen(scores) for name, scores in pairs.items()}


def _trust(field: _Field) -> dict[str, Any]:
    """Learn the first order without some rows, and let them choose the temperature."""
    bench = field.bench
    labelled = np.flatnonzero(bench.y >= 0)
    n_held = round(field.run.held_out_share * len(labelled))
    if not n_held:
        return {}
    held = np.random.default_rng(HELD_OUT_SEED).permutation(labelled)[:n_held]
    model, codes = field.fresh(0)
    for stage in bench.orders[0]:
        rows = stage.rows[~np.isin(stage.rows, held)]
        field.learn(model, codes[rows], bench.y[rows])
    plain = _describe(model, bench)
    known = held[np.isin(bench.y[held], model.classes_)]
    return {"plain": plain, "calibrated": _describe(model.calibrate(bench.X[known], bench.y[known]), bench)}


def _describe(model: DKVBClassifier, bench: Bench) -> dict[str, Any]:
    places = np.searchsorted(model.classes_, bench.y_test)
    columns = np.where(np.isin(bench.y_test, model.classes_), places, -1)
    found = describe_trust(model.predict_proba(bench.X_test), columns)
    return found | {"temperature": float(f"{model.temperature_:.6g}")}


def _describe_keys(model: DKVBClassifier, bench: Bench) -> dict[str, Any]:
    """Write down what the keys serve, classes by their names."""
    audit = model.audit()
    names = [bench.class_names[label] for label in audit.classes]
    return {
        "classes": names,
        "used_share": audit.used_share.round(6).tolist(),
        "classes_per_key": audit.classes_per_key.round(6).tolist(),
        "overlap": audit.overlap.round(6).tolist(),
        "own_share": audit.own_share.round(6).tolist(),
        "busiest": [
            {"head": head, "key": key, "served": {bench.class_names[label]: hits for label, hits in served.items()}}
            for head, key, served in _busiest(model)
        ],
    }


def _busiest(model: DKVBClassifier) -> list[tuple[int, int, dict[Any, float]]]:
    """Return the keys with the most hits: the ones that most predictions lean on."""
    audit, counts = model.audit(), model.key_counts_
    order = np.argsort(-counts.astype(np.float64), axis=None, kind="stable")[:N_BUSIEST]
    places = [divmod(int(position), counts.shape[1]) for position in order]
    return [(head, key, audit.classes_of(head, key)) for head, key in places]


if __name__ == "__main__":
    raise SystemExit(console.run(main, build_parser()))
