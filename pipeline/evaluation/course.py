"""A method's course through every order of a stream: learn, test, predict before learning, score unseen classes.

Enters: a bench, how a method starts and how it learns rows. Leaves: a `MethodResult`, the model of the first order.
Must not know: which method learns, caches, files.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.evaluation.calibration import tell_unseen
from pipeline.evaluation.loop import Bench, batches, feed_then_test, state_bytes
from pipeline.evaluation.streams import Task
from pipeline.evaluation.tables import MethodResult
from pipeline.scratch import Checkpoint, Kept

__all__ = ["Course", "HalfSeen", "Prequential", "cost_facts", "per_order", "seen_half"]

Learn = Callable[[Any, np.ndarray], None]
"""``learn(model, rows)`` for positions of training rows (n,). Methods that need several passes make them over these."""


@dataclass
class Course:
    """A method's course through the orders of a stream.

    Attributes
    ----------
    bench : Bench
        The data.
    start : callable
        ``start(order)`` returns a method that has learned nothing, for the position of an order.
    learner : callable
        ``learner(order)`` returns ``learn(model, rows)``.
    score : callable or None
        ``score(model, X)`` returns scores (n,) by name, higher is more novel; None for a method without such scores.
    passes : int
        Number of passes over each row.
    needs_classes : bool
        Whether the method must know all classes before the first task.
    by_batches : bool
        Whether rows of the first order are also predicted, batch by batch, before they are learned. A method with one
        pass is tested in the same course; another repeats the order, since a batch is learned differently from a task.
    seconds : dict
        Wall-clock seconds by part; gains ``fit`` and ``predict``.
    """

    bench: Bench
    start: Callable[[int], Any]
    learner: Callable[[int], Learn]
    score: Callable[[Any, np.ndarray], Mapping[str, np.ndarray]] | None = None
    passes: int = 1
    needs_classes: bool = False
    by_batches: bool = True
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.seconds |= {"fit": 0.0, "predict": 0.0}  # a resumed course may do neither
        self.prequential = Prequential(self.bench, self.learner(0))
        self._scores: dict[int, Mapping[str, np.ndarray]] = {}

    def run(
        self, checkpoint: Checkpoint | None = None, kept: Kept | None = None, on_task: Callable[[], Any] = lambda: None
    ) -> tuple[MethodResult, Any]:
        """Learn every order; return the result, and the model of the first order after its last task.

        Parameters
        ----------
        checkpoint : Checkpoint or None
            Keeps the first order's model and predictions after each task.
        kept : Kept or None
            What it kept of an interrupted course, to continue there.
        on_task : callable
            Called after every task, also after those that were kept.
        """
        first, tested = self.start(0) if kept is None else kept.model, [] if kept is None else list(kept.tested)
        if kept is not None:
            self.prequential.arrived, self.prequential.predicted = [[*part] for part in kept.met]

        def keep() -> None:
            if checkpoint is not None:
                checkpoint.write(first, tested, (self.prequential.arrived, self.prequential.predicted))
            on_task()

        for _ in tested:
            on_task()
        outcomes = [self._order(0, first, tested, keep)]
        met = self._predict_before_learning()
        outcomes += [self._order(order, self.start(order), [], on_task) for order in range(1, len(self.bench.orders))]
        novelty = self._novelty()
        facts = cost_facts(first, self.passes, self.needs_classes) | {
            f"{score}_{name}": found[name] for score, found in novelty.items() for name in ("auroc", "fpr_at_95_tpr")
        }
        seconds = per_order(self.seconds, self.bench)
        return MethodResult(outcomes, outcomes[0].predictions, met, facts, novelty, seconds), first

    def _order(self, order: int, model: Any, tested: list[np.ndarray], on_task: Callable[[], Any]) -> Any:
        """Learn the tasks of one order that are not tested yet; return the outcome."""
        bench, half = self.bench, self._half(order)
        on_the_way = order == 0 and self.by_batches and self.passes == 1
        learn = self.prequential if on_the_way else self.learner(order)

        def after_task() -> None:
            if half is not None and half.whole and self.score is not None and len(tested) == len(half.tasks):
                self._scores[order] = self.score(model, bench.X_test)
            on_task()

        return feed_then_test(
            model, bench.orders[order], np.arange(len(bench.y)), bench.y, bench.X_test, bench.y_test,
            learn=lambda model, rows, y: learn(model, rows), tested=tested, seconds=self.seconds, on_task=after_task,
        )  # fmt: skip

    def _predict_before_learning(self) -> np.ndarray | None:
        """Return the labels of the first order as they arrived, and the predictions made before (2, n)."""
        if not self.by_batches:
            return None
        if self.passes > 1:
            model = self.start(0)
            for task in self.bench.orders[0]:
                self.prequential(model, task.rows)
        else:
            self.seconds["fit"] -= self.prequential.seconds
        self.seconds["prequential"] = round(self.prequential.seconds, 3)
        return self.prequential.met

    def _novelty(self) -> dict[str, Any]:
        """Measure how well scores detect test rows of unseen classes, after the first half of each order's tasks."""
        pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        for order in range(len(self.bench.orders)):
            half = self._half(order)
            if half is None or self.score is None:
                return {}
            if order not in self._scores:
                model, learn = self.start(order), self.learner(order)
                for task in half.tasks:
                    learn(model, task.rows)
                self._scores[order] = self.score(model, self.bench.X_test)
            for name, score in self._scores[order].items():
                pairs.setdefault(name, []).append((score[half.known], score[~half.known]))
        return {name: tell_unseen(scores) for name, scores in pairs.items()}

    def _half(self, order: int) -> "HalfSeen | None":
        return seen_half(self.bench.orders[order], self.bench.y, self.bench.y_test)


def cost_facts(model: Any, passes: int, needs_classes: bool) -> dict[str, float]:
    """Return costs that do not depend on the clock."""
    return {"state_bytes": state_bytes(model), "passes": passes, "needs_classes": int(needs_classes)}


class Prequential:
    """Learn rows in batches as they arrive; predict each batch before learning it.

    Parameters
    ----------
    bench : Bench
        The embeddings, labels and batch size.
    learn : callable
        ``learn(model, rows)`` for positions of training rows (n_batch,). Methods that need several passes make them
        over the batch.

    Attributes
    ----------
    arrived, predicted : list of ndarray of shape (n_batch,), int64
        Labels, and the prediction for each: −1 for the first batch, before anything is learned.
    seconds : float
        Spent on predictions.
    """

    def __init__(self, bench: Bench, learn: Learn) -> None:
        self.bench, self.learn = bench, learn
        self.arrived: list[np.ndarray] = []
        self.predicted: list[np.ndarray] = []
        self.seconds = 0.0

    def __call__(self, model: Any, rows: np.ndarray) -> None:
        """Predict these rows, then let the model learn them."""
        for part in batches(rows, self.bench.batch_rows):
            start = time.perf_counter()
            known = np.asarray(model.predict(self.bench.X[part])) if self.arrived else np.full(len(part), -1)
            self.seconds += time.perf_counter() - start
            self.predicted.append(known)
            self.arrived.append(self.bench.y[part])
            self.learn(model, part)

    @property
    def met(self) -> np.ndarray:
        """Labels in order of arrival, and the predictions (2, n)."""
        return np.stack([np.concatenate(self.arrived), np.concatenate(self.predicted)])


@dataclass(frozen=True)
class HalfSeen:
    """The first half of a stream's tasks.

    Attributes
    ----------
    tasks : list of Task
        Without rows of classes of the other half.
    known : ndarray of shape (n_test,), bool
        Which test rows have a class of these tasks.
    whole : bool
        Whether no row had to be left out.
    """

    tasks: list[Task]
    known: np.ndarray
    whole: bool


def seen_half(tasks: Sequence[Task], y: np.ndarray, y_test: np.ndarray) -> HalfSeen | None:
    """Return the first half of the tasks, rounded up, or None if no class is left for the other half.

    A blurry stream assigns rows of every class to every task: rows of classes of the other half are left out.

    Examples
    --------
    >>> tasks = [Task((0,), np.array([0, 2])), Task((1,), np.array([1]))]
    >>> half = seen_half(tasks, y=np.array([0, 1, 1]), y_test=np.array([0, 1]))
    >>> half.tasks[0].rows.tolist(), half.known.tolist()
    ([0], [True, False])
    """
    first = tasks[: (len(tasks) + 1) // 2]
    classes = sorted({label for task in first for label in task.classes})
    known = np.isin(y_test, classes)
    if known.all():
        return None
    own = [Task(task.classes, task.rows[np.isin(y[task.rows], classes)]) for task in first]
    return HalfSeen(own, known, all(len(part.rows) == len(task.rows) for part, task in zip(own, first)))


def per_order(
    clock: Mapping[str, float], bench: Bench, *, n_orders: int | None = None, n_tasks: int | None = None
) -> dict[str, float]:
    """Return the seconds of one order: ``fit`` over all its tasks, and ``predict_1000`` for a thousand rows.

    Times of steps that are done only once are unchanged.
    """
    orders = n_orders or len(bench.orders)
    predictions = orders * (n_tasks or len(bench.orders[0])) * len(bench.y_test)
    parts = {name: value for name, value in clock.items() if name not in ("fit", "predict")}
    parts |= {"fit": clock["fit"] / orders, "predict_1000": 1000 * clock["predict"] / predictions}
    return {name: round(value, 4) for name, value in parts.items()}
