"""Is a head of discrete keys as accurate as the heads it competes with, on real frozen features?

``python benchmarks/accuracy.py [photographs] [digits] [given] [settings]`` (without a word: the first three)

photographs  5-fold over all 6,000 CIFAR-10 photographs, three seeds: mean paired difference with its standard error
given        their own 5,000 training and 1,000 test images, three seeds
digits       scikit-learn's digits, keys from photographs, three seeds
settings     the numbers of heads, keys and selected keys that were tried, on ``given``

Every head sees the training rows once, and chooses what it has to choose on them. Prints one JSON line a figure, and
exits with 1 if ``ridge`` falls behind the best rival by more than a standard error.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedKFold

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import features
from dkvb_estimator import DKVBClassifier
from dkvb_estimator.baselines import NearestClassMean, RandomProjectionRidge, StreamingLDA

SEEDS = (0, 1, 2)
RIDGE = {"solver": "ridge", "n_heads": 512, "n_keys": 256, "n_selected": 16}
TRIED = [
    {"n_heads": heads, "n_keys": keys, "n_selected": selected}
    for heads, keys, selected in (
        (64, 256, 8), (256, 512, 1), (256, 512, 8), (256, 512, 16), (512, 256, 8), (512, 256, 16)
    )
]  # fmt: skip


def heads(seed, foreign):
    """Every head under its name; those with ``foreign keys`` place them from rows of another data set."""
    return {
        "nearest class mean": NearestClassMean(normalize=True),
        "streaming LDA": StreamingLDA(shrinkage="auto", normalize=True),
        "random-projection ridge 2000": RandomProjectionRidge(2000, normalize=True, random_state=seed),
        "random-projection ridge 5000": RandomProjectionRidge(5000, normalize=True, random_state=seed),
        "counts": DKVBClassifier(random_state=seed),
        "ridge": DKVBClassifier(**RIDGE, random_state=seed),
        "counts, foreign keys": DKVBClassifier(key_data=foreign, random_state=seed),
        "ridge, foreign keys": DKVBClassifier(**RIDGE, key_data=foreign, random_state=seed),
        "ridge, learned projection": DKVBClassifier(**RIDGE, projection="learned", random_state=seed),
    }


def measure(X, y, parts, foreign, title):
    """Fit and score every head on every part (seed, training rows, test rows): name → accuracies."""
    found, seconds = {}, {}
    for number, (seed, train, test) in enumerate(parts):
        for name, head in heads(seed, foreign).items():
            begun = time.perf_counter()
            found.setdefault(name, []).append(head.fit(X[train], y[train]).score(X[test], y[test]))
            seconds.setdefault(name, []).append(time.perf_counter() - begun)
        print(f"[{title}] part {number + 1} of {len(parts)}", file=sys.stderr)
    for name, accuracies in found.items():
        report(title, name, accuracies, {"seconds": round(float(np.median(seconds[name])), 2)})
    return found


def report(title, name, accuracies, more=()):
    line = {"name": f"{title}: {name}", "accuracy": round(float(np.mean(accuracies)), 4)}
    spread = float(np.std(accuracies, ddof=1))
    print(json.dumps(line | {"spread": round(spread, 4), "parts": len(accuracies)} | dict(more)), flush=True)


def compare(found, title):
    """Print the mean paired difference of ridge to every other head, and whether it holds against the rivals."""
    holds = True
    for name, theirs in found.items():
        if name != "ridge":
            difference = np.subtract(found["ridge"], theirs)
            error = difference.std(ddof=1) / np.sqrt(len(difference))
            line = {"name": f"{title}: ridge minus {name}", "difference": round(float(difference.mean()), 4)}
            print(json.dumps(line | {"standard_error": round(float(error), 4)}), flush=True)
            holds &= "ridge, " in name or "counts" in name or difference.mean() >= -error
    return holds


def photographs():
    X, y, _ = features.photographs()
    folds = [
        (seed, train, test)
        for seed in SEEDS
        for train, test in StratifiedKFold(5, shuffle=True, random_state=seed).split(X, y)
    ]
    return compare(measure(X, y, folds, features.digits(network="mobilenet")[0], "photographs"), "photographs")


def given():
    X, y, is_train = features.photographs()
    parts = [(seed, np.flatnonzero(is_train), np.flatnonzero(~is_train)) for seed in SEEDS]
    return compare(measure(X, y, parts, features.digits(network="mobilenet")[0], "given split"), "given split")


def digits():
    X_train, y_train, X_test, y_test = features.digits()
    X, y = np.concatenate([X_train, X_test]), np.concatenate([y_train, y_test])
    parts = [(seed, np.arange(len(X_train)), np.arange(len(X_train), len(X))) for seed in SEEDS]
    foreign = features.photographs(network="lite0")[0]
    found = measure(X, y, parts, foreign, "digits")
    compare(found, "digits")
    named = [DKVBClassifier(**RIDGE, key_data=features.photo_crops(), random_state=seed) for seed in SEEDS]
    shipped = [model.fit(X_train, y_train).score(X_test, y_test) for model in named]
    report("digits", "ridge, keys of the run that is shipped (photo crops)", shipped)
    return np.mean(shipped) >= max(0.93, np.mean(found["streaming LDA"]))


def settings():
    X, y, is_train = features.photographs()
    for tried in TRIED:
        for alpha in (0.1, 1.0, 10.0):
            models = [DKVBClassifier(solver="ridge", alpha=alpha, random_state=seed, **tried) for seed in SEEDS]
            accuracies = [model.fit(X[is_train], y[is_train]).score(X[~is_train], y[~is_train]) for model in models]
            report("settings", f"ridge {tried} alpha {alpha}", accuracies)
    return True


def main():
    chosen = sys.argv[1:] or ["photographs", "given", "digits"]
    tasks = {"photographs": photographs, "given": given, "digits": digits, "settings": settings}
    return 0 if all([tasks[name]() for name in chosen]) else 1


if __name__ == "__main__":
    sys.exit(main())
