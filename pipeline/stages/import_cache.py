"""The stage that copies a cache made elsewhere: imported embeddings, or another checkout's cache.

Enters: an entry of ``imports`` and the file that it names. Leaves: the same cache in the folder of caches, and its
card. Must not know: images, networks, estimators.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from pipeline import cli
from pipeline.cache import describe_cache, file_sha256, open_cache, verify_cache
from pipeline.config import load_params
from pipeline.io import check_files, replaced
from pipeline.suppression import refuse_forgotten


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of this stage."""
    return cli.stage_parser(
        "import_cache",
        "Copy a cache that was imported or made elsewhere.",
        {
            "--output": "cache to write (.h5)",
            "--card": "JSON file to write: the origin of the cache, and its sha256",
        },
        table="imports",
    )


def main(args: argparse.Namespace) -> None:
    """Check the cache that the arguments name, copy it and write its card."""
    source = Path(load_params(args.params).imported(args.name).cache)
    check_files([source], [args.output, args.card])
    facts = verify_cache(source)
    with open_cache(source) as reader:
        refuse_forgotten(reader.header.dataset, (i for split in reader.split_names for i in reader.sample_ids(split)))
    card = describe_cache(source) | {"file_sha256": file_sha256(source)}
    with replaced(args.output) as neighbour:
        shutil.copyfile(source, neighbour)
    cli.write_json(args.card, card)
    cli.say(f"import_cache {args.name}", f"{'; '.join(facts[1:])} → {args.output}")


if __name__ == "__main__":
    raise SystemExit(cli.run(main, build_parser()))
