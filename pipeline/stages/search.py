"""The stage that compares settings of a method by cross-validation.

Enters: an entry of ``searches``, the cache that it learns from, and the cache that its keys come from.
Leaves: a table of candidates as CSV, the best as JSON, seconds as JSON.
Must not know: internals of methods and caches; paths beyond its arguments.

Its jobs run in this process; in ``DKVB_WORKERS`` processes; or on the dask
cluster at the address ``DKVB_DASK``, whose workers see the same files.
"""

import argparse
import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import joblib

from pipeline import cli
from pipeline.cache import check_cache, open_cache
from pipeline.config import load_params, with_settings
from pipeline.evaluation import Source, search_settings
from pipeline.io import folder_beside, replaced

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of this stage."""
    return cli.stage_parser(
        "search",
        "Compare settings by cross-validation. DKVB_WORKERS is the number of processes, or DKVB_DASK the address "
        "of a dask cluster.",
        {
            "--cache": "the cache to learn from",
            "--key-cache": "cache with the rows on which keys are placed; may be the same file",
            "--table": "CSV file to write: one line per candidate, best first",
            "--best": "JSON file to write: the best settings",
            "--timings": "JSON file to write: seconds",
        },
        table="searches",
    )


def main(args: argparse.Namespace) -> None:
    """Run the search that the arguments name and write the files that they name."""
    params = load_params(args.params)
    entry = params.search(args.name)
    with open_cache(args.cache) as reader:
        check_cache(reader, backbone=params.embedding_of(entry).backbone)
        labels = reader.labels("train")
    # on a disk that every worker can read, like the outputs
    with folder_beside(args.best) as folder, _workers() as n_jobs:
        paths = (str(Path(path).resolve()) for path in (args.cache, args.key_cache, folder))
        found, seconds = search_settings(entry, Source(*paths), labels, n_jobs=n_jobs, device=_device())
    if found[0]["error"]:
        raise ValueError(
            f"all {len(found)} candidates failed, the first with {found[0]['error']}; expected one that can be fitted. "
            f"Correct searches.{args.name}."
        )
    _write_table(Path(args.table), found)
    best = {name: found[0][name] for name in entry.grid}
    record = {"best_params": with_settings(entry.method, best), "best_score": found[0]["mean_score"]}
    cli.write_json(args.best, record | {"heat_map": entry.axes()})
    cli.write_json(args.timings, seconds)
    for candidate in found:
        if candidate["error"]:
            failed = {name: candidate[name] for name in entry.grid}
            cli.say(f"search {args.name}", f"{failed} failed: {candidate['error']}")
    cli.say(f"search {args.name}", f"best of {len(found)}: {best}, accuracy {found[0]['mean_score']:.3f}")


def _device() -> str:
    return os.environ.get("DKVB_DEVICE", "auto")


def _n_workers() -> int:
    text = os.environ.get("DKVB_WORKERS", "1")
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"DKVB_WORKERS is {text!r}; expected a whole number, 1 or more. Correct it, or unset it.")
    return int(text)


@contextmanager
def _workers() -> Iterator[int]:
    """Return the number of parallel jobs, and where they run."""
    address = os.environ.get("DKVB_DASK")
    if not address:
        yield _n_workers()
        return
    from distributed import Client

    with Client(address), joblib.parallel_config("dask"):
        yield -1


def _write_table(path: Path, candidates: list[dict[str, Any]]) -> None:
    with replaced(path) as neighbour, neighbour.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(candidates[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(candidates)


if __name__ == "__main__":
    raise SystemExit(cli.run(main, build_parser()))
