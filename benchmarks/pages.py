"""Put what a benchmark printed into a page of the documentation, between its markers."""

import sys
from pathlib import Path

from benchmarks import stale


def arguments(default):
    """Return the words of the command line, or the default ones, and the page after ``--page`` or None."""
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
    """Replace what stands between ``<!-- NAME -->`` and ``<!-- end -->`` by the table of that name.

    The marker's line gets a stamp that names the sources, see ``stale``; a table that holds older figures too keeps its
    old one with ``measured_now=False``. A table without a marker is left out with ``missing_ok``, and an error without
    it.
    """
    if page is None:
        return
    text = page.read_text(encoding="utf-8")
    for name, lines in tables.items():
        before, marker, rest = text.partition(f"<!-- {name} -->")
        if not marker and missing_ok:
            continue
        if not marker:
            raise ValueError(f"{page} has no marker <!-- {name} -->; expected one before each table. Add it.")
        label = stale.stamp(page, name) if measured_now else rest.partition("\n")[0].strip()
        first = f"{marker} {label}".rstrip()
        text = f"{before}{first}\n{lines}\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    page.write_text(text, encoding="utf-8")
