"""The stage that learns one run and keeps the model.

Room: a stage.
Enters: the settings of a run, its cache, and the cache that its keys come from.
Leaves: a model file, what training found out as JSON, seconds as JSON.
Must not know: how estimator or cache work inside; where files lie, beyond its arguments.

The model is that of the run's first order of classes; `evaluate` looks at all of them. What is learned is kept in
the scratch folder after every stage, so a killed training goes on from there, to the same model bit for bit.
"""

import argparse
import hashlib
import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dkvb_estimator import DKVBClassifier, __version__, save_model
from pipeline import cli as console
from pipeline.cache import CacheReader, check_cache, file_sha256, open_cache
from pipeline.config import Run, load_params
from pipeline.evaluation import (
    Stage,
    batches,
    learn_codes,
    make_estimator,
    rows_for_keys,
    stages_of,
    timed,
    training_codes,
)
from pipeline.io import remove_leftovers
from pipeline.scratch import Checkpoint

__all__ = ["build_parser", "main", "train"]


def train(
    run: Run,
    reader: CacheReader,
    keys: CacheReader,
    *,
    device: str = "auto",
    checkpoint: Checkpoint | None = None,
    scratch: Path | None = None,
) -> tuple[DKVBClassifier, dict[str, Any], dict[str, float]]:
    """Stream a cache through an estimator in the order of the run's first seed.

    Parameters
    ----------
    run : Run
        Settings.
    reader, keys : CacheReader
        The run's own cache, and the cache that its keys come from.
    device : str
        Where the estimator computes.
    checkpoint : Checkpoint or None
        Where to go on from, and to keep what every stage has taught. What is left there is deleted by whoever has
        kept the model.
    scratch : Path or None
        Where codes of training rows are kept, so that no row is encoded twice by the same keys; None: in memory.

    Returns
    -------
    model : DKVBClassifier
        Trained.
    metrics : dict
        Samples, classes, test accuracy (None without labelled test rows), shares of keys unused after
        initialisation and used after training, quantisation error, fingerprint of the keys.
    seconds : dict of str to float
        Wall-clock seconds of each part.

    Raises
    ------
    ValueError
        If a setting is unknown, no row is labelled, or the caches hold different embedding spaces.
    """
    labels = reader.labels("train")
    seconds: dict[str, float] = {}
    stages = stages_of(run.stream, labels)[0]
    with timed(seconds, "keys"):
        model, n_learned = _started(run, reader, keys, stages[0], device, checkpoint)
    with timed(seconds, "encode"):
        codes = model.encode(reader.read("train")) if scratch is None else training_codes(model, reader, scratch)
    classes = np.unique(labels[labels >= 0]) if run.declare_classes else None
    learn = partial(learn_codes, epochs=run.epochs_per_stage, batch_rows=run.stream.batch_rows, classes=classes)
    with timed(seconds, "learn"):
        for position, stage in enumerate(stages[n_learned:], start=n_learned + 1):
            learn(model, codes[stage.rows], labels[stage.rows])
            if checkpoint is not None:
                checkpoint.write(model, position)
    with timed(seconds, "predict"):
        accuracy = _test_accuracy(model, reader, run.stream.batch_rows)
    return model, _findings(model, stages, accuracy), seconds


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of this stage."""
    return console.stage_parser(
        "train",
        "Learn one run, keep the model.",
        {
            "--cache": "the run's own cache to read",
            "--key-cache": "cache to read the rows for keys from; may be the same",
            "--model": "model file to write (.npz)",
            "--metrics": "JSON file to write: what training found out",
            "--timings": "JSON file to write: seconds",
        },
        table="runs",
    )


def main(args: argparse.Namespace) -> None:
    """Train the run that the arguments name and write the files that they name."""
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
        model, metrics, seconds = train(
            run, reader, keys, device=device, checkpoint=checkpoint, scratch=scratch / "codes"
        )
        card = _card(args.name, digests, reader, keys, model)
        Path(args.model).parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(Path(args.model))
        # A model file says what was learned; the machine's device is no part of it.
        save_model(model.set_params(device="auto"), args.model, card)
        console.write_json(args.metrics, metrics)
        console.write_json(args.timings, seconds)
        checkpoint.clear()  # last: a run that is killed before this goes on from there
    accuracy = metrics["accuracy"]
    found = "no labelled test rows" if accuracy is None else f"test accuracy {accuracy:.3f}"
    console.say(f"train {args.name}", f"{metrics['n_samples']:,} samples, {found} → {args.model}")


def _fingerprint(run: Run, digests: Mapping[str, str], device: str) -> str:
    """Name a training by everything that decides its model."""
    origin = {"train": run.model_dump(), "device": device, "version": __version__, **digests}
    return hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()


def _started(
    run: Run, reader: CacheReader, keys: CacheReader, first: Stage, device: str, checkpoint: Checkpoint | None
) -> tuple[DKVBClassifier, int]:
    """Return a model with keys, and the number of stages that it has learned before it was killed."""
    kept = checkpoint.read() if checkpoint is not None else None
    if kept is not None:
        console.say("train", f"going on after stage {kept[1]}, from {checkpoint.folder}")  # type: ignore[union-attr]
        return kept[0].set_params(device=device), kept[1]
    model = make_estimator(run.estimator, device=device)
    model.init_keys(rows_for_keys(reader, keys, run.key_rows, first))
    if checkpoint is not None:
        checkpoint.write(model, 0)
    return model, 0


def _test_accuracy(model: DKVBClassifier, reader: CacheReader, batch_rows: int) -> float | None:
    if "test" not in reader.split_names:
        return None
    labels = reader.labels("test")
    labelled = np.flatnonzero(labels >= 0)
    hits = [model.predict(reader.read("test", rows)) == labels[rows] for rows in batches(labelled, batch_rows)]
    return round(float(np.concatenate(hits).mean()), 6) if hits else None


def _findings(model: DKVBClassifier, stages: list[Stage], accuracy: float | None) -> dict[str, Any]:
    report: Mapping[str, Any] = model.key_report_
    return {
        "n_samples": int(sum(len(stage.rows) for stage in stages)),
        "n_classes": len(model.classes_),
        "accuracy": accuracy,
        "unused_keys": round(float(report["unused_share"]), 6),
        "quantisation_error": round(float(report["quantisation_error"]), 6),
        "used_keys_after_training": round(float((np.asarray(model.key_counts_) > 0).mean()), 6),
        "key_fingerprint": str(model.fingerprint_),
    }


def _card(
    name: str, digests: Mapping[str, str], reader: CacheReader, keys: CacheReader, model: DKVBClassifier
) -> dict[str, Any]:
    """Say where a model comes from, for whoever finds the file alone."""
    return {
        "run": name,
        "dataset": reader.header.dataset,
        "class_names": list(reader.header.class_names),
        "backbone": dict(reader.header.backbone),
        "preprocessing": dict(reader.header.preprocessing),
        "tap": reader.header.tap,
        **digests,
        "key_dataset": keys.header.dataset,
        "key_fingerprint": str(model.fingerprint_),
    }


if __name__ == "__main__":
    raise SystemExit(console.run(main, build_parser()))
