"""How many bytes and seconds do millions of samples take on a cluster? A model with coefficients measured here.

``python benchmarks/scaling.py [--page docs/scaling.md]`` uses ``counts`` with 256 heads × 512 keys × 14 and one
selected key, and ``joint`` with 1024 × 256 × 2, from 640 features, on one thread each of 16 workers. The work of a
worker per row is measured on 4,096 rows, in processor seconds, best of three; so is one solution with 1,000, 5,000 and
10,000 classes. With more classes, the time of a solution is proportional to their number. Bytes follow from the shapes;
for the counts they are an upper bound. Prints JSON lines.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.base import clone

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import pages
from dkvb_estimator import DKVBClassifier, KeyEncoder
from dkvb_estimator._values.joint import CURVATURES, OBJECTIVES, PENALTIES, Scatter, sum_codes
from dkvb_estimator._values.prior import Prior

N_FEATURES, ROWS, WORKERS, N_CLASSES = 640, 4096, 16, 1000
COUNTS, JOINT = (256, 512, 14), (1024, 256, 2)
WIDTH = 2 * JOINT[0] * JOINT[2]
SAMPLES, CLASSES = (1_300_000, 100_000_000), (1_000, 20_000)
MANY = (5_000, 10_000)
"""Numbers of classes so large that a solution takes time in proportion to them."""
SOLUTIONS = 2 * len(OBJECTIVES) * len(CURVATURES) * len(PENALTIES)
"""Largest number of solutions: for a choice on held-out rows, and for a mixture of all candidates."""


def seconds(work):
    times = []
    for _ in range(3):
        begun = time.process_time()
        work()
        times.append(time.process_time() - begun)
    return min(times)


def measure():
    """Return the seconds to encode, count and sum a row, and those of one solution of the sums."""
    torch.set_num_threads(1)
    X = np.random.default_rng(0).standard_normal((ROWS, N_FEATURES), dtype=np.float32)
    y, device = np.arange(ROWS) % N_CLASSES, torch.device("cpu")
    wide, many = (KeyEncoder(*sizes, random_state=0).fit(X) for sizes in (COUNTS, JOINT))
    counts, codes = DKVBClassifier("precomputed", solver="counts"), wide.transform(X)
    own, book = np.asarray(many.transform(X))[:, :, None], many._codebook
    prior = Prior.of_keys(book.keys, book.centres, book.reaches)

    def add(n_classes=N_CLASSES):
        return sum_codes(own.__getitem__, np.arange(ROWS) % n_classes, np.ones(ROWS), prior, n_classes, device)

    return {
        "encode": seconds(lambda: wide.transform(X)) / ROWS,
        "count": seconds(lambda: clone(counts).fit(codes, y)) / ROWS,
        "encode_joint": seconds(lambda: many.transform(X)) / ROWS,
        "sum": seconds(add) / ROWS,
        **{f"solution, {k:,} classes": seconds(solving(Scatter(add(k), device))) for k in (N_CLASSES, *MANY)},
    }


def solving(scatter):
    """Return the function that solves the regression of one candidate."""

    def solve():
        found = scatter.directions(0.1, of_all=scatter.of_all["ridge"])
        return found.mixed("ridge", found.Z)

    return solve


def solution(cost, n_classes):
    """Return the seconds of one solution: measured, or on the line through those of many classes."""
    known = [cost[f"solution, {k:,} classes"] for k in MANY]
    line = np.polyfit(MANY, known, 1)
    return cost.get(f"solution, {n_classes:,} classes", float(np.polyval(line, n_classes)))


def rows_of(cost):
    """Yield the lines of the table."""
    cells, sums = COUNTS[0] * COUNTS[1], 8 * WIDTH**2
    for n in SAMPLES:
        for k in CLASSES:
            pairs = min(n * COUNTS[0], cells * k)  # upper bound of the pairs of key and class
            yield (
                f"{n:,}",
                f"{k:,}",
                f"{n * N_FEATURES * 4 / 1e9:,.0f} GB",
                f"{n * (cost['encode'] + cost['count']) / WORKERS / 60:,.1f} min",
                f"≤ {(4 * pairs + 8 * cells) / 1e9:,.2f} GB",
                f"{12 * n / 1e9:,.2f} GB",
                f"{n * (cost['encode_joint'] + cost['sum']) / WORKERS / 60:,.1f} min",
                f"{n * JOINT[0] / 1e9:,.1f} GB",
                f"{(sums + 8 * k * WIDTH) / 1e9:,.2f} GB",
                f"{(sums + 8 * k * WIDTH) * WORKERS / 1e9:,.1f} GB",
                f"{solution(cost, k) * SOLUTIONS / 60:,.1f} min",
            )


HEADS = (
    "samples",
    "classes",
    "embeddings",
    "counts: encode and count",
    "counts: table",
    "hashes of samples",
    "joint: encode and sum",
    "joint: codes",
    "joint: sums",
    "joint: moved, once",
    f"joint: at most {SOLUTIONS} solutions, one thread",
)


def main():
    _, page = pages.arguments(())
    cost = measure()
    for name, value in cost.items():
        print(json.dumps({"name": f"scaling, {name}", "ours": round(value * 1e6, 3), "unit": "µs"}), flush=True)
    found = pages.table(
        ("of one row, or one solution, on one thread", "µs"),
        [(name, f"{value * 1e6:,.3f}") for name, value in cost.items()],
    )
    pages.fill(page, {"coefficients": found, "scaling": pages.table(HEADS, rows_of(cost))})
    return 0


if __name__ == "__main__":
    sys.exit(main())
