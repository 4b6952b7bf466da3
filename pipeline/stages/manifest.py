"""The stage that lists images: so that extraction runs again when content changes, and only then.

Enters: the recipe of a data set. Leaves: its manifest. Must not know: networks, embeddings.
"""

from __future__ import annotations

import argparse

from pipeline import cli as console
from pipeline.config import load_params
from pipeline.data import build_manifest, remarks, write_manifest
from pipeline.suppression import read_suppression


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of this stage."""
    return console.stage_parser(
        "manifest",
        "List the images of a data set.",
        {
            "--output": "manifest to write (JSON lines)",
        },
        table="datasets",
    )


def main(args: argparse.Namespace) -> None:
    """Write the manifest of the data set that the arguments name."""
    manifest = build_manifest(args.name, load_params(args.params).dataset(args.name), suppression=read_suppression())
    write_manifest(manifest, args.output)
    count, *others = remarks(manifest)
    console.say(f"manifest {args.name}", f"{count} → {args.output}", *others)


if __name__ == "__main__":
    raise SystemExit(console.run(main, build_parser()))
