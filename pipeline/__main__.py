"""Projects and caches from the command line: ``python -m pipeline new``, ``info``, ``verify``, ``import`` and others.

Enters: paths. Leaves: text on standard output, a project, a cache, plain files. Must not know: how any of it is made.
"""

from __future__ import annotations

import argparse
import json

from pipeline import cli as console
from pipeline.cache import check_cache, describe_cache, file_sha256, open_cache, verify_cache
from pipeline.cache.import_export import add_import_options, export_cache, import_arrays
from pipeline.data import read_manifest
from pipeline.new import add_new_options, new_project

VERBS = {
    "new": "set up a project for your own images or embeddings",
    "info": "print where a cache comes from",
    "verify": "check a cache from end to end",
    "import": "make a cache of embeddings in .npy, .npz, .pt or Parquet files",
    "export": "write a cache as .npz, .npy or Parquet",
}

STAGES = """\
stages, each as python -m pipeline.stages.STAGE (--help: arguments); dvc.yaml has their paths:
  settings      check params.yaml and write its tables one by one
  manifest      list the images of a dataset with their hashes, labels and splits
  extract       embed them once with a frozen network, into a cache
  import_cache  take in a cache made elsewhere, or of imported embeddings
  baselines     measure other methods on a stream
  run           measure a run over all its orders of classes, and keep its model
  toy           draw who still knows the first classes, in the plane
  search        try a grid of settings, keys and codes made once
  report        draw report/index.html

settings: params.yaml says what is computed. DKVB_DEVICE (cuda, cpu), DKVB_WORKERS
and DKVB_WEIGHTS (a folder of weight files) say how; only another kind
of device changes results, in their last bits."""


OPTIONS = {"new": add_new_options, "import": add_import_options}


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline",
        description="Set up projects, look at caches. `dvc repro` runs the stages below; each also runs by itself.",
        epilog=STAGES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, text in VERBS.items():
        command = verbs.add_parser(verb, help=text, description=text)
        console.add_debug(command)
        if verb in OPTIONS:
            OPTIONS[verb](command)
            continue
        command.add_argument("file", help="a cache, such as caches/digits.h5")
        if verb == "verify":
            command.add_argument("--backbone", help="also check that this backbone wrote it")
            command.add_argument("--manifest", help="also check that it was written from this manifest")
        if verb == "export":
            command.add_argument("--output", required=True, help="file to write, ending in .npz, .npy or .parquet")
            command.add_argument("--split", help="the one split to write (default: all)")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Do what the verb says."""
    if arguments.verb == "new":
        folder = new_project(arguments)
        print(f"{folder}: params.yaml, dvc.yaml. Next: cd {folder} && dvc repro")
    elif arguments.verb == "info":
        print(json.dumps(describe_cache(arguments.file), indent=2, ensure_ascii=False))
    elif arguments.verb == "verify":
        _verify(arguments)
    elif arguments.verb == "import":
        path = import_arrays(arguments)
        with open_cache(path) as reader:
            rows = ", ".join(f"{reader.n_rows(name):,} {name}" for name in reader.split_names)
            print(f"{path}: {rows}; {reader.n_features:,} features, {len(reader.header.class_names):,} classes")
    else:
        for path in export_cache(arguments.file, arguments.output, arguments.split):
            print(path)


def _verify(arguments: argparse.Namespace) -> None:
    for fact in verify_cache(arguments.file):
        print(fact)
    sha256 = read_manifest(arguments.manifest).sha256 if arguments.manifest else None
    with open_cache(arguments.file) as reader:
        check_cache(reader, backbone=arguments.backbone, manifest_sha256=sha256)
    print(f"{arguments.file} is whole (sha256 {file_sha256(arguments.file)})")


if __name__ == "__main__":
    raise SystemExit(console.run(main, build_parser()))
