"""
Confidence, and samples of unknown classes
==========================================

``calibrate`` fits a temperature on held-out rows, so that about 80 % of the rows predicted with 0.8 are right.
``score_samples`` is higher for more usual rows: it detects rows of classes that were never learned.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.calibration import calibration_curve
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss, roc_auc_score, roc_curve
from sklearn.model_selection import train_test_split

from dkvb_estimator import DKVBClassifier, KeyEncoder

X, y = load_digits(return_X_y=True)
known = y < 8  # eights and nines are never learned
X_train, X_rest, y_train, y_rest = train_test_split(
    X[known], y[known], test_size=0.6, stratify=y[known], random_state=0
)
X_held, X_test, y_held, y_test = train_test_split(X_rest, y_rest, test_size=0.5, stratify=y_rest, random_state=0)
model = DKVBClassifier(KeyEncoder(64, 128, 8, random_state=0), solver="counts").fit(X_train, y_train)
joint = DKVBClassifier(KeyEncoder(128, 64, random_state=0)).fit(X_train, y_train)

# %%
# Top probabilities of ``counts`` before and after; ``calibrate`` changes no prediction. ``joint`` chooses its mixture
# by leave-one-out scores of training rows, and needs no temperature.
before = model.predict_proba(X_test)
after = model.calibrate(X_held, y_held).predict_proba(X_test)
curves = {
    "counts as learned": (model, before),
    f"counts, temperature {model.temperature_:.2f}": (model, after),
    "joint as learned": (joint, joint.predict_proba(X_test)),
}
figure, axes = plt.subplots(figsize=(5, 3.8), layout="constrained")
axes.plot([0, 1], [0, 1], "--", color="0.6")
for name, (fitted, probabilities) in curves.items():
    right = fitted.predict(X_test) == y_test
    loss = log_loss(y_test, probabilities)
    share, stated = calibration_curve(right, probabilities.max(axis=1), n_bins=6, strategy="quantile")
    axes.plot(stated, share, "o-", label=f"{name}: log loss {loss:.3f}")
axes.set(xlabel="stated probability", ylabel="share that is right", title="calibration", xlim=(0, 1), ylim=(0, 1.02))
axes.legend()
plt.show()

# %%
# Refuse unusual rows: eights and nines against test rows of the classes that were learned.
rows = np.concatenate([X_test, X[~known]])
strange = np.repeat([False, True], [len(X_test), (~known).sum()])
figure, axes = plt.subplots(figsize=(5, 3.8), layout="constrained")
scores = {
    "joint, score_samples": -joint.score_samples(rows),
    "joint, largest probability": -joint.predict_proba(rows).max(axis=1),
    "counts, score_samples": -model.score_samples(rows),
}
for name, score in scores.items():
    false, true, _ = roc_curve(strange, score)
    axes.plot(false, true, label=f"{name}: area {roc_auc_score(strange, score):.3f}")
axes.plot([0, 1], [0, 1], "--", color="0.6")
axes.set(xlabel="known classes refused", ylabel="unknown classes refused", title="classes never learned")
axes.legend()
plt.show()
