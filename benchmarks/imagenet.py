"""Can two cores learn a data set of the size of ImageNet from sums alone, and what would 10,000 random features need?

``python benchmarks/imagenet.py [n_rows]`` (default 1,281,167; more than half an hour on one thread) draws rows of 2,048
features from 1,000 normal classes. ``DKVBClassifier(remember=False)`` learns them in blocks and then solves. Prints the
seconds of learning and solving, without those of drawing rows, the bytes of the learned state, and the peak memory of
the process (goal: 16 GiB). The cost of random-projection ridge with 10,000 features is measured on one block and one
factor of half the width, and extrapolated: its sums grow with the rows, its factor with the cube of the width.
"""

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dkvb_estimator import DKVBClassifier, KeyEncoder

N_ROWS, N_FEATURES, N_CLASSES, BLOCK_ROWS, RIDGE_WIDTH = 1_281_167, 2048, 1000, 16_384, 10_000
GOAL_BYTES = 16 * 2**30


def make_block(rng, centres, n_rows):
    """Return rows (n, f) around the centres (k, f) of random classes, and their labels (n,)."""
    labels = rng.integers(len(centres), size=n_rows)
    return centres[labels] + 3 * rng.standard_normal((n_rows, centres.shape[1]), dtype=np.float32), labels


def clocked(call):
    begun = time.perf_counter()
    result = call()
    return result, time.perf_counter() - begun


def learn(n_rows, rng, centres):
    """Learn all rows in blocks; return the model and the seconds of learning."""
    encoder = KeyEncoder(random_state=0).fit(make_block(rng, centres, BLOCK_ROWS)[0])
    model, spent, learned = DKVBClassifier(FrozenEstimator(encoder), remember=False), 0.0, 0
    while learned < n_rows:
        block = make_block(rng, centres, min(BLOCK_ROWS, n_rows - learned))
        spent += clocked(lambda block=block: model.partial_fit(*block))[1]
        learned += len(block[0])
        print(f"{learned:,} of {n_rows:,} rows, {spent:.0f} s", file=sys.stderr)
    return model, spent


def ridge_seconds(n_rows, rng, centres):
    """Return the seconds that sums and one factor of 10,000 random features would take."""
    rows, _ = make_block(rng, centres, BLOCK_ROWS // 4)
    rows = torch.from_numpy(rows)
    projection = torch.randn((N_FEATURES, RIDGE_WIDTH), generator=torch.Generator().manual_seed(0))

    def add():
        features = torch.relu(rows @ projection)
        return features.T @ features

    _, adding = clocked(add)
    half = torch.eye(RIDGE_WIDTH // 2, dtype=torch.float64) + 1e-6
    _, factoring = clocked(lambda: torch.linalg.cholesky(half))
    return adding * n_rows / len(rows), 8 * factoring


def main():
    n_rows = int(sys.argv[1]) if len(sys.argv) > 1 else N_ROWS
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((N_CLASSES, N_FEATURES), dtype=np.float32)
    model, learning = learn(n_rows, rng, centres)
    X_test, y_test = make_block(rng, centres, 2000)
    _, solving = clocked(lambda: model.predict(X_test[:1]))
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    adding, factoring = ridge_seconds(n_rows, rng, centres)
    line = {"name": f"{n_rows:,} rows of {N_FEATURES:,} features, {N_CLASSES:,} classes, sums alone", "unit": "s"}
    line |= {"ours": round(learning + solving, 1), "theirs": round(adding + factoring, 1)}
    line |= {"ratio": round((adding + factoring) / (learning + solving), 2), "learn": round(learning, 1)}
    line |= {"solve": round(solving, 1), "state_bytes": model.state_bytes_, "peak_bytes": peak, "goal": "16 GiB"}
    line |= {"their_sums": round(adding, 1), "their_factor": round(factoring, 1), "their_bytes": 8 * RIDGE_WIDTH**2}
    line |= {"accuracy": round(model.score(X_test, y_test), 4)}
    print(json.dumps(line))
    return 0 if peak <= GOAL_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
