"""
Heads, keys and values
======================

The parts of a bottleneck, drawn in the plane: one head that reads both coordinates, 60 keys, three classes.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.frozen import FrozenEstimator

from dkvb_estimator import DKVBClassifier, KeyEncoder

rng = np.random.default_rng(0)
centres = np.array([[0.25, 0.3], [0.7, 0.25], [0.5, 0.75]])
y = np.repeat(np.arange(3), 60)
X = centres[y] + 0.09 * rng.standard_normal((len(y), 2))

# %%
# Keys are placed on unlabelled rows, here points spread evenly over the square, and never move again.
# ``normalize=False`` keeps the length of an embedding, which in the plane is half of the information.
encoder = KeyEncoder(1, 60, projection="identity", normalize=False, random_state=0).fit(rng.uniform(size=(2000, 2)))
model = DKVBClassifier(FrozenEstimator(encoder), solver="counts")
keys = encoder.keys_[0]

# %%
# A row selects its nearest key. ``values_`` of the keys, (c, j, k), are what learns: with ``counts``, as here, each
# says how likely each class is to select that key. At prediction a row goes to the nearest key that
# learning has *used*, so keys far from all data have no influence.
model.fit(X, y)
used = model.key_counts_[0] > 0
grid = np.stack(np.meshgrid(np.linspace(0, 1, 250), np.linspace(0, 1, 250)), axis=-1)
nearest = np.asarray(encoder.transform(grid.reshape(-1, 2))).reshape(250, 250)
predicted = model.predict(grid.reshape(-1, 2)).reshape(250, 250)

colours = np.array(["tab:blue", "tab:orange", "tab:green"])
figure, panels = plt.subplots(1, 3, figsize=(10.5, 3.7), layout="constrained", sharey=True)
titles = ("keys are placed, without labels", "rows select keys: their values learn", "predictions snap to used keys")
for axes, title in zip(panels, titles, strict=True):
    axes.set(title=title, xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=[], yticks=[])
borders = np.zeros((250, 250), bool)
borders[1:] |= nearest[1:] != nearest[:-1]
borders[:, 1:] |= nearest[:, 1:] != nearest[:, :-1]
for axes in panels[:2]:
    axes.imshow(borders, origin="lower", extent=(0, 1, 0, 1), cmap="Greys", vmax=3)
panels[0].scatter(*keys.T, s=14, color="black")
panels[1].scatter(*X.T, s=6, color=colours[y], alpha=0.5)
panels[1].scatter(*keys[used].T, s=40, color=colours[model.values_[0, used].argmax(axis=1)], edgecolor="black")
panels[1].scatter(*keys[~used].T, s=14, facecolor="white", edgecolor="0.6")
for label in range(3):
    panels[2].contourf(
        *grid.transpose(2, 0, 1), predicted == label, levels=[0.5, 1], colors=[colours[label]], alpha=0.35
    )
panels[2].scatter(*keys[used].T, s=24, color=colours[model.values_[0, used].argmax(axis=1)], edgecolor="black")
plt.show()

# %%
# With embeddings, many heads read a few random directions each, and the values of their nearest keys are
# averaged. A single head is often wrong, all heads together rarely.
print(f"{used.sum()} of {len(used)} keys used, accuracy on what was learned {model.score(X, y):.3f}")
