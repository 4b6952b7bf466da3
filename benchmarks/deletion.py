"""Does forgetting remove samples? ``python benchmarks/deletion.py [--page docs/deletion.md] [--figure FILE]``

On the digits and, if available, the photographs: learns the training rows, forgets 5 % of them, and compares with a
model that never saw those rows. For each solver, over three seeds:

bits      largest difference of any value from the model that never saw the rows, and differing predictions
seconds   ``forget`` against learning the remaining rows again, both with the next prediction (processor time)
attack    area under the ROC curve of a membership attack: the forgotten rows against test rows, by the score of the
          true class (Yeom et al., CSF 2018), before, after, and for the model that never saw them; .5 is chance
keys      the same with keys placed from the training rows, forgotten ones among them: what keys still hold

Exits with 1 if ``counts`` or ``joint`` with frozen keys differs in a bit. Two minutes on two cores.
"""

import copy
import json
import sys
import time
from pathlib import Path

import numpy as np
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import features, pages
from dkvb_estimator import DKVBClassifier, KeyEncoder

SOLVERS = {
    "joint": {},
    "joint, remember=False": {"remember": False},
    "counts": {"solver": "counts"},
    "sgd": {"solver": "sgd", "solver_params": {"learning_rate": 30.0}},
}
SEEDS, SHARE = (0, 1, 2), 0.05


def sets():
    """Yield name, training rows and labels, test rows and labels of each available data set."""
    yield "digits", *features.digits()
    try:
        X, y, is_train = features.photographs()
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
    else:
        yield "photographs", X[is_train], y[is_train], X[~is_train], y[~is_train]


def seconds(function):
    """Return processor seconds of a call, all threads together."""
    started = time.process_time()
    function()
    return time.process_time() - started


def attack(model, members, others):
    """Return how well the score of the true class separates ``members`` from ``others``, pairs of rows and labels."""
    margins = []
    for X, y in (members, others):
        scores = model.predict_log_proba(X)
        margins.append(scores[np.arange(len(y)), np.searchsorted(model.classes_, y)])
    return roc_auc_score(np.repeat([1, 0], [len(margins[0]), len(margins[1])]), np.concatenate(margins))


def measure(X, y, X_test, y_test, settings, seed):
    """Return the measurements of one solver."""
    gone = np.random.default_rng(seed).random(len(y)) < SHARE
    encoder = KeyEncoder(n_heads=256, random_state=seed).fit(X_test[::2])  # keys from rows that are not learned
    frozen = DKVBClassifier(FrozenEstimator(encoder), **settings)
    full, never = clone(frozen).fit(X, y), clone(frozen)
    refit_s = seconds(lambda: never.fit(X[~gone], y[~gone]).predict(X_test))
    forgot = copy.deepcopy(full)
    forget_s = seconds(lambda: forgot.forget(X[gone], y[gone]).predict(X_test))
    members, others = (X[gone], y[gone]), (X_test[1::2], y_test[1::2])
    moved = DKVBClassifier(KeyEncoder(n_heads=256, random_state=seed), **settings)
    moved_never = clone(moved).fit(X[~gone], y[~gone])
    moved = clone(moved).fit(X, y).forget(X[gone], y[gone])
    return {
        "largest_difference": float(np.abs(forgot.values_ - never.values_).max()),
        "differing_predictions": float((forgot.predict(X_test) != never.predict(X_test)).mean()),
        "forget_s": forget_s,
        "refit_s": refit_s,
        "attack_before": attack(full, members, others),
        "attack_after": attack(forgot, members, others),
        "attack_never_seen": attack(never, members, others),
        "own_keys_differing_predictions": float((moved.predict(X_test) != moved_never.predict(X_test)).mean()),
        "own_keys_attack_after": attack(moved, members, others),
    }


def show(results):
    """Return the rows of the page's table."""
    for name, solver, runs in results:
        mean = {key: np.mean([run[key] for run in runs]) for key in runs[0]}
        spread = {key: np.std([run[key] for run in runs]) for key in runs[0]}
        yield (
            name,
            f"`{solver}`",
            "0" if mean["largest_difference"] == 0 else f"{mean['largest_difference']:.1e}",
            f"{mean['differing_predictions']:.1%}",
            f"{mean['forget_s']:.2f} / {mean['refit_s']:.2f}",
            *(f"{mean[key]:.3f} ± {spread[key]:.3f}" for key in ("attack_before", "attack_after", "attack_never_seen")),
            f"{mean['own_keys_differing_predictions']:.1%}",
            f"{mean['own_keys_attack_after']:.3f}",
        )


HEADS = (
    "set", "solver", "largest difference of a value", "predictions that differ", "forget / refit, s", "attack before",
    "attack after", "attack, never seen", "own keys: predictions that differ", "own keys: attack after",
)  # fmt: skip


def draw(results, path):
    """Draw the attack before, after, and against the model that never saw the rows."""
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(name for name, _, _ in results))
    figure, axes = plt.subplots(1, len(names), figsize=(5.5 * len(names), 3.2), sharey=True, squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        mine = [(solver, runs) for each, solver, runs in results if each == name]
        for offset, key in ((-0.22, "attack_before"), (0, "attack_after"), (0.22, "attack_never_seen")):
            values = np.array([[run[key] for run in runs] for _, runs in mine])
            places = np.arange(len(mine)) + offset
            label = key.removeprefix("attack_").replace("_", " ")
            ax.errorbar(places, values.mean(axis=1), values.std(axis=1), fmt="o", label=label)
        ax.axhline(0.5, color="grey", linewidth=0.8)
        ax.set(title=name, xticks=range(len(mine)), xticklabels=[solver for solver, _ in mine])
        ax.tick_params(axis="x", rotation=15)
    axes[0, 0].set_ylabel("membership attack, AUROC")
    axes[0, 0].legend(frameon=False)
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main():
    words, page = pages.arguments([])
    results = []
    for name, *data in sets():
        for solver, settings in SOLVERS.items():
            runs = [measure(*data, settings, seed) for seed in SEEDS]
            results.append((name, solver, runs))
            print(json.dumps({"set": name, "solver": solver, **{key: [run[key] for run in runs] for key in runs[0]}}))
    pages.fill(page, {"deletion": pages.table(HEADS, show(results))})
    if "--figure" in words:
        draw(results, Path(words[words.index("--figure") + 1]))
    exact = [run["largest_difference"] for _, solver, runs in results if solver != "sgd" for run in runs]
    sys.exit(int(max(exact) != 0))


if __name__ == "__main__":
    main()
