"""
Learn in two places, and merge
==============================

``joint`` and ``counts`` learn sums. Two copies of one model with the same keys learn different classes in different
places; merged, they equal a model that learned everything, bit for bit.
"""

import copy

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import recall_score
from sklearn.model_selection import train_test_split

from dkvb_estimator import DKVBClassifier, KeyEncoder

X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = train_test_split(X, y, test_size=0.4, stratify=y, random_state=0)
blank = DKVBClassifier(FrozenEstimator(KeyEncoder(128, 64, random_state=0).fit(X)))

# %%
# One copy learns even digits, the other odd ones.
even = clone(blank).fit(X[y % 2 == 0], y[y % 2 == 0])
odd = clone(blank).fit(X[y % 2 == 1], y[y % 2 == 1])
merged = copy.deepcopy(even).merge(odd)
everything = clone(blank).fit(X, y)
print("equal values:", np.array_equal(merged.values_, everything.values_))

# %%
figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
for offset, (name, model) in enumerate({"even digits": even, "odd digits": odd, "merged": merged}.items()):
    recall = recall_score(y_test, model.predict(X_test), labels=np.arange(10), average=None, zero_division=0)
    axes.bar(np.arange(10) + 0.27 * (offset - 1), recall, width=0.27, label=name)
axes.set(xlabel="digit", ylabel="share recognised", xticks=range(10), ylim=(0, 1.25))
axes.legend(ncols=3, loc="upper center")
plt.show()
