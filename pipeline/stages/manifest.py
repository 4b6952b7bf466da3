"""The stage that lists images, so that extraction runs again only when content changes.

Enters: the recipe of a data set. Leaves: its manifest, the same bytes if nothing changed. Must not know: networks,
embeddings.

Every ``dvc repro`` checks folders, because DVC cannot see an edited image. The scratch folder keeps an index, so that
only new and changed files are read; DKVB_REHASH=1 reads all. Forgotten images are left out.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from pipeline import cli
from pipeline.config import load_params
from pipeline.data import build_manifest, remarks, write_manifest
from pipeline.suppression import read_suppression


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of this stage."""
    return cli.stage_parser(
        "manifest", "List the images of a dataset.", {"--output": "manifest to write (JSON lines)"}, table="datasets"
    )


def main(args: argparse.Namespace) -> None:
    """Write the manifest of the data set that the arguments name."""
    index = Path(os.environ.get("DKVB_SCRATCH", ".scratch")) / "folders" / f"{args.name}.digests"
    rehash = os.environ.get("DKVB_REHASH", "0") == "1"
    recipe, suppression = load_params(args.params).dataset(args.name), read_suppression()
    manifest = build_manifest(args.name, recipe, index, rehash=rehash, suppression=suppression)
    write_manifest(manifest, args.output)
    count, *others = remarks(manifest)
    cli.say(f"manifest {args.name}", f"{count} → {args.output}", *others)


if __name__ == "__main__":
    raise SystemExit(cli.run(main, build_parser()))
