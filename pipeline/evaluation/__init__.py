"""Streams of tasks, the loop that learns and tests on them, baselines, and tables of results."""

from .baselines import Contender, make_contender
from .calibration import describe_trust, tell_unseen
from .candidates import EXPECTED, Candidate, Source, keys_of, short_names
from .loop import (
    Bench,
    batches,
    feed_then_test,
    learn_codes,
    learn_rows,
    make_bench,
    make_estimator,
    per_order,
    predict_then_learn,
    rows_for_keys,
    seen_half,
    stages_of,
    timed,
    training_codes,
)
from .probes import StreamProbe
from .streams import Stage
from .tables import CURVE_COLUMNS, PREQUENTIAL_COLUMNS, HeadResult, Tables, make_tables, write_csv

__all__ = [
    "CURVE_COLUMNS",
    "EXPECTED",
    "PREQUENTIAL_COLUMNS",
    "Bench",
    "Candidate",
    "Contender",
    "HeadResult",
    "Source",
    "Stage",
    "StreamProbe",
    "Tables",
    "batches",
    "describe_trust",
    "feed_then_test",
    "keys_of",
    "learn_codes",
    "learn_rows",
    "make_bench",
    "make_contender",
    "make_estimator",
    "make_tables",
    "per_order",
    "predict_then_learn",
    "rows_for_keys",
    "seen_half",
    "short_names",
    "stages_of",
    "tell_unseen",
    "timed",
    "training_codes",
    "write_csv",
]
