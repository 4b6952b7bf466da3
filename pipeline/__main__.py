"""Projects, caches and the store from the command line: ``python -m pipeline VERB``.

Enters: paths. Leaves: text on standard output, a project, a cache, plain files. Must not know: how they are made.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline import cli
from pipeline.cache import check_cache, describe_cache, file_sha256, open_cache, verify_cache
from pipeline.cache.import_export import add_import_options, export_cache, import_arrays
from pipeline.data import read_manifest
from pipeline.io import counted, read_names
from pipeline.new import add_new_options, new_project
from pipeline.store import Stored, image_names, is_among, list_networks, remove_rows
from pipeline.suppression import FOLDER

VERBS = {
    "new": "set up a project for your own images or embeddings",
    "info": "print the origin of a cache",
    "verify": "check a cache from end to end",
    "import": "convert embeddings in .npy, .npz, .pt or Parquet files to a cache",
    "export": "write a cache as .npz, .npy or Parquet",
    "forget": "forget samples in every file of this project",
    "store": "show or free the rows of the embedding store",
}

STAGES = """\
stages, each as python -m pipeline.stages STAGE -- OPTIONS (or --help); dvc.yaml has their paths:
  settings      check params.yaml and write its tables one by one
  manifest      list the images of a dataset with their hashes, labels and splits
  extract       embed them once with a frozen network, and write a cache
  import_cache  copy a cache that was imported or made elsewhere
  baselines     measure other methods on a stream
  run           measure a run over all its orders of classes, and save its model
  toy           draw the example in the plane
  search        try a grid of settings
  report        draw report/index.html
settings: params.yaml defines what to compute; DKVB_DEVICE (cuda, cpu), DKVB_WORKERS and
DKVB_WEIGHTS (folder of weights) define how. Devices may differ in the last bits of results."""


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline",
        description="Set up projects and inspect caches. `dvc repro` runs the stages below; each also runs by itself.",
        epilog=STAGES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options = {
        "new": add_new_options,
        "import": add_import_options,
        "forget": _add_forget_options,
        "store": _add_store_options,
    }
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, text in VERBS.items():
        command = verbs.add_parser(verb, help=text, description=text)
        cli.add_debug(command)
        if verb in options:
            options[verb](command)
            continue
        command.add_argument("file", help="a cache, such as caches/digits.h5")
        if verb == "verify":
            command.add_argument("--backbone", help="also check that its embeddings are from this backbone")
            command.add_argument("--manifest", help="also check that it was written from this manifest")
        if verb == "export":
            command.add_argument("--output", required=True, help="file to write, ending in .npz, .npy or .parquet")
            command.add_argument("--split", help="split to write (default: all)")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Run the given verb."""
    if arguments.verb == "new":
        folder = new_project(arguments)
        print(f"{folder}: params.yaml, dvc.yaml. Next: cd {folder} && dvc repro")
    elif arguments.verb == "info":
        print(json.dumps(describe_cache(arguments.file), indent=2, ensure_ascii=False))
    elif arguments.verb == "verify":
        _verify(arguments)
    elif arguments.verb == "store":
        _store(arguments)
    elif arguments.verb == "forget":
        _forget(arguments)
    elif arguments.verb == "import":
        path = import_arrays(arguments)
        with open_cache(path) as reader:
            rows = ", ".join(f"{reader.n_rows(name):,} {name}" for name in reader.split_names)
            print(f"{path}: {rows}; {reader.n_features:,} features, {len(reader.header.class_names):,} classes")
    else:
        _export(arguments)


def _export(arguments: argparse.Namespace) -> None:
    paths = export_cache(arguments.file, arguments.output, arguments.split)
    with open_cache(arguments.file) as reader:
        layers = [f"{layer.name}:{layer.stop - layer.start}" for layer in reader.header.layers]
    if layers:
        cli.say("export", f"plain files do not record the layers: import them with --layers {' '.join(layers)}")
    for path in paths:
        print(path)


def _add_forget_options(command: argparse.ArgumentParser) -> None:
    scratch = os.environ.get("DKVB_SCRATCH", ".scratch")
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--ids", help="text file with one sample id per line")
    what.add_argument("--class", dest="class_name", help="name of a class; all its samples are forgotten")
    what.add_argument("--resume", action="store_true", help="finish an interrupted deletion")
    command.add_argument("--dataset", help="dataset of the ids or the class (default: all)")
    command.add_argument("--reason", help="the reason, for the receipt")
    command.add_argument("--scratch", default=scratch, help="scratch folder (default: %(default)s)")


def _forget(arguments: argparse.Namespace) -> None:
    from pipeline.forgetting import forget, resume  # which import the estimator

    if arguments.resume:
        finished = resume(FOLDER)
        print(f"{finished}: finished" if finished else "no deletion was interrupted")
        return
    if not arguments.reason:
        raise ValueError(
            "no --reason was given; expected one for the receipt. Add one, such as --reason 'asked by letter'."
        )
    ids = read_names(arguments.ids, "sample id") if arguments.ids else None
    receipt = forget(
        Path(),
        Path(arguments.scratch),
        ids=ids,
        class_name=arguments.class_name,
        dataset=arguments.dataset,
        reason=arguments.reason,
    )
    told = json.loads(receipt.read_text(encoding="utf-8"))
    counts = ", ".join(f"{n:,} of {name}" for name, n in told["n_samples"].items())
    changed = f"{counted(len(told['files']), 'file')}, {counted(told['n_rows_of_store'], 'row')} of the store"
    print(f"forgot {counts}: {changed} → {receipt}")
    for model in told["models"]:
        print(f"{model['path']}: {model['how']}{'; ' + model['why'] if 'why' in model else ''}")
    for rest in told["not_reached"]:
        print(f"not reached: {rest['what']} ({rest['command']})")


def _add_store_options(command: argparse.ArgumentParser) -> None:
    scratch = os.environ.get("DKVB_SCRATCH", ".scratch")
    command.add_argument("--scratch", default=scratch, help="scratch folder of the store (default: %(default)s)")
    command.add_argument("--manifests", default="manifests", help="folder of the manifests (default: %(default)s)")
    command.add_argument("--free", action="store_true", help="delete the rows of images that no manifest lists")


def _store(arguments: argparse.Namespace) -> None:
    folder = Path(arguments.scratch) / "store"
    keep = _named_by_manifests(Path(arguments.manifests))
    networks, remarks = list_networks(folder, keep)
    for stored in sorted(networks, key=lambda stored: -stored.n_bytes):
        print(_described(stored))
    print(f"{folder}: {sum(s.n_rows for s in networks):,} rows, {sum(s.n_bytes for s in networks) / 2**20:,.1f} MiB")
    for remark in remarks:
        print(remark)
    if arguments.free:
        before = _bytes_below(folder)
        n_removed = remove_rows(folder, keep)
        print(f"freed {n_removed:,} rows that no manifest lists, {(before - _bytes_below(folder)) / 2**20:,.1f} MiB")


def _described(stored: Stored) -> str:
    network = stored.network
    backbone, preprocessing = network.get("backbone", {}), network.get("preprocessing", {})
    side = preprocessing.get("image_side")
    what = f"{backbone.get('library')} {backbone.get('model')}, {network.get('layer')}, {side} px"
    how = f"{network.get('compute_dtype')} → {network.get('storage_dtype')}, {network.get('device')}"
    weights = str(backbone.get("weights_sha256"))[:8]
    rows = f"{stored.n_rows:,} rows in {stored.n_blocks:,} blocks, {stored.n_bytes / 2**20:,.1f} MiB"
    return f"{what}, weights {weights}, {how}: {rows}; not in any manifest: {stored.n_rows - stored.n_kept:,}"


def _named_by_manifests(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that says which images the manifests name.

    Raises
    ------
    FileNotFoundError
        If there is no manifest: all rows would be deleted.
    """
    paths = sorted(folder.glob("*.jsonl"))
    if not paths:
        raise FileNotFoundError(
            f"there is no manifest in {folder}; expected the manifests of all datasets whose rows are needed. Run "
            "`dvc repro manifest`, or name their folder with --manifests; to free all rows, delete the store's "
            "folder."
        )
    named = np.concatenate([image_names(read_manifest(path).digests) for path in paths])
    return lambda images: is_among(images, named)


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _verify(arguments: argparse.Namespace) -> None:
    for fact in verify_cache(arguments.file):
        print(fact)
    sha256 = read_manifest(arguments.manifest).sha256 if arguments.manifest else None
    with open_cache(arguments.file) as reader:
        check_cache(reader, backbone=arguments.backbone, manifest_sha256=sha256)
    print(f"{arguments.file} is intact (sha256 {file_sha256(arguments.file)})")


if __name__ == "__main__":
    raise SystemExit(cli.run(main, build_parser()))
