"""One page about all runs: what was measured, read, drawn and written as HTML."""

from .load import FOLDERS, read_receipts, read_run, read_search, read_toy
from .page import build_page

__all__ = ["FOLDERS", "build_page", "read_receipts", "read_run", "read_search", "read_toy"]
