"""How robust is learning from streams? ``python benchmarks/streams.py [CASE ...] [--page docs/streams.md]``

Each case runs on the digits and, if available, the photographs, with three seeds:

one_by_one    rows arrive one at a time, class after class (a part of the rows)
one_class     batches of one class each
imbalance     classes of 1 : 1000, drawn geometrically; balanced accuracy, with and without ``class_weight="balanced"``
label_noise   10 % of the training labels replaced by another class
updates       milliseconds of the processor to learn one more row, and to predict the next one
corrupted     photographs of the test split blurred, noisy, dark, pixelated and of low contrast, at three strengths

Prints one JSON line per case, set and method: accuracies, or the median milliseconds of one thread. Ten minutes on two
cores; ``corrupted`` runs the backbone on the corrupted images.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from sklearn.metrics import balanced_accuracy_score

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import features, pages
from benchmarks.deletion import sets
from dkvb_estimator import DKVBClassifier, KeyEncoder
from dkvb_estimator.baselines import NearestClassMean, RandomProjectionRidge, StreamingLDA

SEEDS = (0, 1, 2)
FEW_ROWS = 400
KNOWN_ROWS, UPDATES = 1000, 5
"""Rows that are learned before single rows are timed, and the number of these."""


def methods(seed, **settings):
    """Return the compared methods by name; ``settings`` configure the bottleneck's values."""
    return {
        "joint": DKVBClassifier(random_state=seed, **settings),
        "counts": DKVBClassifier(KeyEncoder(random_state=seed), solver="counts", **settings),
        "nearest class mean": NearestClassMean(normalize=True),
        "streaming LDA": StreamingLDA("auto", normalize=True),
        "RP ridge 2,000": RandomProjectionRidge(2000, normalize=True, random_state=seed),
    }


def by_class(y, seed):
    """Return the positions of rows, class after class in random order."""
    order = np.random.default_rng(seed).permutation(np.unique(y))
    return np.concatenate([np.flatnonzero(y == label) for label in order])


def learn(model, X, y, batches):
    """Return the model after it has learned batches of row positions."""
    for batch in batches:
        model.partial_fit(X[batch], y[batch])
    return model


def one_by_one(X, y, X_test, y_test, seed):
    """Yield accuracy after learning rows one at a time."""
    few = np.random.default_rng(seed).permutation(len(y))[:FEW_ROWS]
    X, y = X[few], y[few]
    encoder = KeyEncoder(random_state=seed).fit(X_test[::2])  # a single first row is not enough to place keys
    for name, model in methods(seed).items():
        model = _with_keys(model, encoder)
        yield name, learn(model, X, y, by_class(y, seed)[:, None]).score(X_test[1::2], y_test[1::2])


def one_class(X, y, X_test, y_test, seed):
    """Yield accuracy after learning batches of one class each."""
    encoder = KeyEncoder(random_state=seed).fit(X_test[::2])
    order = np.random.default_rng(seed).permutation(np.unique(y))
    for name, model in methods(seed).items():
        batches = [np.flatnonzero(y == label) for label in order]
        yield name, learn(_with_keys(model, encoder), X, y, batches).score(X_test[1::2], y_test[1::2])


def imbalance(X, y, X_test, y_test, seed):
    """Yield balanced accuracy after learning classes whose sizes fall geometrically to a thousandth."""
    rng, labels = np.random.default_rng(seed), np.unique(y)
    largest = np.bincount(np.searchsorted(labels, y)).min()
    sizes = np.maximum(1, largest * 1000.0 ** (-np.arange(len(labels)) / (len(labels) - 1))).astype(int)
    kept = np.concatenate(
        [rng.permutation(np.flatnonzero(y == label))[:size] for label, size in zip(rng.permutation(labels), sizes)]
    )
    for how, settings in {"": {}, ", balanced": {"class_weight": "balanced"}}.items():
        for name, model in methods(seed, **settings).items():
            if how and not isinstance(model, DKVBClassifier):
                continue
            predicted = learn(model, X, y, np.array_split(rng.permutation(kept), 4)).predict(X_test)
            yield name + how, balanced_accuracy_score(y_test, predicted)


def label_noise(X, y, X_test, y_test, seed):
    """Yield accuracy after learning with a tenth of the labels replaced by another class."""
    rng, labels = np.random.default_rng(seed), np.unique(y)
    wrong = rng.random(len(y)) < 0.1
    shifted = labels[(np.searchsorted(labels, y) + rng.integers(1, len(labels), len(y))) % len(labels)]
    for name, model in methods(seed).items():
        yield name, model.fit(X, np.where(wrong, shifted, y)).score(X_test, y_test)


def _with_keys(model, encoder):
    from sklearn.frozen import FrozenEstimator

    return model.set_params(encoder=FrozenEstimator(encoder)) if isinstance(model, DKVBClassifier) else model


def update(model, X, y, row):
    """Return the milliseconds of the processor to learn a row, and to predict the next one."""
    begun = time.process_time()
    model.partial_fit(X[row : row + 1], y[row : row + 1])
    learned = time.process_time()
    model.predict(X[row + 1 : row + 2])
    return 1000 * (learned - begun), 1000 * (time.process_time() - learned)


def updates():
    """Yield set, method, and the median milliseconds to learn one more row and to predict the next one."""
    for title, X, y, X_test, _ in sets():
        order = np.random.default_rng(0).permutation(len(y))
        X, y, encoder = X[order], y[order], KeyEncoder(random_state=0).fit(X_test[::2])
        for name, model in methods(0).items():
            model = _with_keys(model, encoder).partial_fit(X[:KNOWN_ROWS], y[:KNOWN_ROWS])
            model.predict(X[:1])
            times = [update(model, X, y, row) for row in range(KNOWN_ROWS, KNOWN_ROWS + UPDATES)]
            yield title, name, *np.median(times, axis=0)


CASES = {"one_by_one": one_by_one, "one_class": one_class, "imbalance": imbalance, "label_noise": label_noise}


def corrupted():
    """Yield case, method and accuracies on corrupted photographs; nothing if the photographs are missing."""
    try:
        X, y, is_train = features.photographs()
    except FileNotFoundError as error:
        return print(error, file=sys.stderr)
    models = [{name: model.fit(X[is_train], y[is_train]) for name, model in methods(seed).items()} for seed in SEEDS]
    for kind, strength, X_test, y_test in features.corrupted_photographs():
        for name in models[0]:
            yield f"{kind} {strength}", name, [each[name].score(X_test, y_test) for each in models]
    return None


def main():
    chosen, page = pages.arguments([*CASES, "corrupted", "updates"])
    rows = []
    for case in (case for case in chosen if case != "updates"):
        if case == "corrupted":
            found = [("photographs", *line) for line in corrupted()]
        else:
            found = []
            for name, *data in sets():
                runs = [dict(CASES[case](*data, seed)) for seed in SEEDS]
                found += [(name, case, method, [run[method] for run in runs]) for method in runs[0]]
        for name, what, method, scores in found:
            print(json.dumps({"set": name, "case": what, "method": method, "accuracy": scores}), flush=True)
            rows.append((what, name, method, f"{np.mean(scores):.3f} ± {np.std(scores):.3f}"))
    tables = {"streams": pages.table(("case", "set", "method", "accuracy"), rows)} if rows else {}
    if "updates" in chosen:
        tables["updates"] = pages.table(("set", "method", "learn one row, ms", "predict the next, ms"), list(timed()))
    pages.fill(page, tables)


def timed():
    """Print and yield the rows of the table of updates."""
    for title, name, learn_ms, predict_ms in updates():
        line = {"set": title, "case": "updates", "method": name, "learn_ms": learn_ms, "predict_ms": predict_ms}
        print(json.dumps(line), flush=True)
        yield title, name, f"{learn_ms:,.1f}", f"{predict_ms:,.1f}"


if __name__ == "__main__":
    main()
