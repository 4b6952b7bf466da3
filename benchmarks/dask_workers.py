"""Do two workers do twice as much as one?

``python benchmarks/dask_workers.py [n_rows]`` (default 40,000): 640 features, 256 heads × 512 keys × 14, in blocks of
2,000 rows that lie with the workers. Clusters of one and of two processes, one thread each, take turns: all of
``encode``, and a ``fit`` with ``counts`` whose keys are there.
Best of three. Prints JSON lines; goal: 1.7 times the rows a second.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dask.array as da
from distributed import Client, LocalCluster, wait

from dkvb_estimator import DKVBClassifier

N_FEATURES, BLOCK, N_CLASSES, GOAL, TURNS = 640, 2000, 100, 1.7, 3


def embedded(block, block_info=None):
    row = block_info[0]["array-location"][0][0]
    rng = np.random.default_rng(row)
    return rng.standard_normal((len(block), N_FEATURES), dtype=np.float32)


def encode(model, X, y):
    model.encode(X).sum().compute()


def counts(model, X, y):
    model.fit(X, y)  # its keys were given: it only counts, and forgets what an earlier turn counted


def main():
    n_rows = int(sys.argv[1]) if len(sys.argv) > 1 else 40_000
    y = np.arange(n_rows) % N_CLASSES
    model = DKVBClassifier(256, 512, 14, random_state=0)
    model.init_keys(np.random.default_rng(0).standard_normal((4096, N_FEATURES), dtype=np.float32))
    options = {"threads_per_worker": 1, "dashboard_address": None, "silence_logs": "ERROR"}
    clusters = {n: LocalCluster(n_workers=n, **options) for n in (1, 2)}
    clients = {n: Client(cluster, set_as_default=False) for n, cluster in clusters.items()}
    rows = {}
    for n, client in clients.items():
        with client.as_current():
            rows[n] = (
                da.zeros((n_rows, 1), chunks=(BLOCK, 1))
                .map_blocks(embedded, dtype=np.float32, chunks=(BLOCK, N_FEATURES), meta=np.empty((0, 0), np.float32))
                .persist()
            )
            wait(rows[n])
            encode(model, rows[n][:BLOCK], y)  # every worker has read the keys
    met = True
    for work in (encode, counts):
        seconds = {1: [], 2: []}
        for _ in range(TURNS):
            for n, client in clients.items():
                with client.as_current():
                    begun = time.perf_counter()
                    work(model, rows[n], y)
                    seconds[n].append(time.perf_counter() - begun)
        speed = {n: n_rows / min(times) for n, times in seconds.items()}
        ratio = speed[2] / speed[1]
        met = met and ratio >= GOAL
        line = {"name": f"two workers against one, {work.__name__}", "ratio": round(ratio, 2)}
        line |= {"ours": round(speed[2]), "theirs": round(speed[1]), "unit": "rows/s", "goal": GOAL}
        print(json.dumps(line), flush=True)
    for client in clients.values():
        client.close()
    for cluster in clusters.values():
        cluster.close()
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
