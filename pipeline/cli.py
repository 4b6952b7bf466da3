"""The command line of every stage: parse, run, print one line, write a record, turn an error into one sentence.

Enters: a stage's ``main`` and its parser. Leaves: an exit code. Must not know: what any stage does.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.io import check_files, remedy, replaced

READ = ("--params", "--manifest", "--cache", "--key-cache", "--baselines")
"""Options for files that stages read; all other files are written."""
USER_ERRORS = (ValueError, OSError, KeyError, TypeError, RuntimeError, ImportError)
"""Errors of files, settings or the machine; any other error is a bug and keeps its traceback."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as of shells."""


def say(stage: str, *texts: str) -> None:
    """Print lines of progress on stderr, as ``[extract digits] 1,797 images → …``."""
    for text in texts:
        print(f"[{stage}] {text}", file=sys.stderr, flush=True)


def write_json(path: str | Path, record: Mapping[str, Any]) -> None:
    """Write a record as indented JSON, keys in the given order, completely or not at all; create a missing folder."""
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with replaced(path) as neighbour:
        neighbour.write_text(text, encoding="utf-8")


def stage_parser(
    stage: str, description: str, files: Mapping[str, str], *, table: str | None = None
) -> argparse.ArgumentParser:
    """Return the command line of a stage: an entry of its table, the settings file, and its input and output files.

    Parameters
    ----------
    stage, description : str
    files : mapping of str to str
        Options, all of them required, and what each file is.
    table : str or None
        The table of the settings file; the stage runs once per entry.

    Examples
    --------
    >>> parser = stage_parser("train", "Learn one run.", {"--model": "model file to write"}, table="runs")
    >>> parser.parse_args(["digits", "--params", "params.yaml", "--model", "a.npz"]).name
    'digits'
    """
    parser = argparse.ArgumentParser(prog=f"python -m pipeline.stages.{stage}", description=description)
    if table is not None:
        parser.add_argument("name", help=f"an entry of {table} in the settings file")
    for option, text in {"--params": "settings file to read", **files}.items():
        parser.add_argument(option, required=True, help=text)
    return guarded(parser, READ, [option for option in files if option not in READ])


def guarded(parser: argparse.ArgumentParser, reads: Iterable[str], writes: Iterable[str]) -> argparse.ArgumentParser:
    """Let :func:`run` refuse an output that is also an input, before any work; return the parser."""
    parser.set_defaults(reads=_attributes(reads), writes=_attributes(writes))
    return parser


def _attributes(options: Iterable[str]) -> list[str]:
    return [option.lstrip("-").replace("-", "_") for option in options]


def run(
    main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> int:
    """Run a stage and return its exit code: 0, or another after one sentence on stderr.

    Parameters
    ----------
    main : callable
        Takes the parsed arguments.
    parser : argparse.ArgumentParser
        Gains ``--debug``, which shows errors with their traceback. A parser with verbs adds it to each with
        :func:`add_debug`.
    argv : sequence of str or None
        Arguments; None: those of the process.
    """
    add_debug(parser, default=False)
    arguments = parser.parse_args(argv)
    try:
        check_files(*(_named(arguments, group) for group in ("reads", "writes")))
        main(arguments)
    except USER_ERRORS as error:
        if arguments.debug:
            raise
        print(f"error: {_sentence(error)}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        if arguments.debug:
            raise
        print("interrupted; finished work is kept. Run the same command again to resume.", file=sys.stderr, flush=True)
        return INTERRUPTED
    return 0


def add_debug(parser: argparse.ArgumentParser, default: bool | str = argparse.SUPPRESS) -> None:
    """Add ``--debug``; without it, a verb's parser keeps the value given before the verb."""
    parser.add_argument("--debug", action="store_true", default=default, help="show the traceback of an error")


def _named(arguments: argparse.Namespace, group: str) -> list[str]:
    """Return the paths that a command was given to read, or to write."""
    given = (getattr(arguments, name, None) for name in getattr(arguments, group, ()))
    return [path for path in given if path is not None]


def _sentence(error: BaseException) -> str:
    # str(KeyError("text")) wraps the text in quotes
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    said = " ".join(text.split()) or type(error).__name__
    unsaid = remedy(error.errno) if isinstance(error, OSError) and "; expected" not in said else ""
    return f"{said}; {unsaid}" if unsaid else said
