"""How accurate is the classifier beside other classifiers on the same frozen features?

``python -m benchmarks accuracy [SET ...] [--data FOLDER] [--seeds N] [--fast] [--methods NAME ...] [--records FILE]
[--recorded] [--page FILE] [--figure FILE]``

Sets: ``digits`` (scikit-learn's, EfficientNet-Lite0), ``photographs`` (6,000 of CIFAR-10, MobileNetV2), ``squeezenet``
(the same photographs, SqueezeNet 1.1), every ``NAME_NETWORK.npz`` in ``../shared/data/features``, called NAME, and
every ``.npz`` file of a folder of your own; default: all that are there. An hour on two cores, most of it for the
baselines.

--data FOLDER    add the ``.npz`` files of a folder: X (n, f), y (n,), X_test (n', f) and y_test (n',). A file that does
                 not fit is skipped, with one line that says why. Name SETs to measure those alone
--seeds N        seeds of projections and keys (default 3); methods that draw nothing run once, and the widest
                 baselines run once where a set has more than 8,000 rows
--fast           leave out the widest baselines
--methods NAME   try these alone, by the names in the tables
--records FILE   append each figure to a file, and take those that it holds from there: an interrupted run resumes
--recorded       measure nothing: leave out the figures that the records lack
--page FILE      fill the tables that the page has markers for
--figure FILE    draw accuracy against seconds to learn, one point per method and set

Each method learns all training rows once (``sgd`` in ten epochs), and chooses its settings on them. It predicts three
times; the median counts. Seconds are those of the processor, all threads together, because machines are shared: set
``OMP_NUM_THREADS=1``. Prints one JSON line per set and method, the mean accuracy and mean rank over sets with the
critical difference (Nemenyi, 0.05), and the goals. Exits with 1 if a goal is missed or there is nothing to measure.
"""

import argparse
import json
import pickle
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
from scipy.stats import rankdata, studentized_range

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import features, pages, stale
from benchmarks.direct_link import DirectLink
from dkvb_estimator import DKVBClassifier, KeyEncoder, metrics
from dkvb_estimator.baselines import (
    ClasswiseLDA,
    NearestClassMean,
    RandomFourierDiscriminant,
    RandomProjectionRidge,
    StreamingLDA,
)

STORED = features.SHARED / "data" / "features"
PAPER = {"n_heads": 256, "n_keys": 256, "key_dim": 14, "projection": "gaussian"}
SGD = {"solver": "sgd", "solver_params": {"learning_rate": 30.0}}
FLY = {"projection": "sparse", "top_share": 0.3}
OURS, COUNTS, MEAN = "`joint`", "`counts`", "nearest class mean"
ABLATION = "`joint` and a direct link"
"""What values alone cost; not a method to choose, and so not ranked."""
BASELINES = (MEAN, "streaming LDA", "RP ridge 5,000", "RP ridge 10,000", "random Fourier LDA 5,000")
SLOW = ("RP ridge 10,000", "Fly-CL ridge 10,000")
DRAWS_NOTHING = (MEAN, "streaming LDA", "classwise LDA")
MANY_ROWS = 8000
SLACK = 0.005
LEVEL = 0.05
"""Of the test whether mean ranks differ."""
ARRAYS = ("X", "y", "X_test", "y_test")
DEFAULT_SEEDS = 3


def methods(seed):
    """Return the function that makes each method, under its name."""
    common = {"normalize": True, "random_state": seed}

    def ours(sizes=None, **settings):
        return DKVBClassifier(KeyEncoder(**sizes or {}, random_state=seed), **settings)

    return {
        MEAN: lambda: NearestClassMean(normalize=True),
        "streaming LDA": lambda: StreamingLDA(shrinkage="auto", normalize=True),
        "classwise LDA": lambda: ClasswiseLDA(normalize=True),
        "RP ridge 2,000": lambda: RandomProjectionRidge(2000, **common),
        "RP ridge 5,000": lambda: RandomProjectionRidge(5000, **common),
        "RP ridge 10,000": lambda: RandomProjectionRidge(10_000, **common),
        "Fly-CL ridge 10,000": lambda: RandomProjectionRidge(10_000, **common, **FLY),
        "random Fourier LDA 5,000": lambda: RandomFourierDiscriminant(5000, **common),
        OURS: ours,
        "`joint`, remember=False": lambda: ours(remember=False),
        COUNTS: lambda: ours(solver="counts"),
        "`counts`, 256 × 256 × 14": lambda: ours(PAPER, solver="counts"),
        "`sgd`, 256 × 256 × 14": lambda: ours(PAPER, **SGD),
        ABLATION: lambda: DirectLink(seed),
    }


class Unusable(Exception):
    """A file that holds no set, with the reason."""


def read_npz(path):
    """Return X, y, X_test, y_test of a file.

    Raises
    ------
    Unusable
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file), np.load(file) as stored:
            if missing := [name for name in ARRAYS if name not in stored.files]:
                found = ", ".join(stored.files) or "nothing"
                raise Unusable(f"it holds {found}; expected X, y, X_test and y_test. Add {' and '.join(missing)}.")
            arrays = [stored[name] for name in ARRAYS]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise Unusable(f"it cannot be read ({error}); expected a file of numpy.savez without Python objects") from error
    X, y, X_test, y_test = arrays
    return _rows("X", X), _labels("y", y, X), _rows("X_test", X_test, X.shape[1]), _test_labels(y_test, X_test, y)


def _rows(name, X, width=None):
    """Return rows (n, f) as finite float32."""
    if X.ndim != 2 or X.dtype.kind not in "fiu":
        raise Unusable(f"{name} has shape {X.shape} and type {X.dtype}; expected numbers (n, f)")
    if width is not None and X.shape[1] != width:
        raise Unusable(f"{name} has {X.shape[1]} features; expected the {width} of X")
    if not X.size:
        raise Unusable(f"{name} has shape {X.shape}; expected at least one row and one feature")
    with np.errstate(over="ignore"):
        X = X.astype(np.float32)
    if not np.isfinite(X).all():
        raise Unusable(f"{name} holds NaN, infinity or values that float32 cannot represent; expected finite numbers")
    return X


def _labels(name, y, X):
    if y.shape != X.shape[:1]:
        raise Unusable(f"{name} has shape {y.shape}; expected ({len(X)},), one label per row")
    if y.dtype.kind not in "iuUb":
        raise Unusable(f"{name} has type {y.dtype}; expected integers or text")
    if name == "y" and len(np.unique(y)) < 2:
        raise Unusable("y holds one class; expected two or more")
    return y


def _test_labels(y_test, X_test, y):
    unknown = np.setdiff1d(_labels("y_test", y_test, X_test), y)
    if len(unknown):
        raise Unusable(f"y_test holds {unknown[0].item()!r}, which y does not hold; expected labels that occur in y")
    return y_test


def photographs(network):
    X, y, is_train = features.photographs(network=network)
    return X[is_train], y[is_train], X[~is_train], y[~is_train]


def sets(folder=None):
    """Return the function that reads each set, under its name; those of a folder under the names of their files."""
    found = {
        "digits": features.digits,
        "photographs": lambda: photographs("mobilenet"),
        "squeezenet": lambda: photographs("squeezenet"),
    }
    for path in sorted(STORED.glob("*.npz")):
        found[path.stem.partition("_")[0]] = lambda path=path: read_npz(path)
    for path in sorted(folder.glob("*.npz")) if folder else ():
        name = f"{folder.name}/{path.stem}" if path.stem in found else path.stem
        found[name] = lambda path=path: read_npz(path)
    return found


def clocked(call):
    """Return what a call returns, and the seconds of the processor that it took, all threads together."""
    begun = time.process_time()
    result = call()
    return result, time.process_time() - begun


def predicting_seconds(method, X):
    """Return the median seconds of three predictions; the first may build what the others use."""
    return float(np.median([clocked(lambda: method.predict(X))[1] for _ in range(3)]))


class _Counter:
    """A file that is only measured."""

    size = 0

    def write(self, data):
        self.size += memoryview(data).nbytes


def size_of(method):
    """Return the bytes of a pickle, projection and keys included."""
    counter = _Counter()
    pickle.dump(method, counter, protocol=5)
    return counter.size


def probabilities(method, X):
    """Return probabilities (n, k): the method's own; for ridge its positive scores, scaled to sum to one; else None."""
    if hasattr(method, "predict_proba"):
        return method.predict_proba(X)
    if isinstance(method, RandomProjectionRidge):
        scores = np.atleast_2d(method.decision_function(X))
        scores = np.stack([-scores[0], scores[0]], axis=1) if len(method.classes_) == 2 else scores
        scores = np.maximum(scores, 1e-12)
        return scores / scores.sum(axis=1, keepdims=True)
    return None


def try_method(method, X, y, X_test, y_test):
    """Learn, answer one row, then the test rows; return the figures of one seed."""
    _, learning = clocked(lambda: method.fit(X, y).predict(X_test[:1]))
    predicting, found = predicting_seconds(method, X_test[:1000]), method.predict(X_test)
    likely = probabilities(method, X_test)
    places = np.searchsorted(np.unique(y), y_test)
    return {
        "accuracy": float((found == y_test).mean()), "learn_s": learning,
        "predict_1000_s": predicting * 1000 / min(1000, len(X_test)), "bytes": size_of(method),
        "calibration": None if likely is None else metrics.expected_calibration_error(likely, places),
    }  # fmt: skip


class Records:
    """Figures of (set, method, seed), kept in a file where one is given; None for those that are not measured.

    Each line of the file names the sources that it was measured with. ``old`` says whether any are not those of now.
    """

    def __init__(self, path, benchmark, *, closed=False):
        self._path, self._known, self._closed, self.old = path, {}, closed, False
        self._sources = stale.digest(benchmark)
        if path is not None and path.exists():
            for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
                self.old |= line.pop("sources", None) != self._sources
                self._known[tuple(line.pop(name) for name in ("set", "method", "seed"))] = line

    def get(self, key, make):
        """Return the figures of a key, measured if they are not known."""
        if key not in self._known:
            if self._closed:
                return None
            self._known[key] = make()
            if self._path is not None:
                line = dict(zip(("set", "method", "seed"), key, strict=True), sources=self._sources) | self._known[key]
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
        return self._known[key]


def n_runs(name, n_rows, n_seeds):
    return 1 if name in DRAWS_NOTHING or (name in SLOW and n_rows > MANY_ROWS) else n_seeds


def measure(title, data, asked, records):
    """Try the methods on a set; print and return a summary of each."""
    found = {}
    for name in methods(0):
        if (asked.fast and name in SLOW) or (asked.methods and name not in asked.methods):
            continue
        try:
            figures = [
                records.get((title, name, seed), lambda seed=seed, name=name: try_method(methods(seed)[name](), *data))
                for seed in range(n_runs(name, len(data[1]), asked.seeds))
            ]
        except (ValueError, np.linalg.LinAlgError) as error:
            print(f"{title}: {name} is skipped: {error}", file=sys.stderr)
            continue
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
    """Return means over sets of each method that all sets have: accuracy, rank, errors; median seconds; most bytes."""
    first, *others = found.values()
    names = [name for name in first if name != ABLATION and all(name in each for each in others)]
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


def critical_difference(n_methods, n_sets, level=LEVEL):
    """Return how far two mean ranks lie apart that differ by Nemenyi's test, or None for fewer than two of either.

    References
    ----------
    Demšar (2006), "Statistical comparisons of classifiers over multiple data sets", section 3.2.2.
    """
    if min(n_methods, n_sets) < 2:
        return None
    q = studentized_range.ppf(1 - level, n_methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(n_methods * (n_methods + 1) / (6 * n_sets)))


def goals(found, means):
    """Yield the name of each goal, the figure and what it must reach."""

    def best(each):
        return max((name for name in BASELINES if name in each), key=lambda name: each[name]["accuracy"], default=None)

    for title, each in found.items():
        if OURS in each and best(each):
            least = each[best(each)]["accuracy"] - SLACK
            yield f"{title}: {OURS} against {best(each)}", each[OURS]["accuracy"], least
        if COUNTS in each and MEAN in each:
            yield f"{title}: {COUNTS} against {MEAN}", each[COUNTS]["accuracy"], each[MEAN]["accuracy"]
    if len(found) > 1 and OURS in means and best(means):
        yield f"mean: {OURS} against {best(means)}", means[OURS]["accuracy"], means[best(means)]["accuracy"]


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
        names = [name for name in methods(0) if any(name in each for each in found.values())]
        rows = [(name, *(show(each[name]) if name in each else "" for each in found.values())) for name in names]
        result[kind] = pages.table(("method", *found), rows)
    rows = []
    for name, each in means.items():
        shown = [SHOWN[kind](each) for kind in ("learn", "predict", "size", "calibration")]
        rows.append((name, f"{each['accuracy']:.4f}", f"{each['rank']:.1f}", *shown))
    columns = ("method", "mean accuracy", "mean rank", "learn, s", "predict 1,000, s", "MB", "calibration error")
    lines = pages.table(columns, rows)
    if difference := critical_difference(len(means), len(found)):
        lines += (
            f"\n\nThe critical difference of mean ranks is {difference:.1f} (Nemenyi's test at {LEVEL}, {len(means)} "
            f"methods, {len(found)} sets): smaller differences may be chance."
        )
    return result | {"summary": lines}


def plot(found, path):
    """Draw accuracy against seconds to learn: a small point per method and set, a large one per method."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 4.6), layout="constrained")
    names = [name for name in methods(0) if any(name in each for each in found.values())]
    colours = plt.get_cmap("tab20")
    for number, name in enumerate(names):
        points = [(max(each[name]["learn_s"], 0.01), each[name]["accuracy"]) for each in found.values() if name in each]
        seconds, accuracy = np.array(points).T
        marker, colour = ("D" if "`" in name else "o"), colours(number % 20)
        whole, label = len(points) == len(found), name.replace("`", "")
        some = {"s": 14, "alpha": 0.55, "linewidth": 0, "label": None if whole else f"{label} (not all sets)"}
        axes.scatter(seconds, accuracy, marker=marker, color=colour, **some)
        if whole:
            mean = {"s": 110, "edgecolor": "black", "label": label}
            axes.scatter(np.median(seconds), accuracy.mean(), marker=marker, color=colour, **mean)
    axes.set(xscale="log", xlabel="seconds to learn, one thread (0.01 and less at the left)", ylabel="accuracy")
    axes.set_title(f"{len(found)} sets: small, each set; large, mean accuracy and median seconds", fontsize=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def arguments():
    parser = argparse.ArgumentParser(prog="python -m benchmarks accuracy", description=__doc__.partition("\n")[0])
    parser.add_argument("sets", nargs="*")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, default=DEFAULT_SEEDS)
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--records", type=Path)
    parser.add_argument("--recorded", action="store_true")
    parser.add_argument("--page", type=Path, action="append", default=[])
    parser.add_argument("--figure", type=Path)
    asked = parser.parse_args()
    there = sets(asked.data)
    if asked.data and not any(asked.data.glob("*.npz")):
        parser.error(f"{asked.data} has no .npz file; expected a folder with at least one. Pass another folder.")
    for kind, known in (("sets", there), ("methods", methods(0))):
        if unknown := set(getattr(asked, kind) or ()) - set(known):
            parser.error(
                f"{min(unknown)!r} is not among the {kind}; expected one of {', '.join(known)}. Correct the name."
            )
    return asked, there


def report(found):
    """Print what holds over all sets; return the means and whether all goals are met."""
    means, met = over_sets(found), True
    for name, each in means.items() if len(found) > 1 else ():
        print(json.dumps({"name": f"mean of {len(found)} sets: {name}"} | each, ensure_ascii=False))
    if difference := critical_difference(len(means), len(found)):
        print(json.dumps({"name": "critical difference of mean ranks", "ours": round(difference, 2), "level": LEVEL}))
    for name, value, least in goals(found, means):
        met &= value >= least
        line = {"name": f"goal, {name}", "ours": value, "least": round(least, 4), "met": value >= least}
        print(json.dumps(line, ensure_ascii=False))
    return means, met


def main():
    asked, there = arguments()
    records, found = Records(asked.records, "accuracy", closed=asked.recorded), {}
    for title, load in there.items():
        if asked.sets and title not in asked.sets:
            continue
        try:
            if figures := measure(title, load(), asked, records):
                found[title] = figures
        except (FileNotFoundError, Unusable) as error:
            print(f"{title} is skipped: {error}", file=sys.stderr)
    if not found:
        print("no set was measured; expected at least one. See the lines above.", file=sys.stderr)
        return 1
    means, met = report(found)
    if asked.figure is not None:
        plot(found, asked.figure)
    for page in asked.page:
        pages.fill(page, tables(found, means), missing_ok=True, measured_now=not records.old)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
