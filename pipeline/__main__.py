"""Look at caches from the command line: ``python -m pipeline info FILE`` and ``verify FILE``.

Enters: a path. Leaves: text on standard output. Must not know: anything that a room already knows.
"""

from __future__ import annotations

import argparse
import json

from pipeline import console
from pipeline.cache import check_cache, describe_cache, file_sha256, open_cache, verify_cache
from pipeline.datasets import read_manifest

STAGES = """\
stages, each as python -m pipeline.STAGE (--help tells its arguments; dvc.yaml its paths):
  manifest    list the images of a dataset with their hashes, labels and splits
  extract     embed them once with a frozen network, into a cache
  train       learn a run's stream of classes
  evaluate    measure it beside other heads on the same cache
  search      try a grid of settings, keys and codes made once
  report      draw report/index.html

settings: params.yaml says what is computed. DKVB_DEVICE (cuda, cpu), DKVB_WORKERS
and DKVB_WEIGHTS (a folder of weight files) say how, and change no result."""


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline",
        description="Look at embedding caches. `dvc repro` runs the stages below; each also runs by itself.",
        epilog=STAGES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, text in (("info", "print where a cache comes from"), ("verify", "check a cache from end to end")):
        command = verbs.add_parser(verb, help=text, description=text)
        command.add_argument("file", help="a cache, such as caches/digits.h5")
        if verb == "verify":
            command.add_argument("--backbone", help="also check that this backbone wrote it")
            command.add_argument("--manifest", help="also check that it was written from this manifest")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Do what the verb says."""
    if arguments.verb == "info":
        print(json.dumps(describe_cache(arguments.file), indent=2, ensure_ascii=False))
        return
    for fact in verify_cache(arguments.file):
        print(fact)
    sha256 = read_manifest(arguments.manifest).sha256 if arguments.manifest else None
    with open_cache(arguments.file) as reader:
        check_cache(reader, backbone=arguments.backbone, manifest_sha256=sha256)
    print(f"{arguments.file} is whole (sha256 {file_sha256(arguments.file)})")


if __name__ == "__main__":
    raise SystemExit(console.run(main, build_parser()))
