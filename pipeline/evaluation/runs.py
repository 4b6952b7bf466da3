"""Measure one run: its method learns every order of a stream; the model of the first order is kept.

Enters: the settings of a run, its cache, the cache that its keys come from. Leaves: an `Evaluation`.
Must not know: internals of estimator and cache, baselines, where files are.

Keys are placed and codes computed once for all orders, unless keys come from an order's own first task. A one-pass
model is tested and predicts each batch before learning it, in the same pass over the first order.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pipeline.cache import CacheReader
from pipeline.config import Run
from pipeline.evaluation.calibration import describe_calibration
from pipeline.evaluation.course import Course
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
from pipeline.evaluation.loop import Bench, batches, make_bench, rows_for_keys, timed
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
    """Return the codes (n, c, m) of a cache's training rows by a model's keys; they are kept in a folder."""
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
    bench, clock = make_bench(reader, run.stream), dict[str, float]()
    kept = checkpoint.read() if checkpoint is not None else None
    if kept is not None:
        kept.model.set_params(device=device)
        tqdm.write(f"[run {name}] resumes after task {len(kept.tested)}", file=sys.stderr)
    starts = _place_keys(run, bench, reader, keys, device, clock, scratch)
    course = _course(run, bench, starts, clock)
    n_tasks = sum(map(len, bench.orders))
    with tqdm(total=n_tasks, desc=f"[run {name}] tasks", unit="task", mininterval=1.0, leave=False) as bar:
        result, model = course.run(checkpoint, kept, bar.update)
    calibration = _calibration(run, course)
    errors = {f"calibration_error_{kind}": some["expected_calibration_error"] for kind, some in calibration.items()}
    result = replace(result, facts={**result.facts, **errors})
    start, codes = starts[0]
    labelled = bench.y >= 0
    guarantees = measure_guarantees(start, codes[labelled], bench.y[labelled], bench.X_test)
    usage = describe_keys(model, bench.class_names) | {"guarantees": guarantees}
    return Evaluation(bench, result, calibration, usage, model, _training(bench, result, model))


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
        model = make_method(
            run.method, feature_blocks=bench.feature_blocks, class_names=bench.class_names, device=device
        )
        with timed(clock, "keys"):
            place_keys(model, rows_for_keys(reader, keys, run.key_rows, tasks[0]))
        with timed(clock, "encode"):
            codes = encode(model, bench.X) if scratch is None else training_codes(model, reader, scratch)
        starts.append((model, codes))
    return starts


def _course(run: Run, bench: Bench, starts: list[tuple[Any, np.ndarray]], clock: dict[str, float]) -> Course:
    """Return the course of a run's method, from methods with keys and the codes of all training rows."""
    classes, epochs = bench.classes if run.declare_classes else None, run.epochs_per_task

    def learner(order: int) -> Callable[[Any, np.ndarray], None]:
        """Return a function that makes one pass in batches as they arrive, or more passes over all rows given."""
        _, codes = starts[order % len(starts)]

        def learn(model: Any, rows: np.ndarray) -> None:
            for part in batches(rows, bench.batch_rows) if epochs == 1 else [rows]:
                learn_codes(model, codes[part], bench.y[part], classes=classes, epochs=epochs)

        return learn

    return Course(
        bench,
        lambda order: fresh(starts[order % len(starts)][0]),
        learner,
        novelty_scores,
        passes=epochs,
        needs_classes=run.declare_classes,
        seconds=clock,
    )


def _training(bench: Bench, result: MethodResult, model: Any) -> dict[str, Any]:
    return {
        "n_samples": int(sum(len(task.rows) for task in bench.orders[0])),
        "n_classes": len(model.classes_),
        "accuracy": round(float((result.predictions == bench.y_test).mean()), 6),
        **key_facts(model),
    }


def _calibration(run: Run, course: Course) -> dict[str, Any]:
    """Learn the first order without some rows, which then choose the temperature."""
    bench = course.bench
    labelled = np.flatnonzero(bench.y >= 0)
    n_held = round(run.held_out_share * len(labelled))
    if not n_held:
        return {}
    held = np.random.default_rng(HELD_OUT_SEED).permutation(labelled)[:n_held]
    model, learn = course.start(0), course.learner(0)
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
