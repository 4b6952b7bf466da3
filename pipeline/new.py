"""Set up a project for a user's own data: ``python -m pipeline new FOLDER``.

Enters: a folder to make, and images or arrays of embeddings. Leaves: params.yaml, dvc.yaml, .gitignore and .dvc, with
which ``dvc repro`` works. Must not know: methods.

The project's dvc.yaml is that of this checkout, without its dependencies on code: stages look for changed code
themselves. It calls the pipeline as ``python -m dkvb_pipeline``, which works in any folder.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.cache import open_cache
from pipeline.cache.import_export import add_import_options, import_arrays
from pipeline.config import load_params
from pipeline.data import build_manifest

ROOT = Path(__file__).resolve().parents[1]
CODE = ("pipeline/", "dkvb_estimator")
"""Prefixes of dependencies on code."""
DEFAULT_BACKBONE = "efficientnet_lite0"
"""Its weights come with an installed package."""
TEST_FRACTION = 0.2
IMAGE_OPTIONS = ("backbone", "image_side", "skip_corrupt", "follow_links")
"""Options that embeddings do not use."""
OPTIONS = {
    "set skip_corrupt: true in params.yaml, then run `dvc repro`": "pass --skip-corrupt",
    "follow_links: true in params.yaml": "--follow-links",
    "test_fraction": "--test-fraction",
}
"""Words of messages, and the option that does the same."""

IMAGES = """\
# Images: one folder per class, or train/ and test/ with one folder per class each. Every `dvc repro` checks them.
datasets:
  mine:
    kind: folder
    root: {root}
    test_fraction: {test_fraction}     # only where there is no test/
    seed: 0
    skip_corrupt: {skip_corrupt}
    follow_links: {follow_links}

# Embeddings to extract once: the images and the network. docs/guide/backbones.md of DKVB lists others.
embeddings:
  mine:
    dataset: mine
    backbone: {backbone}
    layer: {layer}
    image_side: {image_side}
    compute_dtype: float32
    storage_dtype: float16
"""
EMBEDDINGS = """\
# Embeddings that `python -m pipeline new` imported. See `python -m dkvb_pipeline import --help` for others.
imports:
  mine:
    cache: imported/mine.h5
"""
RUNS = """
# The orders in which classes arrive.
streams:
  by_class:
    kind: class_incremental
    classes_per_task: {classes_per_task}
    order_seeds: [0, 1]
    batch_rows: 128

# Other methods, measured on the same rows.
baselines:
  mine:
    embeddings: mine
    keys: mine
    stream: by_class
    methods: [nearest_class_mean, streaming_lda, random_projection_ridge_2000]

# Models to train. method: {{}} uses the package's defaults.
runs:
  joint:
    embeddings: mine
    keys: mine
    stream: by_class
    baselines: mine
    method: {{encoder: {{random_state: 0}}}}
  counts:
    embeddings: mine
    keys: mine
    stream: by_class
    baselines: mine
    method: {{solver: counts, encoder: {{random_state: 0}}}}
"""


def add_new_options(parser: argparse.ArgumentParser) -> None:
    """Add the command-line options of :func:`new_project`."""
    parser.add_argument("folder", type=Path, help="folder to make")
    kinds = parser.add_mutually_exclusive_group(required=True)
    kinds.add_argument("--images", type=Path, metavar="FOLDER", help="images, one folder per class")
    kinds.add_argument("--embeddings", metavar="FILE[:NAME]", help="embeddings (n, f): .npy, .npz, .pt or Parquet")
    parser.add_argument("--labels", metavar="FILE[:NAME]", help="labels (n,) of the embeddings")
    parser.add_argument("--backbone", metavar="NAME", help=f"network for images (default: {DEFAULT_BACKBONE})")
    parser.add_argument("--skip-corrupt", action="store_true", default=None, help="leave out images that are damaged")
    parser.add_argument("--follow-links", action="store_true", default=None, help="read links out of the folder")
    parser.add_argument("--test-fraction", type=float, metavar="SHARE", help="share of test samples (default: 0.2)")
    parser.add_argument(
        "--image-side", type=int, metavar="PIXELS", help="side of the images that it reads, in pixels (default: 224)"
    )


def new_project(args: argparse.Namespace) -> Path:
    """Make the project that the arguments describe, completely or not at all, and return its folder.

    Raises
    ------
    ValueError
        If the folder is not empty or lies in another DVC project, options do not go together, the network is unknown,
        images have fewer than two classes, or arrays do not fit each other.
    OSError
        If images or arrays cannot be read, or the folder cannot be written.
    """
    folder = args.folder.resolve()
    _check_place(folder)
    _check_options(args)
    with _neighbour(folder) as place:
        n_classes = _images(args, folder, place) if args.images else _embeddings(args, place)
        runs = RUNS.format(classes_per_task=max(1, n_classes // 5))
        with (place / "params.yaml").open("a", encoding="utf-8") as file:
            file.write(runs)
        _check_settings(place / "params.yaml")
        (place / "dvc.yaml").write_text(_stages(), encoding="utf-8")
        (place / ".gitignore").write_text(_ignored(), encoding="utf-8")
        shutil.copy(ROOT / ".dvcignore", place / ".dvcignore")
        (place / "forgotten").mkdir()
        (place / "forgotten" / "list.txt").touch()
        shutil.copytree(ROOT / ".dvc", place / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
        if not _in_git(folder):
            config = place / ".dvc" / "config"
            text = config.read_text(encoding="utf-8").replace("[core]\n", "[core]\n    no_scm = true\n", 1)
            config.write_text(text, encoding="utf-8")
    return folder


def _check_place(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"{folder.name} exists and is not empty; expected a new or an empty folder. Choose another one."
        )
    for parent in folder.parents:
        if (parent / ".dvc").is_dir():
            raise ValueError(
                f"{folder.name} is inside {parent.name}, which is already a DVC project; expected a folder outside "
                "of it. Choose another one."
            )


def _check_options(args: argparse.Namespace) -> None:
    if args.embeddings and not args.labels:
        raise ValueError("--embeddings came without --labels; expected one label per row. Pass --labels FILE.")
    kind, strange = ("--embeddings", IMAGE_OPTIONS) if args.embeddings else ("--images", ("labels",))
    for name in strange:
        if getattr(args, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} came with {kind}, which does not use it; expected {kind} alone. Leave it out.")


def _check_settings(path: Path) -> None:
    try:
        load_params(path)
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), path.name)) from None


@contextmanager
def _neighbour(folder: Path) -> Iterator[Path]:
    """Yield a folder beside ``folder``, which replaces it on success."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield place
        place.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        place.rename(folder)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _images(args: argparse.Namespace, folder: Path, place: Path) -> int:
    """Write the settings of a folder of images, and return the number of its classes."""
    from pipeline.backbones import find_backbone, preprocess  # imports torch, which embeddings do without

    network = find_backbone(args.backbone or DEFAULT_BACKBONE)
    layer = "avgpool" if "avgpool" in network.layers else next(iter(network.layers))
    side = network.fixed_input_size or 224 if args.image_side is None else args.image_side
    preprocess(network, side)
    own: dict[str, Any] = {"skip_corrupt": bool(args.skip_corrupt), "follow_links": bool(args.follow_links)}
    own["test_fraction"] = TEST_FRACTION if args.test_fraction is None else args.test_fraction
    with _options_named():
        listed = build_manifest("mine", {"kind": "folder", "root": str(args.images), "seed": 0, **own})
    n_classes = len(listed.class_names)
    _check_classes(n_classes, args.images.name)
    root = yaml.safe_dump(os.path.relpath(args.images.absolute(), folder), width=10**6).splitlines()[0]
    plain = {name: str(value).lower() for name, value in own.items()}
    text = IMAGES.format(root=root, backbone=network.id, layer=layer, image_side=side, **plain)
    (place / "params.yaml").write_text(text, encoding="utf-8")
    return n_classes


@contextmanager
def _options_named() -> Iterator[None]:
    """Let messages name options instead of settings of a file that does not exist yet."""
    try:
        yield
    except (ValueError, OSError) as error:
        text = str(error)
        for setting, option in OPTIONS.items():
            text = text.replace(setting, option)
        if text == str(error):
            raise
        raise ValueError(text) from error


def _embeddings(args: argparse.Namespace, place: Path) -> int:
    """Take the embeddings in, write their settings, and return the number of classes."""
    (place / "imported").mkdir()
    options = argparse.ArgumentParser()
    add_import_options(options)
    share = TEST_FRACTION if args.test_fraction is None else args.test_fraction
    given = ["--embeddings", args.embeddings, "--labels", args.labels, "--test-fraction", str(share)]
    output = place / "imported" / "mine.h5"
    with _options_named():
        import_arrays(options.parse_args([*given, "--output", str(output), "--backbone", "mine", "--dataset", "mine"]))
    (place / "params.yaml").write_text(EMBEDDINGS, encoding="utf-8")
    with open_cache(output) as reader:
        labels = np.concatenate([reader.labels(split) for split in reader.split_names])
    n_classes = len(np.unique(labels[labels >= 0]))
    _check_classes(n_classes, f"{args.labels} (labels)")
    return n_classes


def _check_classes(n_classes: int, source: str) -> None:
    if n_classes < 2:
        raise ValueError(
            f"{source} has {n_classes} class; expected at least two. Give the samples of each class a separate name."
        )


def _stages() -> str:
    """Return the checkout's dvc.yaml as a project elsewhere calls it."""
    lines = (ROOT / "dvc.yaml").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.strip().startswith(tuple(f"- {begin}" for begin in CODE))]
    return "\n".join(kept).replace("python -m pipeline.stages", "python -m dkvb_pipeline stages") + "\n"


def _ignored() -> str:
    """Return the checkout's list of what ``dvc repro`` makes, for Git."""
    text = (ROOT / ".gitignore").read_text(encoding="utf-8")
    return text[text.index("# What `dvc repro` makes") : text.index("# What `make docs` makes")] + ".scratch/\n"


def _in_git(folder: Path) -> bool:
    return any((parent / ".git").exists() for parent in (folder, *folder.parents))
