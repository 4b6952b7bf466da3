"""
Covariate shift: the same classes, other inputs
===============================================

Digits are learned upright; then the camera turns, a little more with each task, and labelled rows keep
arriving. The model learns the new view and keeps the old one. ``score_samples`` shows how unusual a view is before
it is learned.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import rotate
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split

from dkvb_estimator import DKVBClassifier, KeyEncoder

images, y = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8)
train, test, y, y_test = train_test_split(images, y, test_size=0.4, stratify=y, random_state=0)
ANGLES = (0, 30, 60, 90)


def turned(pictures, angle):
    """Return the pixels of pictures turned by an angle in degrees (n, 64)."""
    return rotate(pictures, angle, axes=(1, 2), reshape=False, order=1).reshape(len(pictures), 64)


# %%
# Keys are placed on upright digits only. Each task has a quarter of the training rows, so no image
# is seen twice.
parts = np.arange(len(y)) % len(ANGLES)
encoder = KeyEncoder(128, 64, random_state=0).fit(turned(train[parts == 0], 0))
models = {
    "bottleneck": DKVBClassifier(FrozenEstimator(encoder)),
    "linear, gradient steps": SGDClassifier(loss="log_loss", random_state=0),
}
accuracy = {name: np.zeros((len(ANGLES), len(ANGLES))) for name in models}
usual = []
for task, angle in enumerate(ANGLES):
    X, labels = turned(train[parts == task], angle), y[parts == task]
    if task:
        views = (turned(test, ANGLES[task - 1]), turned(test, angle))
        usual.append([models["bottleneck"].score_samples(view).mean() for view in views])
    for name, model in models.items():
        model.partial_fit(X, labels, **({"classes": range(10)} if name.startswith("linear") else {}))
        accuracy[name][task] = [model.score(turned(test, seen), y_test) for seen in ANGLES]

# %%
# Rows: the last angle learned. Columns: the angle of the test digits. Earlier tasks are below the
# diagonal.
figure, panels = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained")
for axes, (name, matrix) in zip(panels, accuracy.items(), strict=True):
    axes.imshow(matrix, vmin=0, vmax=1, cmap="viridis", alpha=0.75)
    for i, j in np.ndindex(matrix.shape):
        axes.text(j, i, f"{matrix[i, j]:.2f}", ha="center", va="center")
    axes.set_xticks(range(len(ANGLES)), [f"{angle}°" for angle in ANGLES])
    axes.set_yticks(range(len(ANGLES)), [f"{angle}°" for angle in ANGLES])
    axes.set(title=name, xlabel="test digits turned by", ylabel="learned up to")
plt.show()

# %%
# Before a view is learned, its rows are less usual than those of the previous view:
for angle, (known, new) in zip(ANGLES[1:], usual, strict=True):
    print(f"{angle}°: mean score {new:.2f}, the view before {known:.2f}")
