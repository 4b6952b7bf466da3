"""Can one core learn a data set of the size of ImageNet from sums alone, and what would 10,000 random features need?

``python -m benchmarks imagenet [n_rows] [--page docs/solvers.md]`` (default 1,281,167; twenty minutes on one thread)
draws rows of 2,048 features from 1,000 normal classes. ``DKVBClassifier(remember=False)`` learns them in blocks, then
solves. Prints the processor seconds of learning and solving, all threads together and without those of drawing rows,
the bytes of the learned state, and the peak memory of the process (goal: 16 GiB). Random-projection ridge with 10,000
features and a fixed penalty learns two blocks and solves; the seconds of its second block are multiplied by the number
of blocks.
"""

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
from sklearn.frozen import FrozenEstimator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import pages
from dkvb_estimator import DKVBClassifier, KeyEncoder
from dkvb_estimator.baselines import RandomProjectionRidge

N_ROWS, N_FEATURES, N_CLASSES, BLOCK_ROWS, RIDGE_WIDTH = 1_281_167, 2048, 1000, 16_384, 10_000
GOAL_BYTES = 16 * 2**30


def make_block(rng, centres, n_rows):
    """Return rows (n, f) around the centres (k, f) of random classes, and their labels (n,)."""
    labels = rng.integers(len(centres), size=n_rows)
    return centres[labels] + 3 * rng.standard_normal((n_rows, centres.shape[1]), dtype=np.float32), labels


def clocked(call, *arguments):
    """Return the processor seconds of a call."""
    begun = time.process_time()
    call(*arguments)
    return time.process_time() - begun


def learn(n_rows, rng, centres):
    """Learn all rows in blocks; return the model and the seconds of learning."""
    encoder = KeyEncoder(random_state=0).fit(make_block(rng, centres, BLOCK_ROWS)[0])
    model, spent, learned = DKVBClassifier(FrozenEstimator(encoder), remember=False), 0.0, 0
    while learned < n_rows:
        X, y = make_block(rng, centres, min(BLOCK_ROWS, n_rows - learned))
        spent += clocked(model.partial_fit, X, y)
        learned += len(X)
        print(f"{learned:,} of {n_rows:,} rows, {spent:.0f} s", file=sys.stderr)
    return model, spent


def ridge_seconds(n_rows, rng, centres):
    """Return the seconds that random-projection ridge would take to learn all rows and to solve, and its bytes."""
    model = RandomProjectionRidge(RIDGE_WIDTH, alpha=1e-2, random_state=0)
    model.partial_fit(*make_block(rng, centres, BLOCK_ROWS))
    block = make_block(rng, centres, BLOCK_ROWS)
    learning = clocked(model.partial_fit, *block)
    return learning * n_rows / BLOCK_ROWS, clocked(model.predict, block[0][:1]), 8 * RIDGE_WIDTH**2


def line_of(n_rows):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((N_CLASSES, N_FEATURES), dtype=np.float32)
    model, learning = learn(n_rows, rng, centres)
    X_test, y_test = make_block(rng, centres, 2000)
    solving = clocked(model.predict, X_test[:1])
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    their_learning, their_solving, their_bytes = ridge_seconds(n_rows, rng, centres)
    ours, theirs = learning + solving, their_learning + their_solving
    line = {"name": f"{n_rows:,} rows of {N_FEATURES:,} features, {N_CLASSES:,} classes, sums alone", "unit": "s"}
    line |= {"ours": round(ours, 1), "theirs": round(theirs, 1), "ratio": round(theirs / ours, 2)}
    line |= {"learn": round(learning, 1), "solve": round(solving, 1), "state_bytes": model.state_bytes_}
    line |= {"peak_bytes": peak, "goal": "16 GiB", "their_learn": round(their_learning, 1)}
    line |= {"their_solve": round(their_solving, 1), "their_bytes": their_bytes}
    return line | {"accuracy": round(model.score(X_test, y_test), 4)}


def table(line):
    """Return the table of the page."""
    ours = ("`joint`, remember=False", line["learn"], line["solve"], line["state_bytes"], line["peak_bytes"])
    theirs = ("RP ridge 10,000", line["their_learn"], line["their_solve"], line["their_bytes"], None)
    rows = [
        (name, f"{learn:,.0f}", f"{solve:.0f}", f"{state / 1e9:.2f}", f"{peak / 1e9:.1f}" if peak else "–")
        for name, learn, solve, state, peak in (ours, theirs)
    ]
    return pages.table(("method", "learn, s", "solve, s", "GB of sums", "GB of the process, at most"), rows)


def main():
    words, page = pages.arguments([str(N_ROWS)])
    line = line_of(int(words[0]))
    print(json.dumps(line))
    pages.fill(page, {"imagenet": table(line)})
    return 0 if line["peak_bytes"] <= GOAL_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
