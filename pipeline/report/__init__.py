"""The report: measured results drawn on one page."""

from .html import Markup, block, element, facts, flat, number_cell, table, th
from .labels import named, ordered
from .load import Folders, RunResult, SearchResult, Toy, read_run, read_searches, read_toy

__all__ = [
    "Folders",
    "Markup",
    "RunResult",
    "SearchResult",
    "Toy",
    "block",
    "element",
    "facts",
    "flat",
    "named",
    "number_cell",
    "ordered",
    "read_run",
    "read_searches",
    "read_toy",
    "table",
    "th",
]
