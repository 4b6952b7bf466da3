"""How much memory do counts of a thousand classes take?

``python benchmarks/counts_memory.py [n_samples]`` (default 1,300,000) simulates a stream of 1,000 classes that arrive
one after another, with 256 heads × 4096 keys, one selected. In each head a class has 64 favourite keys with shares in
proportion to 1 / rank, so its samples share keys, as real embeddings of a class do. One hit in ten falls on a random
key. Prints the number of non-zero pairs, their size in bytes, and that of the dense table they replace. Goal: at most 4
bytes per pair plus 8 per key.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dkvb_estimator._values.counts import ClassCounts

N_CLASSES, N_HEADS, N_KEYS, FAVOURITES, ANYWHERE = 1000, 256, 4096, 64, 0.1
CLASSES_A_BATCH = 25


def draw(rng, labels, favourites):
    """Return codes (n, c, 1) of samples of classes with the favourite keys ``favourites`` (class, c, 64)."""
    shares = 1 / np.arange(1, FAVOURITES + 1)
    ranks = rng.choice(FAVOURITES, p=shares / shares.sum(), size=(len(labels), N_HEADS))
    codes = favourites[labels[:, None], np.arange(N_HEADS), ranks]
    anywhere = rng.random(codes.shape) < ANYWHERE
    codes[anywhere] = rng.integers(N_KEYS, size=anywhere.sum())
    return codes[..., None]


def main():
    n_samples = int(sys.argv[1]) if len(sys.argv) > 1 else 1_300_000
    rng, counts = np.random.default_rng(0), ClassCounts.empty(N_HEADS, N_KEYS).with_classes([], N_CLASSES)
    spent, learned = 0.0, 0
    for start in range(0, N_CLASSES, CLASSES_A_BATCH):
        favourites = rng.integers(N_KEYS, size=(CLASSES_A_BATCH, N_HEADS, FAVOURITES), dtype=np.uint16)
        labels = rng.integers(CLASSES_A_BATCH, size=n_samples * CLASSES_A_BATCH // N_CLASSES)
        codes = draw(rng, labels, favourites)
        begun = time.perf_counter()
        counts = counts.plus(codes, start + labels, None)
        spent, learned = spent + time.perf_counter() - begun, learned + len(labels)
        print(f"{learned:,} samples, {len(counts.hits):,} pairs, {spent:.0f} s", file=sys.stderr)
    pairs, keys = len(counts.hits), N_HEADS * N_KEYS
    dense = 4 * keys * N_CLASSES
    line = {"name": "counts of 1,000 classes", "ours": counts.nbytes, "theirs": dense, "unit": "bytes"}
    line |= {
        "ratio": round(dense / counts.nbytes, 2),
        "samples": learned,
        "pairs": pairs,
        "share": round(pairs / keys / N_CLASSES, 4),
    }
    line |= {"bytes_a_pair": round((counts.nbytes - 8 * keys) / pairs, 3), "seconds": round(spent, 1)}
    print(json.dumps(line))
    return 0 if counts.nbytes <= 4 * pairs + 8 * (keys + 1) else 1


if __name__ == "__main__":
    sys.exit(main())
