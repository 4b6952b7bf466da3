"""What one would pick instead of a bottleneck on the same features: each head ready for the stream.

Room: between the leaves and the stages.
Enters: a bench, the rows that keys come from, whether rows are made unit length.
Leaves: one `Contender` a name: how to make it, how many passes it makes, whether it had to know all classes.
Must not know: caches, files, what is measured.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize as to_unit_length

from dkvb_estimator.baselines import (
    ClasswiseLDA,
    NearestClassMean,
    RandomFourierDiscriminant,
    RandomProjectionRidge,
    StreamingLDA,
)
from pipeline.evaluation.loop import Bench
from pipeline.evaluation.probes import StreamProbe

__all__ = ["PROBES", "Contender", "make_contender"]

# Chosen once on 300 held-out training digits over five orders: each stage is learned to .98, the
# joint probe is at its best. At 1e-3 the MLP failed on some late stages, which would look like forgetting.
PROBES: Mapping[str, Mapping[str, Any]] = {
    "linear_probe": {"hidden": None, "learning_rate": 1e-3, "epochs": 20},
    "mlp": {"hidden": 256, "learning_rate": 3e-4, "epochs": 20},
}
NEIGHBOURS = 5
PROJECTION_SEED = 0
FLY: Mapping[str, Any] = {"projection": "sparse", "top_share": 0.3}
WIDEST_BY_BATCHES = 2000
"""Random features beyond which solving once a batch would take longer than everything else together."""


@dataclass(frozen=True)
class Contender:
    """A head as a stream meets it.

    Attributes
    ----------
    make : callable
        ``make(order)`` gives an untrained head with ``partial_fit(X, y)`` and ``predict(X)``, for the position of an
        order of classes.
    passes : int
        Times that it goes over each row.
    needs_classes : bool
        Whether it had to know all classes before the first stage.
    by_batches : bool
        Whether it is also tried batch by batch, each predicted before it is learned.
    """

    make: Callable[[int], Any]
    passes: int = 1
    needs_classes: bool = False
    by_batches: bool = True


def make_contender(name: str, bench: Bench, scale: list[np.ndarray], *, normalize: bool) -> Contender:
    """Prepare a head for the stream.

    Discriminants and ridges take the shrinkage, shares, width or penalty that all training rows choose, on a tenth of
    them held out: it is theirs after the last stage whatever the order, and earlier stages get it in advance.

    Parameters
    ----------
    name : str
        One of `pipeline.records.HEADS`; ``joint_linear_probe`` is the linear probe.
    bench : Bench
        What the head will meet.
    scale : list of ndarray (n,f)
        Rows without labels that tell a probe the scale of features: of one set for all orders, or of one an order.
    normalize : bool
        Give all but the probes, which standardise, rows of unit length.

    Raises
    ------
    ValueError
        If there is no head of that name.
    """
    if name in PROBES or name == "joint_linear_probe":
        kind = PROBES[name.removeprefix("joint_")]
        n_classes = int(max(bench.y.max(), bench.y_test.max())) + 1
        return Contender(partial(_make_probe, kind, n_classes, scale), passes=int(kind["epochs"]), needs_classes=True)
    if name == "nearest_class_mean":
        return Contender(lambda order: NearestClassMean(normalize=normalize))
    if name in ("streaming_lda", "classwise_lda", "random_fourier_discriminant"):
        return _discriminant(name, bench, normalize=normalize)
    if "_ridge_" in name:
        return _ridge(name, bench, normalize=normalize)
    if name == "k_nearest_neighbours":
        return Contender(lambda order: _Neighbours(normalize=normalize))
    if name == "gaussian_naive_bayes":
        return Contender(lambda order: _NaiveBayes(bench.classes, normalize=normalize), needs_classes=True)
    raise ValueError(f"{name!r} is no head; one of pipeline.records.HEADS is expected: correct the name")


def _discriminant(name: str, bench: Bench, *, normalize: bool) -> Contender:
    if name == "streaming_lda":
        best = _choose(StreamingLDA("auto", normalize=normalize), bench).shrinkage_
        return Contender(lambda order: StreamingLDA(best, normalize=normalize))
    if name == "classwise_lda":
        shares = _choose(ClasswiseLDA(normalize=normalize), bench).shares_
        return Contender(lambda order: ClasswiseLDA(shares, normalize=normalize), by_batches=False)
    fourier = partial(RandomFourierDiscriminant, normalize=normalize, random_state=PROJECTION_SEED)
    model = _choose(fourier(), bench)
    chosen = {"gamma": model.gamma_, "shrinkage": model.shrinkage_}
    return Contender(lambda order: fourier(**chosen), by_batches=False)


def _ridge(name: str, bench: Bench, *, normalize: bool) -> Contender:
    width = int(name.rpartition("_")[2])
    kind = FLY if name.startswith("fly_") else {}
    ridge = partial(RandomProjectionRidge, width, normalize=normalize, random_state=PROJECTION_SEED, **kind)
    penalty = _choose(ridge(), bench).alpha_
    return Contender(lambda order: ridge(alpha=penalty), by_batches=width <= WIDEST_BY_BATCHES)


def _choose(model: Any, bench: Bench) -> Any:
    labelled = bench.y >= 0
    return model.fit(bench.X[labelled], bench.y[labelled])


def _make_probe(kind: Mapping[str, Any], n_classes: int, scale: list[np.ndarray], order: int) -> StreamProbe:
    return StreamProbe(n_classes, random_state=order, **kind).init_scale(scale[order % len(scale)])


class _Neighbours:
    """scikit-learn's nearest neighbours over all rows so far: it keeps every one of them."""

    def __init__(self, *, normalize: bool) -> None:
        self.normalize = normalize
        self.rows: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []

    def partial_fit(self, X: np.ndarray, y: np.ndarray) -> None:
        self.rows.append(to_unit_length(X) if self.normalize else X)
        self.labels.append(y)
        rows, labels = np.concatenate(self.rows), np.concatenate(self.labels)
        self.model = KNeighborsClassifier(min(NEIGHBOURS, len(rows))).fit(rows, labels)

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.model.predict(to_unit_length(X) if self.normalize else X)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"model": None}  # what it keeps are the rows; the search structure follows from them


class _NaiveBayes:
    """scikit-learn's Gaussian naive Bayes, which must hear of all classes first and then rates unseen ones as well."""

    def __init__(self, classes: np.ndarray, *, normalize: bool) -> None:
        self.classes, self.normalize = classes, normalize
        self.model = GaussianNB()

    def partial_fit(self, X: np.ndarray, y: np.ndarray) -> None:
        self.model.partial_fit(to_unit_length(X) if self.normalize else X, y, classes=self.classes)

    def predict(self, X: np.ndarray) -> np.ndarray:
        # A class without rows has a prior of zero, whose logarithm GaussianNB takes.
        with np.errstate(divide="ignore", invalid="ignore"):
            scores = self.model.predict_joint_log_proba(to_unit_length(X) if self.normalize else X)
        return self.model.classes_[np.where(self.model.class_count_ > 0, scores, -np.inf).argmax(axis=1)]
