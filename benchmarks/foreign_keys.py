"""What do keys from another data set cost? ``python -m benchmarks foreign_keys [SET ...] [--page FILE]``

Forgetting is exact if keys were not placed on the forgotten rows. The keys of each set are placed on its own training
rows, or on those of another set through the same network: crops of two photographs for the digits, CIFAR-100 for the
photographs of CIFAR-10 and vice versa, Pets for Caltech-101 and vice versa. There are three seeds of projections and
keys. ``joint`` and ``counts`` with default sizes learn all training rows. Prints one JSON line per solver and set: mean
accuracy with own and with foreign keys, and the mean and spread of the difference (of pairs with the same seed). Takes
ten minutes on one thread; missing sets are skipped.
"""

import json
import sys
from pathlib import Path

import numpy as np
from sklearn.frozen import FrozenEstimator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import accuracy, features, pages
from dkvb_estimator import DKVBClassifier, KeyEncoder

SEEDS = (0, 1, 2)
SOLVERS = ("joint", "counts")


def read(name):
    """Return X, y, X_test, y_test of a set."""
    known = accuracy.sets()
    if name not in known:
        raise FileNotFoundError(f"{accuracy.STORED} has no file for {name}; expected {name}_NETWORK.npz. Add it.")
    return known[name]()


def rows_of(name):
    return lambda: read(name)[0]


FOREIGN = {
    "digits": ("photo crops", features.photo_crops),
    "photographs": ("cifar100", rows_of("cifar100")),
    "cifar100": ("photographs", rows_of("photographs")),
    "caltech101": ("pets", rows_of("pets")),
    "pets": ("caltech101", rows_of("caltech101")),
}
"""Maps a set to the name of the rows for its foreign keys, and the function that reads them."""


def accuracies(name):
    """Return accuracies (seeds, 2) with own and foreign keys, by solver."""
    X, y, X_test, y_test = read(name)
    places = X, FOREIGN[name][1]()
    found = {solver: [] for solver in SOLVERS}
    for seed in SEEDS:
        encoders = [FrozenEstimator(KeyEncoder(random_state=seed).fit(rows)) for rows in places]
        for solver, pairs in found.items():
            models = [DKVBClassifier(encoder, solver=solver, random_state=seed).fit(X, y) for encoder in encoders]
            pairs.append([model.score(X_test, y_test) for model in models])
    return {solver: np.array(pairs) for solver, pairs in found.items()}


def main():
    chosen, page = pages.arguments(FOREIGN)
    if unknown := set(chosen) - set(FOREIGN):
        print(
            f"{min(unknown)!r} is not a set of this benchmark; expected one of {', '.join(FOREIGN)}. Correct the name.",
            file=sys.stderr,
        )
        return 2
    rows = []
    for name in chosen:
        try:
            found = accuracies(name)
        except FileNotFoundError as error:
            print(f"{name} is skipped: {error}", file=sys.stderr)
            continue
        for solver, pairs in found.items():
            own, foreign = pairs.mean(axis=0)
            change, spread = (pairs[:, 1] - pairs[:, 0]).mean(), (pairs[:, 1] - pairs[:, 0]).std(ddof=1)
            line = {"name": f"foreign keys, {name}: {solver}", "own": round(own, 4), "foreign": round(foreign, 4)}
            line |= {"change": round(change, 4), "spread": round(spread, 4), "keys": FOREIGN[name][0]}
            print(json.dumps(line), flush=True)
            cells = f"{own:.3f}", f"{foreign:.3f}", f"{change:+.3f} ± {spread:.3f}"
            rows.append((name, FOREIGN[name][0], f"`{solver}`", *cells))
    columns = ("set", "foreign keys from", "solver", "own keys", "foreign keys", "difference")
    pages.fill(page, {"foreign keys": pages.table(columns, rows)})
    return 0 if rows else 1


if __name__ == "__main__":
    sys.exit(main())
