"""Are two workers twice as fast as one?

``python benchmarks/dask_workers.py [n_rows]`` (default 40,000) uses rows of 640 columns around the centres of 100
classes, with noise of the same size, and 256 heads × 512 keys × 14. Blocks of 2,000 rows are divided evenly among the
workers; otherwise one worker would wait for the other. It runs all of ``transform``, and a ``fit`` with ``counts`` on a
frozen encoder, twice on a cluster of one process and twice on one of two, with one thread each. Clusters alternate, and
the best time counts. Prints JSON lines; goal: 1.7 times the rows per second.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dask.array as da
from distributed import Client, LocalCluster, wait
from sklearn.frozen import FrozenEstimator

from dkvb_estimator import DKVBClassifier, KeyEncoder

N_FEATURES, BLOCK, N_CLASSES, GOAL, TURNS = 640, 2000, 100, 1.7, 3


def embedded(block, block_info=None):
    row = block_info[0]["array-location"][0][0]
    centres = np.random.default_rng(0).standard_normal((N_CLASSES, N_FEATURES), dtype=np.float32)
    noise = np.random.default_rng([1, row]).standard_normal((len(block), N_FEATURES), dtype=np.float32)
    return centres[np.arange(row, row + len(block)) % N_CLASSES] + noise


def rows_with_workers(n_rows, client):
    """Return rows as a dask array whose blocks are distributed evenly over the workers."""
    options = {"dtype": np.float32, "chunks": (BLOCK, N_FEATURES), "meta": np.empty((0, 0), np.float32)}
    rows = da.zeros((n_rows, 1), chunks=(BLOCK, 1)).map_blocks(embedded, **options)
    workers = list(client.scheduler_info(n_workers=-1)["workers"])
    share = -(-n_rows // len(workers) // BLOCK) * BLOCK
    parts = [
        client.persist(rows[start : start + share], workers=[worker])
        for worker, start in zip(workers, range(0, n_rows, share), strict=True)
    ]
    wait(parts)
    return da.concatenate(parts)


def encode(model, X, y):
    model.encoder.transform(X).sum().compute()


def counts(model, X, y):
    model.fit(X, y)  # the encoder is frozen: this only counts, and discards earlier counts


def measured(n_workers, model, y):
    """Return the seconds of each kind of work on a new cluster, the best of two."""
    options = {"threads_per_worker": 1, "dashboard_address": None, "silence_logs": "ERROR"}
    with LocalCluster(n_workers=n_workers, **options) as cluster, Client(cluster) as client:
        rows = rows_with_workers(len(y), client)
        found = {}
        for work in 2 * (encode, counts):
            begun = time.perf_counter()
            work(model, rows, y)
            found.setdefault(work.__name__, []).append(time.perf_counter() - begun)
    return {name: min(seconds) for name, seconds in found.items()}


def main():
    n_rows = int(sys.argv[1]) if len(sys.argv) > 1 else 40_000
    y = np.arange(n_rows) % N_CLASSES
    encoder = KeyEncoder(256, 512, 14, random_state=0)
    encoder.fit(np.random.default_rng(0).standard_normal((4096, N_FEATURES), dtype=np.float32))
    model = DKVBClassifier(FrozenEstimator(encoder), solver="counts")
    turns = [[measured(n, model, y) for n in (1, 2)] for _ in range(TURNS)]
    met = True
    for name in turns[0][0]:
        one, two = (n_rows / min(turn[position][name] for turn in turns) for position in (0, 1))
        met = met and two / one >= GOAL
        line = {"name": f"two workers against one, {name}", "ratio": round(two / one, 2)}
        print(json.dumps(line | {"ours": round(two), "theirs": round(one), "unit": "rows/s", "goal": GOAL}), flush=True)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
