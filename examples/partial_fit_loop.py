"""Learn from a stream of batches, and predict at any time."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split

from dkvb_estimator import DKVBClassifier, KeyEncoder

X, X_test, y, y_test = train_test_split(*load_digits(return_X_y=True), test_size=0.3, random_state=0)

encoder = KeyEncoder(n_heads=128, n_keys=64, random_state=0).fit(X[:300])  # a first look at the data, without labels
model = DKVBClassifier(FrozenEstimator(encoder))  # the keys never move again

for batch in np.array_split(np.arange(300, len(X)), 6):  # your stream; labels never seen before are welcome
    model.partial_fit(X[batch], y[batch])
    print(f"{batch[-1] - 299:4d} samples learned: accuracy {model.score(X_test, y_test):.3f}")
