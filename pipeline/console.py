"""What every stage does at its outer edge: parse, run, say one line, turn a user's mistake into one sentence.

Enters: a stage's ``main`` and its parser. Leaves: an exit code. Must not know: what any stage does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

USER_ERRORS = (ValueError, OSError, KeyError, TypeError, RuntimeError, ImportError)
"""What a wrong file, setting or machine raises; anything else is a defect of ours and keeps its traceback."""


def say(stage: str, text: str) -> None:
    """Print one line of progress on stderr, as ``[extract digits] 1,797 images → …``."""
    print(f"[{stage}] {text}", file=sys.stderr, flush=True)


def run(
    main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> int:
    """Run a stage and return its exit code: 0, or 1 after one sentence on stderr.

    Parameters
    ----------
    main : callable
        Takes the parsed arguments.
    parser : argparse.ArgumentParser
        Gains ``--debug``, which lets errors through with their traceback.
    argv : sequence of str or None
        Arguments; None: those of the process.
    """
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args(argv)
    try:
        main(arguments)
    except USER_ERRORS as error:
        if arguments.debug:
            raise
        print(f"error: {_sentence(error)}", file=sys.stderr, flush=True)
        return 1
    return 0


def _sentence(error: BaseException) -> str:
    # str(KeyError("text")) wraps the text in quotes
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split()) or type(error).__name__
