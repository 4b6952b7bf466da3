"""Build and measure other methods on the same features and stream.

Enters: a bench, the rows that keys are placed on, whether rows are scaled to unit length.
Leaves: a `MethodResult` per name.
Must not know: caches, files, the bottleneck.

Gradient-trained baselines are treated fairly: each task is learned well before the next one starts. One fixed rule
standardises features, the optimiser makes many steps per task at a suitable learning rate, and all classes are declared
at the start. Later losses are then forgetting, not poor training.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import normalize as to_unit_length
from tqdm import tqdm

from dkvb_estimator.baselines import (
    ClasswiseLDA,
    NearestClassMean,
    RandomFourierDiscriminant,
    RandomProjectionRidge,
    StreamingLDA,
)
from pipeline.config import Baselines
from pipeline.evaluation.course import Course, cost_facts, per_order
from pipeline.evaluation.loop import Bench, learn_rows, timed
from pipeline.evaluation.tables import MethodResult

__all__ = ["GRADIENT_METHODS", "Baseline", "GradientClassifier", "make_baseline", "measure_baselines"]

# Chosen once on 300 held-out training digits over five orders: each task is learned to .98, and the joint probe is at
# its best. At 1e-3 the MLP failed on some late tasks, which would look like forgetting.
GRADIENT_METHODS: Mapping[str, Mapping[str, Any]] = {
    "linear_probe": {"hidden": None, "learning_rate": 1e-3, "epochs": 20},
    "mlp": {"hidden": 256, "learning_rate": 3e-4, "epochs": 20},
}
NEIGHBOURS = 5
PROJECTION_SEED = 0
FLY: Mapping[str, Any] = {"projection": "sparse", "top_share": 0.3}
WIDEST_BY_BATCHES = 2000
"""Number of random features beyond which solving per batch takes longer than everything else together."""


class GradientClassifier:
    """scikit-learn's MLP, or a linear softmax, trained by Adam on one task at a time.

    Parameters
    ----------
    n_classes : int
        Total number of classes; labels are 0 to ``n_classes - 1``.
    hidden : int, optional
        Width of a hidden ReLU layer; None makes the method linear.
    learning_rate : float
        Step of Adam, above 0.
    epochs : int
        Passes over the rows of each `partial_fit`, 1 or more.
    min_steps : int
        Minimum number of steps of each `partial_fit`; a short task gets more passes.
    batch_size : int
        Rows per step, 1 or more.
    scale : ndarray of shape (n, f) or None
        Unlabelled rows; each feature is standardised by their mean and standard deviation. None: features are not
        scaled.
    random_state : int
        Seed of the initial weights and of the order of rows.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(40) % 2
    >>> X = rng.normal(size=(40, 3)).astype(np.float32) + 4 * y[:, None].astype(np.float32)
    >>> model = GradientClassifier(n_classes=2, learning_rate=0.1, scale=X).partial_fit(X, y)
    >>> float((model.predict(X) == y).mean())
    1.0
    """

    def __init__(
        self,
        n_classes: int,
        *,
        hidden: int | None = None,
        learning_rate: float = 1e-3,
        epochs: int = 20,
        min_steps: int = 200,
        batch_size: int = 64,
        scale: np.ndarray | None = None,
        random_state: int = 0,
    ) -> None:
        self.n_classes, self.epochs, self.min_steps, self.batch_size = n_classes, epochs, min_steps, batch_size
        self.scale = None if scale is None else _mean_and_deviation(scale)
        layers = () if hidden is None else (hidden,)
        self.model = MLPClassifier(layers, learning_rate_init=learning_rate, alpha=0.0, random_state=random_state)

    @property
    def classes_(self) -> np.ndarray:
        """All classes (k,), including those that have not arrived."""
        return np.arange(self.n_classes)

    def partial_fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Train only on these rows (n, f) with labels (n,), for `epochs` passes or at least `min_steps` steps."""
        rows = min(self.batch_size, len(y))
        self.model.set_params(batch_size=rows)
        scaled = self._scaled(X)
        for _ in range(max(self.epochs, -(-self.min_steps // -(-len(y) // rows)))):
            self.model.partial_fit(scaled, y, classes=self.classes_)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the most probable class (n,) of rows (n, f)."""
        return self.model.predict(self._scaled(X))

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return the logits of rows (n, f): (n, k), or for two classes those of the second (n,).

        Not probabilities: those of forgotten classes round to zero and could not be compared.
        """
        layers = [*zip(self.model.coefs_, self.model.intercepts_)]
        values = self._scaled(X)
        for weights, biases in layers[:-1]:
            values = np.maximum(values @ weights + biases, 0)
        logits = values @ layers[-1][0] + layers[-1][1]
        return logits if logits.shape[1] > 1 else logits.ravel()

    def _scaled(self, X: np.ndarray) -> np.ndarray:
        # Outliers relative to the scale data would make single steps explode.
        if self.scale is None:
            return X
        mean, deviation = self.scale
        return np.clip((X - mean) / deviation, -10.0, 10.0)


def _mean_and_deviation(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    deviation = X.std(axis=0, dtype=np.float64)
    # A feature that is constant here may vary later: without a floor it would dominate all others.
    floor = max(0.1 * float(deviation.mean()), 1e-12)
    return X.mean(axis=0, dtype=np.float64).astype(np.float32), np.maximum(deviation, floor).astype(np.float32)


@dataclass(frozen=True)
class Baseline:
    """A method, ready to learn a stream.

    Attributes
    ----------
    make : callable
        ``make(order)`` returns an untrained method with ``partial_fit(X, y)`` and ``predict(X)``, for the position of
        an order of classes.
    passes : int
        Number of passes over each row.
    needs_classes : bool
        Whether it must know all classes before the first task.
    by_batches : bool
        Whether its prequential accuracy is measured: each batch is predicted before it is learned.
    """

    make: Callable[[int], Any]
    passes: int = 1
    needs_classes: bool = False
    by_batches: bool = True


def measure_baselines(settings: Baselines, bench: Bench, scale: list[np.ndarray]) -> dict[str, MethodResult]:
    """Measure every method of an entry on every order of a stream.

    Parameters
    ----------
    settings : Baselines
        Settings.
    bench : Bench
        The data.
    scale : list of ndarray of shape (n, f)
        Unlabelled rows that set the scale of the features for the linear probe and the MLP: one array for all orders,
        or one per order.

    Returns
    -------
    dict of str to MethodResult
        In the order of ``settings.methods``.
    """
    results: dict[str, MethodResult] = {}
    bar = tqdm(settings.methods, desc="[baselines] methods", unit="method", mininterval=1.0, leave=False)
    for name in bar:
        bar.set_postfix_str(name)
        clock: dict[str, float] = {}
        as_is = name.removeprefix("joint_") in GRADIENT_METHODS or not settings.normalize
        own = bench if as_is else with_unit_blocks(bench)
        with timed(clock, "choose"):
            baseline = make_baseline(name, own, scale, normalize=settings.normalize)
        learn = _learn_all_at_once if name == "joint_linear_probe" else _learn_stream
        results[name] = learn(baseline, own, clock)
    return results


def with_unit_blocks(bench: Bench) -> Bench:
    """Return a bench whose rows have unit length in the columns of each layer, if there are several.

    Methods that scale whole rows to unit length then scale all layers alike, so that none outweighs the others.
    """
    if bench.feature_blocks is None:
        return bench
    stops = np.cumsum(bench.feature_blocks)[:-1]
    parts = ([to_unit_length(part) for part in np.split(X, stops, axis=1)] for X in (bench.X, bench.X_test))
    X, X_test = (np.concatenate(part, axis=1) for part in parts)
    return replace(bench, X=X, X_test=X_test)


def make_baseline(name: str, bench: Bench, scale: list[np.ndarray], *, normalize: bool) -> Baseline:
    """Prepare a method for the stream.

    For discriminants and ridge, all training rows choose the shrinkage, shares, width or penalty, on a held-out tenth.
    After the last task every order would choose the same; earlier tasks already use it.

    Parameters
    ----------
    name : str
        One of `pipeline.config.BASELINES`; ``joint_linear_probe`` is the linear probe.
    bench : Bench
        The data that the method will learn.
    scale : list of ndarray of shape (n, f)
        As for `measure_baselines`.
    normalize : bool
        Whether all methods get rows of unit length, except the linear probe and the MLP, which standardise features.

    Raises
    ------
    ValueError
        If there is no method of that name.
    """
    if name in GRADIENT_METHODS or name == "joint_linear_probe":
        kind = GRADIENT_METHODS[name.removeprefix("joint_")]
        n_classes = int(max(bench.y.max(), bench.y_test.max())) + 1
        make = partial(_make_gradient_classifier, kind, n_classes, scale)
        return Baseline(make, passes=int(kind["epochs"]), needs_classes=True)
    if name == "nearest_class_mean":
        return Baseline(lambda order: NearestClassMean(normalize=normalize))
    if name in ("streaming_lda", "classwise_lda", "random_fourier_discriminant"):
        return _discriminant(name, bench, normalize=normalize)
    if "_ridge_" in name:
        return _ridge(name, bench, normalize=normalize)
    if name == "k_nearest_neighbours":
        return Baseline(lambda order: _Neighbours(normalize=normalize))
    if name == "gaussian_naive_bayes":
        return Baseline(lambda order: _NaiveBayes(bench.classes, normalize=normalize), needs_classes=True)
    raise ValueError(f"{name!r} is not a baseline; expected one of pipeline.config.BASELINES. Correct the name.")


def _discriminant(name: str, bench: Bench, *, normalize: bool) -> Baseline:
    if name == "streaming_lda":
        best = _choose(StreamingLDA("auto", normalize=normalize), bench).shrinkage_
        return Baseline(lambda order: StreamingLDA(best, normalize=normalize))
    if name == "classwise_lda":
        shares = _choose(ClasswiseLDA(normalize=normalize), bench).shares_
        return Baseline(lambda order: ClasswiseLDA(shares, normalize=normalize), by_batches=False)
    fourier = partial(RandomFourierDiscriminant, normalize=normalize, random_state=PROJECTION_SEED)
    model = _choose(fourier(), bench)
    chosen = {"gamma": model.gamma_, "shrinkage": model.shrinkage_}
    return Baseline(lambda order: fourier(**chosen), by_batches=False)


def _ridge(name: str, bench: Bench, *, normalize: bool) -> Baseline:
    width = int(name.rpartition("_")[2])
    kind = FLY if name.startswith("fly_") else {}
    ridge = partial(RandomProjectionRidge, width, normalize=normalize, random_state=PROJECTION_SEED, **kind)
    penalty = _choose(ridge(), bench).alpha_
    return Baseline(lambda order: ridge(alpha=penalty), by_batches=width <= WIDEST_BY_BATCHES)


def _choose(model: Any, bench: Bench) -> Any:
    labelled = bench.y >= 0
    return model.fit(bench.X[labelled], bench.y[labelled])


def _make_gradient_classifier(
    kind: Mapping[str, Any], n_classes: int, scale: list[np.ndarray], order: int
) -> GradientClassifier:
    return GradientClassifier(n_classes, random_state=order, scale=scale[order % len(scale)], **kind)


class _Neighbours:
    """scikit-learn's nearest neighbours over all rows so far, all of which it stores."""

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
        return vars(self) | {"model": None}  # its state is the rows; the search structure is derived from them


class _NaiveBayes:
    """scikit-learn's Gaussian naive Bayes, which must know all classes first and then also scores unseen ones."""

    def __init__(self, classes: np.ndarray, *, normalize: bool) -> None:
        self.classes_, self.normalize = classes, normalize
        self.model = GaussianNB()

    def partial_fit(self, X: np.ndarray, y: np.ndarray) -> None:
        self.model.partial_fit(to_unit_length(X) if self.normalize else X, y, classes=self.classes_)

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        # A class without rows has a prior of zero, and GaussianNB takes its logarithm.
        with np.errstate(divide="ignore", invalid="ignore"):
            scores = self.model.predict_joint_log_proba(to_unit_length(X) if self.normalize else X)
        return np.where(self.model.class_count_ > 0, scores, -np.inf)

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.classes_[self.decision_function(X).argmax(axis=1)]


def _learn_stream(baseline: Baseline, bench: Bench, clock: dict[str, float]) -> MethodResult:
    """Learn every order; a one-pass method also predicts each batch of the first order before learning it."""

    def learn(model: Any, rows: np.ndarray) -> None:
        learn_rows(model, bench.X[rows], bench.y[rows])

    needs, by_batches = baseline.needs_classes, baseline.by_batches
    score = _mahalanobis if hasattr(baseline.make(0), "score_samples") else None
    course = Course(bench, baseline.make, lambda order: learn, score, baseline.passes, needs, by_batches, clock)
    return course.run()[0]


def _mahalanobis(model: Any, X: np.ndarray) -> dict[str, np.ndarray]:
    return {"mahalanobis": -model.score_samples(X)}


def _learn_all_at_once(baseline: Baseline, bench: Bench, clock: dict[str, float]) -> MethodResult:
    labelled = bench.y >= 0
    model = baseline.make(0)
    with timed(clock, "fit"):
        learn_rows(model, bench.X[labelled], bench.y[labelled])
    with timed(clock, "predict"):
        predictions = model.predict(bench.X_test)
    seconds = per_order(clock, bench, n_orders=1, n_tasks=1)
    return MethodResult(
        [], predictions, facts=cost_facts(model, baseline.passes, baseline.needs_classes), seconds=seconds
    )
