"""Which encoder should be the default: how many heads, keys and coordinates?

``python benchmarks/defaults.py [SET ...] [--rows N] [--records FILE] [--page FILE]`` measures a fixed list of encoders
on each set of ``benchmarks/accuracy.py``, with the default solver and one seed, on at most N (default 3,000) training
rows and as many test rows. No encoder has more than 256 keys per head, so a code fits into a byte. Prints one JSON line
per encoder: mean accuracy and mean rank over sets, seconds to learn and to predict 1,000 rows (medians over sets), and
the largest number of bytes. Records are as in ``benchmarks/accuracy.py``.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import pages
from benchmarks.accuracy import Records, over_sets, sets, summary, try_method
from dkvb_estimator import DKVBClassifier, KeyEncoder

TRIED = (
    (1024, 256, 2),
    (512, 256, 2),
    (1536, 256, 2),
    (1024, 64, 2),
    (1536, 64, 4),
    (1024, 256, 4),
    (512, 256, 8),
    (512, 256, 14),
)


def some(rows, labels, most):
    """Return at most this number of rows, drawn with seed 0."""
    chosen = np.sort(np.random.default_rng(0).permutation(len(labels))[:most])
    return rows[chosen], labels[chosen]


def measure(title, data, most, records):
    """Return the summary of each encoder on one set."""
    X, y, X_test, y_test = data
    parts, found = (*some(X, y, most), *some(X_test, y_test, most)), {}
    for sizes in TRIED:
        name = " × ".join(map(str, sizes))
        figures = records.get(
            (title, name, 0), lambda sizes=sizes: try_method(DKVBClassifier(KeyEncoder(*sizes, random_state=0)), *parts)
        )
        found[name] = summary([figures])
        print(json.dumps({"name": f"{title}: {name}"} | found[name], ensure_ascii=False), file=sys.stderr, flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sets", nargs="*")
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--records", type=Path)
    parser.add_argument("--page", type=Path)
    asked, found = parser.parse_args(), {}
    records = Records(asked.records, "defaults")
    for title, load in sets().items():
        if not asked.sets or title in asked.sets:
            try:
                found[title] = measure(title, load(), asked.rows, records)
            except FileNotFoundError as error:
                print(f"{title} is left out: {error}", file=sys.stderr)
    rows = []
    for name, each in over_sets(found).items():
        print(json.dumps({"name": f"defaults: {name}", "sets": len(found)} | each, ensure_ascii=False), flush=True)
        accuracies = [f"{one[name]['accuracy']:.3f}" for one in found.values()]
        costs = (f"{each['learn_s']:.1f}", f"{each['predict_1000_s']:.2f}", f"{each['bytes'] / 1e6:.0f}")
        rows.append((name, *accuracies, f"{each['accuracy']:.4f}", f"{each['rank']:.1f}", *costs))
    columns = ("heads × keys × coordinates", *found, "mean", "mean rank", "learn, s", "predict 1,000, s", "MB")
    pages.fill(asked.page, {"defaults": pages.table(columns, rows)}, measured_now=not records.old)


if __name__ == "__main__":
    main()
