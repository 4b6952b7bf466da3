"""Learn ten digits, two classes at a time; save the model, load it and predict."""

import tempfile
from pathlib import Path

from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split

from dkvb_estimator import DKVBClassifier, KeyEncoder, load_model, save_model

X, y = load_digits(return_X_y=True)  # your embeddings (n, f) and labels (n,)
X, X_unlabelled, y, _ = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)
X, X_test, y, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)

encoder = KeyEncoder(n_heads=128, n_keys=64, random_state=0).fit(X_unlabelled)  # no labels needed
model = DKVBClassifier(FrozenEstimator(encoder))  # the keys never move

for first in range(0, 10, 2):  # two new classes arrive; the old ones are not shown again
    new = (y == first) | (y == first + 1)
    model.partial_fit(X[new], y[new])
    seen = y_test < first + 2
    print(f"classes 0 to {first + 1}: accuracy {model.score(X_test[seen], y_test[seen]):.3f} over all seen so far")

with tempfile.TemporaryDirectory() as folder:  # any folder works
    save_model(model, Path(folder) / "digits.npz")
    model = load_model(Path(folder) / "digits.npz")
print(f"loaded again: accuracy {model.score(X_test, y_test):.3f}")

print("next: model.forget_classes([3]) takes a class away; examples/forgetting.py shows what that leaves behind")
