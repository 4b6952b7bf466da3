"""
Place keys well: they never move
================================

Keys are placed once. A small first batch permanently costs some accuracy, and the model warns. The remedy is an encoder
that is fitted on unlabelled data beforehand. That data may even show something else entirely.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits, load_sample_images
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split

from dkvb_estimator import DKVBClassifier, KeyEncoder

X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = train_test_split(X, y, test_size=0.4, stratify=y, random_state=0)

# %%
# First, keys from the first n rows of the stream. If there are fewer rows than keys, the rest are drawn
# from a normal with the rows' mean and shrunk covariance, so that even one row gives a usable codebook.
sizes = (1, 8, 32, 128, 512, len(X))
small = []
for size in sizes:
    model = DKVBClassifier(KeyEncoder(128, 128, random_state=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # this page explains the warning
        model.partial_fit(X[:size], y[:size])
    if size < len(X):
        model.partial_fit(X[size:], y[size:])
    small.append(model.score(X_test, y_test))

# %%
# Second, keys from other data: grey squares cut from scikit-learn's two sample photographs, shrunk to 8 × 8.
rng = np.random.default_rng(0)
photographs = [image.mean(axis=2) for image in load_sample_images().images]
crops = []
for i in range(2000):
    grey, side = photographs[i % 2], 8 * int(rng.integers(2, 25))
    top, left = (int(rng.integers(length - side + 1)) for length in grey.shape)
    square = grey[top : top + side, left : left + side].reshape(8, side // 8, 8, side // 8).mean(axis=(1, 3))
    crops.append((square - square.min()).ravel())
encoder = KeyEncoder(128, 128, random_state=0).fit(np.array(crops))
other = DKVBClassifier(FrozenEstimator(encoder)).partial_fit(X, y)

# %%
figure, axes = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
axes.plot(sizes, small, "o-", label="keys from the first n rows")
axes.axhline(other.score(X_test, y_test), color="tab:green", ls="--", label="keys from crops of two photographs")
axes.axvline(128, color="0.7", ls=":", label="as many rows as keys per head")
axes.set(xscale="log", xlabel="rows of the first batch", ylabel="accuracy after all rows", ylim=(0.9, 1))
axes.grid(alpha=0.3)
axes.legend()
plt.show()

# %%
# Keys from other data also make forgetting exact for any rows:
print("forgetting is exact with keys from the stream:", model.forgetting_is_exact_)
print("forgetting is exact with keys from the photographs:", other.forgetting_is_exact_)
