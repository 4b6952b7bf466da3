"""How much faster is a grid search whose encoder caches its keys?

``python benchmarks/search.py [n_rows]`` (default 1,200) runs scikit-learn's grid search over settings of two solvers on
two folds; 640 features, 128 heads × 256 keys × 14. With ``KeyEncoder(memory=FOLDER)``, keys are placed once per fold
for all candidates. The reference is the same search without ``memory``. Seconds are processor time. Both must find the
same scores, and both solve values again for each candidate. Prints JSON lines.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sklearn.model_selection import GridSearchCV, StratifiedKFold

from dkvb_estimator import DKVBClassifier, KeyEncoder

GOALS = {"counts": 1.2, "joint": 1.2}
SIZES = {"n_heads": 128, "n_keys": 256, "key_dim": 14, "random_state": 0}
GRIDS = {
    "counts": {"smoothing": [0.1, 0.3, 1.0, 3.0, 10.0, 30.0]},
    "joint": {"alpha": [1e-3, 1e-2], "curvature": [0.0, 0.6]},
}


def search(solver, X, y, memory):
    """Return the seconds of a search, and its mean scores."""
    folds = StratifiedKFold(2, shuffle=True, random_state=0)
    model = DKVBClassifier(KeyEncoder(**SIZES, memory=memory), solver=solver)
    begun = time.process_time()
    found = GridSearchCV(model, GRIDS[solver], cv=folds, refit=False).fit(X, y)
    return time.process_time() - begun, found.cv_results_["mean_test_score"]


def main():
    n_rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1200
    rng = np.random.default_rng(0)
    y = np.arange(n_rows) % 10
    X = (rng.standard_normal((10, 640))[y] + 3 * rng.standard_normal((n_rows, 640))).astype(np.float32)
    met = True
    for solver, goal in GOALS.items():
        with tempfile.TemporaryDirectory() as folder:
            ours, kept = search(solver, X, y, folder)
        theirs, plain = search(solver, X, y, None)
        if not np.allclose(kept, plain, atol=1e-6):
            raise SystemExit("the two searches differ")
        met = met and theirs / ours >= goal
        name = f"grid of {len(plain)} settings of {solver}, keys kept"
        line = {"name": name, "ratio": round(theirs / ours, 2), "ours": round(ours, 1), "theirs": round(theirs, 1)}
        print(json.dumps(line | {"unit": "s", "goal": goal}), flush=True)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
