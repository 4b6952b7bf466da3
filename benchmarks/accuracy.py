"""Is a head of discrete keys as accurate as the heads it competes with, on real frozen features?

``python benchmarks/accuracy.py [SET ...] [--data FOLDER] [--seeds N] [--fast] [--heads NAME ...] [--records FILE]
[--recorded] [--page FILE]``

Sets: ``digits`` (scikit-learn's, EfficientNet-Lite0), ``photographs`` (6,000 of CIFAR-10, MobileNetV2), ``squeezenet``
(the same photographs, SqueezeNet 1.1), and every ``NAME_NETWORK.npz`` with X, y, X_test, y_test in
``../shared/data/features``, called NAME; default: all that are there. An hour on two cores, most of it the rivals'.

--data FOLDER    take the sets from the npz files of another folder, and those alone
--seeds N        seeds of projections and keys (default 3); heads that draw nothing run once, and the widest rivals
                 run once where a set has more than 8,000 rows
--fast           leave out the widest rivals
--heads NAME     try these alone, by the names in the tables
--records FILE   append each figure to a file, and take those that it holds from there: an interrupted run resumes
--recorded       measure nothing: leave out the figures that the records lack
--page FILE      fill the tables that the page has markers for

Each head learns all training rows once (``sgd`` in ten epochs), and chooses what it has to choose on them. Seconds are
those of the processor, all threads together, for machines are shared: set ``OMP_NUM_THREADS=1``. Prints one JSON line
per set and head, the mean accuracy and mean rank over sets, and the goals. Exits with 1 if one is missed.
"""

import argparse
import json
import pickle
import sys
import time
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import features, pages
from benchmarks.direct_link import DirectLink
from dkvb_estimator import DKVBClassifier, metrics
from dkvb_estimator.baselines import (
    ClasswiseLDA,
    NearestClassMean,
    RandomFourierDiscriminant,
    RandomProjectionRidge,
    StreamingLDA,
)

STORED = features.SHARED / "data" / "features"
PAPER = {"n_heads": 256, "n_keys": 256, "key_dim": 14, "n_selected": 1, "projection": "gaussian"}
SGD = PAPER | {"solver": "sgd", "learning_rate": 30.0}
FLY = {"projection": "sparse", "top_share": 0.3}
OURS, COUNTS, MEAN = "`joint`", "`counts`", "nearest class mean"
RIVALS = (MEAN, "streaming LDA", "RP ridge 5,000", "RP ridge 10,000", "random Fourier LDA 5,000")
SLOW = ("RP ridge 10,000", "Fly-CL ridge 10,000")
DRAWS_NOTHING = (MEAN, "streaming LDA", "classwise LDA")
MANY_ROWS = 8000
SLACK = 0.005
DEFAULT_SEEDS = 3


def heads(seed):
    """Return the function that makes each head, under its name."""
    common = {"normalize": True, "random_state": seed}
    return {
        MEAN: lambda: NearestClassMean(normalize=True),
        "streaming LDA": lambda: StreamingLDA(shrinkage="auto", normalize=True),
        "classwise LDA": lambda: ClasswiseLDA(normalize=True),
        "RP ridge 2,000": lambda: RandomProjectionRidge(2000, **common),
        "RP ridge 5,000": lambda: RandomProjectionRidge(5000, **common),
        "RP ridge 10,000": lambda: RandomProjectionRidge(10_000, **common),
        "Fly-CL ridge 10,000": lambda: RandomProjectionRidge(10_000, **common, **FLY),
        "random Fourier LDA 5,000": lambda: RandomFourierDiscriminant(5000, **common),
        OURS: lambda: DKVBClassifier(random_state=seed),
        "`joint`, remember=False": lambda: DKVBClassifier(remember=False, random_state=seed),
        COUNTS: lambda: DKVBClassifier(solver="counts", random_state=seed),
        "`counts`, 256 × 256 × 14": lambda: DKVBClassifier(solver="counts", **PAPER, random_state=seed),
        "`sgd`, 256 × 256 × 14": lambda: DKVBClassifier(**SGD, random_state=seed),
        "`joint` and a direct link": lambda: DirectLink(seed),
    }


def read_npz(path):
    with np.load(path) as stored:
        X, y, X_test, y_test = (stored[name] for name in ("X", "y", "X_test", "y_test"))
    return X.astype(np.float32), y, X_test.astype(np.float32), y_test


def photographs(network):
    X, y, is_train = features.photographs(network=network)
    return X[is_train], y[is_train], X[~is_train], y[~is_train]


def sets(folder=None):
    """Return the function that reads each set, under its name."""
    stored = sorted(Path(folder or STORED).glob("*.npz"))
    own = {} if folder else {
        "digits": features.digits,
        "photographs": lambda: photographs("mobilenet"),
        "squeezenet": lambda: photographs("squeezenet"),
    }  # fmt: skip
    return own | {path.stem.partition("_")[0]: lambda path=path: read_npz(path) for path in stored}


def clocked(call):
    """Return what a call returns, and the seconds of the processor that it took, all threads together."""
    begun = time.process_time()
    result = call()
    return result, time.process_time() - begun


class _Counter:
    """A file that is only measured."""

    size = 0

    def write(self, data):
        self.size += memoryview(data).nbytes


def size_of(head):
    """Return the bytes of a pickle, projection and keys included."""
    counter = _Counter()
    pickle.dump(head, counter, protocol=5)
    return counter.size


def probabilities(head, X):
    """Return probabilities (n, k): the head's own; for ridge its positive scores, scaled to sum to one; else None."""
    if hasattr(head, "predict_proba"):
        return head.predict_proba(X)
    if isinstance(head, RandomProjectionRidge):
        scores = np.maximum(head.decision_function(X), 1e-12)
        return scores / scores.sum(axis=1, keepdims=True)
    return None


def try_head(head, X, y, X_test, y_test):
    """Learn, answer one row, then the test rows; return the figures of one seed."""
    _, learning = clocked(lambda: head.fit(X, y).predict(X_test[:1]))
    found, predicting = clocked(lambda: head.predict(X_test[:1000]))
    found = np.concatenate([found, head.predict(X_test[1000:])]) if len(X_test) > 1000 else found
    likely = probabilities(head, X_test)
    places = np.searchsorted(np.unique(y), y_test)
    return {
        "accuracy": float((found == y_test).mean()), "learn_s": learning,
        "predict_1000_s": predicting * 1000 / min(1000, len(X_test)), "bytes": size_of(head),
        "calibration": None if likely is None else metrics.expected_calibration_error(likely, places),
    }  # fmt: skip


class Records:
    """Figures of (set, head, seed), kept in a file where one is given; None for those that shall not be measured."""

    def __init__(self, path, *, closed=False):
        self._path, self._known, self._closed = path, {}, closed
        if path is not None and path.exists():
            for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
                self._known[tuple(line.pop(name) for name in ("set", "head", "seed"))] = line

    def get(self, key, make):
        """Return the figures of a key, measured if they are not known."""
        if key not in self._known:
            if self._closed:
                return None
            self._known[key] = make()
            if self._path is not None:
                line = dict(zip(("set", "head", "seed"), key, strict=True)) | self._known[key]
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
        return self._known[key]


def n_runs(name, n_rows, n_seeds):
    return 1 if name in DRAWS_NOTHING or (name in SLOW and n_rows > MANY_ROWS) else n_seeds


def measure(title, data, asked, records):
    """Try the heads on a set; print and return a summary of each."""
    found = {}
    for name in heads(0):
        if (asked.fast and name in SLOW) or (asked.heads and name not in asked.heads):
            continue
        figures = [
            records.get((title, name, seed), lambda seed=seed, name=name: try_head(heads(seed)[name](), *data))
            for seed in range(n_runs(name, len(data[1]), asked.seeds))
        ]
        if any(figures):
            found[name] = summary([each for each in figures if each is not None])
            print(json.dumps({"name": f"{title}: {name}"} | found[name], ensure_ascii=False), flush=True)
    return found


def summary(figures):
    """Return the mean and spread of accuracy, and the median of the others."""
    accuracy = [each["accuracy"] for each in figures]
    spread = float(np.std(accuracy, ddof=1)) if len(figures) > 1 else None
    result = {"accuracy": round(float(np.mean(accuracy)), 4), "spread": spread and round(spread, 4)}
    result["seeds"] = len(figures)
    for name, digits in (("learn_s", 2), ("predict_1000_s", 4), ("bytes", 0), ("calibration", 4)):
        values = [each[name] for each in figures if each[name] is not None]
        result[name] = round(float(np.median(values)), digits) if values else None
    return result


def over_sets(found):
    """Return the means over sets of each head that all have: accuracy, rank, errors; median seconds; most bytes."""
    first, *others = found.values()
    names = [name for name in first if all(name in each for each in others)]
    ranks = np.mean([rankdata([-each[name]["accuracy"] for name in names]) for each in found.values()], axis=0)
    result = {}
    for name, rank in zip(names, ranks, strict=True):
        columns = {key: [each[name][key] for each in found.values()] for key in found[next(iter(found))][name]}
        errors = [value for value in columns["calibration"] if value is not None]
        result[name] = {
            "accuracy": round(float(np.mean(columns["accuracy"])), 4), "rank": round(float(rank), 2),
            "bytes": max(columns["bytes"]), "calibration": round(float(np.mean(errors)), 4) if errors else None,
        } | {key: float(np.median(columns[key])) for key in ("learn_s", "predict_1000_s")}  # fmt: skip
    return result


def goals(found, means):
    """Yield the name of each goal, the figure, what it must reach, and whether it does."""
    for title, each in found.items():
        if OURS not in each or COUNTS not in each:
            continue
        best = max((name for name in RIVALS if name in each), key=lambda name: each[name]["accuracy"])
        least = each[best]["accuracy"] - SLACK
        yield f"{title}: {OURS} against {best}", each[OURS]["accuracy"], least
        yield f"{title}: {COUNTS} against {MEAN}", each[COUNTS]["accuracy"], each[MEAN]["accuracy"]
    if OURS in means:
        best = max((name for name in RIVALS if name in means), key=lambda name: means[name]["accuracy"])
        yield f"mean: {OURS} against {best}", means[OURS]["accuracy"], means[best]["accuracy"]


SHOWN = {
    "accuracy": lambda each: f"{each['accuracy']:.3f}" + (f" ± {each['spread']:.3f}" if each.get("spread") else ""),
    "learn": lambda each: f"{each['learn_s']:.1f}",
    "predict": lambda each: f"{each['predict_1000_s']:.3f}",
    "size": lambda each: f"{each['bytes'] / 1e6:.0f}",
    "calibration": lambda each: "–" if each["calibration"] is None else f"{each['calibration']:.3f}",
}


def tables(found, means):
    """Return the Markdown tables of the pages."""
    result = {}
    for kind, show in SHOWN.items():
        names = [name for name in heads(0) if any(name in each for each in found.values())]
        rows = [(name, *(show(each[name]) if name in each else "" for each in found.values())) for name in names]
        result[kind] = pages.table(("head", *found), rows)
    rows = []
    for name, each in means.items():
        shown = [SHOWN[kind](each) for kind in ("learn", "predict", "size", "calibration")]
        rows.append((name, f"{each['accuracy']:.4f}", f"{each['rank']:.1f}", *shown))
    columns = ("head", "mean accuracy", "mean rank", "learn, s", "predict 1,000, s", "MB", "calibration error")
    return result | {"summary": pages.table(columns, rows)}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sets", nargs="*")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, default=DEFAULT_SEEDS)
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--heads", nargs="+")
    parser.add_argument("--records", type=Path)
    parser.add_argument("--recorded", action="store_true")
    parser.add_argument("--page", type=Path, action="append", default=[])
    return parser.parse_args()


def main():
    asked = arguments()
    records, found, met = Records(asked.records, closed=asked.recorded), {}, True
    for title, load in sets(asked.data).items():
        if asked.sets and title not in asked.sets:
            continue
        try:
            found[title] = measure(title, load(), asked, records)
        except FileNotFoundError as error:
            print(f"{title} is left out: {error}", file=sys.stderr)
    means = over_sets(found)
    for name, each in means.items():
        print(json.dumps({"name": f"mean of {len(found)} sets: {name}"} | each, ensure_ascii=False))
    for name, value, least in goals(found, means):
        met &= value >= least
        line = {"name": f"goal, {name}", "ours": value, "least": round(least, 4), "met": value >= least}
        print(json.dumps(line, ensure_ascii=False))
    for page in asked.page:
        pages.fill(page, tables(found, means), missing_ok=True)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
