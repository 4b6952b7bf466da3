"""Measure one run: its method learns every order of a stream; the model of the first order is kept.

Enters: the settings of a run, its cache, the cache that its keys come from. Leaves: an `Evaluation`.
Must not know: internals of estimator and cache, baselines, where files are.

Keys are placed and codes computed once for all orders, unless keys come from an order's own first task. A one-pass
model is tested and predicts each batch before learning it, in the same pass over the first order.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pipeline.cache import CacheReader
from pipeline.config import Run
from pipeline.evaluation.calibration import describe_calibration, tell_unseen
from pipeline.evaluation.factory import (
    codes_name,
    describe_keys,
    encode,
    fresh,
    key_facts,
    learn_codes,
    make_method,
    novelty_scores,
    place_keys,
)
from pipeline.evaluation.guarantees import measure_guarantees
from pipeline.evaluation.loop import (
    Bench,
    Prequential,
    Scores,
    answer,
    batches,
    check_tasks,
    feed_then_test,
    make_bench,
    outcome_of,
    per_order,
    rows_for_keys,
    seen_half,
    state_bytes,
    timed,
)
from pipeline.evaluation.streams import Task
from pipeline.evaluation.tables import MethodResult
from pipeline.scratch import Checkpoint, stored_codes

__all__ = ["Evaluation", "measure_run", "training_codes"]

HELD_OUT_SEED = 0


@dataclass(frozen=True)
class Evaluation:
    """The results of one run.

    Attributes
    ----------
    bench : Bench
        The data.
    result : MethodResult
        Accuracies, predictions, costs, novelty.
    calibration : dict
        ``plain`` and ``calibrated`` (see `describe_calibration`) and the ``temperature`` of each; empty if the run
        holds out no rows.
    keys : dict
        Key usage after the last task of the first order, and ``guarantees`` (see
        `measure_guarantees`).
    model : DKVBClassifier
        Model of the first order, after its last task.
    training : dict
        Samples, classes, test accuracy, and facts about the keys of that model.
    """

    bench: Bench
    result: MethodResult
    calibration: dict[str, Any]
    keys: dict[str, Any]
    model: Any
    training: dict[str, Any]


def training_codes(model: Any, reader: CacheReader, folder: str | Path) -> np.ndarray:
    """Return the codes (n,c,m) of a cache's training rows by a model's keys; they are kept in a folder."""
    return stored_codes(reader, "train", lambda X: encode(model, X), codes_name(model), folder)


def measure_run(
    run: Run,
    reader: CacheReader,
    keys: CacheReader,
    *,
    device: str = "auto",
    checkpoint: Checkpoint | None = None,
    scratch: str | Path | None = None,
    name: str = "run",
) -> Evaluation:
    """Measure the run's method on every order of classes.

    Parameters
    ----------
    run : Run
        Settings.
    reader, keys : CacheReader
        The run's own cache with the splits ``train`` and ``test``, and the cache that its keys come from.
    device : str
        Device of the method.
    checkpoint : Checkpoint or None
        Saves the first order's model and predictions after each task, so that an interrupted run resumes. The caller
        clears it after saving the model.
    scratch : Path or None
        Folder for codes of training rows, so that no row is encoded twice with the same keys; None: in memory.
    name : str
        Name of the run, for progress messages.

    Raises
    ------
    ValueError
        If a setting is unknown, a task has no test rows, or the caches hold different embedding spaces.
    """
    bench, clock = make_bench(reader, run.stream), {"fit": 0.0, "predict": 0.0}  # a resumed run may do neither
    for tasks in bench.orders:
        check_tasks(tasks, bench.y_test)
    kept = checkpoint.read() if checkpoint is not None else None
    if kept is not None:
        kept.model.set_params(device=device)
        tqdm.write(f"[run {name}] resumes after task {len(kept.tested)}", file=sys.stderr)
    course = _Course(run, bench, _place_keys(run, bench, reader, keys, device, clock, scratch), clock)
    n_tasks = sum(map(len, bench.orders))
    with tqdm(total=n_tasks, desc=f"[run {name}] tasks", unit="task", mininterval=1.0, leave=False) as bar:
        first, met = course.first_order(checkpoint, kept, bar.update)
        others = [course.order(position, bar.update) for position in range(1, len(bench.orders))]
    outcomes, model = [first[0], *(outcome for outcome, _ in others)], first[1]
    novelty, calibration = course.novelty(), _calibration(course)
    facts = _facts(run, model) | _flat_numbers(novelty, calibration)
    result = MethodResult(outcomes, outcomes[0].predictions, met, facts, novelty, per_order(clock, bench))
    training = {
        "n_samples": int(sum(len(task.rows) for task in bench.orders[0])),
        "n_classes": len(model.classes_),
        "accuracy": round(float((outcomes[0].predictions == bench.y_test).mean()), 6),
        **key_facts(model),
    }
    start, codes = course.starts[0]
    labelled = bench.y >= 0
    guarantees = measure_guarantees(start, codes[labelled], bench.y[labelled], bench.X_test)
    usage = describe_keys(model, bench.class_names) | {"guarantees": guarantees}
    return Evaluation(bench, result, calibration, usage, model, training)


def _place_keys(
    run: Run,
    bench: Bench,
    reader: CacheReader,
    keys: CacheReader,
    device: str,
    clock: dict[str, float],
    scratch: str | Path | None,
) -> list[tuple[Any, np.ndarray]]:
    """Return methods with keys, and the codes of all training rows: one for all orders, or one per order."""
    starts = []
    for tasks in bench.orders if run.key_rows == "first_task" else bench.orders[:1]:
        model = make_method(run.method, feature_blocks=bench.feature_blocks, device=device)
        with timed(clock, "keys"):
            place_keys(model, rows_for_keys(reader, keys, run.key_rows, tasks[0]))
        with timed(clock, "encode"):
            codes = encode(model, bench.X) if scratch is None else training_codes(model, reader, scratch)
        starts.append((model, codes))
    return starts


@dataclass
class _Course:
    """A run's pass through its stream: methods with keys that have learned nothing, and their data."""

    run: Run
    bench: Bench
    starts: list[tuple[Any, np.ndarray]]
    clock: dict[str, float]

    def __post_init__(self) -> None:
        self.scores: dict[int, dict[str, np.ndarray]] = {}

    def fresh(self, order: int) -> tuple[Any, np.ndarray]:
        """Return a method that has learned nothing, and its codes of the training rows."""
        model, codes = self.starts[order % len(self.starts)]
        return fresh(model), codes

    def learner(self, codes: np.ndarray) -> Callable[..., None]:
        """Return ``learn(model, rows)``: one pass in batches as they arrive, more passes over all rows given."""
        classes = self.bench.classes if self.run.declare_classes else None
        epochs = self.run.epochs_per_task

        def learn(model: Any, rows: np.ndarray, y: np.ndarray | None = None) -> None:
            for part in batches(rows, self.bench.batch_rows) if epochs == 1 else [rows]:
                learn_codes(model, codes[part], self.bench.y[part], classes=classes, epochs=epochs)

        return learn

    def order(self, position: int, done: Callable[[], Any]) -> tuple[Any, Any]:
        """Learn one order of tasks; return its outcome and the model."""
        model, codes = self.fresh(position)
        tasks, bench, n_learned = self.bench.orders[position], self.bench, 0

        def on_task() -> None:
            nonlocal n_learned
            n_learned += 1
            self._score_half(position, model, n_learned)
            done()

        outcome = feed_then_test(
            model,
            tasks,
            np.arange(len(bench.y)),
            bench.y,
            bench.X_test,
            bench.y_test,
            learn=self.learner(codes),
            seconds=self.clock,
            on_task=on_task,
        )
        return outcome, model

    def first_order(
        self, checkpoint: Checkpoint | None, kept: Any, done: Callable[[], Any]
    ) -> tuple[tuple[Any, Any], np.ndarray]:
        """Learn the first order, batch by batch, resuming after an interruption; also return its predictions."""
        model, codes = self.fresh(0)
        learn = self.learner(codes)
        together = self.run.epochs_per_task == 1  # otherwise a batch would be learned differently from a whole task
        met = Prequential(self.bench, learn)
        tested: list[np.ndarray] = []
        scores = None
        if kept is not None:
            model, tested = kept.model, list(kept.tested)
            met.arrived, met.predicted = [[*part] for part in kept.met]
        for _ in tested:
            done()
        for position, task in enumerate(self.bench.orders[0][len(tested) :], start=len(tested) + 1):
            labels, scores = self._learn_and_test(model, task, met if together else learn)
            tested.append(labels)
            self._score_half(0, model, position)
            if checkpoint is not None:
                checkpoint.write(model, tested, (met.arrived, met.predicted))
            done()
        if not together:
            other, _ = self.fresh(0)
            for task in self.bench.orders[0]:
                met(other, task.rows)
        else:
            self.clock["fit"] -= met.seconds
        self.clock["prequential"] = round(met.seconds, 3)
        if scores is None:  # interrupted after its last task
            _, scores = answer(model, self.bench.X_test)
        bench = self.bench
        return (outcome_of(bench.orders[0], np.stack(tested), bench.y, bench.y_test, scores), model), met.met

    def _learn_and_test(self, model: Any, task: Task, learn: Callable[..., None]) -> tuple[np.ndarray, Scores | None]:
        with timed(self.clock, "fit"):
            learn(model, task.rows)
            model.predict(self.bench.X_test[:1])
        with timed(self.clock, "predict"):
            return answer(model, self.bench.X_test)

    def _score_half(self, order: int, model: Any, n_learned: int) -> None:
        """Score test rows after the first half of the tasks, if these contain only rows of their own classes."""
        tasks = self.bench.orders[order]
        half = seen_half(tasks, self.bench.y, self.bench.y_test)
        if half is not None and half.whole and n_learned == len(half.tasks):
            self.scores[order] = novelty_scores(model, self.bench.X_test)

    def novelty(self) -> dict[str, Any]:
        """Measure how well scores detect test rows of unseen classes, after the first half of each order's tasks."""
        pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        for order, tasks in enumerate(self.bench.orders):
            half = seen_half(tasks, self.bench.y, self.bench.y_test)
            if half is None:
                return {}
            if order not in self.scores:
                model, codes = self.fresh(order)
                learn = self.learner(codes)
                for task in half.tasks:
                    learn(model, task.rows)
                self.scores[order] = novelty_scores(model, self.bench.X_test)
            for name, score in self.scores[order].items():
                pairs.setdefault(name, []).append((score[half.known], score[~half.known]))
        return {name: tell_unseen(scores) for name, scores in pairs.items()}


def _facts(run: Run, model: Any) -> dict[str, int]:
    return {
        "state_bytes": state_bytes(model),
        "passes": run.epochs_per_task,
        "needs_classes": int(run.declare_classes),
    }


def _flat_numbers(novelty: dict[str, Any], calibration: dict[str, Any]) -> dict[str, float]:
    """Select the confidence measures that are listed among the metrics."""
    numbers: dict[str, float] = {}
    for score, found in novelty.items():
        numbers |= {f"{score}_{name}": found[name] for name in ("auroc", "fpr_at_95_tpr")}
    for kind, found in calibration.items():
        numbers[f"calibration_error_{kind}"] = found["expected_calibration_error"]
    return numbers


def _calibration(course: _Course) -> dict[str, Any]:
    """Learn the first order without some rows, which then choose the temperature."""
    bench = course.bench
    labelled = np.flatnonzero(bench.y >= 0)
    n_held = round(course.run.held_out_share * len(labelled))
    if not n_held:
        return {}
    held = np.random.default_rng(HELD_OUT_SEED).permutation(labelled)[:n_held]
    model, codes = course.fresh(0)
    learn = course.learner(codes)
    for task in bench.orders[0]:
        learn(model, task.rows[~np.isin(task.rows, held)])
    plain = _describe(model, bench)
    known = held[np.isin(bench.y[held], model.classes_)]
    return {"plain": plain, "calibrated": _describe(model.calibrate(bench.X[known], bench.y[known]), bench)}


def _describe(model: Any, bench: Bench) -> dict[str, Any]:
    places = np.searchsorted(model.classes_, bench.y_test)
    columns = np.where(np.isin(bench.y_test, model.classes_), places, -1)
    found = describe_calibration(model.predict_proba(bench.X_test), columns)
    return found | {"temperature": float(f"{model.temperature_:.6g}")}
