"""
What one sample changes
=======================

This example draws real codes: the heads of a bottleneck on scikit-learn's handwritten digits, the keys that one more
digit selects, and what changes there.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator

from dkvb_estimator import DKVBClassifier, KeyEncoder

X, y = load_digits(return_X_y=True)
sample, label = X[1000:1001], y[1000]

# %%
# Each of 64 heads maps the 64 pixels to two coordinates and selects the nearest of its 48 keys. The keys are placed on
# unlabelled digits, and never move.
encoder = KeyEncoder(64, 48, 2, random_state=0).fit(X[:1000])
model = DKVBClassifier(FrozenEstimator(encoder), solver="counts").fit(X[:1000], y[:1000])
codes = np.asarray(encoder.transform(sample)).reshape(64)
print(f"the sample is a {label}; its code is {codes[:6]} ... in 64 numbers")

# %% One more digit is learned. In each head it adds one to the count of one key: 64 of 3,072 counts change. ``counts``
# computes the values from these counts, shared between nearby keys: the value of the digit's class rises around the
# selected key, and falls a little elsewhere, because a class's values are the logarithms of shares that sum to one.
hits, values = model.key_counts_.copy(), model.values_.copy()
model.partial_fit(sample, [label])
added = model.key_counts_ - hits
change = (model.values_ - values)[:, :, label]

# %% On the left, one head with its view of the digits, its keys, and the borders between them. In the middle, the same
# head when the digit arrives (cross): the key that it selects (ring), and how the value of its class changes at each
# key. On the right, all heads: the keys whose count changed.
head = 0
keys = encoder.keys_[head]
rows = X / np.linalg.norm(X, axis=1, keepdims=True)
places = rows @ encoder.projection_[:, head]
low, high = places[:1000].min(axis=0) - 0.01, places[:1000].max(axis=0) + 0.01
grid = np.stack(np.meshgrid(*np.linspace(low, high, 300).T), axis=-1)
nearest = ((grid[:, :, None] - keys) ** 2).sum(axis=-1).argmin(axis=-1)
borders = np.zeros(nearest.shape, bool)
borders[1:] |= nearest[1:] != nearest[:-1]
borders[:, 1:] |= nearest[:, 1:] != nearest[:, :-1]

figure, panels = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained", width_ratios=(1, 1.16, 0.85))
extent = (low[0], high[0], low[1], high[1])
for axes in panels[:2]:
    axes.imshow(borders, origin="lower", extent=extent, cmap="Greys", vmax=3, aspect="auto")
    axes.set(xticks=[], yticks=[])
shown = panels[0].scatter(*places[:1000].T, s=7, alpha=0.6, c=y[:1000], cmap="tab10", vmin=-0.5, vmax=9.5)
panels[0].scatter(*keys.T, s=30, color="black", edgecolor="white", linewidth=0.8)
panels[0].legend(*shown.legend_elements(), ncols=5, loc="upper center", bbox_to_anchor=(0.5, -0.02), frameon=False)
panels[0].set_title(f"head {head}: 1,000 digits, and its keys", fontsize=10)

most = np.abs(change[head]).max()
dots = panels[1].scatter(*keys.T, s=70, c=change[head], cmap="RdBu", vmin=-most, vmax=most, edgecolor="0.5")
panels[1].scatter(*keys[codes[head]], s=230, facecolor="none", edgecolor="black", linewidth=2)
panels[1].scatter(*places[1000], s=60, marker="x", color="black")
panels[1].set_title(f"one more {label}: the key it selects", fontsize=10)
figure.colorbar(dots, ax=panels[1], label=f"change of the value of class {label}")
picture = panels[1].inset_axes((0.02, 0.74, 0.24, 0.24))
picture.imshow(sample.reshape(8, 8), cmap="Greys")
picture.set(xticks=[], yticks=[])

panels[2].imshow(added > 0, cmap="Greys", aspect="auto", interpolation="nearest")
panels[2].set(xlabel="key", ylabel="head")
panels[2].set_title(f"{int((added > 0).sum()):,} of {added.size:,} counts change", fontsize=10)
plt.show()

# %%
# ``forget`` removes the digit, and restores every bit.
model.forget(sample, [label])
print("values as before:", np.array_equal(model.values_, values))
