"""The words of a page: elements, tables and lists, all through one builder that escapes text.

Room: a leaf beside the `report` stage.
Enters: plain numbers and words.
Leaves: `Markup`, text that may stand in a page as it is.
Must not know: files, runs, metrics, the names of heads.
"""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = [
    "MARKERS", "Markup", "block", "element", "facts", "flat", "marker", "number", "number_cell", "table", "th",
    "written",
]  # fmt: skip

# Form repeats what colour says, for readers who cannot tell the colours apart and for black-and-white prints.
MARKERS = (
    "M-4.2,0a4.2,4.2 0 1,0 8.4,0a4.2,4.2 0 1,0 -8.4,0z",
    "M-3.8,-3.8h7.6v7.6h-7.6z",
    "M0,-4.8L4.7,3.6H-4.7z",
    "M0,-5.2L5.2,0L0,5.2L-5.2,0z",
    "M0,4.8L4.7,-3.6H-4.7z",
    "M-1.7,-4.8h3.4v3.1h3.1v3.4h-3.1v3.1h-3.4v-3.1h-3.1v-3.4h3.1z",
    "M0,-5L4.8,-1.5L2.9,4.1H-2.9L-4.8,-1.5z",
    "M-5.4,-2.6h10.8v5.2h-10.8z",
    "M-2.6,-5.4h5.2v10.8h-5.2z",
    "M-4.4,-4.4L4.4,4.4V-4.4L-4.4,4.4z",
    "M-4.4,-4.4L4.4,4.4H-4.4L4.4,-4.4z",
    "M-4.2,4.2V-4.2L4.2,4.2z",
    "M-4.2,2.1a4.2,4.2 0 0,1 8.4,0z",
    "M0,-5.2L1.5,-1.5L5.2,0L1.5,1.5L0,5.2L-1.5,1.5L-5.2,0L-1.5,-1.5z",
)


class Markup(str):
    """Text that is markup already and is not escaped again."""

    __slots__ = ()


def _attribute(value: Any) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def element(name: str, *children: object, **attributes: object) -> Markup:
    """Build one element with its children; plain text is escaped, `Markup` stands as it is.

    Parameters
    ----------
    name : str
        The tag.
    *children : object
        `Markup`, or anything else as escaped text.
    **attributes : object
        Underscores become hyphens, a trailing one falls away (``class_``); ``None`` leaves an attribute out.

    Returns
    -------
    Markup
        The element with both its tags.

    Examples
    --------
    >>> element("td", "a < b", class_="number", data_value=0.5)
    '<td class="number" data-value="0.5">a &lt; b</td>'
    >>> element("tr", element("td", 1), hidden=None)
    '<tr><td>1</td></tr>'
    """
    text = "".join(child if isinstance(child, Markup) else html.escape(str(child)) for child in children)
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_attribute(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{written}>{text}</{name}>")


def marker(style: int) -> Markup:
    """Draw the small sign of one series, to stand in running text."""
    path = element("path", d=MARKERS[style % len(MARKERS)], fill="var(--series)")
    return element("svg", path, class_=f"sign series-{style % len(MARKERS)}", viewBox="-6 -6 12 12", aria_hidden="true")


def number(value: Any) -> float | None:
    """Return the value where it is a finite number, else nothing."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def written(value: Any, unit: str = "number") -> str:
    """Write a value as a reader wants it: a share in percent, a difference of shares in points.

    Examples
    --------
    >>> written(0.8593, "share"), written(-0.061, "points"), written(1048576), written(None)
    ('85.9%', '−6.1', '1,048,576', '–')
    """
    found = number(value)
    if found is None:
        return "–" if value is None or isinstance(value, float) else str(value)
    if unit == "share":
        return f"{100 * found:.1f}%"
    plain = f"{value:,}" if isinstance(value, int) else f"{found:,.4g}"
    return (f"{100 * found:.1f}" if unit == "points" else plain).replace("-", "\N{MINUS SIGN}")


def number_cell(value: Any, unit: str = "number", *, best: bool = False) -> Markup:
    """Build a table's cell that sorts by its number; the best of a column is bold."""
    text, found = written(value, unit), number(value)
    mark = "" if found is None else repr(found)
    return element("td", element("strong", text) if best else text, class_="number", data_value=mark)


def th(text: object, *, scope: str = "col", kind: str | None = None) -> Markup:
    """Build the heading of a column or row."""
    return element("th", text, scope=scope, class_=kind)


def table(heads: Sequence[Markup], rows: Iterable[Sequence[Markup]], *, kind: str, caption: str) -> Markup:
    """Build a table in a container that scrolls by itself, so that the page never does."""
    top = element("thead", element("tr", *heads))
    body = element("tbody", *(element("tr", *row) for row in rows))
    inner = element("table", element("caption", caption), top, body, class_=kind)
    return element("div", inner, class_="scroll", tabindex=0, role="region", aria_label=caption)


def block(title: str, *children: Markup, note: str = "", kind: str = "block") -> Markup:
    """Build a titled part of the page, with a line of explanation where there is one."""
    words = [element("p", note, class_="note")] if note else []
    return element("section", element("h3", title), *words, *children, class_=kind)


def facts(record: Mapping[str, str]) -> Markup:
    """Build a list of names and what they stand for."""
    pairs = (element("div", element("dt", key), element("dd", value)) for key, value in record.items())
    return element("dl", *pairs, class_="facts")


def flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Unfold a nested record into dotted names and texts.

    Examples
    --------
    >>> flat({"stream": {"kind": "shuffled", "order_seeds": [0, 1]}, "note": None})
    {'stream.kind': 'shuffled', 'stream.order_seeds': '0, 1'}
    """
    lines: dict[str, str] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            lines |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            several = isinstance(value, (list, tuple))
            lines[prefix + key] = ", ".join(map(str, value)) if several else str(value)
    return lines
