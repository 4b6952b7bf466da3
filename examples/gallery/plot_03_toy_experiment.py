"""
The toy experiment: what forgets
================================

Eight classes in the plane, two per task, as in figure 2 of the paper that introduced the bottleneck. Colours show the
class that is predicted for each point of the square after each task. A linear model and a small network know only
the last two classes; the bottlenecks keep what they learned.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import SGDClassifier
from sklearn.neural_network import MLPClassifier

from dkvb_estimator import DKVBClassifier, KeyEncoder

rng = np.random.default_rng(0)
CENTRES = np.array([[1, 1], [3, 1], [3, 3], [1, 3], [3, 2], [2, 3], [1, 2], [2, 1]]) / 4
TASKS = [(0, 4), (1, 5), (2, 6), (3, 7)]


def draw(classes, n):
    """Return n points of some classes and their labels."""
    y = rng.choice(classes, size=n)
    return CENTRES[y] + 0.035 * rng.standard_normal((n, 2)), y


# %% Both bottlenecks have 400 keys in total, placed on points spread evenly over the square. The projection of the
# second is gaussian: rotations of a plane would give each head the same keys.
square = rng.uniform(size=(10_000, 2))


def bottleneck(n_heads, n_keys, projection):
    """Return a classifier whose keys are placed over the square."""
    encoder = KeyEncoder(n_heads, n_keys, projection=projection, normalize=False, random_state=0)
    return DKVBClassifier(FrozenEstimator(encoder.fit(square)))


models = {
    "linear": SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.1, random_state=0),
    "network, 32 hidden": MLPClassifier(32, learning_rate_init=0.003, random_state=0),
    "bottleneck, 1 × 400": bottleneck(1, 400, "identity"),
    "bottleneck, 20 × 20": bottleneck(20, 20, "gaussian"),
}
steps = {"linear": 100, "network, 32 hidden": 300}

# %%
# The first two need many passes over each task, and the list of classes; the bottlenecks take one pass each.
grid = np.stack(np.meshgrid(np.linspace(0, 1, 100), np.linspace(0, 1, 100)), axis=-1).reshape(-1, 2)
X_test, y_test = draw(np.arange(8), 1600)
maps, accuracy = {}, {name: [] for name in models}
for number, task in enumerate(TASKS):
    X, y = draw(task, 100)
    for name, model in models.items():
        for _ in range(steps.get(name, 1)):
            model.partial_fit(X, y, classes=np.arange(8) if name in steps else None)
        maps[name, number] = model.predict(grid).reshape(100, 100)
        accuracy[name].append(model.score(X_test, y_test))

# %%
figure, panels = plt.subplots(len(models), 4, figsize=(8, 8.4), layout="constrained")
for row, name in zip(panels, models, strict=True):
    row[0].set_ylabel(name)
    for number, axes in enumerate(row):
        axes.imshow(maps[name, number], origin="lower", extent=(0, 1, 0, 1), cmap="tab10", vmin=0, vmax=9, alpha=0.6)
        axes.scatter(*CENTRES.T, c=np.arange(8), cmap="tab10", vmin=0, vmax=9, s=18, edgecolor="black")
        axes.set_title(f"{accuracy[name][number]:.2f} of 8 classes", fontsize=9)
        axes.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1))
for axes, task in zip(panels[-1], TASKS, strict=True):
    axes.set_xlabel(f"after {task[0]} and {task[1]}")
plt.show()
