"""The stage that checks ``params.yaml`` as a whole and writes its tables one by one, so that DVC sees which changed.

Enters: the settings file. Leaves: a JSON file per table, with all defaults filled in, streams in
place of their names, and the sha256 of imported caches; or a refusal while a deletion is interrupted. Must not
know: how stages use their tables.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from pipeline import cli
from pipeline.config import Params, load_params
from pipeline.io import read_text
from pipeline.suppression import read_suppression

__all__ = ["build_parser", "main"]

TABLES = ("datasets", "embeddings", "imports", "baselines", "runs", "searches")


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of this stage."""
    files = {"--output": "folder to write, one file per table"}
    return cli.guarded(cli.stage_parser("settings", "Check the settings file.", files), ["--params"], [])


def main(args: argparse.Namespace) -> None:
    """Write the tables of the settings file that the arguments name."""
    read_suppression()  # refuses to run during an interrupted deletion, before any stage reads files
    params = load_params(args.params)
    _check_methods(params)
    for table, entries in _plain(params).items():
        cli.write_json(Path(args.output) / f"{table}.json", entries)
    counts = ", ".join(f"{len(getattr(params, table))} {table}" for table in TABLES if getattr(params, table))
    cli.say("settings", f"{args.params} is valid: {counts or 'no entries'}")


def _check_methods(params: Params) -> None:
    """Refuse settings of methods before anything is extracted for them; those checked before are known."""
    asked: dict[str, tuple[Any, Any]] = {f"runs.{name}": (run.method, None) for name, run in params.runs.items()}
    asked |= {f"searches.{name}": (search.method, search.grid) for name, search in params.searches.items()}
    path = Path(os.environ.get("DKVB_SCRATCH", ".scratch")) / "methods.json"
    known = _remembered(path)
    new = {place: given for place, given in asked.items() if known.get(place) != json.loads(json.dumps(given))}
    if not new:
        return
    from pipeline.evaluation import check_method  # imports torch, which takes seconds

    for place, (method, grid) in new.items():
        check_method(method, place, grid)
    cli.write_json(path, asked)


def _remembered(path: Path) -> dict[str, Any]:
    """Return what an earlier call wrote; nothing if the file is missing or damaged."""
    try:
        found = json.loads(read_text(path))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _plain(params: Params) -> dict[str, dict[str, Any]]:
    tables = {
        table: {name: entry.model_dump(mode="json") for name, entry in getattr(params, table).items()}
        for table in TABLES
    }
    seen = _Digests(Path(os.environ.get("DKVB_SCRATCH", ".scratch")) / "imports.json")
    for name, entry in tables["imports"].items():
        entry["sha256"] = seen.sha256(name, Path(entry["cache"]))
    seen.keep()
    return tables | {"toy": {"toy": params.toy.model_dump(mode="json")} if params.toy else {}}


class _Digests:
    """Digests of files, remembered while size and times are unchanged, so that large caches are read once."""

    def __init__(self, path: Path) -> None:
        self.path, self.now, self.before = path, dict[str, list[Any]](), _remembered(path)

    def sha256(self, name: str, file: Path) -> str:
        try:
            stat = file.stat()
        except OSError as error:
            raise FileNotFoundError(
                f"imports.{name}.cache names {file}, which cannot be read ({error.strerror}); expected a cache "
                "that `python -m pipeline import` made. Make it, or correct the path."
            ) from error
        state = [str(file), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        known = self.before.get(name, [None])
        if known[:-1] == state:
            digest = known[-1]
        else:
            with file.open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
        self.now[name] = [*state, digest]
        return digest

    def keep(self) -> None:
        if self.now != self.before:
            cli.write_json(self.path, self.now)


if __name__ == "__main__":
    raise SystemExit(cli.run(main, build_parser()))
