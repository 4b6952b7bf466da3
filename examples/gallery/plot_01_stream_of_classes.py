"""
A stream of classes
===================

Ten digits arrive two at a time, and earlier ones are never shown again. A linear classifier trained by
gradient steps forgets. The bottleneck does not, because a new class adds to what was learned and overwrites nothing.
Accuracy is over all ten digits, so the best that two known classes allow is about a fifth.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split

from dkvb_estimator import DKVBClassifier, KeyEncoder

X, y = load_digits(return_X_y=True)
X, X_unlabelled, y, _ = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)
X, X_test, y, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)

# %%
# Keys are placed once, from unlabelled rows that are not learned later. scikit-learn's classifier needs the list of
# all classes at its first call; the bottleneck does not.
many, wide = (KeyEncoder(*sizes, random_state=0).fit(X_unlabelled) for sizes in ((128, 64), (64, 128, 8)))
models = {
    "bottleneck, joint": DKVBClassifier(FrozenEstimator(many)),
    "bottleneck, counts": DKVBClassifier(FrozenEstimator(wide), solver="counts"),
    "linear, gradient steps": SGDClassifier(loss="log_loss", random_state=0),
}
tasks = [(first, first + 1) for first in range(0, 10, 2)]
accuracy = {name: [] for name in models}
for task in tasks:
    new = np.isin(y, task)
    for name, model in models.items():
        model.partial_fit(X[new], y[new], classes=range(10) if name.startswith("linear") else None)
        accuracy[name].append(model.score(X_test, y_test))

# %%
# The dashed line is the accuracy of a model that knows the classes seen so far perfectly.
figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
ideal = [np.isin(y_test, range(last + 1)).mean() for _, last in tasks]
axes.plot(ideal, "--", color="0.6", label="all classes so far, without error")
for name, colour in zip(models, ("tab:green", "tab:blue", "tab:red"), strict=True):
    axes.plot(accuracy[name], "o-", color=colour, label=name)
axes.set_xticks(range(5), [f"{first} and {last}" for first, last in tasks])
axes.set(xlabel="digits that have just been learned", ylabel="accuracy on all ten digits", ylim=(0, 1.02))
axes.grid(alpha=0.3)
axes.legend(loc="upper left")
plt.show()

# %%
# In numbers, after the last task:
for name in models:
    print(f"{name:25s} {accuracy[name][-1]:.3f}")
