"""
Choose a codebook: heads, keys and selected keys
================================================

More heads average over more views of an embedding; more keys make each view finer, and need more samples to be
selected. Here ``joint`` has heads of two coordinates, and ``counts`` heads of eight coordinates with several selected
keys. The data are the pixels of scikit-learn's digits.
"""

from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from dkvb_estimator import DKVBClassifier, KeyEncoder

X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = train_test_split(X, y, test_size=0.4, stratify=y, random_state=0)

# %%
# The grid, for both solvers. ``state_bytes_`` is the size of the learned state, without projection and keys.
HEADS, KEYS, DIMS = (4, 16, 64, 256), (16, 64, 256), {"joint": 2, "counts": 8}
accuracy, seconds, megabytes = (np.zeros((2, len(HEADS), len(KEYS))) for _ in range(3))
for s, solver in enumerate(DIMS):
    for h, n_heads in enumerate(HEADS):
        for j, n_keys in enumerate(KEYS):
            started = perf_counter()
            model = DKVBClassifier(KeyEncoder(n_heads, n_keys, DIMS[solver], random_state=0), solver=solver).fit(X, y)
            accuracy[s, h, j] = model.score(X_test, y_test)
            seconds[s, h, j] = perf_counter() - started
            frozen = model.encoder_.keys_.nbytes + model.encoder_.projection_.nbytes
            megabytes[s, h, j] = (model.state_bytes_ + frozen) / 2**20

# %%
figure, panels = plt.subplots(2, 3, figsize=(10, 6), layout="constrained")
for s, solver in enumerate(DIMS):
    for axes, numbers, title in zip(
        panels[s],
        (accuracy[s], seconds[s], megabytes[s]),
        ("accuracy", "seconds to learn and test", "MiB, keys included"),
        strict=True,
    ):
        axes.imshow(numbers, cmap="viridis", alpha=0.75, aspect="auto")
        for h, j in np.ndindex(numbers.shape):
            axes.text(j, h, f"{numbers[h, j]:.3g}", ha="center", va="center")
        axes.set_xticks(range(len(KEYS)), KEYS)
        axes.set_yticks(range(len(HEADS)), HEADS)
        axes.set(title=f"{solver}: {title}", xlabel="keys per head", ylabel="heads")
plt.show()

# %%
# How many keys should ``counts`` select per head, with 64 heads and 256 keys? ``n_selected="auto"`` selects one, since
# nearby keys share hits anyway. On these pixels one or two are best: try it on your data.
selected = (1, 2, 4, 8, 16)
scores = [
    DKVBClassifier(KeyEncoder(64, 256, 8, n_selected=m, random_state=0), solver="counts")
    .fit(X, y)
    .score(X_test, y_test)
    for m in selected
]
figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
axes.plot(selected, scores, "o-")
axes.set_xscale("log", base=2)
axes.set_xticks(selected, selected)
axes.set(xlabel="keys selected in each head", ylabel="accuracy", ylim=(0.9, 1))
axes.grid(alpha=0.3)
plt.show()
