"""Insert the output of a benchmark into a page of the documentation, between its markers."""

import sys
from pathlib import Path

from benchmarks import stale


def arguments(default):
    """Return the arguments of the command line, or the default ones, and the page after ``--page`` or None."""
    words, page = sys.argv[1:], None
    if "--page" in words:
        position = words.index("--page")
        page = Path(words[position + 1])
        words = words[:position] + words[position + 2 :]
    return words or list(default), page


def table(heads, rows):
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def fill(page, tables, *, missing_ok=False, measured_now=True):
    """Replace the text between ``<!-- NAME -->`` and ``<!-- end -->`` by the table of that name.

    The line of the marker gets a stamp that identifies the sources, see ``stale``. With ``measured_now=False``, for a
    table that also contains older figures, it keeps its old stamp. A table without a marker is an error, or is left out
    with ``missing_ok``.
    """
    if page is None:
        return
    text = page.read_text(encoding="utf-8")
    for name, lines in tables.items():
        before, marker, rest = text.partition(f"<!-- {name} -->")
        if not marker and missing_ok:
            continue
        if not marker:
            raise ValueError(f"{page} has no marker <!-- {name} -->; expected one before each table. Add the marker.")
        label = stale.stamp(page, name) if measured_now else rest.partition("\n")[0].strip()
        first = f"{marker} {label}".rstrip()
        text = f"{before}{first}\n{lines}\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    page.write_text(text, encoding="utf-8")
