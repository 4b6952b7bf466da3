"""Two small caches of one embedding space, settings of a run on them, and calls of the stage `run`."""

import numpy as np
import yaml

from pipeline import cli
from pipeline.cache import CacheHeader, SplitRows, write_cache
from pipeline.config import Run
from pipeline.evaluation import baselines
from pipeline.stages import run as stage

OUTPUTS = (
    "model.npz",
    "training.json",
    "metrics.json",
    "curves.csv",
    "prequential.csv",
    "matrices.json",
    "confidence.json",
    "key-usage.json",
)
CENTRES = np.random.default_rng(7).normal(size=(4, 24)).astype(np.float32)


def header(dataset, backbone="tiny"):
    return CacheHeader(
        fingerprint="f" * 64,
        backbone={"id": backbone, "weights_sha256": "w" * 64},
        preprocessing={"side": 8},
        tap="avgpool",
        compute_dtype="float32",
        storage_dtype="float32",
        manifest_sha256="m" * 64,
        dataset=dataset,
        class_names=("ant", "bee", "cat", "dog"),
    )


def split(n, seed, labelled=True):
    rng, y = np.random.default_rng(seed), np.arange(n) % 4
    X = (CENTRES[y] + 0.2 * rng.normal(size=(n, 24))).astype(np.float32)
    ids = [f"{seed}-{i}" for i in range(n)]
    return SplitRows(blocks=[X], labels=y if labelled else np.full(n, -1), sample_ids=ids)


def write_two_caches(folder):
    write_cache(folder / "own.h5", header("pets"), {"train": split(80, 0), "test": split(40, 1)})
    write_cache(folder / "keys.h5", header("noise"), {"train": split(60, 2, labelled=False)})
    return folder / "own.h5", folder / "keys.h5"


ENCODER = {"n_heads": 8, "n_keys": 16, "key_dim": 4, "random_state": 0}
SETTINGS = {
    "embeddings": "own",
    "keys": "keys",
    "stream": {"kind": "class_incremental", "classes_per_task": 2, "order_seeds": [0, 1], "batch_rows": 16},
    "method": {"encoder": ENCODER},
}


def settings(**changes):
    return Run.model_validate(SETTINGS | changes)


def with_method(encoder=None, **rest):
    """Return the settings of a run with other settings of the method or of its encoder."""
    return {"method": {"encoder": ENCODER | (encoder or {}), **rest}}


def make_few_steps(patch):
    """Let gradient methods take a tenth of their steps, each ten times as large, which is enough for a small run."""
    few = {name: kind | {"min_steps": 20, "learning_rate": 1e-2} for name, kind in baselines.GRADIENT_METHODS.items()}
    patch.setattr(baselines, "GRADIENT_METHODS", few)


def params_file(folder, run=SETTINGS, **tables):
    """Write a settings file with one run, and return its path."""
    entry = {"dataset": "d", "backbone": "tiny", "layer": "avgpool", "image_side": 8}
    entry |= {"compute_dtype": "float32", "storage_dtype": "float32"}
    settings = {
        "datasets": {"d": {"kind": "photos", "n_crops": 1, "seed": 0}},
        "embeddings": {"own": entry, "keys": entry},
        "baselines": {"pets": {key: SETTINGS[key] for key in ("embeddings", "keys", "stream")}},
        "runs": {"pets": run},
    }
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(settings | tables), encoding="utf-8")
    return path


def command(folder, paths, name="pets", **changes):
    """Return the arguments that every stage on caches takes."""
    return [
        name,
        *("--params", str(params_file(folder, **changes))),
        *("--cache", str(paths[0])),
        *("--key-cache", str(paths[1])),
        *("--timings", str(folder / "timings.json")),
    ]


def run_stage(folder, paths, *more, outputs=None, **changes):
    """Run the stage `run` with all its outputs in a folder, and return its exit code."""
    written = [word for name in OUTPUTS for word in (f"--{name.partition('.')[0]}", str((outputs or folder) / name))]
    return cli.run(stage.main, stage.build_parser(), [*command(folder, paths, **changes), *written, *more])
