"""How do time and memory grow with rows, classes, heads and keys?

``python -m benchmarks growth [--rows N] [--baselines N] [--classes N] [--records FILE] [--recorded] [--figure FILE]
[--page FILE]``: rows of 512 features from a mixture of normal classes. Four axes: 1,000 rows to N (default a million;
baselines with a Gram matrix or slower to 30,000) in 100 classes; 10 to N (default 10,000) classes in 20,000 rows; 64 to
2,048 heads, and 16 to 4,096 keys per head, for 10,000 rows of 100 classes. Each method learns once, with all its
choices, until its first answer, then predicts 1,000 rows three times (the median counts); methods take turns within a
size. Seconds are those of the processor, all threads together, because machines are shared: set ``OMP_NUM_THREADS=1``.
Memory is the most that the process held meanwhile, less what it held before, and 1 MB at least; state is the size of a
pickle. Needs Linux. With ``--records`` figures are appended to a file, and those that it holds are taken from there: an
interrupted run resumes. With ``--recorded`` nothing else is measured. Everything takes hours.

Prints one JSON line per figure, and for each method the fitted exponent of its growth and what the worst doubling
multiplies. Goals: no doubling of rows or classes multiplies our learning by more than 2.2; the state at 100,000 rows is
at most the 800 MB of a matrix of 10,000 random features; at the largest common size, learning takes at most as long as
random-projection ridge of 5,000 features, and so does predicting. Exits with 1 if one is missed. Needs matplotlib for
``--figure``.
"""

import argparse
import ctypes
import json
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import pages
from benchmarks.accuracy import Records, clocked, predicting_seconds, size_of
from dkvb_estimator import DKVBClassifier, KeyEncoder
from dkvb_estimator.baselines import RandomProjectionRidge, StreamingLDA

N_FEATURES, N_CLASSES, SPREAD = 512, 100, 3.0
AXES = {
    "rows": (1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000),
    "classes": (10, 100, 1000, 3000, 10_000),
    "heads": (64, 256, 1024, 2048),
    "keys": (16, 64, 256, 1024, 4096),
}
N_ROWS = {"classes": 20_000, "heads": 10_000, "keys": 10_000}
LARGEST_FACTOR, STATE_ROWS, LARGEST_STATE = 2.2, 100_000, 8 * 10_000**2
OURS, SUMS, RP = "joint", "joint, remember=False", "RP ridge 5,000"


def ours(**settings):
    """Return the function that makes our method with an encoder of other sizes."""
    return lambda **sizes: DKVBClassifier(KeyEncoder(**sizes, random_state=0), random_state=0, **settings)


METHODS = {OURS: ours(), SUMS: ours(remember=False), "counts": ours(solver="counts")}
BASELINES = {
    "streaming LDA": lambda: StreamingLDA(shrinkage="auto", normalize=True),
    RP: lambda: RandomProjectionRidge(5000, normalize=True, random_state=0),
}
CHEAP = "streaming LDA"
MEASURED = {
    "learn_s": "seconds to learn",
    "predict_1000_s": "seconds to predict 1,000",
    "memory": "MB of memory",
    "megabytes": "MB of state",
}
COLOURS = dict(zip([*METHODS, *BASELINES], ("#1f4e9e", "#6fa0e0", "#2a9d5c", "#888888", "#d07030"), strict=True))


def draw(n_rows, n_classes):
    """Return rows (n, f) of classes in turn, and 1,000 rows that are not learned."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((n_classes, N_FEATURES), dtype=np.float32)
    labels = np.arange(n_rows + 1000) % n_classes
    X = rng.standard_normal((len(labels), N_FEATURES), dtype=np.float32)
    X *= SPREAD
    X += centres[labels]
    return X[:n_rows], labels[:n_rows], X[n_rows:]


def peak():
    """Return the most MB that this process held since the last call."""
    found = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return found


def figures(method, X, y, X_test):
    """Return seconds to learn and to predict, and megabytes of memory and of state, of one method."""
    peak()
    before = peak()
    _, learning = clocked(lambda: method.fit(X, y).predict(X_test[:1]))
    predicting, memory = predicting_seconds(method, X_test), max(peak() - before, 1.0)
    return {"learn_s": learning, "predict_1000_s": predicting, "memory": memory, "megabytes": size_of(method) / 1e6}


def cases(axis, size, baselines_until):
    """Return the rows and classes of a size, and the function that makes each method that is measured there."""
    if axis in ("heads", "keys"):
        return (N_ROWS[axis], N_CLASSES), {name: partial(make, **{f"n_{axis}": size}) for name, make in METHODS.items()}
    data = (size, N_CLASSES) if axis == "rows" else (N_ROWS[axis], size)
    few = {name: make for name, make in BASELINES.items() if name == CHEAP or size <= baselines_until}
    return data, METHODS | few


def measure(axis, sizes, baselines_until, records):
    """Return the figures of each method at each size."""
    found = {}
    for size in sizes:
        shape, makers = cases(axis, size, baselines_until)
        data = None
        for name, make in makers.items():

            def each(make=make, shape=shape):
                nonlocal data
                data = draw(*shape) if data is None else data
                return figures(make(), *data)

            if (measured := records.get((axis, name, size), each)) is None:
                continue
            found.setdefault(name, {})[size] = measured
            line = {key: round(value, 4) for key, value in measured.items()}
            print(json.dumps({"name": f"growth: {name}", axis: size} | line), flush=True)
    return found


def growth(points, what):
    """Return the fitted exponent, and what the worst doubling multiplies: of {size: figures}."""
    sizes, values = np.log(list(points)), np.log([each[what] for each in points.values()])
    steps = np.diff(values) / np.diff(sizes)
    return float(np.polyfit(sizes, values, 1)[0]), float(2 ** steps.max())


def report(axis, found):
    """Print and return the lines of the table: method, axis, figures at the largest size, exponents, worst doubling."""
    rows = []
    for name, points in found.items():
        if len(points) < 2:
            continue
        exponents = {what: growth(points, what) for what in MEASURED}
        line = {what: round(exponent, 2) for what, (exponent, _) in exponents.items()}
        worst = round(exponents["learn_s"][1], 2)
        print(json.dumps({"name": f"exponent by {axis}: {name}"} | line | {"worst_doubling": worst}), flush=True)
        last, largest = list(points.items())[-1][::-1]
        costs = f"{last['learn_s']:.1f}", f"{last['predict_1000_s']:.3f}", f"{last['memory']:.0f}"
        costs += (f"{last['megabytes']:.0f}",)
        rows.append((name, axis, f"{largest:,}", *costs, *line.values(), worst))
    return rows


def judge(found):
    """Print the goals and return whether all are met."""
    lines = []
    for axis in ("rows", "classes"):
        methods = found.get(axis, {})
        lines += [
            (f"worst doubling by {axis}, {name}", growth(methods[name], "learn_s")[1], LARGEST_FACTOR)
            for name in (OURS, SUMS)
            if len(methods.get(name, ())) > 1
        ]
        if RP in methods:
            largest = max(methods[RP])
            for what, told in list(MEASURED.items())[:2]:
                lines.append((f"{told}, {largest:,} {axis}", methods[OURS][largest][what], methods[RP][largest][what]))
    if state := found.get("rows", {}).get(OURS, {}).get(STATE_ROWS):
        lines.append((f"MB of state at {STATE_ROWS:,} rows", state["megabytes"], LARGEST_STATE / 1e6))
    for name, value, most in lines:
        met = value <= most
        print(json.dumps({"name": f"goal, {name}", "ours": round(value, 3), "most": round(most, 3), "met": met}))
    return all(value <= most for _, value, most in lines)


def plot(found, path):
    """Draw what was measured along each axis, on logarithmic axes."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    size = {"figsize": (12, 0.5 + 2.5 * len(found)), "layout": "constrained", "squeeze": False}
    figure, axes = plt.subplots(len(found), len(MEASURED), **size)
    for (axis, methods), line in zip(found.items(), axes, strict=True):
        for (what, told), panel in zip(MEASURED.items(), line, strict=True):
            for name, points in methods.items():
                style = {"color": COLOURS[name], "marker": "o", "markersize": 3, "label": name}
                panel.loglog(list(points), [each[what] for each in points.values()], **style)
            panel.set(xlabel=axis, ylabel=told)
            panel.grid(alpha=0.25)
            panel.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    figure.savefig(path, dpi=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, most in (("rows", 1_000_000), ("baselines", 30_000), ("classes", 10_000)):
        parser.add_argument(f"--{name}", type=int, default=most)
    for name in ("records", "figure", "page"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--recorded", action="store_true")
    asked = parser.parse_args()
    most = {"rows": asked.rows, "classes": asked.classes}
    sizes = {axis: [size for size in some if size <= most.get(axis, size)] for axis, some in AXES.items()}
    records = Records(asked.records, "growth", closed=asked.recorded)
    found = {axis: measure(axis, some, asked.baselines, records) for axis, some in sizes.items() if some}
    rows = [row for axis, methods in found.items() for row in report(axis, methods)]
    if asked.figure is not None:
        plot(found, asked.figure)
    columns = ("method", "by", "at", "learn, s", "predict 1,000, s", "MB of memory", "MB of state")
    growths = ("exponent of learning", "of predicting", "of memory", "of state", "worst doubling of learning")
    pages.fill(asked.page, {"growth": pages.table((*columns, *growths), rows)}, measured_now=not records.old)
    return 0 if judge(found) else 1


if __name__ == "__main__":
    sys.exit(main())
