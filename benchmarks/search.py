"""What is gained where candidates that share projection and keys share codes?

``python benchmarks/search.py``: a grid of settings of each of two solvers on two folds, 1,200 rows of 640 features,
keys from 4,000 others; 128 heads × 256 keys × 14, one key read. Ours is the pipeline's search, keys and codes made
once. Plain is scikit-learn's grid search of an estimator that places its keys in ``fit`` (``key_data``). Both on one
thread, and both must find the same scores; both solve ``joint`` anew for each candidate. Prints JSON lines; goal with
``counts``: three times as fast.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sklearn.model_selection import GridSearchCV, StratifiedKFold

from benchmarks.noise import write_noise
from dkvb_estimator import DKVBClassifier
from pipeline.config import Search
from pipeline.evaluation import Source, search_settings

GOALS = {"counts": 3, "joint": 1}
FIXED = {"n_heads": 128, "n_keys": 256, "key_dim": 14, "n_selected": 1, "random_state": 0}
GRIDS = {
    "counts": {"smoothing": [0.1, 0.3, 1.0, 3.0, 10.0, 30.0]},
    "joint": {"alpha": [1e-3, 1e-2], "curvature": [0.0, 0.6]},
}


def compare(solver, X, y, keys):
    """Return seconds of ours, seconds of the plain search, and the number of candidates."""
    settings, grid, method = FIXED | {"solver": solver}, GRIDS[solver], {"encoder": FIXED, "solver": solver}
    entry = Search(embeddings="own", keys="keys", folds=2, method=method, grid=grid)
    with tempfile.TemporaryDirectory() as folder:
        own, others = Path(folder) / "own.h5", Path(folder) / "keys.h5"
        write_noise(own, [X], y)
        write_noise(others, [keys], np.full(len(keys), -1))
        begun = time.perf_counter()
        found, _ = search_settings(entry, Source(str(own), str(others), folder), y)
        ours = time.perf_counter() - begun
    begun = time.perf_counter()
    folds = StratifiedKFold(2, shuffle=True, random_state=0)
    plain = GridSearchCV(DKVBClassifier(**settings, key_data=keys), grid, cv=folds, refit=False).fit(X, y)
    theirs = time.perf_counter() - begun
    scores = sorted((line["mean_score"] for line in found), reverse=True)
    if not np.allclose(scores, sorted(plain.cv_results_["mean_test_score"], reverse=True), atol=1e-6):
        raise SystemExit("the two searches differ")
    return ours, theirs, len(found)


def main():
    rng = np.random.default_rng(0)
    y = np.arange(1200) % 10
    X = (rng.standard_normal((10, 640))[y] + 3 * rng.standard_normal((1200, 640))).astype(np.float32)
    keys = rng.standard_normal((4000, 640)).astype(np.float32)
    met = True
    for solver, goal in GOALS.items():
        ours, theirs, n_candidates = compare(solver, X, y, keys)
        met = met and theirs / ours >= goal
        line = {"name": f"grid of {n_candidates} settings of {solver}, codes shared", "ratio": round(theirs / ours, 2)}
        line |= {"ours": round(ours, 1), "theirs": round(theirs, 1), "unit": "s", "goal": goal}
        print(json.dumps(line), flush=True)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
