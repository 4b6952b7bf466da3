"""The stage that measures what one would pick instead, once for all runs on the same embeddings and stream.

Room: a stage.
Enters: an entry of ``rivals``, its cache, and the cache whose rows tell probes the scale of features.
Leaves: tables of all its heads (JSON), seconds (JSON).
Must not know: the bottleneck; how a cache works inside; where files lie, beyond its arguments.
"""

import argparse
import pickle
from typing import Any

import numpy as np

from pipeline import cli as console
from pipeline.cache import CacheReader, check_cache, open_cache
from pipeline.config import Rivals, load_params
from pipeline.evaluation import (
    Bench,
    Contender,
    HeadResult,
    feed_then_test,
    learn_rows,
    make_bench,
    make_contender,
    make_tables,
    per_order,
    predict_then_learn,
    rows_for_keys,
    seen_half,
    tell_unseen,
    timed,
)

__all__ = ["build_parser", "main", "measure_rivals"]


def measure_rivals(rivals: Rivals, bench: Bench, scale: list[np.ndarray]) -> dict[str, HeadResult]:
    """Let every head of an entry meet every order of a stream.

    Parameters
    ----------
    rivals : Rivals
        Settings.
    bench : Bench
        What they meet.
    scale : list of ndarray (n,f)
        Rows without labels that tell probes the scale of features: one for all orders, or one an order.

    Returns
    -------
    dict of str to HeadResult
        In the order of ``rivals.heads``.
    """
    results: dict[str, HeadResult] = {}
    for name in rivals.heads:
        clock: dict[str, float] = {}
        with timed(clock, "choose"):
            contender = make_contender(name, bench, scale, normalize=rivals.normalize)
        meet = _meet_everything_at_once if name == "joint_linear_probe" else _meet_the_stream
        results[name] = meet(contender, bench, clock)
    return results


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of this stage."""
    return console.stage_parser(
        "rivals",
        "Measure what one would pick instead of a bottleneck.",
        {
            "--cache": "cache to read",
            "--key-cache": "cache to read the rows for the scale of features from; may be the same",
            "--output": "JSON file to write: all tables",
            "--timings": "JSON file to write: seconds",
        },
        table="rivals",
    )


def main(args: argparse.Namespace) -> None:
    """Measure the entry that the arguments name and write the files that they name."""
    params = load_params(args.params)
    rivals = params.rival(args.name)
    with open_cache(args.cache) as reader, open_cache(args.key_cache) as keys:
        check_cache(reader, backbone=params.embedding_of(rivals).backbone)
        bench = make_bench(reader, rivals.stream)
        results = measure_rivals(rivals, bench, _scale_rows(rivals, bench, reader, keys))
    tables = make_tables(bench, results)
    console.write_json(args.output, tables.record())
    console.write_json(args.timings, {head: result.seconds for head, result in results.items()})
    finals = ", ".join(f"{head} {numbers['final_accuracy']:.3f}" for head, numbers in tables.metrics.items())
    console.say(f"rivals {args.name}", f"final accuracy: {finals} → {args.output}")


def _scale_rows(rivals: Rivals, bench: Bench, reader: CacheReader, keys: CacheReader) -> list[np.ndarray]:
    orders = bench.orders if rivals.key_rows == "first_stage" else bench.orders[:1]
    return [rows_for_keys(reader, keys, rivals.key_rows, stages[0]) for stages in orders]


def _meet_the_stream(contender: Contender, bench: Bench, clock: dict[str, float]) -> HeadResult:
    outcomes, models = [], []
    for order, stages in enumerate(bench.orders):
        models.append(contender.make(order))
        outcomes.append(feed_then_test(models[-1], stages, bench.X, bench.y, bench.X_test, bench.y_test, seconds=clock))
    model = contender.make(0)
    met = predict_then_learn(model, bench.orders[0], bench, bench.X) if contender.by_batches else None
    novelty = _novelty(contender, bench) if hasattr(models[0], "score_samples") else {}
    facts = _facts(contender, models[0])
    for score, found in novelty.items():
        facts |= {f"{score}_{name}": found[name] for name in ("auroc", "fpr_at_95_tpr")}
    return HeadResult(outcomes, outcomes[0].predictions, met, facts, novelty, per_order(clock, bench))


def _meet_everything_at_once(contender: Contender, bench: Bench, clock: dict[str, float]) -> HeadResult:
    labelled = bench.y >= 0
    model = contender.make(0)
    with timed(clock, "fit"):
        learn_rows(model, bench.X[labelled], bench.y[labelled])
    with timed(clock, "predict"):
        predictions = model.predict(bench.X_test)
    seconds = per_order(clock, bench, n_orders=1, n_stages=1)
    return HeadResult([], predictions, facts=_facts(contender, model), seconds=seconds)


def _facts(contender: Contender, model: object) -> dict[str, float]:
    return {
        "state_bytes": len(pickle.dumps(model)),
        "passes": contender.passes,
        "needs_classes": int(contender.needs_classes),
    }


def _novelty(contender: Contender, bench: Bench) -> dict[str, Any]:
    pairs = []
    for order, stages in enumerate(bench.orders):
        half = seen_half(stages, bench.y, bench.y_test)
        if half is None:
            return {}
        model = contender.make(order)
        for stage in half.stages:
            learn_rows(model, bench.X[stage.rows], bench.y[stage.rows])
        scores = -model.score_samples(bench.X_test)
        pairs.append((scores[half.known], scores[~half.known]))
    return {"mahalanobis": tell_unseen(pairs)}


if __name__ == "__main__":
    raise SystemExit(console.run(main, build_parser()))
