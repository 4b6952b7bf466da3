"""Run a stage once, or for the entries of its table whose inputs have changed, in one process.

Enters: a stage, its table as `settings` wrote it, the files that entries are made from, the stage's own options with
``{name}`` and other settings in braces. Leaves: the files of every entry, and a record of them. Must not know: what a
stage does.

DVC cannot repeat a stage over a table that may be missing; within one stage it cannot detect which entry has changed.
Therefore a record says what an entry's files were made from: its settings, the content of its inputs, and the code that
the stage imports, without comments and docstrings. Files of removed entries are deleted.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib
import json
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline import cli
from pipeline.io import code_digest, read_text

__all__ = ["build_parser", "main"]

PLACE = re.compile(r"\{(\w+)\}")
KEEP = ".keep"
"""Name of a file that ``.dvcignore`` lists."""


@dataclass(frozen=True)
class Entry:
    """The options of one entry of a table, and a digest of everything that determines its files."""

    name: str
    options: list[str]
    made_from: str


class Record:
    """The inputs and files of entries, in a file that is written after each of them."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            known = json.loads(read_text(path))
        except (OSError, ValueError):
            known = {}  # if a record is damaged, its entries are made again
        self.entries: dict[str, dict[str, Any]] = known if isinstance(known, dict) else {}

    def holds(self, entry: Entry) -> bool:
        """Return whether an entry's files exist, are intact, and were made from the current inputs."""
        known = self.entries.get(entry.name, {})
        files = known.get("files", {})
        wanted = [path for path in files if files[path] is not None]
        return known.get("made_from") == entry.made_from and all(_sha256(path) == files[path] for path in wanted)

    def write(self, entry: Entry, files: Mapping[str, bool]) -> None:
        """Record an entry's inputs; its marked files must exist unchanged."""
        digests = {path: _sha256(path) if checked else None for path, checked in files.items()}
        self.entries[entry.name] = {"made_from": entry.made_from, "files": digests}
        cli.write_json(self.path, self.entries)

    def keep_only(self, names: Iterable[str]) -> None:
        """Remove all other entries, and delete their files."""
        for name in set(self.entries) - set(names):
            for path in self.entries.pop(name).get("files", {}):
                Path(path).unlink(missing_ok=True)
        cli.write_json(self.path, self.entries)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line; what follows ``--`` are options of the stage."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.stages",
        description="Run a stage once, or for every entry of its table that has changed. Options may then contain "
        "{name} and settings of the entry in braces; an option with an empty setting is left out.",
        usage="%(prog)s STAGE [--entries FILE --record FILE [--inputs FILE ...] [--always KEY=VALUE]] -- OPTIONS",
    )
    parser.add_argument("stage", help="module of pipeline.stages")
    parser.add_argument("--entries", help="JSON file to read: the table of entries; without it, the stage runs once")
    parser.add_argument("--record", help="JSON file to read and write: what each entry was made from")
    parser.add_argument("--inputs", nargs="*", default=[], help="input files of an entry")
    parser.add_argument("--always", default="", help="always run entries with this setting")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the stage, or what has changed; return 0, or the code of the first entry that failed."""
    own, options = _divided(argv)
    parser = build_parser()
    args = parser.parse_args(own)
    if (args.entries is None) != (args.record is None):
        parser.error(
            "only one of --entries and --record was given; expected both, or neither to run the stage once. Add the "
            "other, or remove this one."
        )
    if args.entries is not None:
        return _run_entries(args, options)
    module = _imported(args.stage)
    return cli.run(module.main, module.build_parser(), _with_debug(options, args))


def _run_entries(args: argparse.Namespace, options: Sequence[str]) -> int:
    start = time.perf_counter()
    table: dict[str, dict[str, Any]] = json.loads(read_text(args.entries))
    record = Record(args.record)
    record.keep_only(table)
    for word in options:
        if PLACE.search(word):
            _make_folder(Path(word).parent)
    code = code_digest(f"pipeline.stages.{args.stage}") if table else ""
    entries = [_entry(args, options, name, settings, code) for name, settings in table.items()]
    key, _, value = args.always.partition("=")
    waiting = [entry for entry in entries if (key and table[entry.name].get(key) == value) or not record.holds(entry)]
    _announce(args.stage, entries, waiting)
    for entry in waiting:
        if failed := _run(args, entry, record):
            return failed
    if waiting:
        cli.say(args.stage, f"{len(waiting)} of {len(entries)} done in {time.perf_counter() - start:.0f} s")
    return 0


def _make_folder(folder: Path) -> None:
    """Create a folder, which DVC needs even for a table without entries, and put a file into it if it is empty.

    DVC would warn of an empty folder at every command. It ignores the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        (folder / KEEP).touch()


def _divided(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    end = list(argv).index("--") if "--" in argv else len(argv)
    return list(argv[:end]), list(argv[end + 1 :])


def _entry(
    args: argparse.Namespace, options: Sequence[str], name: str, settings: Mapping[str, Any], code: str
) -> Entry:
    values = {"name": name, **settings}
    filled = [name, *_filled(options, values)]
    inputs = {path: _sha256(path) for path in _filled(args.inputs, values)}
    origin = {"stage": args.stage, "settings": settings, "options": filled, "inputs": inputs, "code": code}
    made_from = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()
    return Entry(name, filled, made_from)


def _filled(words: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """Fill an entry's settings into the options; leave out an option with an empty setting."""
    filled: list[str] = []
    for word in words:
        if any(values.get(place) is None for place in PLACE.findall(word)):
            if filled and filled[-1].startswith("--"):
                filled.pop()
            continue
        filled.append(PLACE.sub(lambda found: str(values[found[1]]), word))
    return filled


def _sha256(path: str | Path) -> str | None:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None  # the stage reports the problem


def _announce(stage: str, entries: Sequence[Entry], waiting: Sequence[Entry]) -> None:
    names = {entry.name for entry in waiting}
    kept = [entry.name for entry in entries if entry.name not in names]
    parts = [f"{', '.join(entry.name for entry in waiting)} to do"] if waiting else []
    parts += [f"{', '.join(kept)} unchanged"] if kept else []
    cli.say(stage, "; ".join(parts) or "no entries")


def _imported(stage: str) -> ModuleType:
    """Import a stage only when it is needed: if nothing has changed, nothing waits for torch.

    Imported modules are not garbage. Searching them takes a fifth of the import, and a second at the end.
    """
    module = importlib.import_module(f"pipeline.stages.{stage}")
    if not gc.isenabled():  # in a process of its own
        gc.freeze()
        gc.enable()
    return module


def _run(args: argparse.Namespace, entry: Entry, record: Record) -> int:
    module, start = _imported(args.stage), time.perf_counter()
    parser = module.build_parser()
    if failed := cli.run(module.main, parser, _with_debug(entry.options, args)):
        return failed
    given = vars(parser.parse_args(entry.options))
    # Seconds are not in DVC's cache: an experiment in a separate folder has none for unchanged entries.
    record.write(entry, {given[name]: name != "timings" for name in given["writes"] if given.get(name)})
    cli.say(f"{args.stage} {entry.name}", f"{time.perf_counter() - start:.1f} s")
    return 0


def _with_debug(options: Sequence[str], args: argparse.Namespace) -> list[str]:
    return [*options, *(["--debug"] if args.debug else [])]


if __name__ == "__main__":
    gc.disable()  # until a stage is imported
    code = main(sys.argv[1:])
    gc.freeze()
    raise SystemExit(code)
