"""The stage that measures one run, compares it with its baselines, and saves its model.

Enters: the settings of a run, its cache, the cache that its keys come from, and the tables of its baselines.
Leaves: the model of the first order; metrics by method (JSON), curves by method, order and task, and by method and
batch (CSV), accuracy and confusion matrices of the first order, confidence, key usage (JSON), seconds (JSON).
Must not know: internals of methods and caches; how baselines were measured; paths beyond its arguments.
"""

import argparse
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dkvb_estimator import __version__, save_model
from pipeline import cli
from pipeline.cache import CacheReader, check_cache, file_sha256, open_cache
from pipeline.config import Run, load_params
from pipeline.evaluation import (
    CURVE_COLUMNS,
    PREQUENTIAL_COLUMNS,
    Evaluation,
    Tables,
    make_tables,
    measure_run,
    write_csv,
)
from pipeline.io import remove_leftovers
from pipeline.scratch import Checkpoint

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of this stage."""
    parser = cli.stage_parser(
        "run",
        "Measure one run and save its model.",
        {
            "--cache": "the run's own cache to read",
            "--key-cache": "cache with the rows on which keys are placed; may be the same file",
            "--model": "model file to write (.npz)",
            "--training": "JSON file to write: facts about the model and its keys",
            "--metrics": "JSON file to write: metrics by method",
            "--curves": "CSV file to write: accuracy after every task",
            "--prequential": "CSV file to write: prequential accuracy after every batch",
            "--matrices": "JSON file to write: accuracy and confusion matrices",
            "--confidence": "JSON file to write: calibration, and detection of unseen classes",
            "--key-usage": "JSON file to write: key usage",
            "--timings": "JSON file to write: seconds",
        },
        table="runs",
    )
    parser.add_argument("--baselines", help="tables to read, if the run names baselines (JSON)")
    return parser


def main(args: argparse.Namespace) -> None:
    """Measure the run that the arguments name and write the files that they name."""
    params = load_params(args.params)
    run = params.run(args.name)
    device = os.environ.get("DKVB_DEVICE", "auto")
    digests = {"cache_sha256": file_sha256(args.cache), "key_cache_sha256": file_sha256(args.key_cache)}
    scratch = Path(os.environ.get("DKVB_SCRATCH", ".scratch"))
    with (
        open_cache(args.cache) as reader,
        open_cache(args.key_cache) as keys,
        Checkpoint(scratch, _fingerprint(run, digests, device)) as checkpoint,
    ):
        check_cache(reader, backbone=params.embedding_of(run).backbone)
        found = measure_run(
            run, reader, keys, device=device, checkpoint=checkpoint, scratch=scratch / "codes", name=args.name
        )
        _keep_model(args, digests, reader, keys, found)
        tables = make_tables(found.bench, {"dkvb": found.result})
        if args.baselines:
            tables = tables.joined(Tables.read(args.baselines))
        _write(args, tables, found)
        checkpoint.clear()  # last: a run that is killed earlier resumes
    finals = ", ".join(f"{method} {numbers['final_accuracy']:.3f}" for method, numbers in tables.metrics.items())
    cli.say(f"run {args.name}", f"final accuracy: {finals} → {args.metrics}, {args.model}")


def _fingerprint(run: Run, digests: Mapping[str, str], device: str) -> str:
    """Return the fingerprint of everything that determines a run's model."""
    origin = {"run": run.model_dump(), "device": device, "version": __version__, **digests}
    return hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()


def _keep_model(
    args: argparse.Namespace, digests: Mapping[str, str], reader: CacheReader, keys: CacheReader, found: Evaluation
) -> None:
    Path(args.model).parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(Path(args.model))
    # A model file contains what was learned, not the machine's device.
    save_model(found.model.set_params(device="auto"), args.model, _card(args.name, digests, reader, keys, found))


def _card(
    name: str, digests: Mapping[str, str], reader: CacheReader, keys: CacheReader, found: Evaluation
) -> dict[str, Any]:
    """Describe the origin of a model, for readers of the file alone."""
    return {
        "run": name,
        "dataset": reader.header.dataset,
        "class_names": list(reader.header.class_names),
        "backbone": dict(reader.header.backbone),
        "preprocessing": dict(reader.header.preprocessing),
        "layer": reader.header.tap,
        **digests,
        "key_dataset": keys.header.dataset,
        "key_fingerprint": found.training["key_fingerprint"],
    }


def _write(args: argparse.Namespace, tables: Tables, found: Evaluation) -> None:
    cli.write_json(args.training, found.training)
    cli.write_json(args.metrics, tables.metrics)
    write_csv(args.curves, CURVE_COLUMNS, tables.curves)
    write_csv(args.prequential, PREQUENTIAL_COLUMNS, tables.prequential)
    cli.write_json(args.matrices, tables.matrices)
    cli.write_json(args.confidence, {"calibration": found.calibration, "novelty": tables.novelty})
    cli.write_json(args.key_usage, found.keys)
    cli.write_json(args.timings, {"dkvb": found.result.seconds})


if __name__ == "__main__":
    raise SystemExit(cli.run(main, build_parser()))
