"""Streams of tasks, the loop that learns and tests on them, methods and baselines, and tables of results."""

from .baselines import GradientClassifier, measure_baselines
from .factory import check_method, encode, learn_codes, make_method, place_keys
from .loop import Bench, make_bench, rows_for_keys
from .runs import Evaluation, measure_run
from .search import Source, search_settings
from .tables import CURVE_COLUMNS, PREQUENTIAL_COLUMNS, Tables, make_tables, write_csv

__all__ = [
    "CURVE_COLUMNS",
    "PREQUENTIAL_COLUMNS",
    "Bench",
    "Evaluation",
    "GradientClassifier",
    "Source",
    "Tables",
    "check_method",
    "encode",
    "learn_codes",
    "make_bench",
    "make_method",
    "make_tables",
    "measure_baselines",
    "measure_run",
    "place_keys",
    "rows_for_keys",
    "search_settings",
    "write_csv",
]
