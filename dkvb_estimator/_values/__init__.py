"""From codes (n, c, m) and labels to values (c, j, k): learned statistics, and the solvers that use them."""

from .code_store import CodeStore
from .joint import Solution, sum_codes
from .prior import LEVELS, Prior
from .solvers import (
    Book,
    distances_to_classes,
    make_reader,
    solve_jointly,
    solve_values,
    step_table,
    value_settings,
)
from .statistics import Learned
from .temperature import fit_temperature, log_probabilities

__all__ = [
    "LEVELS",
    "Book",
    "CodeStore",
    "Learned",
    "Prior",
    "Solution",
    "distances_to_classes",
    "fit_temperature",
    "log_probabilities",
    "make_reader",
    "solve_jointly",
    "solve_values",
    "step_table",
    "sum_codes",
    "value_settings",
]
