"""
Choose a solver: accuracy, time and memory
==========================================

This example compares the three solvers with other classifiers for frozen features, on the pixels of scikit-learn's
digits, all ten classes in one pass (``sgd``: ten). For frozen features of photographs see :doc:`/solvers`.
"""

from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from dkvb_estimator import DKVBClassifier, KeyEncoder
from dkvb_estimator.baselines import NearestClassMean, RandomProjectionRidge, StreamingLDA

X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = train_test_split(X, y, test_size=0.4, stratify=y, random_state=0)

# %%
# ``joint`` works best with many heads of two coordinates, the others with fewer and wider ones. The learning rate of 30
# suits ten passes; the paper's 0.3 suits two thousand.
methods = {
    "joint": DKVBClassifier(KeyEncoder(256, 64, random_state=0)),
    "counts": DKVBClassifier(KeyEncoder(128, 256, 8, random_state=0), solver="counts"),
    "sgd": DKVBClassifier(KeyEncoder(128, 256, 8, random_state=0), solver="sgd", solver_params={"learning_rate": 30.0}),
    "nearest class mean": NearestClassMean(),
    "streaming LDA": StreamingLDA(),
    "RP ridge 1,000": RandomProjectionRidge(1000, random_state=0),
}
rows = []
for method in methods.values():
    started = perf_counter()
    method.fit(X, y).predict(X_test[:1])  # joint solves at its first prediction
    learned = perf_counter()
    accuracy = method.score(X_test, y_test)
    rows.append((accuracy, learned - started, (perf_counter() - learned) * 1000 / len(y_test)))
accuracy, learn, predict = np.array(rows).T

# %%
# The last panel is the memory of the learned state of the three solvers, without keys and projection, whose size is
# fixed. Seconds to learn include placing keys.
solvers = ["joint", "counts", "sgd"]
state = np.array([methods[name].state_bytes_ for name in solvers]) / 2**20
figure, panels = plt.subplots(1, 4, figsize=(13, 3.4), layout="constrained")
names, colours = list(methods), ["tab:blue"] * 3 + ["0.6"] * 3
for axes, numbers, title in (
    (panels[0], accuracy, "accuracy"),
    (panels[1], learn, "seconds to learn"),
    (panels[2], predict, "ms per predicted row"),
):
    bars = axes.barh(names, numbers, color=colours)
    axes.bar_label(bars, [f"{number:.3g}" for number in numbers], padding=2)
    axes.set(title=title, xlim=(0, 1.25 * numbers.max()))
    axes.invert_yaxis()
panels[0].set_xlim(0.7, 1.05)
bars = panels[3].barh(solvers, state, color="tab:blue")
panels[3].bar_label(bars, [f"{number:.2g}" for number in state], padding=2)
panels[3].set(title="MiB learned", xlim=(0, 1.25 * state.max()))
panels[3].invert_yaxis()
for axes in panels[1:3]:
    axes.set_yticklabels([])
plt.show()
