"""Search the codebook and the objective with scikit-learn's grid search.

Keys are placed anew for every candidate and fold here, which is simple and does for small grids. The pipeline's stage
``search`` places them once for all candidates that share them: see ``searches`` in params.yaml.
"""

from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV

from dkvb_estimator import DKVBClassifier

X, y = load_digits(return_X_y=True)
X_keys, X, y = X[:500], X[500:], y[500:]  # keys from rows of their own: they have seen no row of any fold

search = GridSearchCV(
    DKVBClassifier(key_data=X_keys, random_state=0),
    {"n_heads": [32, 128], "n_keys": [16, 64], "objective": ["ridge", "discriminant", "auto"]},
    cv=3,
)
search.fit(X, y)  # around it, joblib.parallel_config("dask") spreads the candidates over a running cluster

best_first = sorted(zip(search.cv_results_["mean_test_score"], map(str, search.cv_results_["params"])), reverse=True)
for score, settings in best_first:
    print(f"{score:.3f}  {settings}")
