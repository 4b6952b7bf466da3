"""Train on two machines and merge: the result equals a model that learned everything."""

import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator

from dkvb_estimator import DKVBClassifier, KeyEncoder, load_model, save_model

X, y = load_digits(return_X_y=True)
X_keys, X, y = X[:500], X[500:], y[500:]
encoder = KeyEncoder(128, 64, random_state=0).fit(X_keys)

with tempfile.TemporaryDirectory() as folder:
    for solver in ("joint", "counts"):
        start = Path(folder) / f"{solver}.npz"
        save_model(DKVBClassifier(FrozenEstimator(encoder), solver=solver), start)

        # Each machine starts from the same keys and learns its own rows, even its own classes.
        first = load_model(start).partial_fit(X[y < 6], y[y < 6])
        second = load_model(start).partial_fit(X[y >= 6], y[y >= 6])
        merged = first.merge(second)

        whole = load_model(start).partial_fit(X, y)
        same = np.array_equal(merged.values_, whole.values_)
        print(f"{solver}: merged and whole have the same values: {same}, accuracy {merged.score(X, y):.3f}")
