"""How well do scores separate unknown classes from learned ones?

``python -m benchmarks novelty [photographs] [squeezenet] [digits] [--page docs/solvers.md]`` (default: all sets): half
of the classes, drawn by three seeds, are learned; a score has to tell test rows of the other half. Prints the area
under the ROC curve (mean and spread) of ``score_samples`` of ``joint`` and ``counts``, of one minus the largest
probability of ``joint``, and of Mahalanobis distances of normalised embeddings: with the covariance as it is
(Mahalanobis++, Mueller and Hein, ICML 2025) and shrunk as held-out rows choose (streaming LDA's). Exits with 1 if
``score_samples`` of ``joint`` falls behind Mahalanobis++ on a set. Some minutes on one thread.
"""

import json
import sys
from pathlib import Path

import numpy as np
from sklearn.frozen import FrozenEstimator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import features, pages
from dkvb_estimator import DKVBClassifier, KeyEncoder
from dkvb_estimator.baselines import StreamingLDA
from dkvb_estimator.metrics import rejection_auroc

SEEDS = (0, 1, 2)
OURS = "`joint`, `score_samples`"


def photographs(network):
    X, y, is_train = features.photographs(network=network)
    return X[is_train], y[is_train], X[~is_train], y[~is_train]


SETS = {
    "photographs": lambda: photographs("mobilenet"),
    "squeezenet": lambda: photographs("squeezenet"),
    "digits": features.digits,
}


def mahalanobis(X, y, X_test):
    """Return the squared distance of each test row (n,) to the nearest class mean, on the unit sphere."""
    rows, tested = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (X, X_test))
    labels, places = np.unique(y, return_inverse=True)
    means = np.stack([rows[y == label].mean(axis=0) for label in labels])
    inverse = np.linalg.pinv(np.cov((rows - means[places]).T))
    apart = tested[:, None] - means
    return np.einsum("nkf,fg,nkg->nk", apart, inverse, apart, optimize=True).min(axis=1)


def scores(seed, X, y, X_test):
    """Return by the name of the score how unusual each test row is (n,); larger means more unusual."""
    encoder = FrozenEstimator(KeyEncoder(random_state=seed).fit(X))
    joint, counts = (DKVBClassifier(encoder, solver=solver).fit(X, y) for solver in ("joint", "counts"))
    return {
        OURS: -joint.score_samples(X_test),
        "`counts`, `score_samples`": -counts.score_samples(X_test),
        "`joint`, 1 − largest probability": 1 - joint.predict_proba(X_test).max(axis=1),
        "Mahalanobis++": mahalanobis(X, y, X_test),
        "streaming LDA": -StreamingLDA("auto", normalize=True).fit(X, y).score_samples(X_test),
    }


def measure(name):
    """Return the areas of every score over the seeds."""
    X, y, X_test, y_test = SETS[name]()
    found = {}
    for seed in SEEDS:
        learned = np.random.default_rng(seed).permutation(np.unique(y))[: len(np.unique(y)) // 2]
        known, unknown = np.isin(y, learned), ~np.isin(y_test, learned)
        for score, strange in scores(seed, X[known], y[known], X_test).items():
            found.setdefault(score, []).append(rejection_auroc(strange[~unknown], strange[unknown]))
    for score, areas in found.items():
        line = {
            "name": f"{name}: {score}",
            "auroc": round(np.mean(areas), 4),
            "spread": round(np.std(areas, ddof=1), 4),
        }
        print(json.dumps(line, ensure_ascii=False), flush=True)
    return found


def main():
    chosen, page = pages.arguments(SETS)
    found = {name: measure(name) for name in chosen}
    rows = [
        (score, *(f"{np.mean(areas[score]):.3f} ± {np.std(areas[score], ddof=1):.3f}" for areas in found.values()))
        for score in next(iter(found.values()))
    ]
    pages.fill(page, {"novelty": pages.table(("score", *found), rows)})
    behind = [np.mean(areas[OURS]) < np.mean(areas["Mahalanobis++"]) for areas in found.values()]
    return 1 if any(behind) else 0


if __name__ == "__main__":
    sys.exit(main())
