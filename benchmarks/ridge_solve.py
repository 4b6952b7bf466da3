"""Does ``ridge`` learn faster than random-projection ridge that is no more accurate?

``python benchmarks/ridge_solve.py`` (three minutes): 5,000 CIFAR-10 photographs through MobileNetV2 where the folder
``shared`` lies beside the checkout, and digits by EfficientNet-Lite0 with keys from crops of photographs.
Seconds from embeddings to the first prediction: placing keys, encoding and solving with the settings of
``docs/solvers.md``, against drawing features, their Gram matrix and solving it. The rival has 5,000 features, and
chooses its penalty on held-out rows as RanPAC does; its seconds with that penalty given are printed too
(``without_search``). In turns, three seeds, the median of each. Prints JSON lines with both accuracies and the bytes of
both states: codes grow with the rows, a Gram matrix with the square of its width. Exits with 1 where ours is slower,
or less accurate by more than a standard error.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import features
from benchmarks.accuracy import RIDGE, SEEDS, try_head
from dkvb_estimator import DKVBClassifier
from dkvb_estimator.baselines import RandomProjectionRidge

WIDTH, GOAL = 5000, 1.0


def photographs():
    X, y, is_train = features.photographs()
    return X[is_train], y[is_train], X[~is_train], y[~is_train], None


def digits():
    return *features.digits(), features.photo_crops()


def compare(title, X, y, X_test, y_test, key_data):
    """Time all heads in turns, print a line, and return whether the goal is met."""
    found = {"ours": [], "theirs": [], "given": []}
    for seed in SEEDS:
        rival = RandomProjectionRidge(WIDTH, normalize=True, random_state=seed)
        ours = DKVBClassifier(**RIDGE, key_data=key_data, random_state=seed)
        found["ours"].append(try_head(ours, X, y, X_test, y_test))
        found["theirs"].append(try_head(rival, X, y, X_test, y_test))
        given = RandomProjectionRidge(WIDTH, alpha=rival.alpha_, normalize=True, random_state=seed)
        found["given"].append(try_head(given, X, y, X_test, y_test))
    accuracy = {name: np.array(figures)[:, 0] for name, figures in found.items()}
    seconds = {name: float(np.median(np.array(figures)[:, 1])) for name, figures in found.items()}
    pairs = accuracy["ours"] - accuracy["theirs"]
    ratio = seconds["theirs"] / seconds["ours"]
    met = ratio >= GOAL and pairs.mean() >= -pairs.std(ddof=1) / np.sqrt(len(pairs))
    line = {"name": f"ridge against random-projection ridge {WIDTH:,}, {title}", "ratio": round(ratio, 2)}
    line |= {"ours": round(seconds["ours"], 2), "theirs": round(seconds["theirs"], 2), "unit": "s", "goal": GOAL}
    line |= {"met": bool(met), "without_search": round(seconds["given"], 2), "seeds": len(SEEDS)}
    for name in ("ours", "theirs"):
        values, state = accuracy[name], found[name][-1][3]
        line[f"accuracy_{name}"] = f"{values.mean():.3f} ± {values.std(ddof=1):.3f}"
        line[f"bytes_{name}"] = int(state)
    print(json.dumps(line, ensure_ascii=False), flush=True)
    return met


def main():
    met = True
    for load in (photographs, digits):
        try:
            data = load()
        except FileNotFoundError as error:
            print(f"{load.__name__} are left out: {error}", file=sys.stderr)
            continue
        met &= compare(load.__name__, *data)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
