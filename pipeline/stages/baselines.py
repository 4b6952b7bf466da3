"""The stage that measures other methods, once for all runs on the same embeddings and stream.

Enters: an entry of ``baselines``, its cache, and the cache whose rows set the scale of the features.
Leaves: tables of all its methods (JSON), seconds (JSON).
Must not know: the bottleneck; internals of caches; paths beyond its arguments.
"""

import argparse

import numpy as np

from pipeline import cli
from pipeline.cache import CacheReader, check_cache, open_cache
from pipeline.config import Baselines, load_params
from pipeline.evaluation import Bench, make_bench, make_tables, measure_baselines, rows_for_keys

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of this stage."""
    return cli.stage_parser(
        "baselines",
        "Measure other methods on the same stream.",
        {
            "--cache": "cache to read",
            "--key-cache": "cache whose rows set the scale of the features; may be the same file",
            "--output": "JSON file to write: all tables",
            "--timings": "JSON file to write: seconds",
        },
        table="baselines",
    )


def main(args: argparse.Namespace) -> None:
    """Measure the entry that the arguments name and write the files that they name."""
    params = load_params(args.params)
    settings = params.baseline(args.name)
    with open_cache(args.cache) as reader, open_cache(args.key_cache) as keys:
        check_cache(reader, backbone=params.embedding_of(settings).backbone)
        bench = make_bench(reader, settings.stream)
        results = measure_baselines(settings, bench, _scale_rows(settings, bench, reader, keys))
    tables = make_tables(bench, results)
    cli.write_json(args.output, tables.record())
    cli.write_json(args.timings, {method: result.seconds for method, result in results.items()})
    finals = ", ".join(f"{method} {numbers['final_accuracy']:.3f}" for method, numbers in tables.metrics.items())
    cli.say(f"baselines {args.name}", f"final accuracy: {finals} → {args.output}")


def _scale_rows(settings: Baselines, bench: Bench, reader: CacheReader, keys: CacheReader) -> list[np.ndarray]:
    orders = bench.orders if settings.key_rows == "first_task" else bench.orders[:1]
    return [rows_for_keys(reader, keys, settings.key_rows, tasks[0]) for tasks in orders]


if __name__ == "__main__":
    raise SystemExit(cli.run(main, build_parser()))
