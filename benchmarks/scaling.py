"""How many bytes and seconds do millions of samples take on a cluster? A model, from coefficients measured here.

``python benchmarks/scaling.py [--page docs/scaling.md]``: 256 heads × 512 keys × 14 from 640 features, one thread. What
a worker does to a row is measured on 4,000 rows, in seconds of the processor, best of three; bytes follow from shapes,
and for the counts there is a bound. Prints JSON lines.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import pages
from dkvb_estimator import DKVBClassifier
from dkvb_estimator._ridge import Samples, _image

N_FEATURES, N_HEADS, N_KEYS, KEY_DIM, N_SELECTED = 640, 256, 512, 14, 16
ROWS, STEPS, WORKERS = 4000, 20, 32
SAMPLES, CLASSES = (1_300_000, 100_000_000), (1_000, 20_000)


def seconds_a_row(work):
    times = []
    for _ in range(3):
        begun = time.process_time()
        work()
        times.append(time.process_time() - begun)
    return min(times) / ROWS


def measure():
    """Return seconds a row of encoding, counting and, for each class, a step of ridge."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((ROWS, N_FEATURES), dtype=np.float32)
    y = np.arange(ROWS) % 1000
    counts = DKVBClassifier(N_HEADS, N_KEYS, KEY_DIM, random_state=0).init_keys(X)
    ridge = DKVBClassifier(N_HEADS, N_KEYS, KEY_DIM, solver="ridge", random_state=0).init_keys(X)
    codes, many = counts.encode(X), ridge.encode(X)
    direction = rng.standard_normal((N_HEADS * N_KEYS, 20))
    samples = Samples(many.__getitem__, y % 20, np.ones(ROWS))
    return {
        "encode": seconds_a_row(lambda: counts.encode(X)),
        "encode_ridge": seconds_a_row(lambda: ridge.encode(X)),
        "count": seconds_a_row(lambda: counts.fit_codes(codes, y)),
        "step_of_a_class": seconds_a_row(lambda: _image(samples, (N_HEADS, N_KEYS, 20), direction)) / 20,
    }


def rows_of(cost):
    """Yield the lines of the table."""
    cells = N_HEADS * N_KEYS
    for n in SAMPLES:
        for k in CLASSES:
            pairs = min(n * N_HEADS, cells * k)  # of a key and a class: never more
            table = 4 * pairs + 8 * cells
            codes = n * N_HEADS * N_SELECTED * 2
            vector = 8 * cells * k
            yield (
                f"{n:,}",
                f"{k:,}",
                f"{n * N_FEATURES * 4 / 1e9:,.0f} GB",
                f"{n * (cost['encode'] + cost['count']) / WORKERS / 60:,.1f} min",
                f"≤ {table / 1e9:,.2f} GB",
                f"{12 * n / 1e9:,.2f} GB",
                f"{n * cost['encode_ridge'] / WORKERS / 60:,.1f} min",
                f"{codes / 1e9:,.0f} GB",
                f"{n * k * cost['step_of_a_class'] * STEPS / WORKERS / 3600:,.1f} h",
                f"{vector / 1e9:,.1f} GB",
                f"{vector * 2 * WORKERS * STEPS / 1e12:,.1f} TB",
            )


HEADS = (
    "samples",
    "classes",
    "embeddings",
    "counts: encode and count",
    "counts: table",
    "ledger",
    "ridge: encode",
    "ridge: codes",
    f"ridge: {STEPS} steps",
    "ridge: one vector",
    f"ridge: moved in {STEPS} steps",
)


def main():
    _, page = pages.arguments(())
    cost = measure()
    for name, seconds in cost.items():
        print(json.dumps({"name": f"scaling, {name}", "ours": round(seconds * 1e6, 3), "unit": "µs/row"}), flush=True)
    found = pages.table(
        ("of one row, on one thread", "µs"), [(name, f"{value * 1e6:.3f}") for name, value in cost.items()]
    )
    pages.fill(page, {"coefficients": found, "scaling": pages.table(HEADS, rows_of(cost))})
    return 0


if __name__ == "__main__":
    sys.exit(main())
