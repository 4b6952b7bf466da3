"""
Forget a class, or some samples
===============================

``forget_classes`` and ``forget`` subtract what was learned. The figure compares the result with a model that never saw
those rows: all values are equal, bit for bit. Hiding a class from the output removes nothing.
"""

import copy

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split

from dkvb_estimator import DKVBClassifier, KeyEncoder

X, y = load_digits(return_X_y=True)
X, X_keys, y, _ = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)
X, X_test, y, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)
encoder = KeyEncoder(128, 64, random_state=0).fit(X_keys)  # keys see none of the rows learned below
blank = DKVBClassifier(FrozenEstimator(encoder))
full = clone(blank).fit(X, y)
print("exact:", full.forgetting_is_exact_)

# %%
# Forget a class. Its column disappears from the probabilities, and its test rows get other labels.
without = copy.deepcopy(full).forget_classes([3])
anew = clone(blank).fit(X[y != 3], y[y != 3])
print("classes:", without.classes_.tolist())
print("largest difference of a value to a model that never saw a 3:", np.abs(without.values_ - anew.values_).max())

# %%
# Forget a person's samples: here every 20th row. Rows that were never learned are refused.
person = np.arange(len(y)) % 20 == 0
fewer = copy.deepcopy(full).forget(X[person], y[person])
again = clone(blank).fit(X[~person], y[~person])
print("largest difference of a value to a model that never saw them:", np.abs(fewer.values_ - again.values_).max())
try:
    fewer.forget(X[person][:1], y[person][:1])
except ValueError as error:
    print("refused:", error)

# %%
# Hiding the class does not forget it: the largest score among the nine others still reveals whether a row is a 3.
kept = full.classes_ != 3
hidden = full.decision_function(X_test)[:, kept].max(axis=1)
forgotten = without.decision_function(X_test).max(axis=1)
never = anew.decision_function(X_test).max(axis=1)
figure, panels = plt.subplots(1, 3, figsize=(9.5, 3), layout="constrained", sharex=True, sharey=True)
for axes, scores, title in zip(
    panels, (hidden, forgotten, never), ("column hidden", "forgotten", "never seen"), strict=True
):
    bins = np.linspace(min(hidden.min(), never.min()), max(hidden.max(), never.max()), 30)
    axes.hist(scores[y_test != 3], bins, density=True, alpha=0.6, label="other digits")
    axes.hist(scores[y_test == 3], bins, density=True, alpha=0.6, label="threes")
    axes.set(title=title, xlabel="largest score among the nine", yticks=[])
panels[0].legend()
plt.show()
