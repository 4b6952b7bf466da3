"""How much faster than a plain torch layer are learning from stored codes, and predicting?

``python benchmarks/layer.py [n_keys]`` (default 4096) uses 256 heads × 14 coordinates, 10 classes and 1,280 features.
The reference is a straightforward bottleneck in torch: project, ``cdist``, ``argmin``, gather the values, mean,
cross-entropy, autograd and ``torch.optim.SGD``. It measures one epoch of 1,024 rows in batches of 256, ours from stored
codes, then ``predict`` of one row (median and 99th percentile of 100) and of 1,000 rows. Both run alternately, best of
three. Prints JSON lines; exits with 1 if a goal is missed.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dkvb_estimator import DKVBClassifier, KeyEncoder

N_ROWS, N_FEATURES, N_CLASSES, BATCH = 1024, 1280, 10, 256
EPOCH_GOAL, PREDICT_GOAL = 20, 5


class PlainLayer(torch.nn.Module):
    """Frozen projection and keys of a fitted encoder, with values as a parameter."""

    def __init__(self, encoder):
        super().__init__()
        self.projection = torch.from_numpy(encoder.projection_)
        self.keys = torch.from_numpy(encoder.keys_)
        self.values = torch.nn.Parameter(torch.zeros(*encoder.keys_.shape[:2], N_CLASSES))

    def forward(self, X):  # noqa: D102
        heads = torch.einsum("nf,fcd->cnd", torch.nn.functional.normalize(X, dim=1), self.projection)
        codes = torch.cdist(heads, self.keys).argmin(dim=2)  # c,n
        return self.values[torch.arange(len(codes))[:, None], codes].mean(dim=0)


def epoch_of(layer, X, y):
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.3)
    for rows in torch.arange(len(X)).split(BATCH):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(layer(X[rows]), y[rows], label_smoothing=0.1).backward()
        torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        optimiser.step()


def seconds(call):
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def report(name, ours, theirs, goal):
    line = {"name": name, "ratio": round(theirs / ours, 1), "ours": round(ours, 4), "theirs": round(theirs, 4)}
    met = bool(theirs / ours >= (goal or 0))
    print(json.dumps(line | {"unit": "s", "goal": goal, "met": met}, ensure_ascii=False), flush=True)
    return met


def main():
    n_keys = int(sys.argv[1]) if len(sys.argv) > 1 else 4096
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((N_ROWS, N_FEATURES)).astype(np.float32), rng.integers(N_CLASSES, size=N_ROWS)
    encoder = KeyEncoder(256, n_keys, 14, key_init="gaussian", random_state=0).fit(X)
    codes, layer, tensor, labels = encoder.transform(X), PlainLayer(encoder), torch.from_numpy(X), torch.from_numpy(y)
    stepping = DKVBClassifier("precomputed", solver="sgd").partial_fit(codes, y, classes=range(N_CLASSES))
    model = clone(stepping).set_params(encoder=FrozenEstimator(encoder)).partial_fit(X, y)
    times = [
        (seconds(lambda: stepping.partial_fit(codes, y)), seconds(lambda: epoch_of(layer, tensor, labels)))
        for _ in range(3)
    ]
    met = [report(f"one epoch of sgd, 256 × {n_keys} × 14", *np.min(times, axis=0), EPOCH_GOAL)]
    with torch.no_grad():
        model.predict(X[:1])
        times = [
            (
                seconds(lambda row=row: model.predict(X[row : row + 1])),
                seconds(lambda row=row: layer(tensor[row : row + 1])),
            )
            for row in range(100)
        ]
        ours, theirs = np.median(times, axis=0)
        met.append(report(f"predict 1 row, median, 256 × {n_keys} × 14", ours, theirs, PREDICT_GOAL))
        report(f"predict 1 row, 99th percentile, 256 × {n_keys} × 14", *np.percentile(times, 99, axis=0), "")
        times = [(seconds(lambda: model.predict(X[:1000])), seconds(lambda: layer(tensor[:1000]))) for _ in range(3)]
        met.append(report(f"predict 1,000 rows, 256 × {n_keys} × 14", *np.min(times, axis=0), PREDICT_GOAL))
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
