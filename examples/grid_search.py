"""Search the codebook and the objective with scikit-learn's grid search.

``memory`` keeps keys in a folder: each encoder places its keys once per fold, for any number of classifier settings.
"""

import tempfile

from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV

from dkvb_estimator import DKVBClassifier, KeyEncoder

X, y = load_digits(return_X_y=True)
X, y = X[:1200], y[:1200]

with tempfile.TemporaryDirectory() as folder:
    search = GridSearchCV(
        DKVBClassifier(KeyEncoder(memory=folder, random_state=0)),
        {
            "encoder__n_heads": [32, 128],
            "encoder__n_keys": [16, 64],
            "objective": ["ridge", "discriminant", "auto"],
        },
        cv=3,
    )
    search.fit(X, y)  # in joblib.parallel_config("dask"), it spreads the candidates over a running cluster

best_first = sorted(zip(search.cv_results_["mean_test_score"], map(str, search.cv_results_["params"])), reverse=True)
for score, settings in best_first:
    print(f"{score:.3f}  {settings}")
